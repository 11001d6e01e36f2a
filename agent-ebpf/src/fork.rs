//! Processes created: `task_newtask(task, clone_flags)`, raised in the parent.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use paramedic_abi::{Event, probe};

use crate::{
    charge::{charge, current_cgroup, current_comm, now_ns, tell},
    layout::{self, field},
};

/// The new task is a thread of its creator's process. Part of the kernel's user ABI.
const CLONE_THREAD: u64 = 0x0001_0000;

/// Counts a new process (not a thread) for its creator's cgroup: of a storm, that one is guilty,
/// wherever the child is born.
#[raw_tracepoint(tracepoint = "task_newtask")]
pub fn fork(ctx: RawTracePointContext) -> i32 {
    let (task, flags): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if flags & CLONE_THREAD != 0 {
        return 0;
    }
    let cgroup = current_cgroup();
    // SAFETY: picks a field of the map value.
    charge(probe::FORK, cgroup, |counters| unsafe {
        &raw mut (*counters).forks
    });
    tell(Event {
        cgroup,
        at_ns: now_ns(),
        kind: probe::FORK,
        pid: field(task, layout::TASK_TGID.load()).unwrap_or(0),
        parent: ctx.tgid(),
        exit_code: 0,
        comm: current_comm(),
    });
    0
}
