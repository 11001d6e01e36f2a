//! The history on disk: JSON lines in one file, appended under a lock by the agent and by commands.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::{Event, History, LESSONS_MAX, Lesson};

/// Why the history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file could not be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no such version to go back to.
    #[error("version {to} is not within 0 to {newest}: `paramedic history show` lists them")]
    NoVersion {
        /// What was asked for.
        to: u64,
        /// The newest.
        newest: u64,
    },
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// `history.jsonl` in the agent's state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("history.jsonl"),
        }
    }

    /// Reads everything; no file = nothing learned yet. A line that cannot be read (a torn last one)
    /// is left out.
    pub fn load(&self) -> Result<History, HistoryError> {
        match File::open(&self.path) {
            Ok(file) => self.read(&file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(History::default()),
            Err(source) => Err(self.error("open", source)),
        }
    }

    /// Appends one event, synced; returns the history with it.
    pub fn append(&self, at: Timestamp, event: Event) -> Result<History, HistoryError> {
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&self.path)
            .map_err(|source| self.error("open", source))?;
        // The agent and a command may teach at the same time; both write one line and are gone.
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| self.error("lock", errno.into()))?;
        let mut history = self.read(&file)?;
        if let Event::Reverted { to } = event
            && to > history.version()
        {
            let newest = history.version();
            return Err(HistoryError::NoVersion { to, newest });
        }
        let lesson = history.next(at, event);
        // Behind a torn line the new one begins on its own.
        let mut line = Vec::from(*b"\n");
        serde_json::to_writer(&mut line, &lesson)
            .map_err(|error| self.error("encode a line of", error.into()))?;
        line.push(b'\n');
        (&file)
            .write_all(&line)
            .and_then(|()| file.sync_data())
            .map_err(|source| self.error("append to", source))?;
        history.push(lesson);
        Ok(history)
    }

    fn read(&self, file: &File) -> Result<History, HistoryError> {
        let mut lessons: Vec<Lesson> = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|source| self.error("read", source))?;
            if let Ok(lesson) = serde_json::from_slice::<Lesson>(&line) {
                lessons.push(lesson);
            }
        }
        let over = lessons.len().saturating_sub(LESSONS_MAX);
        lessons.drain(..over);
        Ok(History::new(lessons))
    }

    /// Removes the file: for tests and for starting anew.
    pub fn forget(&self) -> Result<(), HistoryError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.error("remove", error))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, what: &'static str, source: std::io::Error) -> HistoryError {
        HistoryError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}
