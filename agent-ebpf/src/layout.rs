//! Where things are in this kernel, set by the agent before loading. 0 = not known.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

/// Declares globals that the agent overrides by name.
macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub static $name: Global<$type> = Global::new($default);
        )*
    };
}

globals! {
    /// Offset of `task_struct.tgid`.
    TASK_TGID: u64 = 0;
    /// Offset of `task_struct.exit_code`.
    TASK_EXIT_CODE: u64 = 0;
    /// Offset of `task_struct.comm`.
    TASK_COMM: u64 = 0;
    /// Offset of `task_struct.cgroups`.
    TASK_CGROUPS: u64 = 0;
    /// Offset of `css_set.dfl_cgrp`.
    CSS_SET_DFL_CGRP: u64 = 0;
    /// Offset of `cgroup.kn`.
    CGROUP_KN: u64 = 0;
    /// Offset of `kernfs_node.id`.
    KERNFS_NODE_ID: u64 = 0;
    /// 1 if `sched_process_exit` passes whether the whole group is dead.
    EXIT_TELLS_GROUP: u64 = 0;
    /// Offset of `task_struct.pid`.
    TASK_PID: u64 = 0;
    /// Offset of `task_struct.flags`.
    TASK_FLAGS: u64 = 0;
    /// Offset of `task_struct.__state`.
    TASK_STATE: u64 = 0;
    /// Offset of the syscall's number in `pt_regs`.
    PT_REGS_NR: u64 = 0;
    /// 1 if `sched_switch` passes the state of the task that leaves.
    SWITCH_PASSES_STATE: u64 = 0;
    /// Bytes waiting in the ring from which the agent is woken.
    WAKE_BYTES: u64 = 65_536;
    /// Number of `exit`: it never returns, so it takes no place in the table.
    NR_EXIT: u64 = u64::MAX;
    /// Number of `exit_group`.
    NR_EXIT_GROUP: u64 = u64::MAX;
    /// Number of `rt_sigreturn`: its "return value" is the interrupted code's register.
    NR_SIGRETURN: u64 = u64::MAX;
}

/// Reads a field of a kernel object; `None` if its offset is not known or the address is bad.
#[inline(always)]
pub fn field<T>(object: u64, offset: u64) -> Option<T> {
    if object == 0 || offset == 0 {
        return None;
    }
    at(object + offset)
}

/// Reads a kernel address.
#[inline(always)]
pub fn at<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a bad one; T is plain data everywhere.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
