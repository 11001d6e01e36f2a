//! What runs inside: the initramfs that finds the root, and the script that prepares it.

use std::{ffi::OsString, fmt::Write as _, fs, path::Path};

use anyhow::Context;
use paramedic_parts::module;

use super::{Vm, cpio::Archive, systemd};
use crate::{kernels::Kernel, sh};

/// Passed on from our own environment when set.
const PASSED_ON: [&str; 9] = [
    "COLUMNS",
    "NO_COLOR",
    "CLICOLOR_FORCE",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "RUST_TEST_THREADS",
    "PARAMEDIC_CACHE",
    "PARAMEDIC_TOOLS",
    "PARAMEDIC_BIN",
];

/// What finding the root and the disk needs, where it is not built in.
const DRIVERS: [&str; 3] = ["virtio_pci", "virtiofs", "virtio_blk"];

/// First program: load drivers, mount the shared root, hand over to [`script`] on a tmpfs.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module || echo "insmod $module failed"
done
/bin/busybox mount -t virtiofs -o ro root /newroot || echo "no root filesystem"
/bin/busybox mount -t tmpfs run /newroot/run
/bin/busybox cp /bin/busybox /script /newroot/run/
/bin/busybox mount --move /dev /newroot/dev
/bin/busybox mount --move /proc /newroot/proc
/bin/busybox mount --move /sys /newroot/sys
exec /bin/busybox switch_root /newroot /run/busybox sh /run/script
"#;

/// Of both parts of the second program: under systemd they are two processes.
const ENVIRONMENT: &str = "\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb PARAMEDIC_VM=1
";

/// Second program, up to the command itself.
const PREPARE: &str = r#"
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
# Two listeners on each tracepoint that the probes use, recording nothing: see KEEP below.
for trace in . instances/keep; do
    cd /sys/kernel/tracing && mkdir -p $trace && cd $trace && echo 0 > tracing_on
    for event in KEEP; do echo 1 > events/$event/enable 2>/dev/null || :; done
