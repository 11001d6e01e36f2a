//! Faults of CPUs, locks and the scheduler.

use anyhow::ensure;

use super::{GUILTY, Injection, Leaf, Place, rate, system};

/// CPUs that a cgroup uses.
fn cores(leaf: &Leaf) -> anyhow::Result<f64> {
    Ok(rate(|| system::of_cgroup(leaf, "cpu.stat", "usage_usec"))? / 1e6)
}

pub(super) fn burn(place: &Place<'_>) -> anyhow::Result<Injection> {
    let threads = place.count("workers").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["burn", "--threads", &threads])?;
    let cpus = place.cpus as f64;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let used = cores(&leaves[0])?;
        ensure!(used > 0.55 * cpus, "it uses {used:.2} of {cpus} CPUs");
        Ok(format!("it uses {used:.2} of {cpus} CPUs"))
    }))
}

pub(super) fn quota(place: &Place<'_>) -> anyhow::Result<Injection> {
    let threads = place.count("workers").to_string();
    let quota = place.count("percent") * 1000;
    let leaf = Leaf::new(GUILTY)?
        .limited("cpu.max", &format!("{quota} 100000"))?
        .work(&["burn", "--threads", &threads])?;
    Ok(Injection::new(vec![leaf], |leaves| {
        let stopped = rate(|| system::of_cgroup(&leaves[0], "cpu.stat", "nr_throttled"))?;
        ensure!(stopped > 3.0, "throttled {stopped:.1} times a second");
        Ok(format!("throttled {stopped:.1} times a second"))
    }))
}

pub(super) fn crowd(place: &Place<'_>) -> anyhow::Result<Injection> {
    let leaves = (0..place.count("cgroups"))
        .map(|nth| Leaf::new(&format!("job-{nth}"))?.work(&["burn", "--threads", "1"]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Injection::new(leaves, |_| {
        let (busy, _) = system::cpu_shares()?;
        ensure!(busy > 0.9, "the CPUs are {busy:.2} busy");
        Ok(format!("the CPUs are {busy:.2} busy"))
    }))
}

pub(super) fn herd(place: &Place<'_>) -> anyhow::Result<Injection> {
    let each = (place.count("tasks") / 4).to_string();
    let burst = place.figure("burst_ms").to_string();
    let arguments = ["herd", "--threads", &each, "--burst-ms", &burst];
    let leaves = (0..4)
        .map(|nth| Leaf::new(&format!("pool-{nth}"))?.work(&arguments))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Injection::new(leaves, |_| {
        // Some looks: the herd comes and goes.
        let mut most = 0;
        for _ in 0..20 {
            let text = system::read("/proc/stat")?;
            most = most.max(system::field(&text, "procs_running").unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        ensure!(most >= 20, "at most {most} tasks are runnable");
        Ok(format!("up to {most} tasks are runnable"))
    }))
}

pub(super) fn starved(place: &Place<'_>) -> anyhow::Result<Injection> {
    let cpu = (place.cpus - 1).to_string();
    let threads = place.count("threads").to_string();
    let starved = Leaf::new(GUILTY)?
        .limited("cpu.weight", &place.count("weight").to_string())?
        .work(&["burn", "--threads", &threads, "--cpu", &cpu])?;
    let greedy = Leaf::new("greedy")?
        .limited("cpu.weight", "10000")?
        .work(&["burn", "--threads", "1", "--cpu", &cpu])?;
    Ok(Injection::new(vec![starved, greedy], |leaves| {
        let (starved, greedy) = (cores(&leaves[0])?, cores(&leaves[1])?);
        ensure!(
            greedy > 10.0 * starved && greedy > 0.3,
            "it gets {starved:.3} CPUs, the other {greedy:.2}"
        );
        Ok(format!("it gets {starved:.3} CPUs, the other {greedy:.2}"))
    }))
}

pub(super) fn futexes(place: &Place<'_>) -> anyhow::Result<Injection> {
    let threads = place.count("threads").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["futexes", "--threads", &threads])?;
    Ok(Injection::new(vec![leaf], |_| {
        let switches = rate(|| {
            let text = system::read("/proc/stat")?;
            Ok(system::field(&text, "ctxt").unwrap_or(0))
        })?;
        ensure!(switches > 5000.0, "{switches:.0} switches a second");
        Ok(format!("{switches:.0} switches a second"))
    }))
}
