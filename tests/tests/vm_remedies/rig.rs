//! Scratch cgroups, hogs in them, and a diagnosis that blames one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use paramedic::{
    clock::SystemClock,
    incident::{
        ActionKind, Alert, AlertStatus, CgroupFacts, CgroupId, Culprit, Diagnosis, Episode,
        EpisodeId, Evidence, Fingerprint, Hypothesis, Level, Reading, Source, Suggestion,
        TraceContext, Verdict,
    },
    remedy::{Remedies, RemedyConfig},
};

pub const MOUNT: &str = "/sys/fs/cgroup";

/// A cgroup that goes away with everything in it.
pub struct Scratch {
    pub path: String,
    dir: PathBuf,
    hogs: Vec<Child>,
}

impl Scratch {
    pub fn new(path: &str) -> Self {
        assert!(
            std::env::var_os("PARAMEDIC_VM").is_some(),
            "needs cgroup limits: run by `cargo xtask test --part kernel`"
        );
        let dir = Path::new(MOUNT).join(path.trim_start_matches('/'));
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Self {
            path: path.to_owned(),
            dir,
            hogs: Vec::new(),
        }
    }

    pub fn id(&self) -> CgroupId {
        CgroupId(fs::metadata(&self.dir).unwrap().ino())
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file))
            .unwrap()
            .trim_end()
            .to_owned()
    }

    pub fn write(&self, file: &str, value: &str) {
        let file = self.dir.join(file);
        fs::write(&file, value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// A field of a flat-keyed file such as `cpu.stat`.
    pub fn field(&self, file: &str, key: &str) -> u64 {
        let text = self.read(file);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{file} has no {key}"))
            .parse()
            .unwrap()
    }

    /// Starts a program inside.
    pub fn hog(&mut self, program: &str, args: &[&str]) {
        let enter = format!(
            "echo $$ > '{}/cgroup.procs' && exec \"$0\" \"$@\"",
            self.dir.display()
        );
        let child = Command::new("/bin/sh")
            .args(["-c", &enter, program])
            .args(args)
            // stress-ng wants to write where it is.
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.hogs.push(child);
        until("the hog is inside", || {
            self.read("cgroup.events").contains("populated 1")
        });
    }

    /// Waits until the hogs use this many CPUs; programs start slowly in an emulated machine.
    pub fn until_cpus(&self, at_least: f64) {
        until("the hog uses its CPUs", || self.cpus() >= at_least);
    }

    /// Waits until it holds this much memory.
    pub fn until_bytes(&self, at_least: u64) {
        until("the hog has its memory", || {
            self.read("memory.current").parse::<u64>().unwrap() >= at_least
        });
    }

    /// CPUs used over a second and a half.
    pub fn cpus(&self) -> f64 {
        let (begun, before) = (Instant::now(), self.field("cpu.stat", "usage_usec"));
        thread::sleep(Duration::from_millis(1500));
        let used = self.field("cpu.stat", "usage_usec") - before;
        used as f64 / 1e6 / begun.elapsed().as_secs_f64()
    }

    /// Kills what is inside and removes it, leaving the path free.
    pub fn remove(&mut self) {
        if !self.dir.exists() {
            return;
        }
        fs::write(self.dir.join("cgroup.kill"), "1").unwrap();
        for mut hog in self.hogs.drain(..) {
            hog.wait().unwrap();
        }
        until("the cgroup is removed", || {
            fs::remove_dir(&self.dir).is_ok()
        });
    }

    /// Another cgroup under the same path.
    pub fn replace(&mut self) {
        self.remove();
        fs::create_dir(&self.dir).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() {
            drop(fs::write(self.dir.join("cgroup.kill"), "1"));
            thread::sleep(Duration::from_secs(1));
            drop(fs::remove_dir(&self.dir));
        } else {
            self.remove();
        }
    }
}

/// A swap file on the VM's disk.
pub struct Swap(&'static str);

impl Swap {
    pub fn on(bytes: usize) -> Self {
        let file = "/run/disk/swap";
        fs::write(file, vec![0; bytes]).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        run("/sbin/mkswap", &["-q", file]);
        run("/sbin/swapon", &[file]);
        Self(file)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("/sbin/swapoff", &[self.0]);
        fs::remove_file(self.0).unwrap();
    }
}

/// Runs a program of the machine.
pub fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// Waits up to 30 seconds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Processes created since boot, of the whole VM.
pub fn forks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("processes "));
    line.unwrap().parse().unwrap()
}