done
cd /
# Likewise: what the probes cost is measured for a moment now and then, which switches this key.
echo 1 > /proc/sys/kernel/bpf_stats_enabled 2>/dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A workspace below them stays visible.
for dir in /tmp /var/tmp; do
    mkdir -p /run/below
    mount --bind $dir /run/below
    mount -t tmpfs tmp $dir
    case "$WORKSPACE" in
        $dir/*) mkdir -p "$WORKSPACE" && mount --bind "/run/below${WORKSPACE#$dir}" "$WORKSPACE" ;;
    esac
    umount /run/below
done
mkdir -p /run/lock
ip link set lo up 2>/dev/null || /run/busybox ifconfig lo 127.0.0.1 up
/run/busybox hostname paramedic-vm
for controller in cpu memory pids io; do
    echo +$controller > /sys/fs/cgroup/cgroup.subtree_control
done
# Likewise the scheduler's key for the first cgroup with a quota, and for the last one.
mkdir /sys/fs/cgroup/quota-keeper && echo 100000 > /sys/fs/cgroup/quota-keeper/cpu.max
echo 4096 > /proc/sys/kernel/threads-max 2>/dev/null || :
echo 32768 > /proc/sys/kernel/threads-max
if [ -b /dev/vda ]; then mkdir /run/disk && mount -t ext4 /dev/vda /run/disk; fi
ulimit -n 65536
for port in 1 2 3; do /run/busybox stty -F /dev/ttyS$port raw -echo -opost 2>/dev/null; done
"#;

/// After the command. What it left running is killed, so that the disk can be unmounted; a service
/// of systemd would be killed as well, and leaves the rest to the power button.
const END: &str = r"
[ $$ = 1 ] && /run/busybox kill -9 -1
cd /
for try in 1 2 3 4 5 6 7 8 9 10; do
    umount /run/disk 2>/dev/null && break
    sleep 0.1
done
sync
/run/busybox reboot -f
while :; do sleep 1; done
";

/// The kernel rewrites its own code when a tracepoint gets its first and its second listener and
/// when it loses them. QEMU before 8.1 may run the breakpoint that stands there for a moment once
/// more after it is gone ("Oops: int3"), which ends the guest in one run of some ten. With two
/// listeners there from the start, attaching and detaching probes rewrites nothing. `vm_harness`
/// compares this list with the probes'.
const KEEP: [&str; 19] = [
    "raw_syscalls",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "task/task_newtask",
    "oom/mark_victim",
    "sched/sched_switch",
    "sched/sched_wakeup",
    "sched/sched_wakeup_new",
    "signal/signal_generate",
    "vmscan/mm_vmscan_direct_reclaim_begin",
    "vmscan/mm_vmscan_direct_reclaim_end",
    "vmscan/mm_vmscan_memcg_reclaim_begin",
    "vmscan/mm_vmscan_memcg_reclaim_end",
    "sock/inet_sock_set_state",
    "tcp/tcp_retransmit_skb",
    "tcp/tcp_send_reset",
    "tcp/tcp_receive_reset",
    "block/block_rq_issue",
    "block/block_rq_complete",
];

/// The script for one run: preparation, environment, command, status, end.
pub fn script(vm: &Vm, command: &[OsString]) -> anyhow::Result<String> {
    let mut script = format!("#!/run/busybox sh\n{ENVIRONMENT}");
    let workspace = sh::root();
    writeln!(script, "WORKSPACE={}", quote(&workspace.to_string_lossy()))?;
    script.push_str(&PREPARE.replace("KEEP; do", &format!("{}; do", KEEP.join(" "))));
    if vm.systemd {
        script.push_str(&systemd::prepare());
    }
    script.push_str("# The command.\n");
    script.push_str(ENVIRONMENT);
    let passed = PASSED_ON
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    for (name, value) in passed.chain(vm.env.iter().cloned()) {
        writeln!(script, "export {name}={}", quote(&value))?;
    }
    let folder = std::env::current_dir().context("cannot tell the current folder")?;
    writeln!(script, "cd {}", quote(&folder.to_string_lossy()))?;
    let words: Vec<String> = command
        .iter()
        .map(|word| quote(&word.to_string_lossy()))
        .collect();
    writeln!(
        script,
        "{} </dev/null >/dev/ttyS1 2>/dev/ttyS2",
        words.join(" ")
    )?;
    script.push_str("echo $? >/dev/ttyS3\n");
    script.push_str(END);
    Ok(script)
}

/// For a POSIX shell: everything inside single quotes is literal.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Writes the initramfs: busybox, the drivers that this kernel has as modules, both scripts.
pub fn write_initramfs(kernel: &Kernel, path: &Path, script: &str) -> anyhow::Result<()> {
    let busybox =
        fs::read("/bin/busybox").context("cannot read /bin/busybox: run `cargo xtask setup`")?;
    let mut archive = Archive::default();
    for dir in ["bin", "proc", "sys", "dev", "modules", "newroot"] {
        archive.dir(dir);
    }
    archive.file("bin/busybox", 0o755, &busybox);
    let mut order = Vec::new();
    for name in DRIVERS {
        add_module(kernel, name, &mut archive, &mut order)?;
    }
    let order: Vec<String> = order.iter().map(|name| format!("{name}.ko\n")).collect();
    let order = order.concat();
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("script", 0o755, script.as_bytes());
    fs::write(path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))
}

/// Adds a module after all that it depends on; what is built in is simply not found.
fn add_module(
    kernel: &Kernel,
    name: &str,
    archive: &mut Archive,
    order: &mut Vec<String>,
) -> anyhow::Result<()> {
    if order.iter().any(|done| done == name) {
        return Ok(());
    }
    let Some(file) = kernel.module(name) else {
        return Ok(());
    };
    let bytes = module::read(&file)?;
    for needed in module::depends(&bytes) {
        add_module(kernel, &needed, archive, order)?;
    }
    archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
    order.push(name.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_reach_the_guest_as_they_are() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote("$(x)`y`"), "'$(x)`y`'");
    }
}
