//! The hand-over between callers and writer, and between writer and its threads, in every order
//! that the memory model allows (up to a bound of preemptions): loom runs the same two files,
//! compiled with its own primitives.
//!
//! A wake-up that is lost shows as a deadlock, which loom reports.

#[allow(dead_code, reason = "what the model has no use for")]
#[allow(clippy::duplicate_mod, reason = "the same file, on other primitives")]
#[path = "../writer/queue.rs"]
mod queue;
#[allow(clippy::duplicate_mod, reason = "the same file, on other primitives")]
#[path = "../engine/threads.rs"]
mod threads;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::super::LaneId;
use super::super::block::{AlignedBuf, BlockFile, DirectIo};
use super::super::engine::{Bell, Content, Done, Engine, Wait, Write, WriteEngine, at_once};
use queue::Queue;
use sync::{Condvar, Mutex, Until, lock};
use threads::Threads;

/// Loom's side of `journal/sync.rs`.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex};
    pub(crate) use loom::thread::{Builder, JoinHandle};

    use std::sync::{Arc, PoisonError};

    use loom::sync::MutexGuard;
    use loom::sync::atomic::AtomicBool;

    /// To watch awake is the same as to look again; what matters is the sleep, of two and more.
    pub(crate) const WATCHED_MAX: usize = 1;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// A clock that runs out when another thread says so.
    #[derive(Clone)]
    pub(crate) struct Until(pub(crate) Arc<AtomicBool>);

    impl Until {
        pub(crate) fn new() -> Self {
            Self(Arc::new(AtomicBool::new(false)))
        }

        pub(crate) fn over(&self) -> bool {
            self.0.load(Ordering::Acquire)
        }

        pub(crate) fn wait<'a, T>(
            &self,
            condvar: &Condvar,
            guard: MutexGuard<'a, T>,
        ) -> MutexGuard<'a, T> {
            if self.over() {
                return guard;
            }
            wait(condvar, guard)
        }
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Bugs of this kind need two or three; more only costs time.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Whoever got an `Ok` for a call sees it taken, in the order of its thread, also while the queue
/// is being closed; and the writer comes to its end.
#[test]
pub(super) fn every_call_taken_in_is_handed_out_once() {
    check(|| {
        let queue = Arc::new(Queue::new(None));
        let (first, second) = (queue.clone(), queue.clone());
        let one = loom::thread::spawn(move || {
            let pushed = [10, 11].map(|call| first.push(call, 1).is_ok());
            assert!(pushed[0] || !pushed[1], "closed, and open again");
            pushed.iter().filter(|pushed| **pushed).count()
        });
        let two = loom::thread::spawn(move || {
            let pushed = second.push(20, 1).is_ok();
            second.close();
            assert_eq!(second.push(21, 1), Err(21));
            usize::from(pushed)
        });
        let mut taken = VecDeque::new();
        while queue.wait() {
            queue.take(&mut taken);
        }
        let pushed = one.join().unwrap() + two.join().unwrap();
        assert_eq!(taken.len(), pushed, "{taken:?}");
        let mut of_one = taken.iter().filter(|call| **call < 20);
        assert!(of_one.by_ref().is_sorted());
    });
}

/// The wait for callers to come back ends when they are there, when they are not, and when the
/// journal is closed; none is forgotten.
#[test]
pub(super) fn the_wait_for_callers_ends() {
    check(|| {
        let queue = Arc::new(Queue::new(None));
        let until = Until::new();
        let (pusher, clock) = (queue.clone(), queue.clone());
        let expired = until.clone();
        let caller = loom::thread::spawn(move || {
            pusher.push(1, 1).unwrap();
            pusher.push(2, 1).unwrap();
        });
        let timer = loom::thread::spawn(move || {
            expired.0.store(true, sync::Ordering::Release);
            clock.tick();
        });
        queue.wait_for(2, &until);
        let mut taken = VecDeque::new();
        while taken.len() < 2 {
            assert!(queue.wait());
            queue.take(&mut taken);
        }
        assert_eq!(taken, [1, 2]);
        caller.join().unwrap();
        timer.join().unwrap();
    });
}

/// What the writer sleeps in while a batch is on the device.
#[derive(Default)]
struct Device {
    rung: Mutex<bool>,
    news: Condvar,
}

impl Bell for Device {
    fn ring(&self) {
        *lock(&self.rung) = true;
        self.news.notify_one();
    }
}

/// The writer that sleeps in the engine is rung for when enough wait, even if no write ever comes
/// back.
#[test]
pub(super) fn enough_calls_ring_the_bell() {
    check(|| {
        let device = Arc::new(Device::default());
        let queue = Arc::new(Queue::new(Some(device.clone() as Arc<dyn Bell>)));
        let callers = [1, 2].map(|call| {
            let queue = queue.clone();
            loom::thread::spawn(move || queue.push(call, 10).unwrap())
        });
        let mut taken = VecDeque::new();
        while taken.len() < 2 {
            queue.take(&mut taken);
            let missing = 20 - 10 * taken.len();
            if missing == 0 {
                break;
            }
            if queue.doze(missing) {
                let mut rung = lock(&device.rung);
                while !*rung {
                    rung = sync::wait(&device.news, rung);
                }
                *rung = false;
                drop(rung);
                queue.rouse();
            }
        }
        for caller in callers {
            caller.join().unwrap();
        }
    });
}

/// A file that takes everything.
struct Sink;

impl BlockFile for Sink {
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn direct(&self) -> DirectIo {
        DirectIo::NotWanted
    }
}

fn write() -> Write {
    let mut buf = AlignedBuf::new();
    buf.slice(8);
    Write {
        file: Arc::new(Sink),
        name: "sink".into(),
        offset: 0,
        buf,
        len: 8,
        content: Content::There,
    }
}

/// Two writes by two threads: each comes back once, and the drop ends the threads.
#[test]
fn every_write_of_the_threads_comes_back_once() {
    check(|| {
        let mut engine = Threads::new(LaneId::Safe, 2, None);
        engine.submit(0, write(), false);
        engine.submit(1, write(), false);
        let mut tickets = [0; 2];
        for _ in 0..2 {
            let done = engine.reap(Wait::Done).expect("in flight");
            done.result.expect("writes");
            tickets[usize::try_from(done.ticket).unwrap()] += 1;
        }
        assert_eq!(tickets, [1, 1]);
        assert!(engine.reap(Wait::Done).is_none());
    });
}

/// The bell or a write ends the wait, whichever comes first; the other is not lost.
#[test]
fn a_bell_beside_a_write_is_not_lost() {
    check(|| {
        let mut engine = Threads::new(LaneId::Safe, 2, None);
        let bell = engine.bell().expect("has one");
        engine.submit(0, write(), false);
        let caller = loom::thread::spawn(move || bell.ring());
        let first = engine.reap(Wait::DoneOrBell);
        let second = engine.reap(Wait::Done);
        assert!(first.is_some() != second.is_some());
        caller.join().unwrap();
    });
}
