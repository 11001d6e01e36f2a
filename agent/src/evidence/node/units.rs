//! Units of systemd that have failed, asked of systemd itself.
//!
//! A thread of its own asks, because systemd may be slow or stuck while it is most needed to know the rest:
//! a sample takes what was answered last. It is asked over the system bus: on its private socket it signs its
//! answers with a name that is none by D-Bus's own rules, and the library panics. Methods and properties:
//! org.freedesktop.systemd1(5).

use std::{
    io,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use zbus::{
    blocking::{Connection, Proxy, connection::Builder},
    zvariant::OwnedObjectPath,
};

use super::{Level, Source, State};

const NAME: &str = "units";
/// The system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// So often it is asked.
const PERIOD: Duration = Duration::from_secs(5);
/// So long a call may take.
const CALL: Duration = Duration::from_secs(2);
/// An answer older than this tells nothing of now.
const STALE: Duration = Duration::from_secs(20);
/// Of more failed units than these, neither name nor time is asked for.
const NAMED_MAX: usize = 8;

/// `name`, description, load state, active state, sub state, followed by, path, job id, job type, job path.
type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// The units that have failed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Failed {
    /// How many.
    count: u32,
    /// Names and, in seconds, how long ago each failed; the latest first. At most [`NAMED_MAX`].
    named: Vec<(String, f64)>,
}

/// What was answered last, and when.
type Answer = (Instant, Result<Failed, State>);

/// Asks in the background from the first [`Watch::tell`] on; ends when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Watch {
    answer: Arc<Mutex<Option<Answer>>>,
    asking: Option<Asking>,
}

#[derive(Debug)]
struct Asking {
    since: Instant,
    /// Dropping it ends the thread. It is not waited for: systemd may keep it.
    _stop: mpsc::Sender<()>,
}

impl Watch {
    /// What was answered last, for a sample of `now`.
    pub(super) fn tell(&mut self, now: Instant) -> (Vec<Level>, Option<Source>) {
        let since = match &self.asking {
            Some(asking) => asking.since,
            None => match self.begin(now) {
                Ok(()) => now,
                Err(error) => {
                    let state = State::Failed(format!("no thread to ask systemd: {error}"));
                    return told(now, Err(state));
                }
            },
        };
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match &*answer {
            // The first answer is a moment away.
            None if now.saturating_duration_since(since) < STALE => (Vec::new(), None),
            None => told(since, Err(silent(now, since))),
            Some((at, _)) if now.saturating_duration_since(*at) >= STALE => {
                told(*at, Err(silent(now, *at)))
            }
            Some((at, answer)) => told(*at, answer.clone()),
        }
    }

    fn begin(&mut self, now: Instant) -> io::Result<()> {
        let (stop, stopped) = mpsc::channel();
        let answer = self.answer.clone();
        thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || ask_on(&answer, &stopped))?;
        self.asking = Some(Asking {
            since: now,
            _stop: stop,
        });
        Ok(())
    }
}

fn silent(now: Instant, since: Instant) -> State {
    let seconds = now.saturating_duration_since(since).as_secs();
    State::Failed(format!("systemd has not answered for {seconds} s"))
}

/// Levels and state of an answer.
fn told(at: Instant, answer: Result<Failed, State>) -> (Vec<Level>, Option<Source>) {
    let (levels, state) = match answer {
        Ok(failed) => {
            let mut levels = vec![("units.failed", f64::from(failed.count), true)];
            if let Some((_, age_s)) = failed.named.first() {
                let since_s = at.elapsed().as_secs_f64();
                levels.push(("units.failed_age_s", age_s + since_s, true));
            }
            (levels, failed.state())
        }
        Err(state) => (Vec::new(), state),
    };
    let source = Source {
        name: NAME,
        at,
        state,
    };
    (levels, Some(source))
}

impl Failed {
    fn state(&self) -> State {
        if self.named.is_empty() {
            return State::Read;
        }
        let names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).collect();
        let more = (self.count as usize).saturating_sub(names.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        State::Found(format!("failed: {}{more}", names.join(", ")))
    }
}

