//! Charging a cgroup with an occurrence, and telling the agent of it.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_ktime_get_ns},
};
use paramedic_abi::{COMM_LEN, Event, ProbeStats, ProcessCounters};

use crate::{
    layout,
    maps::{EVENTS, PROCESSES, STATS},
};

/// Adds to a counter that other CPUs, or another program on this one, may be adding to.
///
/// # Safety
/// `counter` points into a map's value and is aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, amount: u64) {
    // Rust offers no atomic addition on a target without compare-and-swap, which BPF had to do
    // without until version 3 of its instruction set; this instruction is in all of them.
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller promises a valid, aligned counter.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) amount,
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above. Only lints are run on other targets.
    unsafe {
        *counter += amount;
    }
}

/// As [`add`], to a counter of 32 bits.
///
/// # Safety
/// `counter` points into a map's value and is aligned.
#[inline(always)]
pub unsafe fn add32(counter: *mut u32, amount: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller promises a valid, aligned counter.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) u64::from(amount),
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above. Only lints are run on other targets.
    unsafe {
        *counter += amount;
    }
}

/// Adds 1 to a statistic of a probe.
#[inline(always)]
pub fn note(probe: u32, which: impl FnOnce(*mut ProbeStats) -> *mut u64) {
    if let Some(stats) = STATS.get_ptr_mut(probe) {
        // SAFETY: `which` picks a field of the map value.
        unsafe { add(which(stats), 1) };
    }
}

/// The cgroup of the running task.
#[inline(always)]
pub fn current_cgroup() -> u64 {
    // SAFETY: takes no argument and always works in a tracepoint.
    unsafe { bpf_get_current_cgroup_id() }
}

/// Monotonic time, ns.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// The running task's name.
#[inline(always)]
pub fn current_comm() -> [u8; COMM_LEN] {
    bpf_get_current_comm().unwrap_or_default()
}

/// Counts an occurrence for its cgroup.
#[inline(always)]
pub fn charge(probe: u32, cgroup: u64, which: impl FnOnce(*mut ProcessCounters) -> *mut u64) {
    // SAFETY: the closure picks a field of the map value.
    charged(probe, cgroup, |counters| unsafe { add(which(counters), 1) });
}

/// Counts an occurrence for its cgroup by whatever `count` adds to its counters.
#[inline(always)]
pub fn charged(probe: u32, cgroup: u64, count: impl FnOnce(*mut ProcessCounters)) {
    // SAFETY: these closures pick a field of the map value.
    note(probe, |stats| unsafe { &raw mut (*stats).events });
    let counters = PROCESSES.get_ptr_mut(cgroup).or_else(|| {
        // Another CPU may have been first: then its entry is taken.
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "by value it would be copied onto the stack, of which there are 512 bytes"
        )]
        let _first = PROCESSES.insert(cgroup, &NOTHING, u64::from(BPF_NOEXIST));
        PROCESSES.get_ptr_mut(cgroup)
    });
    match counters {
        Some(counters) => count(counters),
        // SAFETY: as above.
        None => note(probe, |stats| unsafe { &raw mut (*stats).map_drops }),
    }
}

/// What a cgroup begins with. Not on the stack, of which there are 512 bytes.
static NOTHING: ProcessCounters = ProcessCounters {
    execs: 0,
    forks: 0,
    exits: 0,
    oom_kills: 0,
    failed_exits: 0,
    signals: 0,
    fatal_signals: 0,
    reclaims: 0,
    reclaim_ns: 0,
    tcp_connects: 0,
    tcp_accepts: 0,
    tcp_failures: 0,
    tcp_retransmits: 0,
    tcp_resets_sent: 0,
    tcp_resets_received: 0,
};

/// Puts an event into the ring; a full ring is counted, never waited for.
#[inline(always)]
pub fn tell(event: Event) {
    let probe = event.kind;
    let Some(mut place) = EVENTS.reserve::<Event>(0) else {
        // SAFETY: picks a field of the map value.
        note(probe, |stats| unsafe { &raw mut (*stats).ring_drops });
        return;
    };
    place.write(event);
    // Waking the agent for each event costs more than everything else here: it drains by the clock
    // and is woken only when much is waiting.
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let flag = if waiting >= layout::WAKE_BYTES.load() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    place.submit(u64::from(flag));
}
