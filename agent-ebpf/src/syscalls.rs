//! The syscall pair: how long calls take and how many fail, by cgroup and syscall.
//!
//! On every call's path, so it is loaded at the start and attached on an alert only. Everything is in
//! plain arrays, which the verifier turns into a bounds check and an addition: no helper is called
//! but for the thread, the cgroup and the clock. The enter decides whether the call is of interest;
//! the exit reads no registers, because the enter kept the number with the time.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_jiffies64,
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};
use paramedic_abi::{
    Call, LATENCY_BUCKETS, NUMBERS, OTHERS, PLACES, ROWS, SAMPLED_ONE_IN, STARTS, Start, SyscallCounters,
    Watch, bucket_of, is_error, mode, place_of, probe, slot_of,
};

use crate::{
    charge::{add32, current_cgroup, note, now_ns},
    layout,
};

/// One entry: what to count.
#[map]
pub static WATCH: Array<Watch> = Array::with_max_entries(1, 0);

/// Histograms, by row and number. Shared by the CPUs and counted atomically: an array a CPU would
/// cost 6 MB a CPU. The agent reads it as memory.
#[map]
pub static SYSCALLS: Array<SyscallCounters> =
    Array::with_max_entries(ROWS * NUMBERS, BPF_F_MMAPABLE);

/// Calls in flight, by hash of the thread id: one array access instead of a hash map's locks.
#[map]
pub static IN_FLIGHT: Array<Start> = Array::with_max_entries(STARTS, BPF_F_MMAPABLE);

/// `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enter(ctx: RawTracePointContext) -> i32 {
    let Some(watch) = WATCH.get(0) else {
        return 0;
    };
    if watch.mode == mode::OFF {
        return 0;
    }
    let cgroup = current_cgroup();
    let place = place_of(cgroup, watch.multiplier) as usize;
    if place >= PLACES {
        return 0;
    }
    let row = if watch.cgroups[place] == cgroup {
        watch.rows[place].into()
    } else if watch.mode == mode::ALL {
        OTHERS
    } else {
        return 0;
    };
    let nr: u64 = ctx.arg(1);
    if nr >= u64::from(NUMBERS) {
        // A tracer may have set -1, which is no call; others are of another ABI, such as x32.
        if nr != u64::MAX && nr != u64::from(u32::MAX) {
            // SAFETY: picks a field of the map value.
            note(probe::SYSCALLS, |stats| unsafe {
                &raw mut (*stats).map_drops
            });
        }
        return 0;
    }
    if nr == layout::NR_EXIT.load() || nr == layout::NR_EXIT_GROUP.load() {
        return 0;
    }
    let tid = ctx.pid();
    let Some(start) = IN_FLIGHT.get_ptr_mut(slot_of(tid)) else {
        return 0;
    };
    // SAFETY: points to a map value. Another CPU may write it at the same time if two threads share
    // the place: the worst is one wrong sample, and it is counted as a collision.
    let start = unsafe { &mut *start };
    let before = Call::unpack(start.call);
    if start.tid != 0 && start.tid != tid && before.epoch == watch.epoch {
        // SAFETY: picks a field of the map value.
        note(probe::SYSCALLS, |stats| unsafe {
            &raw mut (*stats).collisions
        });
    }
    let turn = before.turn + 1;
    let coarse = watch.sampled != 0 && turn % SAMPLED_ONE_IN != 0;
    start.call = Call {
        nr: nr as u32,
        row,
        epoch: watch.epoch,
        turn,
        coarse,
    }
    .pack();
    start.tid = tid;
    start.at = if coarse { ticks() } else { now_ns() };
    0
}

/// `sys_exit(registers, returned)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_exit(ctx: RawTracePointContext) -> i32 {
    let Some(watch) = WATCH.get(0) else {
        return 0;
    };
    if watch.mode == mode::OFF {
        return 0;
    }
    let tid = ctx.pid();
    let Some(start) = IN_FLIGHT.get_ptr_mut(slot_of(tid)) else {
        return 0;
    };
    // SAFETY: as above.
    let start = unsafe { &mut *start };
    if start.tid != tid {
        return 0;
    }
    start.tid = 0;
    let call = Call::unpack(start.call);
    if call.epoch != watch.epoch {
        // Begun when its row was somebody else's.
        return 0;
    }
    let Some(counters) = SYSCALLS.get_ptr_mut(call.row * NUMBERS + call.nr) else {
        return 0;
    };
    let took_ns = if call.coarse {
        let ticks = ticks().saturating_sub(start.at);
        // A short call may happen to see the tick change.
        if ticks < 2 { 0 } else { ticks * watch.tick_ns }
    } else {
        now_ns().saturating_sub(start.at)
    };
    let bucket = bucket_of(took_ns);
    if bucket >= LATENCY_BUCKETS {
        return 0;
    }
    // SAFETY: `counters` points to a map value, `bucket` is inside the array.
    unsafe {
        if call.coarse && took_ns == 0 {
            add32(&raw mut (*counters).untimed, 1);
        } else {
            add32((&raw mut (*counters).buckets).cast::<u32>().add(bucket), 1);
            // Not atomic: where two CPUs end the same call of the same cgroup at the same moment the
            // sum may miss one of them. It ranks; the histogram is exact.
            (*counters).total_ns += took_ns;
        }
        if is_error(ctx.arg(1)) && u64::from(call.nr) != layout::NR_SIGRETURN.load() {
            add32(&raw mut (*counters).errors, 1);
        }
    }
    0
}

/// The kernel's ticks: two orders of magnitude cheaper than the clock.
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_jiffies64() }
}
