//! System calls that are refused with `EPERM`, by a seccomp filter.
//!
//! A list of what is refused, not of what is allowed: an agent that dies at three in the morning because its
//! C library has found a new way to open a file helps nobody. The shipped unit has a list of what is allowed
//! beside it, kept by systemd.

use std::{collections::BTreeMap, env::consts::ARCH};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::Role;

/// They change the machine, or reach into other processes. Nothing of ours calls them.
const NOBODY: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The way to the kernel's larger doors, which only the agent itself uses.
const AGENT_ONLY: &[i64] = &[
    libc::SYS_bpf,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_perf_event_open,
];

/// The guardian has no network, starts nothing and has one thread.
const NOT_GUARDIAN: &[i64] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_socketpair,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// Address families of a command's sockets; `ss` asks the kernel by netlink.
const COMMANDS_FAMILIES: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// The filter cannot be made, for this kind of machine among other reasons.
    #[error("cannot make the filter of system calls")]
    Make(#[from] BackendError),
    /// The kernel does not take it.
    #[error("the kernel refuses the filter of system calls")]
    Enter(#[from] seccompiler::Error),
}

/// A filter, ready to be entered.
#[derive(Clone, Debug)]
pub struct Calls {
    program: BpfProgram,
}

impl Calls {
    /// Of one role.
    ///
    /// # Errors
    /// [`CallsError::Make`].
    pub fn of(role: Role) -> Result<Self, CallsError> {
        // No rule: whatever its arguments.
        let whatever = |nr| (nr, Vec::new());
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            refused(role).into_iter().map(whatever).collect();
        if role == Role::Command {
            rules.insert(libc::SYS_socket, vec![none_of(&COMMANDS_FAMILIES)?]);
        }
        let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let arch = TargetArch::try_from(ARCH)?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
        let compiled = BpfProgram::try_from(filter)?;
        let program = not_x32().into_iter().chain(compiled).collect();
        Ok(Self { program })
    }

    /// Holds from here on for the calling thread and all that it starts. Sets `no_new_privs`.
    ///
    /// # Errors
    /// [`CallsError::Enter`].
    pub fn enter(&self) -> Result<(), CallsError> {
        Ok(seccompiler::apply_filter(&self.program)?)
    }

    /// As `seccomp(2)` takes it, for a child that must not allocate. Valid as long as `self` is.
    pub(crate) fn as_fprog(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            // A filter has at most 4,096 instructions.
            len: u16::try_from(self.program.len()).unwrap_or(u16::MAX),
            // The kernel only reads it.
            filter: self.program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        }
    }
}

fn refused(role: Role) -> Vec<i64> {
    match role {
        Role::Agent => NOBODY.to_vec(),
        Role::Guardian => [NOBODY, AGENT_ONLY, NOT_GUARDIAN].concat(),
        Role::Command => [NOBODY, AGENT_ONLY].concat(),
    }
}

/// Matches a first argument that is none of these.
fn none_of(wanted: &[libc::c_int]) -> Result<SeccompRule, BackendError> {
    let conditions = wanted.iter().map(|one| {
        let value = u64::from(one.cast_unsigned());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// Where the kernel has the x32 ABI, every call has a second number there, which a list would miss: bit 30
/// (`__X32_SYSCALL_BIT` of `asm/unistd.h`). Nothing of ours is such a program.
fn not_x32() -> Vec<sock_filter> {
    const BIT: u32 = 0x4000_0000;
    if ARCH != "x86_64" {
        return Vec::new();
    }
    let step = |code: u32, jf: u8, k: u32| sock_filter {
        // These codes have 8 bits.
        code: code.to_le_bytes()[0].into(),
        jt: 0,
        jf,
        k,
    };
    // The number stands at offset 0 of `struct seccomp_data`.
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, BIT),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;

    /// The number of the error of a call without arguments that mean anything, `None` if it went well.
    fn call(nr: i64, first: i64) -> Option<i32> {
        // SAFETY: every pointer is null and every length 0: each call fails at once or changes nothing.
        let result = unsafe { libc::syscall(nr, first, 0, 0, 0, 0, 0) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap())
    }

    /// In a thread of its own, which alone is confined.
    fn confined<T: Send + 'static>(role: Role, within: impl FnOnce() -> T + Send + 'static) -> T {
        let calls = Calls::of(role).unwrap();
        let thread = thread::spawn(move || {
            calls.enter().unwrap();
            within()
        });
        thread.join().unwrap()
    }

    #[test]
    fn each_role_is_refused_what_its_lists_name() {
        for role in [Role::Agent, Role::Guardian, Role::Command] {
            let got = confined(role, move || {
                let tried = refused(role).into_iter();
                let tried = tried.filter(|nr| !EFFECTIVE.contains(nr));
                tried.map(|nr| (nr, call(nr, -1))).collect::<Vec<_>>()
            });
            for (nr, error) in got {
                assert_eq!(error, Some(libc::EPERM), "call {nr} of {role:?}");
            }
        }
    }

    /// If the filter had a hole, these would do something even with such arguments.
    const EFFECTIVE: &[i64] = &[
        libc::SYS_acct,
        libc::SYS_clone,
        libc::SYS_kexec_load,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
        libc::SYS_vhangup,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];

    #[test]
    fn what_is_not_named_goes_on_working() {
        for role in [Role::Agent, Role::Guardian, Role::Command] {
            confined(role, || {
                assert_eq!(call(libc::SYS_getpid, 0), None);
                std::fs::read_to_string("/proc/self/status").unwrap();
            });
        }
        confined(Role::Agent, || {
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let status = std::process::Command::new("/bin/true").status();
            assert!(status.unwrap().success());
        });
    }

    #[test]
    fn a_command_asks_the_kernel_but_not_the_network() {
        confined(Role::Command, || {
            let socket = |family: libc::c_int| {
                let kind = i64::from(libc::SOCK_DGRAM);
                // SAFETY: no pointers; the descriptor is left to the end of the test.
                let fd = unsafe { libc::syscall(libc::SYS_socket, i64::from(family), kind, 0_i64) };
                fd >= 0
            };
            assert!(socket(libc::AF_NETLINK) && socket(libc::AF_UNIX));
            assert!(!socket(libc::AF_INET) && !socket(libc::AF_INET6));
            assert!(!socket(libc::AF_PACKET));
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_second_number_of_a_call_is_no_way_around() {
        const BIT: i64 = 0x4000_0000;
        let error = confined(Role::Agent, || call(BIT | libc::SYS_getpid, 0));
        assert_eq!(error, Some(libc::ENOSYS));
    }
}
