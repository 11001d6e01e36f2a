//! Processes ended: `sched_process_exit(task[, group_dead])`, raised in every ending thread.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use paramedic_abi::{Event, probe};

use crate::{
    charge::{add, charged, current_cgroup, current_comm, now_ns, tell},
    layout::{self, field},
};

/// Counts a process once. Where the kernel says that the whole group is dead, that is the moment;
/// older kernels don't, and the leader's end stands for the process': exact in number unless
/// a thread other than the leader executes a program.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit(ctx: RawTracePointContext) -> i32 {
    let process_ended = if layout::EXIT_TELLS_GROUP.load() == 1 {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        ctx.pid() == ctx.tgid()
    };
    if !process_ended {
        return 0;
    }
    let cgroup = current_cgroup();
    let exit_code: u32 = field(ctx.arg(0), layout::TASK_EXIT_CODE.load()).unwrap_or(0);
    // SAFETY: adds to fields of the map value.
    charged(probe::EXIT, cgroup, |counters| unsafe {
        add(&raw mut (*counters).exits, 1);
        if exit_code != 0 {
            add(&raw mut (*counters).failed_exits, 1);
        }
    });
    tell(Event {
        cgroup,
        at_ns: now_ns(),
        kind: probe::EXIT,
        pid: ctx.tgid(),
        parent: 0,
        exit_code,
        comm: current_comm(),
    });
    0
}
