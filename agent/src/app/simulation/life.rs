//! One life of the agent: what an earlier one left is settled, alerts come, and it ends: by a power cut
//! in the middle of a call of the disk, by a kill at some moment, or in good order.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Tally,
    agent::Agent,
    check,
    machine::Machine,
    sender::{Request, Sender},
};
use crate::{
    clock::Clock,
    intake::Sink,
    journal::{
        JournalHealth, LaneId,
        sim::{Call, How, Rng},
    },
    ledger::Index,
};

/// Of a life, before it is ended whatever it does.
const STEPS_MAX: usize = 40;
/// Of the last life, after which something is never taken.
const LAST_STEPS_MAX: usize = 5_000;
/// Longer than every lease and every handling.
const LONG: Duration = Duration::from_hours(3);

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    PowerCut,
    Killed,
    Stopped,
}

/// A life that is about to begin.
pub(super) struct Life<'a> {
    pub(super) machine: &'a mut Machine,
    pub(super) sender: &'a mut Sender,
    pub(super) rng: Rng,
    pub(super) tally: &'a mut Tally,
}

/// What a body of a life comes to.
type Lived<'b, T> = Pin<Box<dyn Future<Output = Result<T, String>> + 'b>>;

impl Life<'_> {
    /// A life with faults.
    pub(super) fn live(mut self) -> Result<End, String> {
        let disk = self.machine.disk.clone();
        let kind = self.rng.below(4);
        match kind {
            0 => {}
            1 => {
                let call = Call::ALL[self.rng.below(Call::ALL.len())];
                let errno = [libc::EIO, libc::ENOSPC][self.rng.below(2)];
                // Some calls come a few times in a life, others all the time.
                let most = [4, 40][self.rng.below(2)];
                disk.fail(call, 1 + self.rng.below(most) as u64, How::Errno(errno));
            }
            _ => disk.crash_after(1 + self.rng.below(160) as u64),
        }
        let ended = self.run(|life, agent| Box::pin(life.told(agent)));
        let faulted = kind == 1 && disk.faulted();
        self.tally.failed_calls += u64::from(faulted);
        match ended {
            // Whatever it was doing.
            _ if disk.crashed() => Ok(End::PowerCut),
            // It may not have begun at all.
            Err(Broken::NotBegun(_)) if faulted => Ok(End::Killed),
            Err(Broken::NotBegun(why) | Broken::Violated(why)) => Err(why),
            Ok(end) => Ok(end),
        }
    }

    /// The last one: nothing fails, everything is told, and all is waited for.
    pub(super) fn last(mut self) -> Result<Index, String> {
        self.run(|life, agent| Box::pin(life.told_to_the_end(agent)))
            .map_err(|(Broken::NotBegun(why) | Broken::Violated(why))| why)
    }

    /// Runs a life in a runtime of its own, until it ends by itself or the power is cut.
    fn run<T>(
        &mut self,
        body: impl for<'b> FnOnce(&'b mut Self, Agent) -> Lived<'b, T>,
    ) -> Result<T, Broken> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| Broken::NotBegun(error.to_string()))?;
        let disk = self.machine.disk.clone();
        runtime.block_on(async {
            let clock = self.machine.clock();
            let wall = clock.clone();
            let ended = {
                let living = async {
                    let agent = Agent::begin(self.machine, clock);
                    let agent = agent.await.map_err(Broken::NotBegun)?;
                    check(&agent.index(), self.sender).map_err(Broken::Violated)?;
                    body(self, agent).await.map_err(Broken::Violated)
                };
                let mut living = Box::pin(living);
                poll_fn(|context| match living.as_mut().poll(context) {
                    Poll::Pending if disk.crashed() => {
                        Poll::Ready(Err(Broken::NotBegun("the power was cut".to_owned())))
                    }
                    polled => polled,
                })
                .await
            };
            self.machine.ended(wall.now());
            ended
        })
    }

    /// Alerts come, until something ends it.
    async fn told(&mut self, agent: Agent) -> Result<End, String> {
        let kill_at = self.rng.below(2 * STEPS_MAX);
        for step in 0..STEPS_MAX {
            if step == kill_at {
                return Ok(End::Killed);
            }
            self.step(&agent).await?;
            if self.sender.is_done() {
                break;
            }
        }
        // With or without a journal that can be written.
        agent.stop().await;
        Ok(End::Stopped)
    }

    async fn told_to_the_end(&mut self, agent: Agent) -> Result<Index, String> {
        for _ in 0..LAST_STEPS_MAX {
            self.step(&agent).await?;
            if self.sender.is_done() {
                sleep(LONG).await;
                self.machine.none_is_limited()?;
                return Ok(agent.finish().await);
            }
        }
        Err("not everything is ever taken".to_owned())
    }

    /// Some requests at once, then some time.
    async fn step(&mut self, agent: &Agent) -> Result<(), String> {
        let mut requests: Vec<Request> = Vec::new();
        for _ in 0..=self.rng.below(3) {
            requests.extend(self.sender.next(&mut self.rng));
        }
        let lane = LaneId::Fast;
        let poisoned =
            matches!(agent.health(), JournalHealth::Poisoned { lane: of, .. } if of == lane);
        let mut answers = Vec::new();
        for request in &requests {
            // All of them are begun before the first is waited for.
            let accepting = agent.gate.accept(self.sender.delivery(request));
            answers.push(tokio::spawn(accepting));
        }
        for (request, answer) in requests.into_iter().zip(answers) {
            match answer.await.map_err(|error| error.to_string())? {
                Ok(accepted) if poisoned && accepted.opened + accepted.resolved > 0 => {
                    return Err(format!("after a failed sync: {accepted:?} of {request:?}"));
                }
                Ok(_) => self.sender.took(request),
                Err(_) => self.tally.refused += 1,
            }
        }
        let pause_ms = [0, 20, 500, 5_000, 120_000][self.rng.below(5)];
        sleep(Duration::from_millis(pause_ms)).await;
        agent.effects_hold(&self.machine.limited())
    }
}

/// Why a life came to nothing.
enum Broken {
    NotBegun(String),
    Violated(String),
}
