//! What the probes cost: measured by the kernel itself (`BPF_ENABLE_STATS`), a moment at a time,
//! because measuring costs two looks at the clock a run.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};

/// Runs of a program so far, as far as they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// A measurement under way; it ends when this is dropped.
pub(super) struct Measuring {
    _switch: OwnedFd,
    begun: Instant,
    before: HashMap<String, Runs>,
}

/// Runs of every program over a stretch of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) over: Duration,
    pub(super) runs: HashMap<String, Runs>,
}

impl Measuring {
    /// Begins; `None` where the kernel does not let us (before 5.8, or without the capability).
    pub(super) fn begin(ebpf: &Ebpf) -> Option<Self> {
        let switch = enable_stats(Stats::RunTime)
            .inspect_err(|error| tracing::debug!(%error, "the probes' cost is not measured"))
            .ok()?;
        Some(Self {
            _switch: switch,
            begun: Instant::now(),
            before: read(ebpf),
        })
    }

    /// What ran since.
    pub(super) fn end(self, ebpf: &Ebpf) -> Measured {
        let mut runs = read(ebpf);
        for (name, now) in &mut runs {
            let before = self.before.get(name).copied().unwrap_or_default();
            now.count = now.count.saturating_sub(before.count);
            now.ns = now.ns.saturating_sub(before.ns);
        }
        Measured {
            over: self.begun.elapsed(),
            runs,
        }
    }
}

fn read(ebpf: &Ebpf) -> HashMap<String, Runs> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            // Not loaded: no descriptor.
            let fd = program.fd().ok()?.as_fd().as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            Some((name.to_owned(), parse(&text)?))
        })
        .collect()
}

fn parse(fdinfo: &str) -> Option<Runs> {
    let field = |name: &str| {
        let rest = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim_start_matches(':').trim().parse::<u64>().ok()
    };
    Some(Runs {
        count: field("run_cnt")?,
        ns: field("run_time_ns")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Runs, parse};

    #[test]
    fn the_kernels_own_figures_are_read() {
        let text = "pos:\t0\nprog_type:\t17\nrun_time_ns:\t1200\nrun_cnt:\t4\n";
        assert_eq!(parse(text), Some(Runs { count: 4, ns: 1200 }));
        assert_eq!(parse("pos:\t0\n"), None);
    }
}
