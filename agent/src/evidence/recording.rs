//! A recording: the evidence of every second of a while, in one file.
//!
//! Each record is what a diagnosis at that moment would have been given, so that rules see a recording
//! as they see the host. The file is gzip of lines of JSON: a [`Header`], evidence a second, an
//! end that counts them. Fields may be added, never renamed; a reader ignores those that it does not
//! know, and refuses a version of the format above its own. Everything is bounded: seconds, bytes a
//! line, bytes unpacked.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::incident::Evidence;

/// Raised when an older reader would misunderstand a newer file.
pub const VERSION: u32 = 1;
/// Longest recording in seconds.
pub const SECONDS_MAX: u64 = 3_600;
const FORMAT: &str = "paramedic-recording";
/// A record of 512 cgroups with a hundred readings each is half as long.
const LINE_BYTES_MAX: u64 = 8 << 20;
const UNPACKED_BYTES_MAX: u64 = 4 << 30;

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be made; an existing one is never written over.
    #[error("cannot make {}: {source}", .path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else.
    #[error("{} is no recording: `paramedic record` makes them ({why})", .path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// Of a later version.
    #[error("{} is of format {found}, this paramedic reads up to {VERSION}: use a later one", .path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It stops before its end.
    #[error("{} is cut off after {records} whole records: record it again, or copy it whole", .path.display())]
    Truncated {
        /// Where.
        path: PathBuf,
        /// Records before the cut.
        records: usize,
    },
    /// A line is not what it should be.
    #[error("{} is damaged in record {record}: {why}", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// Which, from 1.
        record: usize,
        /// What is wrong.
        why: String,
    },
    /// Nothing at that time.
    #[error("nothing was recorded up to second {at_s}: the first record is of second {first_s:.1}")]
    TooEarly {
        /// What was asked for.
        at_s: f64,
        /// What there is.
        first_s: f64,
    },
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always the same word.
    format: String,
    /// Of the format.
    pub version: u32,
    /// When it began.
    pub began: Timestamp,
    /// The kernel's release.
    pub kernel: String,
    /// Of the agent that wrote it.
    pub agent: String,
}

/// What is written after the first line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Written<'a> {
    Evidence(&'a Evidence),
    /// The last one; how many records there are.
    End(usize),
}

/// The same, read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Evidence(Box<Evidence>),
    End(usize),
    /// Of a later version: passed over.
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
    records: usize,
}

