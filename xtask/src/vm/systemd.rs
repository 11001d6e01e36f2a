//! The same script, with systemd as process 1.
//!
//! The script that prepares the guest runs to the command twice: first as process 1, which writes a
//! unit that runs the script and becomes systemd; then as that unit.

/// Units that would write to the shared root (it is mounted read-only, and stays so), wait for
/// devices that are not there, or only cost time in an emulator.
const MASKED: [&str; 20] = [
    "systemd-remount-fs.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket",
    "systemd-random-seed.service",
    "systemd-machine-id-commit.service",
    "systemd-update-utmp.service",
    "systemd-binfmt.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-pstore.service",
    "systemd-hwdb-update.service",
    "systemd-journal-flush.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount",
    "dev-hugepages.mount",
];

/// Lines of the script before the command; `/run/script` is the script itself.
pub fn prepare() -> String {
    let masks: Vec<String> = MASKED
        .iter()
        .map(|unit| format!("    ln -s /dev/null /run/systemd/system/{unit}\n"))
        .collect();
    format!(
        r"
if [ $$ = 1 ]; then
    mkdir -p /run/systemd/system
{}    mount -t tmpfs varlib /var/lib
    mount -t tmpfs varlog /var/log
    cat > /run/systemd/system/paramedic-vm.service <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
[Service]
ExecStart=/run/busybox sh /run/command
TimeoutStartSec=infinity
# Everything is allowed: like KEEP of the guest, this keeps the kernel's keys for cgroup programs on,
# which the first hardened unit would switch on and the last one off.
IPAccounting=yes
DevicePolicy=closed
DeviceAllow=char-* rwm
DeviceAllow=block-* rwm
UNIT
    # From the export lines on: what went before is done.
    sed -n '/^# The command\.$/,$p' /run/script > /run/command
    export SYSTEMD_PROC_CMDLINE=
    exec /lib/systemd/systemd --unit=paramedic-vm.service --log-level=notice --show-status=no
fi
",
        masks.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn the_root_is_never_remounted() {
        assert!(prepare().contains("/dev/null /run/systemd/system/systemd-remount-fs.service\n"));
    }
}
