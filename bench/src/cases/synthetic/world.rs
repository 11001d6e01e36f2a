//! A system of services that call each other, and what a fault does to it.

use super::Rng;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every request waits.
    Delay,
    /// Some requests fail.
    Errors,
    /// Something else eats its processor: slower, and its CPU is full.
    Cpu,
    /// Memory runs out: slower, and some requests fail.
    Memory,
}

impl Fault {
    /// As in `truth.json`.
    pub(super) fn family(self) -> &'static str {
        match self {
            Self::Delay => "latency",
            Self::Errors => "errors",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// One service.
#[derive(Clone, Debug)]
struct Service {
    /// Own seconds a request.
    own: f64,
    /// Spread of a row's mean: heavy for those that are rarely called.
    noise: f64,
    /// `(callee, calls a request)`.
    calls: Vec<(usize, f64)>,
    /// Requests a row.
    requests: f64,
    /// CPU a request, memory in bytes.
    cpu: f64,
    memory: f64,
    /// Failed share when all is well.
    failing: f64,
    /// How much slower and larger another day is.
    other_day: f64,
}

/// What one service shows in one row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) requests: f64,
    pub(super) latency: f64,
    pub(super) failed: f64,
    pub(super) cpu: f64,
    pub(super) memory: f64,
    pub(super) io: f64,
}

/// The system with its fault.
#[derive(Clone, Debug)]
pub(super) struct World {
    services: Vec<Service>,
    pub(super) fault: Fault,
    pub(super) culprit: usize,
    strength: f64,
    /// Others to whom something happens at the same time: `(service, factor of its own time, CPU)`.
    bystanders: Vec<(usize, f64, f64)>,
}

impl World {
    pub(super) fn new(seed: u64, cycle: bool) -> Self {
        let mut rng = Rng::new(seed);
        let count = 8 + rng.below(28);
        let mut services: Vec<Service> = (0..count).map(|_| service(&mut rng)).collect();
        for at in 1..count {
            for _ in 0..=rng.below(2) {
                let caller = rng.below(at.min(at / 2 + 2));
                let rate = if rng.unit() < 0.25 {
                    rng.within(0.01, 0.1)
                } else {
                    rng.within(0.3, 1.6)
                };
                if caller != at
                    && !services[caller]
                        .calls
                        .iter()
                        .any(|(callee, _)| *callee == at)
                {
                    services[caller].calls.push((at, rate));
                }
            }
        }
        let entry = rng.within(300.0, 3000.0);
        services[0].requests = entry;
        for at in 0..count {
            let requests = services[at].requests;
            for (callee, rate) in services[at].calls.clone() {
                services[callee].requests += requests * rate;
            }
        }
        for service in &mut services {
            // Rarely called ones are cold and stray: what makes deviation alone a bad guide.
            if service.requests < 60.0 {
                service.noise *= 6.0;
                service.own *= 8.0;
            }
        }
        let culprit = culprit(&services, &mut rng);
        if cycle && count > 4 {
            let back = services[culprit]
                .calls
                .first()
                .map_or(culprit, |(callee, _)| *callee);
            if back != culprit {
                services[back].calls.push((culprit, 0.02));
            }
        }
        let fault = [Fault::Delay, Fault::Errors, Fault::Cpu, Fault::Memory][rng.below(4)];
        let strength = strength(&services, culprit, &mut rng);
        let bystanders = bystanders(&services, culprit, &mut rng);
        Self {
            services,
            fault,
            culprit,
            strength,
            bystanders,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.services.len()
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = (usize, usize)> {
        let calls = self.services.iter().enumerate();
        calls.flat_map(|(at, service)| service.calls.iter().map(move |(callee, _)| (at, *callee)))
    }

    /// One row. `active` is the share of the row during which the fault is there.
    pub(super) fn row(&self, rng: &mut Rng, active: f64, other_day: bool) -> Vec<Shown> {
        let surge = 1.0 + 0.04 * rng.normal();
        let mut shown = vec![Shown::default(); self.services.len()];
        // Callees have larger indices, so they are done first; a call back counts as usual.
        for at in (0..self.services.len()).rev() {
            let service = &self.services[at];
            let day = if other_day { service.other_day } else { 1.0 };
            let requests = rng.events(service.requests * surge);
            let mut own = service.own * day * (service.noise * rng.normal()).exp();
            let mut failing = service.failing;
            let (mut cpu, mut memory) = (0.02 + service.cpu * requests, service.memory * day);
            if at == self.culprit && active > 0.0 {
                let slow = self.strength * active;
                match self.fault {
                    Fault::Delay => own += slow,
                    Fault::Errors => failing += rng.within(0.01, 0.1) * active,
                    Fault::Cpu => {
                        own += slow;
                        cpu += cpu * rng.within(1.0, 4.0) * active;
                    }
                    Fault::Memory => {
                        own += 0.7 * slow;
                        failing += 0.01 * active;
                        memory *= 1.0 + rng.within(0.3, 1.2) * active;
                    }
                }
            }
            for (_, slower, busier) in self.bystanders.iter().filter(|(who, ..)| *who == at) {
                own *= 1.0 + (slower - 1.0) * active;
                cpu *= 1.0 + (busier - 1.0) * active;
            }
            let mut well = 1.0 - failing;
            for (callee, rate) in &service.calls {
                let below = if *callee > at {
                    shown[*callee]
                } else {
                    Shown::default()
                };
                own += rate * below.latency;
                let failed = if below.requests > 0.0 {
                    below.failed / below.requests
                } else {
                    0.0
                };
                well *= (1.0 - failed).powf(*rate);
            }
            cpu *= 1.0 + 0.05 * rng.normal();
            memory *= 1.0 + 0.01 * rng.normal();
            shown[at] = Shown {
                requests,
                latency: own,
                failed: rng.events((1.0 - well) * requests).min(requests),
                cpu: cpu.max(0.0),
                memory,
                io: (service.cpu * requests * 1e4 * (1.0 + 0.2 * rng.normal())).max(0.0),
            };
        }
        shown
    }
}

fn service(rng: &mut Rng) -> Service {
    Service {
        own: 10_f64.powf(rng.within(-3.0, -1.2)),
        noise: rng.within(0.03, 0.15),
        calls: Vec::new(),
        requests: 0.0,
        cpu: 10_f64.powf(rng.within(-5.0, -3.5)),
        memory: 10_f64.powf(rng.within(7.0, 9.5)),
        failing: if rng.unit() < 0.2 {
            rng.within(0.0005, 0.004)
        } else {
            0.0
        },
        other_day: (0.35 * rng.normal()).exp(),
    }
}

/// Any service that enough requests of the entry pass through for the entry to feel it.
fn culprit(services: &[Service], rng: &mut Rng) -> usize {
    let felt: Vec<usize> = (1..services.len())
        .filter(|at| services[*at].requests > 0.3 * services[0].requests)
        .collect();
    match felt.len() {
        0 => services[0].calls.first().map_or(0, |(callee, _)| *callee),
        n => felt[rng.below(n)],
    }
}

/// A rarely called service that happens to be much slower, and one that happens to be busier.
fn bystanders(services: &[Service], culprit: usize, rng: &mut Rng) -> Vec<(usize, f64, f64)> {
    let all = 1..services.len();
    let rare: Vec<usize> = all
        .clone()
        .filter(|at| *at != culprit && services[*at].requests < 0.05 * services[0].requests)
        .collect();
    let busy: Vec<usize> = all.filter(|at| *at != culprit).collect();
    let mut found = Vec::new();
    if !rare.is_empty() {
        found.push((rare[rng.below(rare.len())], rng.within(2.0, 6.0), 1.0));
    }
    if !busy.is_empty() {
        found.push((busy[rng.below(busy.len())], 1.0, rng.within(1.3, 2.5)));
    }
    found
}

/// Extra seconds a request, so that the entry slows down by a tenth to one and a half times.
fn strength(services: &[Service], culprit: usize, rng: &mut Rng) -> f64 {
    let mut latency = vec![0.0; services.len()];
    for at in (0..services.len()).rev() {
        let below = services[at].calls.iter().filter(|(callee, _)| *callee > at);
        latency[at] = services[at].own
            + below
                .map(|(callee, rate)| rate * latency[*callee])
                .sum::<f64>();
    }
    let passing = services[culprit].requests / services[0].requests.max(1.0);
    rng.within(0.1, 1.5) * latency[0] / passing.max(0.1)
}