fn ask_on(answer: &Mutex<Option<Answer>>, stopped: &mpsc::Receiver<()>) {
    let mut connection = None;
    loop {
        let asked = ask(&mut connection);
        if asked.is_err() {
            // systemd may have been executed anew.
            connection = None;
        }
        let now = Instant::now();
        *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, asked));
        if !matches!(
            stopped.recv_timeout(PERIOD),
            Err(mpsc::RecvTimeoutError::Timeout)
        ) {
            return;
        }
    }
}

fn ask(connection: &mut Option<Connection>) -> Result<Failed, State> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(connect()?),
    };
    failed(connection).map_err(|error| State::Failed(format!("systemd: {error}")))
}

fn connect() -> Result<Connection, State> {
    if !Path::new(BUS).exists() {
        return Err(State::NotHere(format!("there is no {BUS}")));
    }
    UnixStream::connect(BUS)
        .map_err(zbus::Error::from)
        .and_then(|stream| {
            let builder = Builder::async_io_unix_stream(stream);
            builder.method_timeout(CALL).build()
        })
        .map_err(|error| State::Failed(format!("{BUS}: {error}")))
}

fn failed(connection: &Connection) -> zbus::Result<Failed> {
    let manager = uncached(connection, MANAGER_PATH, MANAGER)?;
    let count: u32 = manager.get_property("NFailedUnits")?;
    if count == 0 {
        return Ok(Failed::default());
    }
    let states: &[&str] = &["failed"];
    let listed: Vec<ListedUnit> = manager.call("ListUnitsFiltered", &(states,))?;
    let mut named = Vec::new();
    for (name, .., path, _, _, _) in listed.iter().take(NAMED_MAX) {
        let unit = uncached(connection, path.as_str(), UNIT)?;
        // Microseconds of CLOCK_MONOTONIC.
        let since_us: u64 = unit.get_property("StateChangeTimestampMonotonic")?;
        named.push((name.clone(), age_s(since_us)));
    }
    named.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    Ok(Failed { count, named })
}

/// Without a cache, which would be kept by signals that nobody subscribed to.
fn uncached<'a>(
    connection: &Connection,
    path: &'a str,
    interface: &'static str,
) -> zbus::Result<Proxy<'a>> {
    zbus::blocking::proxy::Builder::new(connection)
        .destination(SERVICE)?
        .path(path)?
        .interface(interface)?
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
}

/// Seconds since that moment.
fn age_s(since_us: u64) -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now_s = now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9;
    (now_s - since_us as f64 * 1e-6).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(at: Instant, answer: Result<Failed, State>) -> Watch {
        Watch {
            answer: Arc::new(Mutex::new(Some((at, answer)))),
            asking: Some(Asking {
                since: at,
                _stop: mpsc::channel().0,
            }),
        }
    }

    #[test]
    fn the_latest_to_fail_gives_the_age_and_all_are_named() {
        let now = Instant::now();
        let failed = Failed {
            count: 12,
            named: vec![("b.service".to_owned(), 3.0), ("a.mount".to_owned(), 9e5)],
        };
        let (levels, source) = answered(now, Ok(failed)).tell(now);
        assert_eq!(levels[0], ("units.failed", 12.0, true));
        let (name, age_s, _) = levels[1];
        assert!(name == "units.failed_age_s" && (3.0..30.0).contains(&age_s));
        let note = "failed: b.service, a.mount and 10 more".to_owned();
        assert_eq!(source.unwrap().state, State::Found(note));
    }

    #[test]
    fn units_that_are_well_are_told_without_an_age() {
        let now = Instant::now();
        let (levels, source) = answered(now, Ok(Failed::default())).tell(now);
        assert_eq!(levels, [("units.failed", 0.0, true)]);
        assert_eq!(source.unwrap().state, State::Read);
    }

    #[test]
    fn a_systemd_that_is_silent_tells_nothing_and_is_named() {
        let at = Instant::now();
        let mut watch = answered(at, Ok(Failed::default()));
        let (levels, source) = watch.tell(at + STALE);
        assert!(levels.is_empty());
        let state = source.unwrap().state;
        assert!(
            matches!(&state, State::Failed(why) if why.contains("for 20 s")),
            "{state:?}"
        );
        // It was never heard of.
        *watch.answer.lock().unwrap() = None;
        assert_eq!(watch.tell(at), (Vec::new(), None));
        assert!(matches!(
            watch.tell(at + STALE).1.unwrap().state,
            State::Failed(_)
        ));
    }
}
