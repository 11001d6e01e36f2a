//! The scheduler tier: how long tasks wait for a CPU, and how long they are blocked in which syscall,
//! by cgroup. Nothing on the syscall path.
//!
//! BTF tracepoints read the tasks' fields directly, by offsets that the agent takes from the running
//! kernel; without BTF this tier is not loaded.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, task_struct},
    helpers::bpf_task_pt_regs,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use paramedic_abi::{
    CELLS, Cell, LATENCY_BUCKETS, LINES, NO_CALL, SCHED_OTHERS, SCHED_ROWS, STARTS, SchedRow,
    WAS_UNINTERRUPTIBLE, WAYS, Waiting, bucket_of, cell_key, cell_of, line_of, probe, slot_of,
    waiting,
};

use crate::{
    charge::{add32, note, now_ns},
    layout,
};

/// Tasks off their CPU, by hash of the thread id.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.waiting")]
static mut WAITING: [Waiting; STARTS as usize] = [Waiting {
    at: 0,
    tid: 0,
    what: 0,
    blocked_ns: 0,
    padding: 0,
}; STARTS as usize];

/// Cgroup ids of the rows, a line of them at a time.
#[map]
pub static SCHED_KEYS: Array<[u64; WAYS]> = Array::with_max_entries(LINES, BPF_F_MMAPABLE);

/// Waits, by row.
#[map]
pub static SCHED: Array<SchedRow> = Array::with_max_entries(SCHED_ROWS + 1, BPF_F_MMAPABLE);

/// Blocked time by row and syscall.
#[map]
pub static CELLS_OF: Array<Cell> = Array::with_max_entries(CELLS, BPF_F_MMAPABLE);

// Parts of the kernel's task states that have been where they are since 4.14.
const TASK_UNINTERRUPTIBLE: u64 = 2;
const TASK_DEAD: u64 = 0x80;
/// An idle kernel thread waits uninterruptibly and for nothing.
const TASK_NOLOAD: u64 = 0x400;
/// `task_struct.flags`: a kernel thread, whose registers hold no syscall.
const PF_KTHREAD: u32 = 0x0020_0000;

/// `sched_switch(preempt, prev, next, prev_state)`, in `prev`, under the run queue's lock.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (preempted, prev, next): (u64, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let now = now_ns();
    let prev_tid: u32 = direct(prev, layout::TASK_PID.load());
    if prev_tid != 0 {
        let state: u64 = if layout::SWITCH_PASSES_STATE.load() == 1 {
            ctx.arg::<u64>(3) & 0xffff_ffff
        } else {
            u64::from(direct::<u32>(prev, layout::TASK_STATE.load()))
        };
        leaves(prev, prev_tid, preempted & 0xff != 0, state, now);
    }
    let next_tid: u32 = direct(next, layout::TASK_PID.load());
    if next_tid == 0 {
        return 0;
    }
    let entry = place_waiting(next_tid);
    let what = entry.what;
    if entry.tid != next_tid || what & waiting::MASK != waiting::RUNNABLE {
        return 0;
    }
    entry.what = waiting::NOT;
    let (waited, blocked) = (now.saturating_sub(entry.at), entry.blocked_ns);
    let row = row_of(next);
    let bucket = bucket_of(waited);
    let Some(counters) = SCHED.get_ptr_mut(row) else {
        return 0;
    };
    if bucket >= LATENCY_BUCKETS {
        return 0;
    }
    // SAFETY: fields of a map value; the bucket is inside its array.
    unsafe {
        add32((&raw mut (*counters).buckets).cast::<u32>().add(bucket), 1);
        // Not atomic, as the type says: sums to rank by.
        (*counters).runq_ns += waited;
        if what & WAS_UNINTERRUPTIBLE != 0 {
            (*counters).uninterruptible_ns += blocked;
        }
    }
    if blocked > 0 {
        in_call(row, what >> 8 & 0x1ff, blocked);
    }
    0
}

/// `sched_wakeup(task)`, in whoever wakes it.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    wakes(ctx.arg(0));
    0
}

/// `sched_wakeup_new(task)`: its first time.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    wakes(ctx.arg(0));
    0
}

/// A task leaves its CPU.
#[inline(always)]
fn leaves(task: u64, tid: u32, preempted: bool, state: u64, now: u64) {
    let entry = place_waiting(tid);
    count_collision(entry, tid);
    if state & TASK_DEAD != 0 {
        entry.tid = 0;
        return;
    }
    entry.at = now;
    entry.tid = tid;
    if preempted || state == 0 {
        entry.what = waiting::RUNNABLE;
        entry.blocked_ns = 0;
        return;
    }
    let mut what = waiting::BLOCKED | call_of(task) << 8;
    if state & TASK_UNINTERRUPTIBLE != 0 && state & TASK_NOLOAD == 0 {
        what |= WAS_UNINTERRUPTIBLE;
    }
    entry.what = what;
}

