//! What the syscall pair and the agent share.

use crate::LATENCY_BUCKETS;

/// Cgroups that can be watched apart.
pub const WATCHED_MAX: usize = 64;

/// Places of the watch table. So many that a multiplier without collisions is found among some
/// thousand for any [`WATCHED_MAX`] cgroups; with as many places as cgroups there would be none.
pub const PLACES: usize = 256;

/// Row of everybody who is not watched.
pub const OTHERS: u32 = 64;

/// Rows of histograms: one a watched cgroup, and [`OTHERS`].
pub const ROWS: u32 = 65;

/// Syscall numbers that have a histogram: 0 to one less. No architecture has as many.
pub const NUMBERS: u32 = 512;

/// Entries of the table of calls in flight; a power of two.
pub const STARTS: u32 = 1 << 16;

/// In sampled mode, one call in so many of a thread is timed by the clock.
pub const SAMPLED_ONE_IN: u32 = 16;

/// Last value of [`Watch::epoch`]; then it begins anew.
pub const EPOCH_MAX: u32 = 0x7ff;

/// What is counted, in [`Watch::mode`].
pub mod mode {
    /// Nothing: both programs return at once.
    pub const OFF: u32 = 0;
    /// The watched cgroups only.
    pub const WATCH: u32 = 1;
    /// The watched cgroups, and all others in one row.
    pub const ALL: u32 = 2;
}

/// The one switch of the pair, written by the agent at run time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// With it no two watched cgroups have the same place: see [`place_of`].
    pub multiplier: u64,
    /// Length of a tick of the kernel, ns.
    pub tick_ns: u64,
    /// One of [`mode`].
    pub mode: u32,
    /// Changes with every change of the rows: calls begun before are left out. 0 to 2047.
    pub epoch: u32,
    /// 1: only one call in [`SAMPLED_ONE_IN`] is timed by the clock, the others by ticks.
    pub sampled: u32,
    /// Zero.
    pub padding: u32,
    /// Cgroup ids by place; 0 = nobody.
    pub cgroups: [u64; PLACES],
    /// The row of each.
    pub rows: [u8; PLACES],
}

impl Watch {
    /// Nothing is watched.
    pub const OFF: Self = Self {
        multiplier: 0,
        tick_ns: 4_000_000,
        mode: mode::OFF,
        epoch: 0,
        sampled: 0,
        padding: 0,
        cgroups: [0; PLACES],
        rows: [0; PLACES],
    };
}

/// Place of a cgroup in the watch table, below [`PLACES`].
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper bits, as many as PLACES has"
)]
pub const fn place_of(cgroup: u64, multiplier: u64) -> u32 {
    (cgroup.wrapping_mul(multiplier) >> (u64::BITS - PLACES.trailing_zeros())) as u32
}

/// Calls of one syscall by one row. 32 bits hold an hour of a million calls a second; the agent
/// takes differences long before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallCounters {
    /// By log2 of the duration in ns.
    pub buckets: [u32; LATENCY_BUCKETS],
    /// Calls that returned an error.
    pub errors: u32,
    /// Sampled mode: calls of less than two ticks whose duration the clock did not take. They are in
    /// no bucket.
    pub untimed: u32,
    /// Sum of the durations in `buckets`, ns; may miss one of two calls that end at the same moment.
    pub total_ns: u64,
}

/// A call in flight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// When it was entered: monotonic ns, or ticks if [`Call::coarse`].
    pub at: u64,
    /// Thread, by its kernel stack; 0 = free.
    pub thread: u32,
    /// Packed [`Call`]. Outlives the call: the next one of the thread takes its turn from here.
    pub call: u32,
}

/// What is known of a call in flight, kept from its enter so that the exit need not read registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Syscall number, below [`NUMBERS`].
    pub nr: u32,
    /// Row to be counted in, below [`ROWS`].
    pub row: u32,
    /// [`Watch::epoch`] of its enter.
    pub epoch: u32,
    /// Counts the thread's calls modulo [`SAMPLED_ONE_IN`].
    pub turn: u32,
    /// Timed by ticks.
    pub coarse: bool,
}

impl Call {
    /// Number 9 bits, row 7, epoch 11, turn 4, coarse 1.
    #[inline]
    pub const fn pack(self) -> u32 {
        self.nr & 0x1ff
            | (self.row & 0x7f) << 9
            | (self.epoch & EPOCH_MAX) << 16
            | (self.turn & 0xf) << 27
            | (self.coarse as u32) << 31
    }

    /// The inverse of [`Self::pack`].
    #[inline]
    pub const fn unpack(packed: u32) -> Self {
        Self {
            nr: packed & 0x1ff,
            row: packed >> 9 & 0x7f,
            epoch: packed >> 16 & EPOCH_MAX,
            turn: packed >> 27 & 0xf,
            coarse: packed >> 31 != 0,
        }
    }
}

/// Place of a thread, by whatever tells it from others, in a table of [`STARTS`] entries: Fibonacci hashing, which spreads runs of
/// neighbouring ids perfectly.
#[inline]
pub const fn slot_of(thread: u32) -> u32 {
    thread.wrapping_mul(0x9E37_79B1) >> (u32::BITS - STARTS.trailing_zeros())
}

/// Whether a syscall's raw return value is an error that its caller sees. -512 to -516 ask the
/// kernel to start the call again and never reach the program as they are.
#[inline]
pub const fn is_error(returned: i64) -> bool {
    returned < 0 && returned >= -4095 && !(returned <= -512 && returned >= -516)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn neighbouring_threads_have_places_of_their_own() {
        let mut taken = std::vec![false; STARTS as usize];
        for tid in 4_000_000..4_000_000 + 32_768 {
            let slot = slot_of(tid) as usize;
            assert!(!taken[slot], "thread {tid} shares place {slot}");
            taken[slot] = true;
        }
    }

    #[test]
    fn every_place_is_inside_its_table() {
        for tid in [0, 1, u32::MAX, 0x8000_0000] {
            assert!(slot_of(tid) < STARTS);
            let cgroup = u64::from(tid) << 20 | 7;
            assert!((place_of(cgroup, u64::MAX) as usize) < PLACES);
        }
    }

    #[test]
    fn a_call_survives_its_packing() {
        for call in [
            Call {
                nr: NUMBERS - 1,
                row: OTHERS,
                epoch: EPOCH_MAX,
                turn: SAMPLED_ONE_IN - 1,
                coarse: true,
            },
            Call {
                nr: 0,
                row: 63,
                epoch: 1,
                turn: 0,
                coarse: false,
            },
        ] {
            assert_eq!(Call::unpack(call.pack()), call);
        }
    }

    #[test]
    fn a_restart_is_no_error_and_an_address_is_none() {
        assert!(is_error(-1));
        assert!(is_error(-4095));
        assert!(!is_error(-4096));
        assert!(!is_error(0));
        assert!(!is_error(7));
        assert!(is_error(-511));
        assert!(!is_error(-512));
        assert!(!is_error(-516));
        assert!(is_error(-517));
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Start>(), 16);
        assert_eq!(size_of::<Watch>(), 32 + PLACES * 9);
        // A multiple of 8, as the kernel spaces the entries of an array.
        assert_eq!(size_of::<SyscallCounters>(), LATENCY_BUCKETS * 4 + 16);
        assert_eq!(size_of::<SyscallCounters>() % 8, 0);
    }
}
