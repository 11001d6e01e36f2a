//! What the scheduler probes and the agent share.

use crate::LATENCY_BUCKETS;

/// Keys of rows that stand side by side: a cgroup is looked for in one line of them only.
pub const WAYS: usize = 8;

/// Lines of keys; a power of two.
pub const LINES: u32 = 512;

/// Rows of cgroups.
#[expect(clippy::cast_possible_truncation, reason = "8")]
pub const SCHED_ROWS: u32 = LINES * WAYS as u32;

/// Row of those that found their line full.
pub const SCHED_OTHERS: u32 = SCHED_ROWS;

/// Cells of blocked time by cgroup and syscall; a power of two.
pub const CELLS: u32 = 1 << 14;

/// Stands for the number of a task that is blocked, but not in a syscall.
pub const NO_CALL: u32 = 511;

/// What a task is waiting for, in [`Waiting::what`].
pub mod waiting {
    /// Nothing: it runs.
    pub const NOT: u32 = 0;
    /// A CPU.
    pub const RUNNABLE: u32 = 1;
    /// To be woken.
    pub const BLOCKED: u32 = 2;
    /// The bits that hold one of these.
    pub const MASK: u32 = 0x7f;
}

/// A task off its CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Since when, monotonic ns.
    pub at: u64,
    /// Thread; 0 = free.
    pub tid: u32,
    /// One of [`waiting`]; [`WAS_UNINTERRUPTIBLE`]; from bit 8 on the syscall that it is or was
    /// blocked in.
    pub what: u32,
    /// How long it was blocked before it became runnable, ns; 0 = it was not.
    pub blocked_ns: u64,
    /// Zero.
    pub padding: u64,
}

/// In [`Waiting::what`]: nothing but what it waited for could wake it.
pub const WAS_UNINTERRUPTIBLE: u32 = 0x80;

/// Waits of the tasks of one cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedRow {
    /// Waits for a CPU by log2 of their length in ns.
    pub buckets: [u32; LATENCY_BUCKETS],
    /// Sum of these waits, ns. Of two CPUs that add at the same moment one may be missed.
    pub runq_ns: u64,
    /// Time blocked uninterruptibly, ns; likewise.
    pub uninterruptible_ns: u64,
}

impl SchedRow {
    /// Nothing seen yet.
    pub const ZERO: Self = Self {
        buckets: [0; LATENCY_BUCKETS],
        runq_ns: 0,
        uninterruptible_ns: 0,
    };
}

/// Blocked time of one cgroup in one syscall.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// [`cell_key`]; 0 = free.
    pub key: u64,
    /// Sum, ns; of two CPUs that add at the same moment one may be missed.
    pub ns: u64,
}

/// Line in which a cgroup's key is looked for.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper bits, as many as LINES has"
)]
pub const fn line_of(cgroup: u64) -> u32 {
    (cgroup.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - LINES.trailing_zeros())) as u32
}

/// Key of a cell; never 0.
#[inline]
pub const fn cell_key(row: u32, nr: u32) -> u64 {
    (1 << 32) | ((row as u64) << 9) | nr as u64
}

/// The row and the syscall of a cell's key.
#[inline]
pub const fn of_cell_key(key: u64) -> (u32, u32) {
    (((key & 0xffff_ffff) >> 9) as u32, (key & 0x1ff) as u32)
}

/// Place of a cell.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper bits, as many as CELLS has"
)]
pub const fn cell_of(key: u64) -> u32 {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - CELLS.trailing_zeros())) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Waiting>(), 32);
        assert_eq!(size_of::<SchedRow>(), LATENCY_BUCKETS * 4 + 16);
        assert_eq!(size_of::<Cell>(), 16);
    }

    #[test]
    fn places_are_inside_their_tables_and_keys_come_back() {
        for cgroup in [0, 1, u64::MAX] {
            assert!(line_of(cgroup) < LINES);
        }
        for (row, nr) in [(0, 0), (SCHED_OTHERS, NO_CALL), (17, 202)] {
            let key = cell_key(row, nr);
            assert!(cell_of(key) < CELLS);
            assert_eq!(of_cell_key(key), (row, nr));
        }
    }
}
