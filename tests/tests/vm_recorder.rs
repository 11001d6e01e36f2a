//! The recorder and the shipped rules on real kernels: faults in cgroups of their own.
//!
//! Runs as root in the VM, one test at a time: `cargo xtask test`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use paramedic::{
    diagnosis::{self, DiagnosisConfig, RuleSet, features},
    evidence::{
        EvidenceConfig, KernelCounts, KernelProbes, NoKernel, ProbeState, ProbeStatus, Recorder,
        SyscallPlan, kernel::ProcessCounts,
    },
    incident::{
        Alert, AlertStatus, CgroupId, Diagnosis, Evidence, Fingerprint, Quality, Reading, Source,
        Verdict,
    },
};

const WINDOW: Duration = Duration::from_secs(5);

/// A cgroup with what runs in it; all of it goes away again.
struct Faulty {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Faulty {
    fn new(name: &str) -> Self {
        assert!(
            std::env::var_os("PARAMEDIC_VM").is_some(),
            "this needs cgroup v2 controllers: run it by `cargo xtask test` or `cargo xtask vm`"
        );
        let dir = PathBuf::from("/sys/fs/cgroup").join(name);
        fs::create_dir(&dir).unwrap();
        let children = Vec::new();
        Self { dir, children }
    }

    /// Runs a command inside, from its first instruction on.
    fn run(&mut self, command: &[&str]) {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.dir.display()
        );
        let child = Command::new("/bin/sh")
            .args(["-c", &enter, "sh"])
            .args(command)
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn id(&self) -> CgroupId {
        CgroupId(fs::metadata(&self.dir).unwrap().ino())
    }

    /// One number of a flat-keyed file.
    fn number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).unwrap();
        let words = text.split([' ', '\n', '=']).collect::<Vec<_>>();
        let values = words.windows(2).filter(|pair| pair[0] == key);
        values.map(|pair| pair[1].parse::<u64>().unwrap()).sum()
    }

    fn stop(&mut self) {
        fs::write(self.dir.join("cgroup.kill"), "1").unwrap();
        for mut child in self.children.drain(..) {
            child.wait().unwrap();
        }
        let begun = Instant::now();
        while self.number("cgroup.events", "populated") > 0 && begun.elapsed().as_secs() < 20 {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop();
        fs::remove_dir(&self.dir).unwrap();
    }
}

fn recorder(probes: Arc<dyn KernelProbes>) -> Recorder {
    Recorder::start(&EvidenceConfig::default(), probes).unwrap()
}

fn diagnose(evidence: &Evidence) -> Diagnosis {
    let labels = [("alertname".to_owned(), "HostTrouble".to_owned())].into();
    let alert = Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: [].into(),
        starts_at: jiff::Timestamp::now(),
        ends_at: None,
    };
    let rules = RuleSet::shipped().unwrap();
    let config = DiagnosisConfig::default();
    let answer = diagnosis::diagnose(&rules, &alert, &Source::Manual, evidence, &config);
    println!("window {:.2} s", evidence.window_s);
    for facts in &evidence.cgroups {
        println!("  {} {}", facts.path, table(&facts.readings));
    }
    println!("  host {}", table(&evidence.host));
    println!("{}", diagnosis::explain(&answer));
    answer
}

