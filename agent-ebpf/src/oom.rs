//! Out-of-memory victims: `mark_victim(task, …)`.
//!
//! The running task is whoever ran out of memory, often an innocent: everything is read from the
//! victim. Kernels that pass only a pid don't get this probe (the agent looks at the prototype).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use aya_log_ebpf::info;
use paramedic_abi::{Event, probe};

use crate::{
    charge::{charge, now_ns, tell},
    layout::{self, cgroup_of, field},
};

/// Counts the victim for its own cgroup.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn oom(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    let Some(cgroup) = cgroup_of(task) else {
        // SAFETY: picks a field of the map value.
        crate::charge::note(probe::OOM, |stats| unsafe { &raw mut (*stats).map_drops });
        return 0;
    };
    let pid: u32 = field(task, layout::TASK_TGID.load()).unwrap_or(0);
    // SAFETY: picks a field of the map value.
    charge(probe::OOM, cgroup, |counters| unsafe {
        &raw mut (*counters).oom_kills
    });
    tell(Event {
        cgroup,
        at_ns: now_ns(),
        kind: probe::OOM,
        pid,
        parent: 0,
        exit_code: 0,
        comm: field(task, layout::TASK_COMM.load()).unwrap_or_default(),
    });
    info!(
        &ctx,
        "process {} of cgroup {} is an out-of-memory victim", pid, cgroup
    );
    0
}
