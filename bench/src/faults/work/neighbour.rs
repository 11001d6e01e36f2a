//! The noisy neighbour: an ordinary service that does a little of everything, so that no fault is seen
//! on an idle machine.

use std::{
    fs::File,
    io::Write,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{cpu::spin, every};

/// One round of its CPU work and rest.
const ROUND: Duration = Duration::from_millis(50);

/// What it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct Habits {
    /// CPUs that it keeps busy, 0 to 1
    #[arg(long)]
    pub cpus: f64,
    /// Memory that it holds, MiB
    #[arg(long)]
    pub mib: usize,
    /// Small synced writes a second
    #[arg(long)]
    pub writes_per_s: f64,
    /// Programs that it starts a second
    #[arg(long)]
    pub execs_per_s: f64,
    /// Connections to itself a second
    #[arg(long)]
    pub connects_per_s: f64,
    /// Where it writes
    #[arg(long)]
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Habits {
    /// As arguments of the program.
    pub fn arguments(&self) -> Vec<String> {
        vec![
            "neighbour".into(),
            format!("--cpus={}", self.cpus),
            format!("--mib={}", self.mib),
            format!("--writes-per-s={}", self.writes_per_s),
            format!("--execs-per-s={}", self.execs_per_s),
            format!("--connects-per-s={}", self.connects_per_s),
            format!("--folder={}", self.folder.display()),
        ]
    }
}

pub(super) fn live(habits: &Habits) -> anyhow::Result<()> {
    let memory = vec![1_u8; habits.mib << 20];
    let file = habits.folder.join("neighbour");
    let (writes, execs) = (every(habits.writes_per_s), every(habits.execs_per_s));
    let mut log = File::create(file)?;
    thread::spawn(move || {
        while log.write_all(&[1; 512]).is_ok() && log.sync_data().is_ok() {
            thread::sleep(writes);
        }
    });
    thread::spawn(move || {
        loop {
            let mut program = Command::new("/bin/true");
            program.stdin(Stdio::null());
            drop(program.status());
            thread::sleep(execs);
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, connects) = (listener.local_addr()?, every(habits.connects_per_s));
    thread::spawn(move || for _ in listener.incoming() {});
    thread::spawn(move || {
        loop {
            drop(TcpStream::connect(address));
            thread::sleep(connects);
        }
    });
    let work = ROUND.mul_f64(habits.cpus.clamp(0.0, 1.0));
    loop {
        let begun = Instant::now();
        spin(work);
        std::hint::black_box(&memory);
        thread::sleep(ROUND.saturating_sub(begun.elapsed()));
    }
}