/// A task may run again: it was blocked until now, and waits for a CPU from now on. What it was blocked
/// for is charged when it runs, together with that wait.
#[inline(always)]
fn wakes(task: u64) {
    let tid: u32 = direct(task, layout::TASK_PID.load());
    let entry = place_waiting(tid);
    let now = now_ns();
    let what = entry.what;
    if entry.tid == tid && what & waiting::MASK == waiting::BLOCKED {
        entry.blocked_ns = now.saturating_sub(entry.at);
        entry.what = (what & !waiting::MASK) | waiting::RUNNABLE;
    } else {
        count_collision(entry, tid);
        entry.blocked_ns = 0;
        entry.what = waiting::RUNNABLE;
    }
    entry.at = now;
    entry.tid = tid;
}

/// Where a task's wait is noted.
#[inline(always)]
fn place_waiting(tid: u32) -> &'static mut Waiting {
    let place = slot_of(tid) as usize & (STARTS as usize - 1);
    // SAFETY: inside the table; threads that share a place are counted as collisions.
    unsafe { &mut *(&raw mut WAITING).cast::<Waiting>().add(place) }
}

#[inline(always)]
fn count_collision(entry: &Waiting, tid: u32) {
    if entry.tid != tid && entry.tid != 0 && entry.what & waiting::MASK != waiting::NOT {
        // SAFETY: picks a field of the map value.
        note(probe::SCHED, |stats| unsafe {
            &raw mut (*stats).collisions
        });
    }
}

#[inline(always)]
fn in_call(row: u32, call: u32, blocked: u64) {
    let key = cell_key(row, call);
    let Some(place) = CELLS_OF.get_ptr_mut(cell_of(key)) else {
        return;
    };
    // SAFETY: fields of a map value.
    unsafe {
        if (*place).key == key || ((*place).key == 0 && claim(&raw mut (*place).key, key)) {
            (*place).ns += blocked;
        } else {
            note(probe::SCHED, |stats| &raw mut (*stats).map_drops);
        }
    }
}

/// The row of a task's cgroup.
#[inline(always)]
fn row_of(task: u64) -> u32 {
    let set: u64 = direct(task, layout::TASK_CGROUPS.load());
    let cgroup: u64 = direct(set, layout::CSS_SET_DFL_CGRP.load());
    let node: u64 = direct(cgroup, layout::CGROUP_KN.load());
    let id: u64 = direct(node, layout::KERNFS_NODE_ID.load());
    let line = line_of(id);
    let Some(keys) = SCHED_KEYS.get_ptr_mut(line) else {
        return SCHED_OTHERS;
    };
    for way in 0..WAYS {
        // SAFETY: inside the line.
        let found = unsafe {
            let key = (&raw mut (*keys)).cast::<u64>().add(way);
            *key == id || (*key == 0 && claim(key, id))
        };
        if found {
            return line * WAYS as u32 + way as u32;
        }
    }
    // SAFETY: picks a field of the map value.
    note(probe::SCHED, |stats| unsafe { &raw mut (*stats).map_drops });
    SCHED_OTHERS
}

/// Takes a free place for `new`; false if somebody else was first with another.
#[inline(always)]
unsafe fn claim(place: *mut u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    let mut old = 0_u64;
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller promises an aligned place in a map's value.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place,
            new = in(reg) new,
            inout("r0") old,
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above. Only lints are run on other targets.
    let old = unsafe { core::mem::replace(&mut *place, new) };
    old == 0 || old == new
}

/// The syscall that a task is in.
#[inline(always)]
fn call_of(task: u64) -> u32 {
    let flags: u32 = direct(task, layout::TASK_FLAGS.load());
    if flags & PF_KTHREAD != 0 || layout::PT_REGS_NR.load() == 0 {
        return NO_CALL;
    }
    // SAFETY: a task that the kernel gave us.
    let registers = unsafe { bpf_task_pt_regs(task as *mut task_struct) };
    let nr: u64 = direct(registers.cast_unsigned(), layout::PT_REGS_NR.load());
    if nr < u64::from(NO_CALL) {
        nr as u32
    } else {
        NO_CALL
    }
}

/// A field of a kernel object that the verifier knows the type of: an ordinary load, which gives 0
/// where the address is bad.
#[inline(always)]
fn direct<T: Copy>(object: u64, offset: u64) -> T {
    // SAFETY: the verifier lets through only what is a field; faults are handled by the kernel.
    unsafe { core::ptr::read_volatile((object + offset) as *const T) }
}
