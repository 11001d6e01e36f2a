//! The syscall pair's maps: what to count is written into them, what was counted is read from them.
//!
//! The histograms are memory while the pair is attached and nothing otherwise: 6 MB of it would count
//! as this process's.

use std::{collections::HashMap, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap as Table, MapData},
};
use paramedic_abi::{
    EPOCH_MAX, ErrnoKey, NUMBERS, OTHERS as OTHERS_ROW, SyscallCounters, Watch, mode,
};

use super::{
    mapped::{Mapped, mapped, plain_array},
    maps::take,
    places,
};
use crate::{
    evidence::{
        kernel::{OTHERS, SyscallCounts, SyscallMode, SyscallPlan},
        syscalls::untimed,
    },
    incident::CgroupId,
};

/// A program that began before a switch is long done after this.
const SETTLE: Duration = Duration::from_micros(200);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawWatch(Watch);
// SAFETY: `#[repr(C)]`, integers without hidden padding (tested in the abi crate).
unsafe impl Pod for RawWatch {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawErrno(ErrnoKey);
// SAFETY: likewise.
unsafe impl Pod for RawErrno {}

type Counted = HashMap<(CgroupId, u32), SyscallCounts>;

/// What the agent holds of the pair.
pub(super) struct Pair {
    switch: Array<MapData, RawWatch>,
    histograms: MapData,
    errnos: Table<MapData, RawErrno, u64>,
    watch: Watch,
    plan: SyscallPlan,
    /// By row; the others' row is apart.
    rows: Vec<CgroupId>,
    memory: Option<Mapped<SyscallCounters>>,
}

impl Pair {
    /// Takes the maps; fails if the object is of another version.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, String> {
        Ok(Self {
            switch: take(ebpf, ".data.watch")?,
            histograms: plain_array(ebpf, "SYSCALLS")?,
            errnos: take(ebpf, "ERRNOS")?,
            watch: Watch {
                tick_ns: tick_ns(),
                ..Watch::OFF
            },
            plan: SyscallPlan::default(),
            rows: Vec::new(),
            memory: None,
        })
    }

    /// Puts a plan in force, for the calls that are entered from now on.
    pub(super) fn switch(&mut self, plan: &SyscallPlan) -> Result<(), String> {
        if self.memory.is_some() && self.plan == *plan {
            return Ok(());
        }
        if self.memory.is_none() {
            self.memory = Some(mapped(&self.histograms)?);
        }
        let same_rows = self.plan.mode != SyscallMode::Off
            && self.plan.cgroups == plan.cgroups
            && plan.mode != SyscallMode::Off;
        if same_rows {
            self.watch.mode = raw_mode(plan);
            self.watch.sampled = u32::from(plan.sampled);
            self.write()?;
        } else {
            self.off()?;
            self.rows = places::assign(&mut self.watch, &plan.cgroups);
            self.watch.sampled = u32::from(plan.sampled);
            self.watch.mode = raw_mode(plan);
            self.watch.epoch = (self.watch.epoch + 1) & EPOCH_MAX;
            self.write()?;
        }
        self.plan = plan.clone();
        Ok(())
    }

    /// Stops counting and forgets what was counted.
    pub(super) fn off(&mut self) -> Result<(), String> {
        let was_on = self.watch.mode != mode::OFF;
        self.watch.mode = mode::OFF;
        self.write()?;
        self.plan = SyscallPlan::default();
        if let Some(memory) = self.memory.as_ref().filter(|_| was_on) {
            std::thread::sleep(SETTLE);
            for row in self.rows_used() {
                memory.zero(span(row));
            }
            self.forget_errnos();
        }
        self.rows.clear();
        Ok(())
    }

    /// Gives the memory back; the maps stay.
    pub(super) fn unmap(&mut self) {
        self.memory = None;
    }

    /// Histograms by cgroup and syscall; empty while it is detached.
    pub(super) fn counts(&self) -> Counted {
        let mut counts = Counted::new();
        let Some(memory) = &self.memory else {
            return counts;
        };
        for row in self.rows_used() {
            let cgroup = self.rows.get(row).copied().unwrap_or(OTHERS);
            for (number, index) in (0..NUMBERS).zip(span(row)) {
                // Most pairs have no call at all: three words tell, of the twenty-two.
                let Some(counted) = memory
                    .is_any(index, |counters| {
                        // SAFETY: fields of the entry that `is_any` points to; volatile as there.
                        unsafe {
                            (&raw const (*counters).total_ns).read_volatile() != 0
                                || (&raw const (*counters).untimed).read_volatile() != 0
                                || (&raw const (*counters).buckets)
                                    .cast::<u32>()
                                    .read_volatile()
                                    != 0
                        }
                    })
                    .then(|| memory.read(index))
                    .flatten()
                else {
                    continue;
                };
                let mut count = SyscallCounts {
                    buckets: counted.buckets.map(u64::from),
                    errors: counted.errors.into(),
                    total_ns: counted.total_ns,
                };
                untimed::spread(&mut count, counted.untimed.into(), self.watch.tick_ns);
                counts.insert((cgroup, number), count);
            }
        }
        counts
    }

    /// Errors that tell something, by cgroup, syscall and errno; empty while it is detached.
    pub(super) fn errnos(&self) -> HashMap<(CgroupId, u32, u32), u64> {
        if self.memory.is_none() {
            return HashMap::new();
        }
        let counted = self.errnos.iter().filter_map(Result::ok);
        counted
            .map(|(RawErrno(key), count)| ((CgroupId(key.cgroup), key.nr, key.errno), count))
            .collect()
    }

    /// Frees all places. That one is gone already is as good.
    fn forget_errnos(&mut self) {
        let taken: Vec<RawErrno> = self.errnos.keys().filter_map(Result::ok).collect();
        for key in taken {
            self.errnos.remove(&key).unwrap_or_default();
        }
    }

    fn rows_used(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.rows.len()).chain([OTHERS_ROW as usize])
    }

    fn write(&mut self) -> Result<(), String> {
        self.switch
            .set(0, RawWatch(self.watch), 0)
            .map_err(|error| format!("cannot switch the syscall pair: {error}"))
    }
}

fn raw_mode(plan: &SyscallPlan) -> u32 {
    match plan.mode {
        SyscallMode::Off => mode::OFF,
        SyscallMode::Watch if plan.cgroups.is_empty() => mode::OFF,
        SyscallMode::Watch => mode::WATCH,
        SyscallMode::All => mode::ALL,
    }
}

/// Entries of a row.
fn span(row: usize) -> std::ops::Range<usize> {
    let numbers = NUMBERS as usize;
    row * numbers..(row + 1) * numbers
}

/// A tick of this kernel in ns: the resolution of its coarse clock.
fn tick_ns() -> u64 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(tick.tv_nsec).unwrap_or(4_000_000).max(1)
}
