//! Direct reclaim: a task that asks for memory must first find some, for the whole node
//! (`mm_vmscan_direct_reclaim_…`) or for its cgroup, which is at its limit
//! (`mm_vmscan_memcg_reclaim_…`). Both are raised in that task.

use aya_ebpf::{
    EbpfContext as _,
    macros::{map, raw_tracepoint},
    maps::LruHashMap,
    programs::RawTracePointContext,
};
use paramedic_abi::probe;

use crate::charge::{add, charged, current_cgroup, note, now_ns};

/// Since when a thread reclaims, ns. What is never ended (the probe was detached meanwhile) is
/// forgotten by and by.
#[map]
pub static RECLAIMING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4_096, 0);

/// `mm_vmscan_direct_reclaim_begin(order, flags)`.
#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
pub fn reclaim_begin(ctx: RawTracePointContext) -> i32 {
    begins(ctx.pid())
}

/// `mm_vmscan_direct_reclaim_end(pages)`.
#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
pub fn reclaim_end(ctx: RawTracePointContext) -> i32 {
    ends(ctx.pid())
}

/// `mm_vmscan_memcg_reclaim_begin(order, flags)`.
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
pub fn memcg_reclaim_begin(ctx: RawTracePointContext) -> i32 {
    begins(ctx.pid())
}

/// `mm_vmscan_memcg_reclaim_end(pages)`.
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
pub fn memcg_reclaim_end(ctx: RawTracePointContext) -> i32 {
    ends(ctx.pid())
}

#[inline(always)]
fn begins(tid: u32) -> i32 {
    if RECLAIMING.insert(tid, now_ns(), 0).is_err() {
        // SAFETY: picks a field of the map value.
        note(probe::RECLAIM, |stats| unsafe {
            &raw mut (*stats).map_drops
        });
    }
    0
}

#[inline(always)]
fn ends(tid: u32) -> i32 {
    // SAFETY: the value is this thread's own and copied at once.
    let Some(begun) = (unsafe { RECLAIMING.get(tid) }).copied() else {
        // Begun before the probe was there, or pushed out by 4,096 others.
        // SAFETY: picks a field of the map value.
        note(probe::RECLAIM, |stats| unsafe {
            &raw mut (*stats).collisions
        });
        return 0;
    };
    // That it is gone by now is as good.
    let _gone = RECLAIMING.remove(tid);
    let took = now_ns().saturating_sub(begun);
    // SAFETY: adds to fields of the map value.
    charged(probe::RECLAIM, current_cgroup(), |counters| unsafe {
        add(&raw mut (*counters).reclaims, 1);
        add(&raw mut (*counters).reclaim_ns, took);
    });
    0
}
