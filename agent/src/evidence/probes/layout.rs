//! What the probes must know of this kernel before they are loaded: field offsets and prototypes,
//! from its BTF; syscall numbers, from this architecture. Never from the kernel's version.

use std::{fs, path::Path};

use super::{btf::Btf, config::ProbeName, scheduler};

/// Where every kernel with BTF shows it.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The globals of the probes, by name, and what could not be found out.
#[derive(Debug, Default)]
pub struct Layout {
    /// `(name, value)`.
    pub globals: Vec<(&'static str, u64)>,
    /// Why a probe cannot read what it must on this kernel.
    unreadable: Vec<(ProbeName, String)>,
    /// Ids of the types of those tracepoints to which a program is attached by its type.
    pub tracepoints: Vec<(&'static str, u32)>,
}

/// `(global, struct, field)`.
const FIELDS: [(&str, &str, &str); 30] = [
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_CGROUPS", "task_struct", "cgroups"),
    ("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("KERNFS_NODE_ID", "kernfs_node", "id"),
    ("TASK_PID", "task_struct", "pid"),
    ("TASK_FLAGS", "task_struct", "flags"),
    ("TASK_STATE", "task_struct", "__state"),
    ("TASK_SIGHAND", "task_struct", "sighand"),
    ("SIGHAND_ACTION", "sighand_struct", "action"),
    ("SOCK_PROTOCOL", "sock", "sk_protocol"),
    ("SOCK_STATE", "sock_common", "skc_state"),
    ("SOCK_FAMILY", "sock_common", "skc_family"),
    ("SOCK_DADDR", "sock_common", "skc_daddr"),
    ("SOCK_DPORT", "sock_common", "skc_dport"),
    ("SOCK_SPORT", "inet_sock", "inet_sport"),
    ("SOCK_V6_DADDR", "sock_common", "skc_v6_daddr"),
    ("REQUEST_QUEUE", "request", "q"),
    ("REQUEST_BIO", "request", "bio"),
    ("REQUEST_FLAGS", "request", "cmd_flags"),
    ("REQUEST_LEN", "request", "__data_len"),
    ("QUEUE_DISK", "request_queue", "disk"),
    ("DISK_MAJOR", "gendisk", "major"),
    ("DISK_MINOR", "gendisk", "first_minor"),
    ("BIO_BLKG", "bio", "bi_blkg"),
    ("BLKG_BLKCG", "blkcg_gq", "blkcg"),
    ("CSS_CGROUP", "cgroup_subsys_state", "cgroup"),
    ("CGROUP_ROOT", "cgroup", "root"),
];

/// Where `pt_regs` keeps the syscall's number, by architecture.
const CALL_NUMBER: [&str; 2] = ["orig_ax", "syscallno"];

/// What leads from a task to its cgroup.
const CGROUP_OF_TASK: [&str; 4] = [
    "TASK_CGROUPS",
    "CSS_SET_DFL_CGRP",
    "CGROUP_KN",
    "KERNFS_NODE_ID",
];

/// What a probe cannot do without.
struct Needs {
    probe: ProbeName,
    /// Globals, beside `CGROUP_OF_TASK` where it names tasks.
    fields: &'static [&'static str],
    of_task: bool,
    /// `(tracepoint, argument, its type)`.
    passes: &'static [(&'static str, usize, &'static str)],
}

const NEEDS: [Needs; 5] = [
    Needs {
        probe: ProbeName::Oom,
        fields: &[],
        of_task: true,
        passes: &[("mark_victim", 0, "task_struct")],
    },
    Needs {
        probe: ProbeName::Sched,
        fields: &["TASK_PID", "TASK_FLAGS", "TASK_STATE"],
        of_task: true,
        passes: &[("sched_switch", 1, "task_struct")],
    },
    Needs {
        probe: ProbeName::Signal,
        fields: &["TASK_SIGHAND", "SIGHAND_ACTION", "SIGACTION_SIZE"],
        of_task: true,
        passes: &[("signal_generate", 2, "task_struct")],
    },
    Needs {
        probe: ProbeName::Tcp,
        fields: &[
            "SOCK_PROTOCOL",
            "SOCK_STATE",
            "SOCK_FAMILY",
            "SOCK_DADDR",
            "SOCK_DPORT",
            "SOCK_SPORT",
        ],
        of_task: false,
        passes: &[
            ("inet_sock_set_state", 0, "sock"),
            ("tcp_retransmit_skb", 0, "sock"),
            ("tcp_send_reset", 0, "sock"),
            ("tcp_receive_reset", 0, "sock"),
        ],
    },
    Needs {
        probe: ProbeName::Block,
        fields: &[
            "REQUEST_QUEUE",
            "REQUEST_BIO",
            "REQUEST_FLAGS",
            "REQUEST_LEN",
            "QUEUE_DISK",
            "DISK_MAJOR",
            "DISK_MINOR",
        ],
        of_task: false,
        passes: &[
            ("block_rq_issue", 0, "request"),
            ("block_rq_complete", 0, "request"),
        ],
    },
];

impl Layout {
    /// Reads the kernel's BTF; what it does not tell is left unknown.
    pub fn of_kernel(path: &Path) -> Self {
        let mut layout = match fs::read(path) {
            Ok(bytes) => match Btf::parse(&bytes) {
                Ok(btf) => Self::from_btf(&btf),
                Err(error) => Self::unknown(&format!("{} cannot be used: {error}", path.display())),
            },
            Err(error) => Self::unknown(&format!(
                "this kernel shows no BTF ({}: {error}): it needs CONFIG_DEBUG_INFO_BTF",
                path.display()
            )),
        };
        layout.globals.extend(
            [
                ("NR_EXIT", libc::SYS_exit),
                ("NR_EXIT_GROUP", libc::SYS_exit_group),
                ("NR_SIGRETURN", libc::SYS_rt_sigreturn),
                ("NR_CLONE", libc::SYS_clone),
                ("NR_CLONE3", libc::SYS_clone3),
                #[cfg(target_arch = "x86_64")]
                ("NR_FORK", libc::SYS_fork),
                #[cfg(target_arch = "x86_64")]
                ("NR_VFORK", libc::SYS_vfork),
                ("NR_FUTEX", libc::SYS_futex),
                ("NR_FUTEX_WAITV", libc::SYS_futex_waitv),
            ]
            .map(|(name, nr)| (name, u64::try_from(nr).unwrap_or(u64::MAX))),
        );
        let (first, last) = client_ports().unwrap_or(CLIENT_PORTS);
        layout
            .globals
            .extend([("PORTS_FIRST", first), ("PORTS_LAST", last)]);
        layout
    }

    /// Why a probe cannot read what it must, if so.
    pub fn unreadable(&self, probe: ProbeName) -> Option<&str> {
        let found = self.unreadable.iter().find(|(of, _)| *of == probe);
        found.map(|(_, why)| why.as_str())
    }

    fn unknown(why: &str) -> Self {
        Self {
            globals: Vec::new(),
            unreadable: NEEDS
                .iter()
                .map(|needs| (needs.probe, why.to_owned()))
                .collect(),
            tracepoints: Vec::new(),
        }
    }

    fn from_btf(btf: &Btf<'_>) -> Self {
        let mut globals: Vec<(&'static str, u64)> = FIELDS
            .into_iter()
            .filter_map(|(global, structure, field)| Some((global, btf.offset(structure, field)?)))
            .collect();
        let mut also = |global, value: Option<u64>| globals.extend(value.map(|v| (global, v)));
        let data = btf.offset("sock", "sk_cgrp_data");
        let cgroup = btf.offset("sock_cgroup_data", "cgroup");
        also(
            "SOCK_CGROUP",
            data.zip(cgroup).map(|(data, cgroup)| data + cgroup),
        );
        also("SIGACTION_SIZE", btf.size("k_sigaction"));
        also("ROOT_HIERARCHY", btf.offset("cgroup_root", "hierarchy_id"));
        let mut number = CALL_NUMBER.iter();
        also(
            "PT_REGS_NR",
            number.find_map(|field| btf.offset("pt_regs", field)),
        );
        let passes = |tracepoint: &str| btf.tracepoint(tracepoint).map_or(0, |all| all.len());
        also(
            "SWITCH_PASSES_STATE",
            (passes("sched_switch") > 3).then_some(1),
        );
        also(
            "EXIT_TELLS_GROUP",
            (passes("sched_process_exit") > 1).then_some(1),
        );
        let unreadable = NEEDS
            .iter()
            .filter_map(|needs| Some((needs.probe, needs.missing(&globals, btf)?)))
            .collect();
        Self {
            globals,
            unreadable,
            tracepoints: scheduler::PROGRAMS
                .iter()
                .filter_map(|(_, name)| Some((*name, btf.tracepoint_id(name)?)))
                .collect(),
        }
    }
}

impl Needs {
    fn missing(&self, globals: &[(&'static str, u64)], btf: &Btf<'_>) -> Option<String> {
        for (tracepoint, argument, wanted) in self.passes {
            let Some(passed) = btf.tracepoint(tracepoint) else {
                return Some(format!(
                    "this kernel's BTF does not describe the tracepoint {tracepoint}"
                ));
            };
            if passed.get(*argument).is_none_or(|name| name != wanted) {
                return Some(format!(
                    "this kernel's {tracepoint} passes no {wanted} where one is expected, but ({})",
                    passed.join(", ")
                ));
            }
        }
        let of_task = CGROUP_OF_TASK.iter().filter(|_| self.of_task);
        let missing: Vec<String> = self
            .fields
            .iter()
            .chain(of_task)
            .filter(|wanted| globals.iter().all(|(global, _)| global != *wanted))
            .map(|wanted| in_words(wanted))
            .collect();
        (!missing.is_empty()).then(|| format!("this kernel's BTF has no {}", missing.join(", ")))
    }
}

/// What a global stands for.
fn in_words(global: &str) -> String {
    let field = FIELDS.iter().find(|(known, ..)| *known == global);
    field.map_or_else(
        || global.to_lowercase(),
        |(_, structure, field)| format!("{structure}.{field}"),
    )
}

/// The kernel's own default.
const CLIENT_PORTS: (u64, u64) = (32_768, 60_999);

/// Ports that this network namespace gives to clients.
fn client_ports() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace().map_while(|word| word.parse().ok());
    Some((words.next()?, words.next()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{KERNEL_BTF, Layout, NEEDS, ProbeName};

    #[test]
    fn without_btf_the_victim_is_unknown_and_the_way_out_is_named() {
        let layout = Layout::of_kernel(Path::new("/nonexistent/vmlinux"));
        let why = layout.unreadable(ProbeName::Oom).unwrap();
        assert!(why.contains("/nonexistent/vmlinux"), "{why}");
        assert!(why.contains("CONFIG_DEBUG_INFO_BTF"), "{why}");
        assert!(layout.globals.iter().any(|(name, _)| *name == "NR_EXIT"));
        assert_eq!(layout.unreadable(ProbeName::Exec), None, "it reads no task");
    }

    #[test]
    fn a_file_that_is_not_btf_is_named() {
        let layout = Layout::of_kernel(Path::new("/proc/self/comm"));
        let why = layout.unreadable(ProbeName::Block).unwrap();
        assert!(why.contains("/proc/self/comm cannot be used"), "{why}");
    }

    #[test]
    fn every_field_is_found_in_the_running_kernel() {
        assert!(
            Path::new(KERNEL_BTF).exists(),
            "this test needs a kernel with BTF"
        );
        let layout = Layout::of_kernel(Path::new(KERNEL_BTF));
        for (global, structure, field) in super::FIELDS {
            assert!(
                layout.globals.iter().any(|(name, _)| *name == global),
                "{structure}.{field}"
            );
        }
        assert_eq!(layout.tracepoints.len(), super::scheduler::PROGRAMS.len());
        for needs in NEEDS {
            assert_eq!(layout.unreadable(needs.probe), None);
        }
        for global in [
            "SWITCH_PASSES_STATE",
            "PT_REGS_NR",
            "SOCK_CGROUP",
            "SIGACTION_SIZE",
            "ROOT_HIERARCHY",
        ] {
            assert!(layout.globals.iter().any(|(name, _)| *name == global));
        }
    }
}
