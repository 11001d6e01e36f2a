//! Several writes in flight on the simulated disk: they reach it in pieces, in any order and mixed
//! with one another, so that a crash leaves any part of each.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::super::engine::{Bell, Done, Engine, Wait, Write, WriteEngine, whole};
use super::super::super::error::Failure;
use super::super::DirectIo;
use super::{Rng, SECTOR};

pub(crate) struct SimEngine {
    depth: usize,
    rng: Rng,
    in_flight: Vec<InFlight>,
    done: VecDeque<Done>,
}

struct InFlight {
    ticket: u64,
    write: Write,
    /// Offsets and lengths of the pieces not yet written, in the order in which they will be.
    pieces: Vec<(usize, usize)>,
    written: usize,
    failed: Option<Failure>,
}

impl SimEngine {
    pub(crate) fn new(depth: u32, seed: u64) -> Self {
        Self {
            depth: depth as usize,
            rng: Rng(seed),
            in_flight: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// Writes the next piece of one.
    fn step(&mut self, at: usize) {
        let flight = &mut self.in_flight[at];
        if let Some((from, len)) = flight.pieces.pop() {
            let write = &mut flight.write;
            let bytes = &write.buf.slice(write.len)[from..from + len];
            match write.file.write_at(bytes, write.offset + from as u64) {
                Ok(written) => flight.written += written,
                Err(error) => {
                    flight.failed = Some(Failure::of("write", &write.name)(error));
                    flight.pieces.clear();
                }
            }
        }
        if flight.pieces.is_empty() {
            let InFlight {
                ticket,
                write,
                written,
                failed,
                ..
            } = self.in_flight.swap_remove(at);
            let result =
                failed.map_or_else(|| whole(written, write.len, &write.name, write.offset), Err);
            self.done.push_back(Done {
                ticket,
                buf: write.buf,
                result,
            });
        }
    }
}

impl Engine for SimEngine {
    fn kind(&self) -> WriteEngine {
        WriteEngine::IoUring {
            in_flight_max: self.depth as u32,
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, ticket: u64, mut write: Write, _alone: bool) {
        write.encode().expect("nothing is given up here");
        let alignment = match write.file.direct() {
            DirectIo::Used { alignment } => alignment as usize,
            DirectIo::NotWanted | DirectIo::Refused { .. } => SECTOR,
        };
        // A few cuts: every one is a place at which a crash can come in between.
        let blocks = write.len / alignment;
        let mut cuts = vec![0, blocks];
        for _ in 0..self.rng.below(3) {
            cuts.push(self.rng.below(blocks));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<_> = cuts
            .windows(2)
            .map(|cut| (cut[0] * alignment, (cut[1] - cut[0]) * alignment))
            .collect();
        for i in (1..pieces.len()).rev() {
            let other = self.rng.below(i + 1);
            pieces.swap(i, other);
        }
        self.in_flight.push(InFlight {
            ticket,
            write,
            pieces,
            written: 0,
            failed: None,
        });
        // Some of it may happen at once.
        for _ in 0..self.rng.below(3) {
            if !self.in_flight.is_empty() {
                let at = self.rng.below(self.in_flight.len());
                self.step(at);
            }
        }
    }

    fn reap(&mut self, wait: Wait) -> Option<Done> {
        while wait != Wait::Not && self.done.is_empty() && !self.in_flight.is_empty() {
            let at = self.rng.below(self.in_flight.len());
            self.step(at);
        }
        self.done.pop_front()
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        None
    }
}
