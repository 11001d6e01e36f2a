//! The scheduler tier: loading it, and reading what it counted.

use std::collections::HashMap;

use aya::{
    Btf, Ebpf, Endianness,
    maps::MapData,
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use paramedic_abi::{CELLS, Cell, NO_CALL, SCHED_OTHERS, SCHED_ROWS, SchedRow, of_cell_key};

use super::{
    btf::only_tracepoints,
    mapped::{Mapped, mapped, mapped_as, plain_array},
    why,
};
use crate::{
    evidence::kernel::{BlockedIn, OTHERS, SchedCounts},
    incident::CgroupId,
};

/// `(program, tracepoint)`. The switch last: a task that was seen to be woken has not been seen to
/// leave, which is nothing; the other way round a wake-up would be missed.
pub(super) const PROGRAMS: [(&str, &str); 3] = [
    ("sched_wakeup_new", "sched_wakeup_new"),
    ("sched_wakeup", "sched_wakeup"),
    ("sched_switch", "sched_switch"),
];

/// What the agent holds of the tier.
pub(super) struct Scheduler {
    keys: MapData,
    rows: MapData,
    cells: MapData,
    memory: Option<Memory>,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    /// Sums of the rows at the last reading: those that did not move are idle.
    last: HashMap<u32, u64>,
}

struct Memory {
    keys: Mapped<u64>,
    rows: Mapped<SchedRow>,
    cells: Mapped<Cell>,
}

impl Scheduler {
    /// Takes the maps; fails if the object is of another version.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, String> {
        Ok(Self {
            keys: plain_array(ebpf, "SCHED_KEYS")?,
            rows: plain_array(ebpf, "SCHED")?,
            cells: plain_array(ebpf, "CELLS_OF")?,
            memory: None,
            links: Vec::new(),
            last: HashMap::new(),
        })
    }

    /// Loads and attaches the programs, by the ids of the tracepoints' types. The loader would read the
    /// kernel's types whole to find these three again: a good part of the time that a start takes.
    pub(super) fn start(
        &mut self,
        ebpf: &mut Ebpf,
        tracepoints: &[(&str, u32)],
    ) -> Result<(), String> {
        let btf = Btf::parse(&only_tracepoints(tracepoints), Endianness::default())
            .map_err(|error| format!("cannot name the tracepoints' types: {error}"))?;
        for (name, tracepoint) in PROGRAMS {
            program(ebpf, name)?
                .load(tracepoint, &btf)
                .map_err(|error| why::of_program("load it", &error))?;
        }
        self.attach(ebpf)
    }

    /// Attaches what is loaded.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), String> {
        if self.memory.is_none() {
            self.memory = Some(Memory {
                // A line of keys is one entry of the kernel's.
                keys: mapped_as(&self.keys, SCHED_ROWS)?,
                rows: mapped(&self.rows)?,
                cells: mapped(&self.cells)?,
            });
        }
        for (name, tracepoint) in PROGRAMS {
            let attached = program(ebpf, name).and_then(|program| {
                program
                    .attach()
                    .map_err(|error| why::of_program(&format!("attach to {tracepoint}"), &error))
            });
            match attached {
                Ok(link) => self.links.push((name, link)),
                Err(why) => {
                    self.detach(ebpf);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Detaches the programs; what they counted stays.
    pub(super) fn detach(&mut self, ebpf: &mut Ebpf) {
        while let Some((name, link)) = self.links.pop() {
            let detached = program(ebpf, name)
                .and_then(|program| program.detach(link).map_err(|error| error.to_string()));
            if let Err(why) = detached {
                tracing::warn!(program = name, why, "cannot detach");
            }
        }
    }

    /// Waits by cgroup, and blocked time by cgroup and syscall. Gives the places of idle cgroups to
    /// others once three quarters are taken.
    pub(super) fn counts(
        &mut self,
    ) -> (
        HashMap<CgroupId, SchedCounts>,
        HashMap<(CgroupId, BlockedIn), u64>,
    ) {
        let (mut waits, mut blocked) = (HashMap::new(), HashMap::new());
        let Some(memory) = &self.memory else {
            return (waits, blocked);
        };
        let mut owners: HashMap<u32, CgroupId> = HashMap::new();
        let mut sums = HashMap::new();
        for row in 0..=SCHED_OTHERS {
            let cgroup = if row == SCHED_OTHERS {
                OTHERS
            } else {
                match memory.keys.read(row as usize) {
                    None | Some(0) => continue,
                    Some(id) => CgroupId(id),
                }
            };
            let Some(counted) = memory.rows.read(row as usize) else {
                continue;
            };
            if counted == SchedRow::ZERO && cgroup == OTHERS {
                continue;
            }
            owners.insert(row, cgroup);
            sums.insert(row, counted.runq_ns);
            waits.insert(
                cgroup,
                SchedCounts {
                    buckets: counted.buckets.map(u64::from),
                    runq_ns: counted.runq_ns,
                    uninterruptible_ns: counted.uninterruptible_ns,
                },
            );
        }
        for index in 0..CELLS as usize {
            // Most are free: the key first, and nobody is looked up for those.
            let Some(cell) = memory.cells.read(index).filter(|cell| cell.key != 0) else {
                continue;
            };
            let (row, nr) = of_cell_key(cell.key);
            if let Some(cgroup) = owners.get(&row) {
                let place = if nr == NO_CALL {
                    BlockedIn::Elsewhere
                } else {
                    BlockedIn::Call(nr)
                };
                *blocked.entry((*cgroup, place)).or_default() += cell.ns;
            }
        }
        if owners.len() * 4 >= SCHED_ROWS as usize * 3 {
            memory.free(|row| row != SCHED_OTHERS && self.last.get(&row) == sums.get(&row));
        }
        self.last = sums;
        (waits, blocked)
    }
}

impl Scheduler {
    /// Waits for a CPU, over all cgroups.
    pub(super) fn events(&self) -> u64 {
        let taken = |memory: &Memory| {
            (0..SCHED_ROWS as usize)
                .filter(|row| memory.keys.read(*row).is_some_and(|key| key != 0))
                .chain([SCHED_OTHERS as usize])
                .filter_map(|row| memory.rows.read(row))
                .map(|row| row.buckets.iter().map(|n| u64::from(*n)).sum::<u64>())
                .sum()
        };
        self.memory.as_ref().map_or(0, taken)
    }
}

impl Memory {
    /// Gives up the rows that `idle` names, and their cells.
    fn free(&self, idle: impl Fn(u32) -> bool) {
        for index in 0..CELLS as usize {
            let key = self.cells.read(index).map_or(0, |cell| cell.key);
            if key != 0 && idle(of_cell_key(key).0) {
                self.cells.zero(index..index + 1);
            }
        }
        for row in (0..SCHED_ROWS).filter(|row| idle(*row)) {
            let row = row as usize;
            self.rows.zero(row..row + 1);
            self.keys.zero(row..row + 1);
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, String> {
    ebpf.program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}: run `cargo xtask build`"))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| format!("program {name}: {error}"))
}
