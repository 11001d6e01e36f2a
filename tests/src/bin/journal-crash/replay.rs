//! Power cuts: for many points of a recording, a disk on which everything before the last flush is
//! there, and of what came after it any subset of 512-byte sectors. The filesystem's own journal is
//! replayed, the files are read out of the image, and the journal in them is checked against the
//! acknowledgements that had been recorded on the same device by then.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use paramedic::journal::Journal;

use paramedic_tests::chance::Rng;

use super::{
    check::Ledger,
    load::{EVENT_LEN, Event, config},
    recording::{Recording, Request},
};

const SECTOR: usize = 512;

/// What becomes of sectors written after the last flush.
#[derive(Clone, Copy, Debug)]
enum Fate {
    All,
    None,
    Random,
}

/// `false` and a message if anything was lost.
pub fn replay(
    base: &Path,
    log: &Path,
    work: &Path,
    cuts: usize,
    seed: u64,
) -> anyhow::Result<bool> {
    let recording = Recording::open(log)?;
    let events = events(&recording)?;
    let total = recording.requests.len();
    let Some((first, _)) = events.first() else {
        bail!("the recording of {total} requests has no acknowledgement in it");
    };
    fs::create_dir_all(work)?;
    let mut device = Device {
        bytes: fs::read(base).with_context(|| format!("cannot read {}", base.display()))?,
        durable: 0,
        pending: Vec::new(),
        cached: Vec::new(),
    };
    let mut rng = Rng(seed);
    // From the journal's creation on; a cut falls behind a request.
    let from = first / 2;
    let points: Vec<usize> = (0..cuts)
        .map(|i| from + (total - from) * i / cuts)
        .collect();
    let (mut checked, mut torn, mut distinct) = (0, 0, 0);
    let mut last = None;
    let begun = Instant::now();
    for (i, point) in points.iter().enumerate() {
        distinct += u32::from(last != Some(*point));
        last = Some(*point);
        device.advance(&recording, *point)?;
        let fate = match i % 6 {
            0 => Fate::All,
            1 => Fate::None,
            _ => Fate::Random,
        };
        let image = work.join("disk");
        device.write(&image, fate, &mut rng)?;
        let mut ledger = Ledger::default();
        let told = events.iter().take_while(|(at, _)| at <= point);
        for (_, event) in told {
            ledger.put(*event);
        }
        let files = work.join("files");
        read_out(&image, &files)?;
        let what = format!("power cut behind request {point} of {total}, {fate:?}");
        match check(&mut ledger, &files) {
            Ok((looked_for, cut)) => {
                checked += looked_for;
                torn += cut;
            }
            Err(error) => {
                println!("{what}: {error:#}; the disk is kept in {}", image.display());
                return Ok(false);
            }
        }
    }
    println!(
        "{cuts} power cuts at {distinct} of {total} requests, {} acknowledgements, looked for \
         {checked} times, {torn} torn tails, 0 lost, {:.1} s",
        events.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(true)
}

/// The journal as it was found, and again after it was opened for writing.
fn check(ledger: &mut Ledger, files: &Path) -> anyhow::Result<(u64, u64)> {
    let dir = files.join("journal");
    let found = ledger.check(&dir)?;
    if dir.exists() {
        let (journal, recovered) = Journal::open(&config(files))?;
        ensure!(recovered.corruption.is_empty(), "CORRUPT when opened");
        drop(journal);
        let again = ledger.check(&dir)?;
        ensure!(
            again.records == found.records,
            "recovered twice, differently"
        );
    }
    Ok((found.checked, found.cuts))
}

/// Every acknowledgement with the number of the request that recorded it.
fn events(recording: &Recording) -> anyhow::Result<Vec<(usize, Event)>> {
    let mut events = Vec::new();
    for (i, request) in recording.requests.iter().enumerate() {
        // Markers are written one sector each; the filesystem writes none of its own like it.
        if request.len == SECTOR as u64 {
            let data = recording.data(request)?;
            events.extend(Event::decode(&data[..EVENT_LEN]).map(|event| (i, event)));
        }
    }
    Ok(events)
}

/// The device up to a point: what is durable, and what is in its cache.
struct Device {
    bytes: Vec<u8>,
    /// Requests that have been taken in.
    durable: usize,
    pending: Vec<Request>,
    /// The data of those, by offset, while a disk is made of them.
    cached: Vec<(u64, Vec<u8>)>,
}

impl Device {
    /// Takes in requests up to and including number `point`.
    fn advance(&mut self, recording: &Recording, point: usize) -> anyhow::Result<()> {
        while self.durable <= point && self.durable < recording.requests.len() {
            let request = recording.requests[self.durable];
            self.durable += 1;
            if request.flush {
                for pending in std::mem::take(&mut self.pending) {
                    self.apply(&pending, &recording.data(&pending)?)?;
                }
            }
            if request.fua {
                self.apply(&request, &recording.data(&request)?)?;
            } else if request.data_at.is_some() {
                self.pending.push(request);
            }
        }
        // Their data is needed for the image of this point.
        self.load(recording)
    }

    fn apply(&mut self, request: &Request, data: &[u8]) -> anyhow::Result<()> {
        let at = usize::try_from(request.offset)?;
        let place = self.bytes.get_mut(at..at + data.len());
        place
            .context("a write beyond the end of the disk")?
            .copy_from_slice(data);
        Ok(())
    }

    fn load(&mut self, recording: &Recording) -> anyhow::Result<()> {
        self.cached = self
            .pending
            .iter()
            .map(|request| Ok((request.offset, recording.data(request)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(())
    }

    /// Makes the disk that is left.
    fn write(&self, path: &Path, fate: Fate, rng: &mut Rng) -> anyhow::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.bytes.len() as u64)?;
        for (chunk, at) in self.bytes.chunks(1 << 16).zip((0..).step_by(1 << 16)) {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, at)?;
            }
        }
        for (offset, data) in &self.cached {
            for (sector, at) in data.chunks(SECTOR).zip((*offset..).step_by(SECTOR)) {
                let survives = match fate {
                    Fate::All => true,
                    Fate::None => false,
                    Fate::Random => rng.below(2) == 0,
                };
                if survives {
                    file.write_all_at(sector, at)?;
                }
            }
        }
        Ok(())
    }
}

/// Replays the filesystem's journal in `image` and copies `/journal` out of it.
fn read_out(image: &Path, files: &Path) -> anyhow::Result<()> {
    if files.exists() {
        fs::remove_dir_all(files)?;
    }
    fs::create_dir_all(files)?;
    let mut replay = Command::new("/usr/sbin/e2fsck");
    replay.args(["-y", "-E", "journal_only"]).arg(image);
    let status = quiet(&mut replay)?;
    // 1 is "errors corrected": the journal was replayed.
    ensure!(
        matches!(status, Some(0 | 1)),
        "e2fsck ended with {status:?} on {}",
        image.display()
    );
    let mut copy = Command::new("/usr/sbin/debugfs");
    copy.arg("-R")
        .arg(format!("rdump /journal {}", files.display()))
        .arg(image);
    let status = quiet(&mut copy)?;
    ensure!(status == Some(0), "debugfs ended with {status:?}");
    Ok(())
}

fn quiet(command: &mut Command) -> anyhow::Result<Option<i32>> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start e2fsprogs: run `cargo xtask setup`")?;
    Ok(status.code())
}
