//! What the probes must know of this kernel before they are loaded: field offsets and prototypes,
//! from its BTF; syscall numbers, from this architecture. Never from the kernel's version.

use std::{fs, path::Path};

use super::btf::Btf;

/// Where every kernel with BTF shows it.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The globals of the probes, by name, and what could not be found out.
#[derive(Debug, Default)]
pub struct Layout {
    /// `(name, value)`.
    pub globals: Vec<(&'static str, u64)>,
    /// Why the victim's cgroup cannot be read on this kernel.
    pub no_victim: Option<String>,
    /// Why the scheduler's tasks cannot be read on this kernel.
    pub no_sched: Option<String>,
}

/// `(global, struct, field)`.
const FIELDS: [(&str, &str, &str); 10] = [
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
];

/// Of these the scheduler tier reads whose task it is and where it stands.
const SCHED: [&str; 7] = [
    "TASK_PID",
    "TASK_FLAGS",
    "TASK_STATE",
    "TASK_CGROUPS",
    "CSS_SET_DFL_CGRP",
    "CGROUP_KN",
    "KERNFS_NODE_ID",
];

/// Where `pt_regs` keeps the syscall's number, by architecture.
const CALL_NUMBER: [&str; 2] = ["orig_ax", "syscallno"];

/// Of these the victim's cgroup is read.
const VICTIM: [&str; 4] = [
    "TASK_CGROUPS",
    "CSS_SET_DFL_CGRP",
    "CGROUP_KN",
    "KERNFS_NODE_ID",
];

impl Layout {
    /// Reads the kernel's BTF; what it does not tell is left unknown.
    pub fn of_kernel(path: &Path) -> Self {
        let mut layout = match fs::read(path) {
            Ok(bytes) => match Btf::parse(&bytes) {
                Ok(btf) => Self::from_btf(&btf),
                Err(error) => Self::unknown(format!("{} cannot be used: {error}", path.display())),
            },
            Err(error) => Self::unknown(format!(
                "this kernel shows no BTF ({}: {error}): it needs CONFIG_DEBUG_INFO_BTF",
                path.display()
            )),
        };
        layout.globals.extend(
            [
                ("NR_EXIT", libc::SYS_exit),
                ("NR_EXIT_GROUP", libc::SYS_exit_group),
                ("NR_SIGRETURN", libc::SYS_rt_sigreturn),
            ]
            .map(|(name, nr)| (name, u64::try_from(nr).unwrap_or(u64::MAX))),
        );
        layout
    }

    fn unknown(why: String) -> Self {
        Self {
            globals: Vec::new(),
            no_victim: Some(why.clone()),
            no_sched: Some(why),
        }
    }

    fn from_btf(btf: &Btf<'_>) -> Self {
        let mut globals = Vec::new();
        let mut missing = Vec::new();
        let mut no_sched = None;
        for (global, structure, field) in FIELDS {
            if let Some(offset) = btf.offset(structure, field) {
                globals.push((global, offset));
                continue;
            }
            let name = format!("{structure}.{field}");
            if SCHED.contains(&global) {
                no_sched = Some(format!("this kernel's BTF has no {name}"));
            }
            if VICTIM.contains(&global) {
                missing.push(name);
            }
        }
        match btf.tracepoint("sched_switch") {
            None => {
                no_sched =
                    Some("this kernel's BTF does not describe the tracepoint sched_switch".into());
            }
            Some(arguments) if arguments.len() > 3 => globals.push(("SWITCH_PASSES_STATE", 1)),
            Some(_) => {}
        }
        if let Some(offset) = CALL_NUMBER
            .iter()
            .find_map(|field| btf.offset("pt_regs", field))
        {
            globals.push(("PT_REGS_NR", offset));
        }
        if btf
            .tracepoint("sched_process_exit")
            .is_some_and(|arguments| arguments.len() > 1)
        {
            globals.push(("EXIT_TELLS_GROUP", 1));
        }
        let no_victim = match btf.tracepoint("mark_victim") {
            None => Some("this kernel's BTF does not describe the tracepoint mark_victim".into()),
            Some(arguments) if arguments.first().is_none_or(|name| name != "task_struct") => {
                Some("this kernel's mark_victim passes a pid, not the victim's task".into())
            }
            Some(_) if !missing.is_empty() => {
                Some(format!("this kernel's BTF has no {}", missing.join(", ")))
            }
            Some(_) => None,
        };
        Self {
            globals,
            no_victim,
            no_sched,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{KERNEL_BTF, Layout};

    #[test]
    fn without_btf_the_victim_is_unknown_and_the_way_out_is_named() {
        let layout = Layout::of_kernel(Path::new("/nonexistent/vmlinux"));
        let why = layout.no_victim.unwrap();
        assert!(why.contains("/nonexistent/vmlinux"), "{why}");
        assert!(why.contains("CONFIG_DEBUG_INFO_BTF"), "{why}");
        assert!(layout.globals.iter().any(|(name, _)| *name == "NR_EXIT"));
    }

    #[test]
    fn a_file_that_is_not_btf_is_named() {
        let why = Layout::of_kernel(Path::new("/proc/self/comm")).no_victim;
        assert!(why.unwrap().contains("/proc/self/comm cannot be used"));
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
        assert_eq!(layout.no_victim, None);
        assert_eq!(layout.no_sched, None);
        for global in ["SWITCH_PASSES_STATE", "PT_REGS_NR"] {
            assert!(layout.globals.iter().any(|(name, _)| *name == global));
        }
    }
}
