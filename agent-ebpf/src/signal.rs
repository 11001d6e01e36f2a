//! Signals: `signal_generate(number, info, task, kind, result)`, raised in whoever sends it.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use paramedic_abi::{Event, FATAL, probe};

use crate::{
    charge::{add, charged, note, now_ns, tell},
    layout::{self, at, cgroup_of, field},
};

/// The result `TRACE_SIGNAL_DELIVERED`.
const DELIVERED: u32 = 0;
/// `SEND_SIG_NOINFO` and `SEND_SIG_PRIV` stand where else the address of an info stands.
const FROM_THE_KERNEL: u64 = 1;
/// In `siginfo`, the third word: above 0 the kernel speaks. Part of its user ABI.
const SI_CODE: u64 = 8;
/// Part of its user ABI, too, on every architecture.
const SIGKILL: u32 = 9;
/// Signals that end nobody who does not handle them: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
const HARMLESS: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 28;

/// Counts it for the cgroup of the task that gets it; tells of those that people send and of those
/// that kill.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal(ctx: RawTracePointContext) -> i32 {
    let (number, info, task): (u32, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let delivered = ctx.arg::<u32>(4) == DELIVERED;
    let Some(cgroup) = cgroup_of(task) else {
        // SAFETY: picks a field of the map value.
        note(probe::SIGNAL, |stats| unsafe {
            &raw mut (*stats).map_drops
        });
        return 0;
    };
    let fatal = delivered && is_fatal(task, number);
    // SAFETY: adds to fields of the map value.
    charged(probe::SIGNAL, cgroup, |counters| unsafe {
        add(&raw mut (*counters).signals, 1);
        if fatal {
            add(&raw mut (*counters).fatal_signals, 1);
        }
    });
    let sent = is_sent(info);
    if !(sent || fatal) {
        return 0;
    }
    tell(Event {
        cgroup,
        at_ns: now_ns(),
        kind: probe::SIGNAL,
        pid: field(task, layout::TASK_TGID.load()).unwrap_or(0),
        parent: if sent { ctx.tgid() } else { 0 },
        exit_code: number | if fatal { FATAL } else { 0 },
        comm: field(task, layout::TASK_COMM.load()).unwrap_or_default(),
    });
    0
}

/// Whether a process sent it, and not the kernel.
#[inline(always)]
fn is_sent(info: u64) -> bool {
    if info <= FROM_THE_KERNEL {
        return info != FROM_THE_KERNEL;
    }
    at::<i32>(info + SI_CODE).is_some_and(|code| code <= 0)
}

/// Whether nothing stands between it and the process' end.
#[inline(always)]
fn is_fatal(task: u64, number: u32) -> bool {
    if number == SIGKILL {
        return true;
    }
    if number == 0 || number > 64 || HARMLESS >> (number & 63) & 1 == 1 {
        return false;
    }
    let handlers: Option<u64> = field(task, layout::TASK_SIGHAND.load());
    let Some(handlers) = handlers.filter(|handlers| *handlers != 0) else {
        return false;
    };
    let action = handlers
        + layout::SIGHAND_ACTION.load()
        + u64::from(number - 1) * layout::SIGACTION_SIZE.load();
    // SIG_DFL is 0.
    at::<u64>(action) == Some(0)
}
