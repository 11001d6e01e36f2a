//! The syscall pair: how long calls take and how many fail, by cgroup and syscall.
//!
//! On every call's path, so it is loaded at the start and attached on an alert only. The number is
//! taken at the enter and kept with the time: the exit reads no registers.

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_NOEXIST, macros::raw_tracepoint, programs::RawTracePointContext,
};
use paramedic_abi::{
    LATENCY_BUCKETS, SyscallCounters, SyscallKey, bucket_of, is_error, probe, slot_of,
};

use crate::{
    charge::{add, current_cgroup, note, now_ns},
    layout,
    maps::{EPOCH, IN_FLIGHT, SYSCALLS},
};

/// Nothing seen yet; in read-only data because 336 bytes are too much for a 512-byte stack.
static ZERO: SyscallCounters = SyscallCounters::ZERO;

/// `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enter(ctx: RawTracePointContext) -> i32 {
    let nr: u64 = ctx.arg(1);
    if nr == layout::NR_EXIT.load() || nr == layout::NR_EXIT_GROUP.load() {
        return 0;
    }
    // A tracer may have set -1, which is no call.
    let Ok(nr) = u32::try_from(nr) else {
        return 0;
    };
    let tid = ctx.pid();
    let Some(start) = IN_FLIGHT.get_ptr_mut(slot_of(tid)) else {
        return 0;
    };
    // SAFETY: points to a map value. Another CPU may write it at the same time if two threads share
    // the place: the worst is one wrong sample, and it is counted as a collision.
    let start = unsafe { &mut *start };
    if start.tid != 0 && start.tid != tid && start.started_ns >= epoch() {
        // SAFETY: picks a field of the map value.
        note(probe::SYSCALLS, |stats| unsafe {
            &raw mut (*stats).collisions
        });
    }
    start.started_ns = now_ns();
    start.nr = nr;
    start.tid = tid;
    0
}

/// `sys_exit(registers, returned)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_exit(ctx: RawTracePointContext) -> i32 {
    let tid = ctx.pid();
    let Some(start) = IN_FLIGHT.get_ptr_mut(slot_of(tid)) else {
        return 0;
    };
    // SAFETY: as above.
    let start = unsafe { &mut *start };
    if start.tid != tid {
        return 0;
    }
    let (started_ns, nr) = (start.started_ns, start.nr);
    start.tid = 0;
    if started_ns < epoch() {
        // Begun when the pair was attached the last time; its end was not seen.
        return 0;
    }
    let key = SyscallKey {
        cgroup: current_cgroup(),
        nr,
        padding: 0,
    };
    let counters = SYSCALLS.get_ptr_mut(key).or_else(|| {
        #[allow(
            clippy::needless_borrows_for_generic_args,
            reason = "by value it would be copied to the stack, which has no room for it"
        )]
        let _first = SYSCALLS.insert(key, &ZERO, u64::from(BPF_NOEXIST));
        SYSCALLS.get_ptr_mut(key)
    });
    let Some(counters) = counters else {
        // SAFETY: picks a field of the map value.
        note(probe::SYSCALLS, |stats| unsafe {
            &raw mut (*stats).map_drops
        });
        return 0;
    };
    let took_ns = now_ns().saturating_sub(started_ns);
    let failed = is_error(ctx.arg(1)) && u64::from(nr) != layout::NR_SIGRETURN.load();
    let bucket = bucket_of(took_ns);
    if bucket >= LATENCY_BUCKETS {
        return 0;
    }
    // SAFETY: `counters` points to a map value, `bucket` is inside the array.
    unsafe {
        add((&raw mut (*counters).buckets).cast::<u64>().add(bucket), 1);
        add(&raw mut (*counters).total_ns, took_ns);
        if failed {
            add(&raw mut (*counters).errors, 1);
        }
    }
    0
}

/// When the pair was attached; before that is set, everything counts.
#[inline(always)]
fn epoch() -> u64 {
    EPOCH.get(0).copied().unwrap_or(0)
}
