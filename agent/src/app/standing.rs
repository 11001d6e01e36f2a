//! How the parts stand, for the metrics: the report does not know the other stages, so it is told here.

use std::sync::Arc;

use crate::{
    evidence::ProbeState,
    pipeline::Stages,
    report::{Notifier, ProbeStanding, QueueStanding, Standing},
    resilience::{Breaker, BreakerState},
    routing::Router,
};

/// Asks every part; cheap enough for each scrape.
fn standing(
    stages: &Stages,
    router: &Router,
    notifier: &Notifier,
    collector: Option<&Breaker>,
) -> Standing {
    let queues = router.load().into_iter().map(|load| QueueStanding {
        tenant: load.tenant.to_string(),
        depth: load.depth,
        high_water: load.high_water,
        running: load.running,
    });
    let probes = stages.recorder.probes().into_iter();
    let probes = probes.map(|probe| ProbeStanding {
        name: probe.name,
        state: match probe.state {
            ProbeState::Attached => "attached",
            ProbeState::Standby => "standby",
            ProbeState::Fallback => "fallback",
            ProbeState::Off => "off",
        },
        events: probe.events,
        lost: probe.drops,
    });
    let prometheus = stages.sampler.suspects();
    let prometheus = prometheus.map(|open| ("prometheus".to_owned(), open));
    let collector = collector.map(|it| ("otlp".to_owned(), it.state() != BreakerState::Closed));
    let breakers = prometheus.into_iter().chain(collector);
    Standing {
        queues: queues.collect(),
        probes: probes.collect(),
        breakers: breakers.chain(notifier.breakers()).collect(),
    }
}

/// The same as what the report calls.
pub(super) fn asked(
    stages: Arc<Stages>,
    router: Router,
    notifier: Notifier,
    collector: Option<Arc<Breaker>>,
) -> Arc<dyn Fn() -> Standing + Send + Sync> {
    Arc::new(move || standing(&stages, &router, &notifier, collector.as_deref()))
}
