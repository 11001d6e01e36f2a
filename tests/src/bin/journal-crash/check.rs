//! The outside ledger, and what a journal must hold to satisfy it.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context, ensure};
use paramedic::journal::{LaneId, Reader};

use super::load::{CALL_RECORDS_MAX, Event, Key, recognise};

/// What is known of one lane from outside.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: BTreeMap<u64, Key>,
    /// Last acknowledged record of each writer of each run.
    last: HashMap<(u32, u16), u64>,
    /// Retention may have taken what is below.
    may_go: u64,
    /// It has taken what is below.
    gone: u64,
}

/// What is known of both.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    lanes: [Known; 2],
    /// The newest run that may have written.
    pub run: u32,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    pub records: u64,
    pub cuts: u64,
    /// Records beyond what was known to be acknowledged: written, not yet answered.
    pub unacknowledged: u64,
    /// Acknowledged records that were looked for.
    pub checked: u64,
}

fn slot(lane: LaneId) -> usize {
    usize::from(lane == LaneId::Safe)
}

impl Ledger {
    pub fn put(&mut self, event: Event) {
        match event {
            Event::Acknowledged { lane, lsn, key } => {
                let known = &mut self.lanes[slot(lane)];
                known.acknowledged.insert(lsn, key);
                let last = known.last.entry((key.run, key.writer)).or_default();
                *last = key.n.max(*last);
                self.run = self.run.max(key.run);
            }
            Event::MayGo { lane, lsn } => {
                let known = &mut self.lanes[slot(lane)];
                known.may_go = known.may_go.max(lsn);
            }
        }
    }

    /// Checks the journal in `dir` and remembers what it shows: what was seen once must stay.
    pub fn check(&mut self, dir: &Path) -> anyhow::Result<Found> {
        let mut total = Found::default();
        if !dir.exists() {
            ensure!(
                self.lanes.iter().all(|known| known.acknowledged.is_empty()),
                "LOST: there is no journal, and something was acknowledged"
            );
            return Ok(total);
        }
        let reader = Reader::open(dir).context("cannot read")?;
        let recovered = reader.recovered();
        ensure!(
            recovered.corruption.is_empty(),
            "CORRUPT: {}",
            recovered.corruption[0]
        );
        total.cuts = recovered.cuts.len() as u64;
        let fast = recovered
            .records
            .iter()
            .map(|(lsn, _, record)| Ok((lsn.0, record.payload.clone())));
        self.lane(LaneId::Fast, fast, &mut total)?;
        let safe = recovered.snapshots.iter().map(|(reference, _)| {
            let bytes = reader
                .snapshot(reference)
                .with_context(|| format!("LOST: snapshot {} can't be read", reference.lsn.0))?;
            Ok((reference.lsn.0, bytes))
        });
        self.lane(LaneId::Safe, safe, &mut total)?;
        Ok(total)
    }

    fn lane<B: AsRef<[u8]>>(
        &mut self,
        lane: LaneId,
        found: impl Iterator<Item = anyhow::Result<(u64, B)>>,
        total: &mut Found,
    ) -> anyhow::Result<()> {
        let run = self.run;
        let known = &mut self.lanes[slot(lane)];
        let mut next = None;
        let mut first = None;
        let mut order: HashMap<(u32, u16), u64> = HashMap::new();
        for item in found {
            let (lsn, bytes) = item?;
            ensure!(
                next.is_none_or(|next| next == lsn),
                "GAP: {lane} lane jumps from {next:?} to {lsn}"
            );
            first.get_or_insert(lsn);
            next = Some(lsn + 1);
            let key = recognise(bytes.as_ref(), lane).with_context(|| {
                format!("PHANTOM: {lane} record {lsn} is none that was written")
            })?;
            ensure!(key.run <= run + 1, "PHANTOM: {key:?} of a later run");
            if let Some(before) = order.insert((key.run, key.writer), key.n) {
                ensure!(key.n == before + 1, "ORDER: {key:?} follows {before}");
            }
            if let Some(expected) = known.acknowledged.get(&lsn) {
                ensure!(
                    *expected == key,
                    "LOST: {expected:?} at {lsn}, found {key:?}"
                );
                total.checked += 1;
            } else {
                let last = known.last.get(&(key.run, key.writer));
                let limit = last.map_or(0, |last| last + 1) + CALL_RECORDS_MAX;
                ensure!(key.n < limit, "PHANTOM: {key:?} was never submitted");
                total.unacknowledged += 1;
            }
            total.records += 1;
        }
        // An empty lane says nothing about where it begins.
        let begins = first.unwrap_or(known.gone.max(1));
        ensure!(
            begins <= known.may_go.max(1),
            "LOST: {lane} lane begins at {begins}, only what is below {} may go",
            known.may_go
        );
        ensure!(begins >= known.gone, "BACK: {lane} lane begins at {begins}");
        let ends = next.unwrap_or(begins);
        if let Some((lsn, key)) = known.acknowledged.range(ends..).next() {
            anyhow::bail!("LOST: {key:?} at {lane} {lsn}; the lane ends before {ends}");
        }
        known.gone = begins;
        known.acknowledged = known.acknowledged.split_off(&begins);
        Ok(())
    }
}
