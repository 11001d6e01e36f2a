//! What wakes the agent from inside, and what it ends by itself: readings for the local triggers, and
//! the closing of episodes of which nothing is heard.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Gate;
use crate::{
    config::Config,
    intake::pressure::{self, Readings},
    pipeline::Stages,
};

/// How often episodes of which nothing is heard are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// Both, until `stop`.
pub(super) fn run(
    config: &Config,
    gate: &Arc<Gate>,
    stages: &Arc<Stages>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let quiet = Duration::from_secs(config.intake.quiet_max_s);
    let expiring = expire(gate.clone(), stages.clone(), quiet, stop.clone());
    let triggers = pressure::run(
        config.pressure.clone(),
        config.intake.default_tenant.clone(),
        gate.clone(),
        readings(stages),
        stop.clone(),
    );
    async move {
        tokio::join!(expiring, triggers);
    }
}

/// Closes episodes of which nothing was heard for too long, unless Prometheus has their alerts firing.
async fn expire(gate: Arc<Gate>, stages: Arc<Stages>, quiet: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EXPIRE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for (id, tenant, alert) in gate.quiet_for(quiet) {
            if stop.is_cancelled() {
                return;
            }
            if stages.sampler.still_firing(&alert).await == Some(true) {
                gate.heard_of(id);
                continue;
            }
            match gate.expire(tenant, alert).await {
                Ok(_) => info!(episode = %id, quiet_s = quiet.as_secs(),
                    "nothing was heard of its alert (intake.quiet_max_s); taken for resolved"),
                Err(error) => warn!(episode = %id, %error, "a quiet episode stays open for now"),
            }
        }
    }
}

/// The host's readings of the last seconds, for the thresholds of the local triggers.
fn readings(stages: &Stages) -> Readings {
    let recorder = stages.recorder.clone();
    Arc::new(move || {
        let evidence = recorder.evidence(Duration::from_secs(5));
        let host = evidence.host.into_iter();
        host.map(|(name, reading)| (name, reading.value)).collect()
    })
}
