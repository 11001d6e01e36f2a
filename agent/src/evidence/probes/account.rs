//! The agent's own account: CPU of the process and of its probes, a tenth of the time, against the
//! budget.

use std::time::{Duration, Instant};

use super::{
    budget::{Budget, Order},
    config::{ProbeName, ProbesConfig},
    cost::{Measured, Measuring, Runs},
    load::{Kernel, SPECS, Slot, Spec},
};
use crate::evidence::kernel::{ProbeCost, ProbeState};

/// A measurement begins this often.
const EVERY: Duration = Duration::from_secs(10);
/// It lasts at least this long.
const AT_LEAST: Duration = Duration::from_millis(500);

/// What was measured last, and what is being measured.
#[derive(Default)]
pub(super) struct Account {
    limit: f64,
    measures: bool,
    begun: Option<Instant>,
    /// What the kernel measures, if it does, and the process' CPU time at its begin.
    under_way: Option<(Option<Measuring>, Duration)>,
    last: Measured,
    budget: Budget,
}

impl Account {
    pub(super) fn new(config: &ProbesConfig) -> Self {
        Self {
            limit: f64::from(config.budget_cpu_percent) / 100.0,
            measures: config.measure_cost,
            ..Self::default()
        }
    }

    pub(super) fn is_shed(&self, name: ProbeName) -> bool {
        self.budget.is_shed(name)
    }

    /// Called every second or so: begins or ends a measurement, and keeps the budget.
    pub(super) fn keep(&mut self, kernel: &mut Kernel, slots: &mut [Slot], now: Instant) {
        let age = self.begun.map(|begun| now.duration_since(begun));
        if self.under_way.is_none() {
            if age.is_none_or(|age| age >= EVERY) {
                self.begun = Some(now);
                // Where the kernel does not measure, the agent's own part is kept in the budget still.
                let measuring = self.measures.then(|| kernel.measure()).flatten();
                self.under_way = Some((measuring, own_cpu()));
            }
            return;
        }
        let Some(age) = age.filter(|age| *age >= AT_LEAST) else {
            return;
        };
        let Some((measuring, before)) = self.under_way.take() else {
            return;
        };
        self.last = measuring.map_or_else(Measured::default, |begun| kernel.measured(begun));
        let own = own_cpu().saturating_sub(before).as_secs_f64();
        let probes: u64 = self.last.runs.values().map(|runs| runs.ns).sum();
        let over_s = age.as_secs_f64();
        let share = (own + probes as f64 / 1e9) / over_s;
        let attached = |name: ProbeName| {
            slots
                .iter()
                .any(|slot| slot.spec.name == name && slot.state == ProbeState::Attached)
        };
        match self.budget.judge(share, self.limit, now, attached) {
            Some(Order::Shed(name)) => self.shed(name, share, kernel, slots),
            Some(Order::Restore(name)) => restore(name, kernel, slots),
            None => {}
        }
    }

    /// What each probe cost in the last measurement; measured now, for a moment, if never before.
    pub(super) fn costs(&mut self, kernel: &Kernel) -> Vec<ProbeCost> {
        if self.measures
            && self.last.runs.is_empty()
            && self.under_way.is_none()
            && let Some(measuring) = kernel.measure()
        {
            std::thread::sleep(AT_LEAST);
            self.last = kernel.measured(measuring);
        }
        let over_ns = self.last.over.as_nanos().max(1) as f64;
        let cost = |spec: &Spec| {
            let runs = spec
                .programs
                .iter()
                .filter_map(|(program, _)| self.last.runs.get(*program))
                .fold(Runs::default(), |sum, runs| Runs {
                    count: sum.count + runs.count,
                    ns: sum.ns + runs.ns,
                });
            (runs.count > 0).then(|| ProbeCost {
                name: spec.label,
                ns_per_run: runs.ns as f64 / runs.count as f64,
                cpu_share: runs.ns as f64 / over_ns,
            })
        };
        SPECS.iter().filter_map(cost).collect()
    }

    fn shed(&self, name: ProbeName, share: f64, kernel: &mut Kernel, slots: &mut [Slot]) {
        let Some(slot) = slots.iter_mut().find(|slot| slot.spec.name == name) else {
            return;
        };
        match name {
            ProbeName::Syscalls => kernel.unwatch(),
            ProbeName::Sched => kernel.pause_scheduler(),
            _ => return,
        }
        slot.fall_back(format!(
            "over budget: agent and probes took {:.1} % of a CPU, {:.0} % are allowed \
             (probes.budget_cpu_percent); it comes back when there is room",
            share * 100.0,
            self.limit * 100.0
        ));
    }
}

fn restore(name: ProbeName, kernel: &mut Kernel, slots: &mut [Slot]) {
    let Some(slot) = slots.iter_mut().find(|slot| slot.spec.name == name) else {
        return;
    };
    tracing::info!(probe = slot.spec.label, "there is room in the budget again");
    if name != ProbeName::Sched {
        // Attached on the next alert.
        slot.state = ProbeState::Standby;
        slot.why = None;
        return;
    }
    match kernel.resume_scheduler() {
        Ok(()) => {
            slot.state = ProbeState::Attached;
            slot.why = None;
        }
        Err(why) => slot.fall_back(why),
    }
}

/// CPU time of this process, all threads.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
