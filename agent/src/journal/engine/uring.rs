//! Several batches in flight through io_uring.
//!
//! Each is one write on a file opened with `O_DSYNC`, so its completion means that it is on the
//! device; the kernel lets writes that are in flight together share a flush.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use rustix::event::EventfdFlags;

use super::{Bell, Done, Engine, Wait, Write, WriteEngine, at_once, whole};
use crate::journal::LaneId;
use crate::journal::error::Failure;

/// Marks the bell's completions; tickets are far below.
const BELL: u64 = u64::MAX;

struct EventBell {
    fd: OwnedFd,
}

impl Bell for EventBell {
    fn ring(&self) {
        // The counter can't overflow (2^64 rings), so the only failure left is a closed handle.
        if let Err(error) = rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot ring the journal's bell");
        }
    }
}

/// The ring of one lane.
pub(crate) struct Uring {
    lane: LaneId,
    ring: IoUring,
    depth: usize,
    /// Tickets and writes that the kernel works on: their buffers must not move or be freed.
    in_flight: Vec<(u64, Write)>,
    done: VecDeque<Done>,
    bell: Arc<EventBell>,
    bell_armed: bool,
    /// Where the kernel puts the bell's counter; boxed, so that it stays where it is.
    bell_count: Box<u64>,
}

impl Uring {
    /// # Errors
    /// What the kernel says where io_uring is not built in, not allowed, or too old.
    pub(crate) fn new(lane: LaneId, depth: u32) -> io::Result<Self> {
        // One for each write and one for the bell, in a power of two.
        let entries = (depth + 1).next_power_of_two();
        let ring = IoUring::builder().dontfork().build(entries)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        for code in [opcode::Write::CODE, opcode::Read::CODE] {
            if !probe.is_supported(code) {
                return Err(io::Error::other(format!(
                    "io_uring operation {code} is missing"
                )));
            }
        }
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self {
            lane,
            ring,
            depth: depth as usize,
            in_flight: Vec::with_capacity(depth as usize),
            done: VecDeque::with_capacity(depth as usize),
            bell: Arc::new(EventBell { fd }),
            bell_armed: false,
            bell_count: Box::new(0),
        })
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: the entry's buffer is either in `in_flight` or the boxed counter. Both stay
        // where they are until the completion has been seen: `collect` removes a write only
        // then, and `drop` waits for all of them.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))?;
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn arm(&mut self) {
        if self.bell_armed {
            return;
        }
        let into: *mut u64 = &raw mut *self.bell_count;
        let entry = opcode::Read::new(types::Fd(self.bell.fd.as_raw_fd()), into.cast(), 8)
            .build()
            .user_data(BELL);
        // Without a bell a caller waits for the write in flight: slower, not wrong.
        match self.push(&entry) {
            Ok(()) => self.bell_armed = true,
            Err(error) => tracing::warn!(lane = %self.lane, %error, "no bell in io_uring"),
        }
    }

    /// Moves what has completed to `done`; whether the bell was among it.
    fn collect(&mut self) -> bool {
        let mut rung = false;
        while let Some(entry) = self.ring.completion().next() {
            let ticket = entry.user_data();
            if ticket == BELL {
                self.bell_armed = false;
                rung = true;
                continue;
            }
            let at = self.in_flight.iter().position(|(own, _)| *own == ticket);
            let Some(at) = at else {
                tracing::error!(ticket, "io_uring completed what was never submitted");
                continue;
            };
            let (ticket, write) = self.in_flight.swap_remove(at);
            let result = match usize::try_from(entry.result()) {
                Ok(written) => whole(written, write.len, &write.name, write.offset),
                Err(_) => Err(Failure::of("write", &write.name)(
                    io::Error::from_raw_os_error(-entry.result()),
                )),
            };
            self.done.push_back(Done {
                ticket,
                buf: write.buf,
                result,
            });
        }
        rung
    }

    /// Waits for one completion; a signal is no reason to stop.
    fn wait(&self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The ring itself failed: nothing is known of what is in flight, and the kernel may still
    /// read those buffers, so they are given up rather than freed.
    fn give_up(&mut self, error: io::Error) {
        let failure = Failure::of("wait for io_uring of", self.lane.name())(error);
        for (ticket, write) in self.in_flight.drain(..) {
            std::mem::forget(write);
            self.done.push_back(Done {
                ticket,
                buf: super::AlignedBuf::new(),
                result: Err(failure.clone()),
            });
        }
    }
}

impl Engine for Uring {
    fn kind(&self) -> WriteEngine {
        WriteEngine::IoUring {
            in_flight_max: u32::try_from(self.depth).unwrap_or(u32::MAX),
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, ticket: u64, mut write: Write, alone: bool) {
        let fd = write.file.raw_fd();
        let (Some(fd), false) = (fd, alone && self.in_flight.is_empty()) else {
            // One call is cheaper than a ring with one write in it.
            self.done.push_back(at_once(self.lane, ticket, write));
            return;
        };
        if let Err(failure) = write.encode() {
            let (buf, result) = (write.buf, Err(failure));
            self.done.push_back(Done {
                ticket,
                buf,
                result,
            });
            return;
        }
        let (name, offset, len) = (write.name.clone(), write.offset, write.len);
        let Ok(len) = u32::try_from(len) else {
            let result = whole(0, len, &name, offset);
            let buf = write.buf;
            self.done.push_back(Done {
                ticket,
                buf,
                result,
            });
            return;
        };
        let bytes = write.buf.slice(write.len).as_ptr();
        let entry = opcode::Write::new(types::Fd(fd), bytes, len)
            .offset(offset)
            .build()
            .user_data(ticket);
        self.in_flight.push((ticket, write));
        if let Err(error) = self.push(&entry) {
            self.give_up(error);
        }
    }

    fn reap(&mut self, wait: Wait) -> Option<Done> {
        loop {
            let rung = self.collect();
            let done = self.done.pop_front();
            if done.is_some() || self.in_flight.is_empty() || wait == Wait::Not {
                return done;
            }
            if wait == Wait::DoneOrBell {
                if rung {
                    return None;
                }
                self.arm();
            }
            if let Err(error) = self.wait() {
                self.give_up(error);
            }
        }
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        Some(self.bell.clone())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        while !self.in_flight.is_empty() {
            self.collect();
            if self.in_flight.is_empty() {
                break;
            }
            if let Err(error) = self.wait() {
                self.give_up(error);
            }
        }
        // The armed read of the bell points at our counter: end it before the counter goes.
        if self.bell_armed {
            self.bell.ring();
            while self.bell_armed && self.wait().is_ok() {
                self.collect();
            }
            if self.bell_armed {
                Box::leak(std::mem::take(&mut self.bell_count));
            }
        }
    }
}