impl Writer {
    /// Makes the file, readable by its owner only: it tells what runs on the host.
    ///
    /// # Errors
    /// When it is there already or cannot be made.
    pub fn create(path: &Path, kernel: String) -> Result<Self, RecordingError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| RecordingError::Make {
                path: path.to_owned(),
                source,
            })?;
        let mut writer = Self {
            path: path.to_owned(),
            out: GzEncoder::new(BufWriter::new(file), Compression::fast()),
            records: 0,
        };
        writer.line(&Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            began: Timestamp::now(),
            kernel,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        Ok(writer)
    }

    /// Adds the evidence of a moment.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, evidence: &Evidence) -> Result<(), RecordingError> {
        self.line(&Written::Evidence(evidence))?;
        self.records += 1;
        Ok(())
    }

    /// Ends it, and makes it durable. Without this it is cut off, and says so to its reader.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<usize, RecordingError> {
        self.line(&Written::End(self.records))?;
        let path = self.path;
        let done = self.out.finish().and_then(|buffered| {
            let file = buffered
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()
        });
        match done {
            Ok(()) => Ok(self.records),
            Err(source) => Err(RecordingError::Write { path, source }),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), RecordingError> {
        let written = serde_json::to_writer(&mut self.out, line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|source| RecordingError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// What a recording tells.
#[derive(Debug)]
pub struct Recording {
    /// Its first line.
    pub header: Header,
    /// How many records it has.
    pub records: usize,
    /// The one that was asked for, and how many seconds after the beginning it was taken.
    pub evidence: Evidence,
    /// Likewise.
    pub at_s: f64,
}

impl Recording {
    /// Reads a recording to its end: the last evidence taken at or before `at_s` seconds after its
    /// beginning; the very last, if no time is given. One record at a time is in memory.
    ///
    /// # Errors
    /// When it is no recording, of a later format, cut off, damaged, or has nothing so early.
    pub fn read(path: &Path, at_s: Option<f64>) -> Result<Self, RecordingError> {
        let mut found: Option<(f64, Box<Evidence>)> = None;
        let mut first_s = None;
        let (header, records) = Self::each(path, |age_s, evidence| {
            first_s.get_or_insert(age_s);
            if at_s.is_none_or(|at_s| age_s <= at_s) {
                found = Some((age_s, evidence));
            }
        })?;
        match (found, first_s) {
            (Some((at_s, evidence)), _) => Ok(Self {
                header,
                records,
                evidence: *evidence,
                at_s,
            }),
            (None, Some(first_s)) => Err(RecordingError::TooEarly {
                at_s: at_s.unwrap_or(0.0),
                first_s,
            }),
            (None, None) => Err(RecordingError::Truncated {
                path: path.to_owned(),
                records,
            }),
        }
    }

    /// Reads a recording to its end, each record with its age in seconds after the beginning; one at a
    /// time is in memory, unless it is kept. What comes before a cut or a damage has been seen by then.
    ///
    /// # Errors
    /// When it is no recording, of a later format, cut off or damaged.
    pub fn each(
        path: &Path,
        mut see: impl FnMut(f64, Box<Evidence>),
    ) -> Result<(Header, usize), RecordingError> {
        let read = |source| RecordingError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let unpacked = GzDecoder::new(BufReader::new(file)).take(UNPACKED_BYTES_MAX);
        let mut lines = Lines {
            path,
            from: BufReader::new(unpacked),
            records: 0,
        };
        let header = lines.header()?;
        loop {
            match lines.next()? {
                Line::Evidence(evidence) => {
                    lines.records += 1;
                    let age_s = (evidence.taken_at - header.began)
                        .total(jiff::Unit::Second)
                        .unwrap_or(0.0);
                    see(age_s, evidence);
                }
                Line::Other(_) => {}
                Line::End(records) if records == lines.records => {
                    lines.end()?;
                    return Ok((header, records));
                }
                Line::End(_) => return Err(lines.cut_off()),
            }
        }
    }
}

struct Lines<'a, R> {
    path: &'a Path,
    from: R,
    records: usize,
}

impl<R: BufRead> Lines<'_, R> {
    fn header(&mut self) -> Result<Header, RecordingError> {
        let foreign = |path: &Path, why: String| RecordingError::Foreign {
            path: path.to_owned(),
            why,
        };
        let line = match self.line() {
            Ok(Some(line)) => line,
            Ok(None) => return Err(foreign(self.path, "its first line is missing".into())),
            Err(error) => return Err(foreign(self.path, error.to_string())),
        };
        let header: Header =
            serde_json::from_slice(&line).map_err(|error| foreign(self.path, error.to_string()))?;
        if header.format != FORMAT {
            return Err(foreign(self.path, format!("it is a {}", header.format)));
        }
        if header.version > VERSION {
            return Err(RecordingError::Newer {
                path: self.path.to_owned(),
                found: header.version,
            });
        }
        Ok(header)
    }

    fn next(&mut self) -> Result<Line, RecordingError> {
        let line = match self.line() {
            Ok(Some(line)) => line,
            Ok(None) => return Err(self.cut_off()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.cut_off());
            }
            Err(error) => return Err(self.damaged(error.to_string())),
        };
        // Not by the line's own type: its catch-all would take a damaged record for a foreign one.
        let is = |key: &str| line.starts_with(format!("{{\"{key}\":").as_bytes());
        let known = is("evidence") || is("end");
        match serde_json::from_slice(&line) {
            Ok(Line::Other(_)) if known => Err(self.damaged("it has not the fields of one".into())),
            Ok(line) => Ok(line),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    /// Nothing follows, and the packing's own checksum is right.
    fn end(&mut self) -> Result<(), RecordingError> {
        match self.from.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.damaged("something follows its end".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut_off()),
            Err(error) => Err(self.damaged(error.to_string())),
        }
    }

    /// A whole line; `None` at the end, also in the middle of a line.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.from)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a line is longer than {LINE_BYTES_MAX} bytes"
            )));
        }
        Ok((line.last() == Some(&b'\n')).then_some(line))
    }

    fn cut_off(&self) -> RecordingError {
        RecordingError::Truncated {
            path: self.path.to_owned(),
            records: self.records,
        }
    }

    fn damaged(&self, why: String) -> RecordingError {
        RecordingError::Damaged {
            path: self.path.to_owned(),
            record: self.records + 1,
            why,
        }
    }
}

#[cfg(test)]
mod tests;