/// Bytes of a line of /proc/meminfo.
pub fn meminfo(key: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib: f64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024.0
}

/// A node that acts.
pub fn acting() -> RemedyConfig {
    let mut config = RemedyConfig {
        level: Level::Act,
        ..RemedyConfig::default()
    };
    config.limits.target_cooldown_s = 0;
    config.limits.actions_per_hour = 1000;
    config
}

pub fn remedies(config: &RemedyConfig) -> Remedies {
    assert_eq!(config.problems(), Vec::<String>::new());
    Remedies::new(config, SystemClock::shared())
}

pub fn suggest(action: ActionKind, amount: Option<f64>) -> Suggestion {
    Suggestion {
        action,
        amount,
        level: Level::Act,
        dry_run: false,
    }
}

/// A diagnosis that blames `path` and asks for these.
pub fn blame(path: &str, cgroup: CgroupId, remedies: Vec<Suggestion>) -> Diagnosis {
    Diagnosis {
        top: vec![Hypothesis {
            id: "test".to_owned(),
            title: "a test".to_owned(),
            posterior: 0.95,
            interval: None,
            prior: 0.5,
            culprit: Some(Culprit {
                cgroup,
                path: path.to_owned(),
                chosen_by: "cpu.cores".to_owned(),
                value: 1.0,
            }),
            features: Vec::new(),
            notes: Vec::new(),
            recovery: Vec::new(),
            remedies,
        }],
        unknown: 0.05,
        excluded: Vec::new(),
        verdict: Verdict::Conclusive,
        took_us: 1,
    }
}

/// Evidence with a busy node and these readings of one cgroup.
pub fn evidence(path: &str, cgroup: CgroupId, readings: &[(&str, f64)]) -> Evidence {
    let cpus = thread::available_parallelism().unwrap().get() as f64;
    let host = [("cpu.busy", 1.0), ("cpu.count", cpus)];
    let good = |list: &[(&str, f64)]| -> BTreeMap<String, Reading> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), Reading::good(*value)))
            .collect()
    };
    Evidence {
        window_s: 5.0,
        host: good(&host),
        cgroups: vec![CgroupFacts {
            id: cgroup,
            path: path.to_owned(),
            leaf: true,
            readings: good(readings),
        }],
        ..Evidence::nothing(Timestamp::now())
    }
}

/// An episode of an alert that began just now.
pub fn episode(n: u8) -> Episode {
    let labels = BTreeMap::from([("alertname".to_owned(), "Test".to_owned())]);
    Episode {
        id: EpisodeId([n; 16]),
        tenant: "default".parse().unwrap(),
        alert: Alert {
            status: AlertStatus::Firing,
            fingerprint: Fingerprint::of(&labels),
            labels,
            annotations: BTreeMap::new(),
            starts_at: Timestamp::now(),
            ends_at: None,
        }
        .into(),
        source: Source::Manual,
        opened_at: Timestamp::now(),
        trace: TraceContext {
            trace_id: "1".repeat(32),
            span_id: "2".repeat(16),
            sampled: true,
            begun_here: false,
        },
    }
}

/// A cell of `cargo xtask test remedies`' table is filled: printed when everything that it stands for has
/// held.
pub fn cell(action: ActionKind, what: &str) {
    println!("cell: {action} {what}");
}

/// Plans for a scratch cgroup with one suggestion.
pub fn plan(
    remedies: &Remedies,
    target: &Scratch,
    suggestion: Suggestion,
    readings: &[(&str, f64)],
) -> Result<paramedic::incident::Intent, paramedic::incident::Refusal> {
    let (path, id) = (&target.path, target.id());
    remedies.plan(
        &blame(path, id, vec![suggestion]),
        &evidence(path, id, readings),
        &episode(1),
        Timestamp::now(),
    )
}
