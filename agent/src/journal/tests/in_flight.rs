//! Every order in which four batches in flight can be done, with every set of them failing.

use std::io;
use std::sync::Arc;

use super::super::LaneId;
use super::super::block::sim::SimDisk;
use super::super::block::{Access, BlockFile, Disk};
use super::super::engine::{Bell, Done, Engine, Wait, Write, WriteEngine, at_once};
use super::super::error::Failure;
use super::{look, pool_config, store, submit};

/// Batches, and as many in flight: a new log begins with a segment, not with a fence.
const BATCHES: u64 = 4;

/// How the engine treats the batches with tickets 0 to 3.
#[derive(Clone, Debug)]
struct Script {
    order: Vec<u64>,
    failing: u32,
}

/// Completes what it holds in the order of the script.
struct Scripted {
    script: Script,
    held: Vec<(u64, Write)>,
}

impl Engine for Scripted {
    fn kind(&self) -> WriteEngine {
        WriteEngine::Pwrite
    }

    fn depth(&self) -> usize {
        BATCHES as usize
    }

    fn submit(&mut self, ticket: u64, mut write: Write, _alone: bool) {
        write.encode().expect("encodes");
        self.held.push((ticket, write));
    }

    fn reap(&mut self, wait: Wait) -> Option<Done> {
        if wait == Wait::Not {
            return None;
        }
        let held = |ticket: &u64| self.held.iter().position(|(own, _)| own == ticket);
        let next = self.script.order.iter().find_map(held);
        let next = next.or_else(|| (!self.held.is_empty()).then_some(0))?;
        let (ticket, write) = self.held.remove(next);
        if self.script.failing >> ticket & 1 == 1 {
            let error = io::Error::from_raw_os_error(libc::EIO);
            return Some(Done {
                ticket,
                buf: write.buf,
                result: Err(Failure::of("write", &write.name)(error)),
            });
        }
        Some(at_once(LaneId::Safe, ticket, write))
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        None
    }
}

/// The simulated disk with that engine.
struct ScriptedDisk {
    disk: SimDisk,
    script: Script,
}

impl Disk for ScriptedDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn BlockFile>> {
        self.disk.open(name, access)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn engines(&self, _: LaneId, _: u32) -> Vec<Box<dyn Engine>> {
        vec![Box::new(Scripted {
            script: self.script.clone(),
            held: Vec::new(),
        })]
    }
}

fn orders() -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    for ticket in 0..BATCHES {
        all = all
            .iter()
            .flat_map(|order: &Vec<u64>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, ticket);
                    longer
                })
            })
            .collect();
    }
    all
}

/// Runs the script in segments of `blocks` and says how many batches were acknowledged, and
/// whether the lane ended with an error; what is on the disk after a power cut must fit.
fn run(script: &Script, blocks: u64) -> (u64, bool) {
    let what = format!("{script:?}, segments of {blocks} blocks");
    let disk = SimDisk::new(u64::from(script.failing));
    let (scan, _) = look(&disk, LaneId::Safe).expect("reads");
    let shared: Arc<dyn Disk> = Arc::new(ScriptedDisk {
        disk: disk.clone(),
        script: script.clone(),
    });
    let config = pool_config(4096 * blocks);
    let opened = store::writable(&shared, LaneId::Safe, &config, [7; 16], &scan);
    let (mut lane, _pool) = opened.expect("opens");
    let payloads: Vec<Vec<u8>> = (1..=BATCHES).map(|nth| vec![nth as u8; 100]).collect();
    let mut failed = false;
    for payload in &payloads {
        failed |= !failed && submit(&mut lane, std::slice::from_ref(payload)).is_err();
    }
    let mut acknowledged = 0;
    while !failed {
        match lane.reap(Wait::Done) {
            Ok(Some(committed)) => {
                acknowledged += 1;
                assert_eq!(committed.first_lsn, acknowledged, "{what}: out of order");
            }
            Ok(None) => break,
            Err(_) => failed = true,
        }
    }
    disk.power_cycle();
    let (scan, seen) = look(&disk, LaneId::Safe).expect("reads");
    assert_eq!(scan.corruption, None, "{what}");
    assert!(seen.len() as u64 >= acknowledged, "{what}: lost");
    for ((lsn, payload), nth) in seen.iter().zip(1..) {
        assert_eq!(
            (*lsn, payload),
            (nth, &payloads[nth as usize - 1]),
            "{what}"
        );
    }
    (acknowledged, failed)
}

#[test]
pub(super) fn every_order_of_completion_is_acknowledged_in_order() {
    let mut runs = 0;
    for order in orders() {
        for failing in 0..1 << BATCHES {
            let script = Script {
                order: order.clone(),
                failing,
            };
            let intact = u64::from(failing.trailing_zeros()).min(BATCHES);
            let (acknowledged, failed) = run(&script, 16);
            assert_eq!((acknowledged, failed), (intact, failing != 0), "{script:?}");
            // A header and two batches fill the first segment: the third waits for both.
            let (acknowledged, failed) = run(&script, 3);
            assert!(acknowledged <= intact, "{script:?}");
            assert_eq!(failed, failing != 0, "{script:?}");
            runs += 2;
        }
    }
    println!(
        "journal: {runs} orders of completion with every set of failures, none acknowledged out of order"
    );
    assert_eq!(runs, 2 * 24 * 16);
}
