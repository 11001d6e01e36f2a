//! Empty programs, attached where the probes are.

use anyhow::Context;
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, RawTracePoint},
};
use paramedic::evidence::probes::Probes;

/// Detached on drop.
pub(crate) struct Floor(#[allow(dead_code, reason = "holds the links")] Ebpf);

fn load() -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for map in ["PROCESSES", "SYSCALLS"] {
        loader.map_max_entries(map, 1);
    }
    loader
        .load(Probes::object())
        .context("cannot load the probes' object")
}

/// On `sys_enter` and `sys_exit`.
pub(crate) fn syscalls() -> anyhow::Result<Floor> {
    let mut ebpf = load()?;
    for (name, tracepoint) in [("floor_exit", "sys_exit"), ("floor_enter", "sys_enter")] {
        let program: &mut RawTracePoint = ebpf.program_mut(name).context(name)?.try_into()?;
        program.load()?;
        program.attach(tracepoint)?;
    }
    Ok(Floor(ebpf))
}

/// On `sched_switch` and `sched_wakeup`.
pub(crate) fn sched() -> anyhow::Result<Floor> {
    let btf = Btf::from_sys_fs()?;
    let mut ebpf = load()?;
    for (name, tracepoint) in [
        ("floor_switch", "sched_switch"),
        ("floor_wakeup", "sched_wakeup"),
    ] {
        let program: &mut BtfTracePoint = ebpf.program_mut(name).context(name)?.try_into()?;
        program.load(tracepoint, &btf)?;
        program.attach()?;
    }
    Ok(Floor(ebpf))
}
