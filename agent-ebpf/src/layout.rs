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
    /// Offset of `task_struct.sighand`.
    TASK_SIGHAND: u64 = 0;
    /// Offset of `sighand_struct.action`.
    SIGHAND_ACTION: u64 = 0;
    /// Size of one of these actions; a handler is its first word.
    SIGACTION_SIZE: u64 = 0;
    /// Offset of `sock.sk_cgrp_data.cgroup`.
    SOCK_CGROUP: u64 = 0;
    /// Offset of `sock.sk_protocol`.
    SOCK_PROTOCOL: u64 = 0;
    /// Offset of `sock_common.skc_state`.
    SOCK_STATE: u64 = 0;
    /// Offset of `sock_common.skc_family`.
    SOCK_FAMILY: u64 = 0;
    /// Offset of `sock_common.skc_daddr`; may be 0.
    SOCK_DADDR: u64 = 0;
    /// Offset of `sock_common.skc_dport`.
    SOCK_DPORT: u64 = 0;
    /// Offset of `inet_sock.inet_sport`, which outlives the socket's hold on its port.
    SOCK_SPORT: u64 = 0;
    /// Offset of `sock_common.skc_v6_daddr`; 0 where the kernel has no IPv6.
    SOCK_V6_DADDR: u64 = 0;
    /// First port that the kernel gives to clients.
    PORTS_FIRST: u64 = 0;
    /// Last of them.
    PORTS_LAST: u64 = 0;
    /// Offset of `request.q`; may be 0.
    REQUEST_QUEUE: u64 = 0;
    /// Offset of `request.bio`.
    REQUEST_BIO: u64 = 0;
    /// Offset of `request.cmd_flags`.
    REQUEST_FLAGS: u64 = 0;
    /// Offset of `request.__data_len`.
    REQUEST_LEN: u64 = 0;
    /// Offset of `request_queue.disk`.
    QUEUE_DISK: u64 = 0;
    /// Offset of `gendisk.major`; may be 0.
    DISK_MAJOR: u64 = 0;
    /// Offset of `gendisk.first_minor`.
    DISK_MINOR: u64 = 0;
    /// Offset of `bio.bi_blkg`; 0 where the kernel does not account I/O to cgroups.
    BIO_BLKG: u64 = 0;
    /// Offset of `blkcg_gq.blkcg`.
    BLKG_BLKCG: u64 = 0;
    /// Offset of `cgroup_subsys_state.cgroup`, which begins a `blkcg`.
    CSS_CGROUP: u64 = 0;
    /// Offset of `cgroup.root`.
    CGROUP_ROOT: u64 = 0;
    /// Offset of `cgroup_root.hierarchy_id`.
    ROOT_HIERARCHY: u64 = 0;
    /// Number of `exit`: it never returns, so it takes no place in the table.
    NR_EXIT: u64 = u64::MAX;
    /// Number of `exit_group`.
    NR_EXIT_GROUP: u64 = u64::MAX;
    /// Number of `rt_sigreturn`: its "return value" is the interrupted code's register.
    NR_SIGRETURN: u64 = u64::MAX;
    /// Number of `clone`.
    NR_CLONE: u64 = u64::MAX;
    /// Number of `clone3`.
    NR_CLONE3: u64 = u64::MAX;
    /// Number of `fork`, where there is one; likewise the next.
    NR_FORK: u64 = u64::MAX;
    /// Number of `vfork`.
    NR_VFORK: u64 = u64::MAX;
    /// Number of `futex`.
    NR_FUTEX: u64 = u64::MAX;
    /// Number of `futex_waitv`.
    NR_FUTEX_WAITV: u64 = u64::MAX;
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

/// `task->cgroups->dfl_cgrp->kn->id`: what `bpf_get_current_cgroup_id` gives for `current`.
#[inline(always)]
pub fn cgroup_of(task: u64) -> Option<u64> {
    let set: u64 = field(task, TASK_CGROUPS.load())?;
    id_of(at(set + CSS_SET_DFL_CGRP.load())?)
}

/// The id of a `struct cgroup`.
#[inline(always)]
pub fn id_of(cgroup: u64) -> Option<u64> {
    let node: u64 = at(cgroup + CGROUP_KN.load())?;
    at(node + KERNFS_NODE_ID.load())
}
