//! Programs executed: `sched_process_exec`, raised in the task that has just become the program.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use paramedic_abi::{Event, probe};

use crate::charge::{charge, current_cgroup, current_comm, now_ns, tell};

/// Counts it for the task's cgroup; the name is already the new one.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec(ctx: RawTracePointContext) -> i32 {
    let cgroup = current_cgroup();
    // SAFETY: picks a field of the map value.
    charge(probe::EXEC, cgroup, |counters| unsafe {
        &raw mut (*counters).execs
    });
    tell(Event {
        cgroup,
        at_ns: now_ns(),
        kind: probe::EXEC,
        pid: ctx.tgid(),
        parent: 0,
        exit_code: 0,
        comm: current_comm(),
    });
    0
}
