//! Units of systemd that have failed: `NFailedUnits` of its manager, by D-Bus (org.freedesktop.systemd1(5)).
//!
//! It is asked by a thread of its own: a manager that does not answer must not hold up a sample.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use zbus::{
    blocking::{Connection, connection::Builder},
    zvariant::OwnedValue,
};

use super::{Sheet, State};

/// Its folder: there where systemd is process 1 (sd_booted(3)).
const RUN: &str = "/run/systemd";
/// For root, without a bus.
const PRIVATE: &str = "private";
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// Asked this often.
const EVERY: Duration = Duration::from_secs(10);
/// An older answer is none.
const STALE: Duration = Duration::from_secs(40);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Answer = (Instant, Result<u32, String>);

/// Asks and remembers.
#[derive(Debug)]
pub(super) struct Units {
    run: PathBuf,
    /// Wakes the thread, once there is one.
    ask: Option<mpsc::SyncSender<()>>,
    asked_at: Option<Instant>,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Default for Units {
    fn default() -> Self {
        Self::at(Path::new(RUN))
    }
}

impl Units {
    fn at(run: &Path) -> Self {
        Self {
            run: run.to_owned(),
            ask: None,
            asked_at: None,
            answer: Arc::default(),
        }
    }

    pub(super) fn read(&mut self, sheet: &mut Sheet<'_>) {
        let mut failed = None;
        let now = sheet.now;
        // Nothing is said between the first question and its answer.
        if let Some(known) = self.known(now) {
            sheet.take("units", known, |count| failed = Some(f64::from(*count)));
        }
        sheet.level("units.failed", failed);
    }

    fn known(&mut self, now: Instant) -> Option<Result<u32, State>> {
        if !self.run.join("system").is_dir() {
            return Some(Err(State::NotHere("systemd is not process 1".to_owned())));
        }
        let asked_at = self.asked_at;
        if asked_at.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            self.asked_at = Some(now);
            if let Err(error) = self.wake() {
                return Some(Err(State::Failed(format!("no thread for it: {error}"))));
            }
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, found) = answer.as_ref()?;
        let found = match found {
            Ok(_) if now.saturating_duration_since(*at) > STALE => {
                Err(State::Failed("systemd does not answer".to_owned()))
            }
            Ok(count) => Ok(*count),
            Err(why) => Err(State::Failed(why.clone())),
        };
        Some(found)
    }

    /// Has it asked once more; a question that is still open stays the only one.
    fn wake(&mut self) -> std::io::Result<()> {
        let ask = if let Some(ask) = &self.ask {
            ask
        } else {
            let (ask, asked) = mpsc::sync_channel(1);
            let (run, answer) = (self.run.clone(), self.answer.clone());
            thread::Builder::new()
                .name("units".to_owned())
                .spawn(move || serve(&run, &asked, &answer))?;
            self.ask.insert(ask)
        };
        // Full: it has not come to the last one yet.
        ask.try_send(()).unwrap_or_default();
        Ok(())
    }
}

/// Until nobody asks any more.
fn serve(run: &Path, asked: &mpsc::Receiver<()>, answer: &Mutex<Option<Answer>>) {
    let mut connection = None;
    while asked.recv().is_ok() {
        let found = ask(run, &mut connection).map_err(|error| error.to_string());
        if found.is_err() {
            connection = None;
        }
        *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
    }
}

fn ask(run: &Path, kept: &mut Option<Connection>) -> zbus::Result<u32> {
    let connection = match kept.take() {
        Some(connection) => connection,
        None => connect(run)?,
    };
    // Directly connected peers have no names.
    let manager = connection.unique_name().map(|_| "org.freedesktop.systemd1");
    let property = ("org.freedesktop.systemd1.Manager", "NFailedUnits");
    let reply = connection.call_method(
        manager,
        "/org/freedesktop/systemd1",
        Some("org.freedesktop.DBus.Properties"),
        "Get",
        &property,
    )?;
    let value: OwnedValue = reply.body().deserialize()?;
    *kept = Some(connection);
    Ok(u32::try_from(value)?)
}

fn connect(run: &Path) -> zbus::Result<Connection> {
    let socket = run.join(PRIVATE);
    let builder = if socket.exists() {
        Builder::address(format!("unix:path={}", socket.display()).as_str())?.p2p()
    } else {
        Builder::address(SYSTEM_BUS)?
    };
    builder.method_timeout(ANSWER_WITHIN).build()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, thread, time::Instant};

    use zbus::{Guid, blocking::connection::Builder, interface};

    use super::{EVERY, State, Units};

    struct Manager(u32);

    #[interface(name = "org.freedesktop.systemd1.Manager")]
    impl Manager {
        #[zbus(property, name = "NFailedUnits")]
        fn failed(&self) -> u32 {
            self.0
        }
    }

    /// What is known once it has answered.
    fn answered(units: &mut Units) -> Result<u32, State> {
        let now = Instant::now();
        loop {
            if let Some(known) = units.known(now) {
                return known;
            }
            assert!(now.elapsed().as_secs() < 60, "no answer");
            thread::yield_now();
        }
    }

    #[test]
    fn a_manager_is_asked_over_its_own_socket() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("system")).unwrap();
        let listener = UnixListener::bind(folder.path().join("private")).unwrap();
        let manager = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let served = Builder::async_io_unix_stream(stream)
                .server(Guid::generate())
                .unwrap()
                .p2p()
                .serve_at("/org/freedesktop/systemd1", Manager(3))
                .unwrap()
                .build()
                .unwrap();
            (served, listener)
        });
        let mut units = Units::at(folder.path());
        assert_eq!(answered(&mut units), Ok(3));
        // Gone: said, and the sample goes on without it.
        drop(manager.join().unwrap());
        fs::remove_file(folder.path().join("private")).unwrap();
        let later = Instant::now() + EVERY;
        let begun = Instant::now();
        while units.known(later) == Some(Ok(3)) {
            assert!(begun.elapsed().as_secs() < 60, "it still answers");
            units.asked_at = None;
            thread::yield_now();
        }
        let told = units.known(later);
        assert!(matches!(told, Some(Err(State::Failed(_)))), "{told:?}");
    }

    #[test]
    fn a_node_without_systemd_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut units = Units::at(folder.path());
        let told = units.known(Instant::now());
        assert!(matches!(told, Some(Err(State::NotHere(_)))), "{told:?}");
        assert!(units.ask.is_none(), "nobody is to be asked");
    }
}
