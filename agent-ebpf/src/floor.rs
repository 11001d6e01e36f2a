//! The least that a pair of programs on a syscall's path can cost. Never loaded by the agent:
//! `cargo xtask bench probes` measures everything else against it.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

/// Does nothing.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn floor_enter(_ctx: RawTracePointContext) -> i32 {
    0
}

/// Does nothing.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn floor_exit(_ctx: RawTracePointContext) -> i32 {
    0
}

/// Does nothing.
#[btf_tracepoint(function = "sched_switch")]
pub fn floor_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn floor_wakeup(_ctx: BtfTracePointContext) -> i32 {
    0
}
