//! How each fault is done to the agent, and what must hold while it lasts.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use paramedic_parts::http;
use rustix::process::{Resource, Signal, kill_process};

use crate::{
    malformed,
    schedule::{DiskCall, Fault, Lane},
    storm::Scene,
    verdict::Invariant,
};

/// For the armed call of the disk to come: senders write all the time.
const FAILS_WITHIN: Duration = Duration::from_secs(3);
/// For being ready again once a passing fault has passed, on two busy CPUs.
const PASSED_WITHIN: Duration = Duration::from_secs(15);
/// A rule file that is good and new.
const MORE_RULES: &str = "\
family: process
hypotheses:
  - id: chaos-more-forks
    title: more processes than before
    prior: 0.01
    features:
      - id: forks
        reading: host.forks_per_s
        at_least: 100000
        given_cause: 0.9
        otherwise: 0.1
        decisive: true
        says: processes are created in masses
";

#[allow(clippy::too_many_lines, reason = "a table: an arm a fault")]
pub fn enact(scene: &mut Scene<'_>, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Kill => {
            scene.world.kill()?;
            scene.begin()
        }
        Fault::Terminate => {
            let well = scene.world.terminate();
            let said = format!("in the middle of a storm, after SIGTERM: {well:?}");
            let well = well.is_ok_and(|well| well);
            scene.verdict.hold(Invariant::Ready, well, || said);
            scene.begin()
        }
        Fault::Freeze { ms } => {
            scene.world.signal(Signal::STOP)?;
            pause(ms);
            scene.world.signal(Signal::CONT)?;
            passed(scene, "it was stopped")
        }
        Fault::DiskFull { ms } => {
            let filled = scene.world.fill()?;
            pause(ms);
            drop(filled);
            passed(scene, "its disk was full")
        }
        Fault::DiskFails { call, lane, after } => disk_fails(scene, call, lane, after),
        Fault::NoSpace { ms } => {
            scene.world.disk()?.no_space();
            pause(ms);
            scene.world.disk()?.well();
            passed(scene, "there was no space")
        }
        Fault::DiskSlow { call_ms, ms } => {
            scene.world.disk()?.slow(Duration::from_millis(call_ms));
            pause(ms);
            scene.world.disk()?.well();
            passed(scene, "its disk was slow")
        }
        Fault::Prometheus(mode) => {
            scene.prometheus.set(mode);
            Ok(())
        }
        Fault::Flood { connections } => {
            let body = scene.senders.first();
            thread::scope(|scope| {
                for _ in 0..connections {
                    scope.spawn(|| scene.senders.send(&body));
                }
            });
            passed(scene, "a flood")
        }
        Fault::Malformed => {
            let (sent, odd) = malformed::send_all(scene.world.address());
            scene.verdict.hold(Invariant::Durable, odd.is_empty(), || {
                format!("of {sent} malformed requests: {odd:?}")
            });
            passed(scene, "malformed requests")
        }
        Fault::Partition { connections, ms } => {
            partition(scene, connections, ms);
            passed(scene, "a partition")
        }
        Fault::Files { spare, ms } => {
            let few = scene.world.files()? + spare;
            let before = scene.world.limit(Resource::Nofile, Some(few))?;
            // More than there is room for; held open.
            let held: Vec<_> = (0..spare + 8)
                .filter_map(|_| TcpStream::connect(scene.world.address()).ok())
                .collect();
            pause(ms);
            drop(held);
            scene.world.limit(Resource::Nofile, before.current)?;
            passed(scene, "it had no file descriptors left")
        }
        Fault::Memory { spare_mib, ms } => {
            let size = scene.world.status("VmSize")? * 1024 + (spare_mib << 20);
            let before = scene.world.limit(Resource::As, Some(size))?;
            pause(ms);
            // It may have died of it: who has no memory left ends at once, and comes back.
            if !scene.world.lives_on() {
                return Ok(());
            }
            scene.world.limit(Resource::As, before.current)?;
            passed(scene, "it had no memory left")
        }
        Fault::Reload { good } => {
            scene.world.reload(good, MORE_RULES)?;
            passed(scene, "a reload")?;
            // A life that begins with bad rules does not begin: that is another test's.
            pause(50);
            scene.world.good_rules();
            Ok(())
        }
        Fault::KillGuardian => {
            for pid in scene.world.guardians() {
                kill_process(pid, Signal::KILL).unwrap_or_default();
            }
            Ok(())
        }
        Fault::SecondAgent => second_agent(scene),
        Fault::Readers => {
            for args in [
                ["journal", "check"].as_slice(),
                &["incidents", "list", "--json"],
            ] {
                let read = scene.world.read(args);
                let said = read.as_ref().err().map(|error| format!("{error:#}"));
                scene.verdict.hold(Invariant::Durable, read.is_ok(), || {
                    format!("beside a running agent: {}", said.unwrap_or_default())
                });
            }
            Ok(())
        }
    }
}

fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// The fault is over: the same life must be ready again.
fn passed(scene: &mut Scene<'_>, what: &str) -> anyhow::Result<()> {
    let ready = scene.world.ready(PASSED_WITHIN);
    let said = ready.as_ref().err().map(|error| format!("{error:#}"));
    scene.verdict.hold(Invariant::Ready, ready.is_ok(), || {
        format!("after {what}: {}", said.unwrap_or_default())
    });
    if ready.is_err() {
        // The storm goes on, as with a service manager's watchdog.
        scene.world.kill()?;
    }
    Ok(())
}

/// Once a call on a lane has failed the agent is not ready until a restart, and says so; without its fast
/// lane it accepts nothing.
fn disk_fails(scene: &mut Scene<'_>, call: DiskCall, lane: Lane, after: u64) -> anyhow::Result<()> {
    scene.world.disk()?.fail(call, lane, after);
    let begun = Instant::now();
    while !scene.world.disk()?.failed() && begun.elapsed() < FAILS_WITHIN {
        // News that must be written, so that the call comes though all stories are told.
        scene.senders.send(&scene.senders.news(begun.elapsed()));
        pause(2);
    }
    if scene.world.disk()?.failed() {
        // The answer to the call that failed may still be on its way to the writer.
        let until = Instant::now() + PASSED_WITHIN;
        let mut ready = 200;
        while ready == 200 && Instant::now() < until {
            ready = http::get(scene.world.address(), "/-/ready")?.status;
        }
        scene.verdict.hold(Invariant::FailedSync, ready == 503, || {
            format!("ready answers {ready} after {call:?} of {lane:?} failed")
        });
        let accepting = if lane == Lane::Fast { 3 } else { 0 };
        for n in 0..accepting {
            let news = scene
                .senders
                .news(begun.elapsed() + Duration::from_secs(n + 1));
            let status = scene.senders.send(&news);
            scene
                .verdict
                .hold(Invariant::FailedSync, status == Some(503), || {
                    format!("news was answered {status:?} after {call:?} had failed")
                });
        }
    }
    scene.world.kill()?;
    scene.begin()
}

/// Requests that never end, and senders that are gone before the answer.
fn partition(scene: &Scene<'_>, connections: u64, ms: u64) {
    let body = scene.senders.first();
    let head = format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut silent = Vec::new();
    for n in 0..connections {
        let Ok(mut stream) = TcpStream::connect(scene.world.address()) else {
            continue;
        };
        let whole = n % 2 == 0;
        let part = if whole { body.len() } else { body.len() / 2 };
        let written = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body.as_bytes()[..part]));
        // Gone at once, or silent.
        if written.is_ok() && !whole {
            silent.push(stream);
        }
    }
    pause(ms);
    drop(silent);
}

/// One agent at a time.
fn second_agent(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(scene.world.config())?;
    let own = scene.world.address().to_string();
    let other = http::free_address()?.to_string();
    let path = scene.world.config().with_file_name("second.yaml");
    std::fs::write(&path, text.replace(&own, &other))?;
    let path = path.display().to_string();
    let output = scene.world.command(&["run", "--config", &path])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = !output.status.success() && said.contains("another");
    scene.verdict.hold(Invariant::OneAction, refused, || {
        format!(
            "a second agent on the same state: {}: {said}",
            output.status
        )
    });
    passed(scene, "a second agent").context("the first of two agents")
}