fn table(readings: &std::collections::BTreeMap<String, Reading>) -> String {
    let one = |(name, reading): (&String, &Reading)| {
        let mark = if reading.quality == Quality::Good {
            ""
        } else {
            "~"
        };
        format!("{name}={mark}{:.4}", reading.value)
    };
    readings.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn host(evidence: &Evidence, name: &str) -> f64 {
    let reading = evidence.host.get(name);
    let reading = reading.unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(reading.quality, Quality::Good, "{name}");
    reading.value
}

fn of(evidence: &Evidence, path: &str, name: &str) -> Reading {
    let facts = evidence.cgroups.iter().find(|facts| facts.path == path);
    let facts = facts.unwrap_or_else(|| panic!("{path} is missing"));
    *facts
        .readings
        .get(name)
        .unwrap_or_else(|| panic!("{name} of {path} is missing"))
}

#[track_caller]
fn assert_within(value: f64, truth: f64, part: f64) {
    assert!(
        (value - truth).abs() <= truth * part,
        "{value}, not within {part} of {truth}"
    );
}

#[track_caller]
fn assert_first(answer: &Diagnosis, id: &str, culprit: Option<CgroupId>) {
    assert_eq!(answer.top[0].id, id);
    let found = answer.top[0].culprit.as_ref();
    assert_eq!(found.map(|found| found.cgroup), culprit, "{found:?}");
}

#[track_caller]
fn assert_conclusive(answer: &Diagnosis) {
    assert!(
        matches!(answer.verdict, Verdict::Conclusive),
        "{:?}",
        answer.verdict
    );
}

#[test]
fn an_idle_machine_is_inconclusive_and_every_reading_is_there() {
    let quiet = Faulty::new("quiet");
    let recorder = recorder(Arc::new(NoKernel));
    thread::sleep(WINDOW + Duration::from_millis(1200));
    let evidence = recorder.evidence(WINDOW);
    let answer = diagnose(&evidence);
    assert!(!matches!(answer.verdict, Verdict::Conclusive));
    assert!(
        (3.9..=5.1).contains(&evidence.window_s),
        "{}",
        evidence.window_s
    );
    assert!(host(&evidence, "cpu.busy") < 0.5);

    for name in [
        "cpu.busy",
        "cpu.iowait",
        "cpu.steal",
        "cpu.count",
        "load.runnable_per_cpu",
        "psi.cpu.some",
        "psi.cpu.full",
        "psi.memory.some",
        "psi.memory.full",
        "psi.io.some",
        "psi.io.full",
        "mem.available",
        "mem.total_bytes",
        "mem.reclaim_per_s",
        "mem.major_faults_per_s",
        "mem.oom_kills",
        "disk.util",
        "fs.used",
        "fs.inodes_used",
        "forks_per_s",
        "procs",
    ] {
        host(&evidence, name);
    }
    assert!(
        !evidence.host.contains_key("execs_per_s"),
        "nobody counts them"
    );
    assert!(!evidence.host.contains_key("swap.used"), "there is no swap");
    for name in [
        "cpu.cores",
        "cpu.share",
        "cpu.throttled",
        "cpu.psi",
        "mem.bytes",
        "mem.share",
        "mem.growth_bytes_per_s",
        "mem.oom_kills",
        "mem.psi",
        "io.bytes_per_s",
        "io.psi",
        "pids",
        "pids.growth_per_s",
    ] {
        assert_eq!(
            of(&evidence, "/quiet", name).quality,
            Quality::Good,
            "{name}"
        );
    }
    for name in evidence.host.keys() {
        assert!(
            features::scope(&format!("host.{name}")).is_some(),
            "host.{name}"
        );
    }
    for name in evidence
        .cgroups
        .iter()
        .flat_map(|facts| facts.readings.keys())
    {
        assert!(features::is_of_cgroup(name), "{name}");
    }
    let root = evidence
        .cgroups
        .iter()
        .find(|facts| facts.path == "/")
        .unwrap();
    assert!(!root.leaf);
    assert_eq!(evidence.cgroup(quiet.id()).unwrap().path, "/quiet");
}

#[test]
fn a_cpu_hog_is_found_and_its_cure_is_seen() {
    let mut hog = Faulty::new("hog");
    let recorder = recorder(Arc::new(NoKernel));
    hog.run(&["/usr/bin/stress-ng", "--cpu", "4"]);
    thread::sleep(Duration::from_secs(3));
    let (begun, used) = (recorder.mark(), hog.number("cpu.stat", "usage_usec"));
    thread::sleep(WINDOW);
    let evidence = recorder.evidence_since(begun);
    let truth = (hog.number("cpu.stat", "usage_usec") - used) as f64 / 1e6;
    let truth = truth / begun.elapsed().as_secs_f64();
    let answer = diagnose(&evidence);
    assert_within(evidence.window_s, 5.0, 0.1);
    assert_within(of(&evidence, "/hog", "cpu.cores").value, truth, 0.1);
    assert_within(of(&evidence, "/hog", "cpu.share").value, truth / 2.0, 0.1);
    assert!(host(&evidence, "cpu.busy") > 0.9);
    assert!(host(&evidence, "psi.cpu.some") > 0.3);
    assert!(of(&evidence, "/hog", "cpu.psi").value > 0.3);
    assert_first(&answer, "cpu-hog", Some(hog.id()));
    assert_conclusive(&answer);

    // A quota takes hold at once: the seconds after it show nothing of the seconds before.
    fs::write(hog.dir.join("cpu.max"), "40000 100000").unwrap();
    let cured = recorder.mark();
    thread::sleep(Duration::from_secs(2));
    let after = recorder.evidence_since(cured);
    diagnose(&after);
    assert_within(after.window_s, 2.0, 0.15);
    assert!(host(&after, "cpu.busy") < 0.6);
    assert_within(of(&after, "/hog", "cpu.cores").value, 0.4, 0.25);
    assert!(of(&after, "/hog", "cpu.throttled").value > 0.5);
}

#[test]
fn a_memory_hog_is_found() {
    let mut hog = Faulty::new("memory-hog");
    let recorder = recorder(Arc::new(NoKernel));
    thread::sleep(Duration::from_secs(2));
    let calm = recorder.evidence(WINDOW);
    let total = calm.host["mem.total_bytes"].value;
    let take = (calm.host["mem.available"].value - 0.06) * total;
    let bytes = format!("{take:.0}");
    let command = [
        "/usr/bin/stress-ng",
        "--vm",
        "1",
        "--vm-bytes",
        &bytes,
        "--vm-keep",
    ];
    hog.run(&[&command[..], &["--vm-populate", "--vm-hang", "0"]].concat());
    let begun = Instant::now();
    loop {
        thread::sleep(Duration::from_secs(1));
        let evidence = recorder.evidence(WINDOW);
        if host(&evidence, "mem.available") < 0.15 || begun.elapsed().as_secs() > 60 {
            break;
        }
    }
    println!("taken after {:.1} s", begun.elapsed().as_secs_f64());
    let evidence = recorder.evidence(WINDOW);
    let answer = diagnose(&evidence);
    let truth = hog.number("memory.stat", "anon") as f64;
    assert_within(of(&evidence, "/memory-hog", "mem.bytes").value, truth, 0.1);
    assert_within(
        of(&evidence, "/memory-hog", "mem.share").value,
        truth / total,
        0.1,
    );
    assert!(of(&evidence, "/memory-hog", "mem.anon_share").value > 0.9);
    assert_first(&answer, "memory-hog", Some(hog.id()));
    assert_conclusive(&answer);
}

/// Counts the whole node's forks for one cgroup: what the fork probe would say here.
#[derive(Debug)]
struct AllForks(CgroupId);

impl KernelProbes for AllForks {
    fn counts(&self) -> KernelCounts {
        let forks = forks_so_far();
        let counts = ProcessCounts {
            forks,
            ..ProcessCounts::default()
        };
        KernelCounts {
            processes: [(self.0, counts)].into(),
            ..KernelCounts::default()
        }
    }
    fn statuses(&self) -> Vec<ProbeStatus> {
        vec![ProbeStatus {
            name: "fork",
            state: ProbeState::Attached,
            kind: "/proc/stat".to_owned(),
            fallback: "",
            why: None,
            events: 0,
            drops: 0,
        }]
    }
    fn watch(&self, _plan: &SyscallPlan) -> bool {
        false
    }
}

fn forks_so_far() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("processes "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_fork_storm_is_found() {
    let mut storm = Faulty::new("storm");
    let _other = Faulty::new("other");
    let recorder = recorder(Arc::new(AllForks(storm.id())));
    // vfork: an emulated CPU that others share makes only 50 to 100 whole forks a second.
    storm.run(&["/usr/bin/stress-ng", "--vfork", "4"]);
    thread::sleep(Duration::from_secs(2));
    let (begun, forks) = (recorder.mark(), forks_so_far());
    thread::sleep(WINDOW);
    let evidence = recorder.evidence_since(begun);
    let truth = (forks_so_far() - forks) as f64 / begun.elapsed().as_secs_f64();
    let answer = diagnose(&evidence);
    assert_within(host(&evidence, "forks_per_s"), truth, 0.1);
    assert_within(of(&evidence, "/storm", "forks_per_s").value, truth, 0.15);
    assert_first(&answer, "fork-storm", Some(storm.id()));
    assert_conclusive(&answer);
}

#[test]
fn without_a_probe_a_storm_is_seen_by_its_processes_and_that_is_partial() {
    let mut storm = Faulty::new("storm");
    let _other = Faulty::new("other");
    let recorder = recorder(Arc::new(NoKernel));
    storm.run(&["/usr/bin/stress-ng", "--fork", "8"]);
    thread::sleep(Duration::from_secs(2));
    let (begun, forks) = (recorder.mark(), forks_so_far());
    thread::sleep(WINDOW);
    let evidence = recorder.evidence_since(begun);
    let truth = (forks_so_far() - forks) as f64 / begun.elapsed().as_secs_f64();
    let answer = diagnose(&evidence);
    let forks = of(&evidence, "/storm", "forks_per_s");
    assert_within(forks.value, truth, 0.3);
    assert_eq!(forks.quality, Quality::Partial);
    assert!(of(&evidence, "/storm", "forks.share").value > 0.8);
    assert!(answer.top[0].id != "fork-storm" || !matches!(answer.verdict, Verdict::Conclusive));
}

#[test]
fn fork_rates_of_this_machine() {
    for (kind, workers) in [
        ("--fork", "4"),
        ("--fork", "8"),
        ("--fork", "16"),
        ("--vfork", "4"),
    ] {
        let mut storm = Faulty::new("rates");
        storm.run(&["/usr/bin/stress-ng", kind, workers]);
        thread::sleep(Duration::from_secs(1));
        let (begun, forks) = (Instant::now(), forks_so_far());
        thread::sleep(Duration::from_secs(3));
        let rate = (forks_so_far() - forks) as f64 / begun.elapsed().as_secs_f64();
        println!("stress-ng {kind} {workers}: {rate:.0} forks/s");
        assert!(rate > 20.0);
    }
}

#[test]
fn a_disk_writer_is_seen() {
    let mut writer = Faulty::new("writer");
    let recorder = recorder(Arc::new(NoKernel));
    let write = "while :; do dd if=/dev/zero of=/run/disk/written bs=1M count=64 oflag=direct conv=notrunc; done";
    writer.run(&["/bin/sh", "-c", write]);
    writer.run(&["/bin/sh", "-c", &write.replace("written", "also-written")]);
    thread::sleep(Duration::from_secs(2));
    let (begun, written) = (recorder.mark(), writer.number("io.stat", "wbytes"));
    thread::sleep(WINDOW);
    let evidence = recorder.evidence_since(begun);
    let truth =
        (writer.number("io.stat", "wbytes") - written) as f64 / begun.elapsed().as_secs_f64();
    let answer = diagnose(&evidence);
    assert_within(of(&evidence, "/writer", "io.bytes_per_s").value, truth, 0.1);
    assert!(of(&evidence, "/writer", "io.share").value > 0.8);
    assert!(host(&evidence, "psi.io.some") > 0.2);
    assert!(of(&evidence, "/writer", "io.psi").value > 0.2);
    assert!(host(&evidence, "disk.util") > 0.3);
    assert!(host(&evidence, "disk.await_s") > 0.0);
    println!("first: {} {:?}", answer.top[0].id, answer.verdict);
    writer.stop();
    fs::remove_file("/run/disk/written").unwrap();
    fs::remove_file("/run/disk/also-written").unwrap();
}

#[test]
fn a_full_filesystem_is_seen() {
    let quiet = Faulty::new("quiet");
    let recorder = recorder(Arc::new(NoKernel));
    let free = {
        let stat = rustix::fs::statvfs("/run/disk").unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let size = format!("{free}");
    let filled = Command::new("/usr/bin/fallocate")
        .args(["-l", &size, "/run/disk/filler"])
        .status()
        .unwrap();
    let written = fs::metadata("/run/disk/filler").map_or(0, |file| file.len());
    println!("fallocate of {free}: {filled}, {written} bytes");
    thread::sleep(Duration::from_secs(5));
    let evidence = recorder.evidence(WINDOW);
    let answer = diagnose(&evidence);
    fs::remove_file("/run/disk/filler").unwrap();
    assert!(host(&evidence, "fs.used") > 0.97);
    assert_first(&answer, "disk-full", None);
    assert_conclusive(&answer);
    thread::sleep(Duration::from_millis(1100));
    assert!(host(&recorder.evidence(WINDOW), "fs.used") < 0.5);
    drop(quiet);
}

#[test]
fn thousands_of_cgroups_cost_bounded_memory_and_little_time() {
    let parent = Faulty::new("many");
    let recorder = recorder(Arc::new(NoKernel));
    let names: Vec<PathBuf> = (0..2000)
        .map(|n| parent.dir.join(format!("c{n}")))
        .collect();
    for dir in &names {
        fs::create_dir(dir).unwrap();
    }
    for _ in 0..5 {
        recorder.mark();
    }
    let with = recorder.stats();
    println!(
        "{} cgroups: {:?} of CPU a sample, {} windows of {} KiB",
        with.cgroups,
        with.sample_took,
        with.windows,
        with.bytes / 1024
    );
    let plainly = read_plainly(&names);
    println!("{plainly:?} of CPU to open and read their files one by one");
    let evidence = recorder.evidence(WINDOW);
    for dir in &names {
        fs::remove_dir(dir).unwrap();
    }
    recorder.mark();
    let without = recorder.stats();
    println!(
        "{} cgroups: {:?} of CPU a sample",
        without.cgroups, without.sample_took
    );
    let kept = EvidenceConfig::default().cgroups_kept;
    assert!(with.cgroups >= 2001 && without.cgroups < 50);
    assert!(evidence.cgroups.len() <= kept);
    assert!(with.bytes <= with.windows * kept * 512, "{}", with.bytes);
    // By the same machine's measure: an emulated one is as slow as its host is busy.
    assert!(
        with.sample_took < plainly * 2,
        "{:?}, and {plainly:?} to read them plainly",
        with.sample_took
    );
}

/// This thread's CPU time for opening, reading and closing what a sample reads of each cgroup.
fn read_plainly(cgroups: &[PathBuf]) -> Duration {
    const FILES: [&str; 12] = [
        "cpu.stat",
        "cpu.pressure",
        "memory.pressure",
        "io.pressure",
        "pids.current",
        "pids.max",
        "memory.current",
        "memory.stat",
        "memory.events",
        "memory.max",
        "memory.high",
        "io.stat",
    ];
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(now).unwrap()
    };
    let before = now();
    let mut read = 0;
    for dir in cgroups {
        for file in FILES {
            read += usize::from(fs::read(dir.join(file)).is_ok());
        }
    }
    let took = now() - before;
    assert!(
        read >= 4 * cgroups.len(),
        "{read} files of {}",
        cgroups.len()
    );
    took
}

#[test]
fn a_short_lived_cgroup_is_remembered() {
    let recorder = recorder(Arc::new(NoKernel));
    let id = {
        let mut short = Faulty::new("short-lived");
        short.run(&["/usr/bin/stress-ng", "--cpu", "1"]);
        thread::sleep(Duration::from_millis(3500));
        short.id()
    };
    thread::sleep(Duration::from_millis(1100));
    let evidence = recorder.evidence(WINDOW);
    let facts = evidence.cgroup(id).expect("it is remembered");
    assert_eq!(facts.path, "/short-lived");
    assert!(facts.readings["cpu.cores"].value > 0.2);
    assert_eq!(facts.readings["cpu.cores"].quality, Quality::Partial);
    assert!(!facts.readings.contains_key("mem.bytes"));
}
