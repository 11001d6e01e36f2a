//! `bench diagnosis`: time and allocations of one diagnosis by the number of rules.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use paramedic::{
    diagnosis::{DiagnosisConfig, RuleSet, diagnose},
    incident::{Alert, AlertStatus, CgroupFacts, CgroupId, Evidence, Fingerprint, Reading, Source},
};
use serde_json::json;

/// Sizes of rule sets.
const RULES: [usize; 3] = [30, 300, 3000];
/// Features of each rule; the second size tells what a feature costs.
const FEATURES: [usize; 2] = [6, 12];
/// Cgroups in the evidence.
const CGROUPS: u64 = 64;

/// Options of `bench diagnosis`.
#[derive(Debug, clap::Parser)]
#[command(name = "bench diagnosis")]
pub struct Options {
    /// Diagnoses of each size
    #[arg(long, default_value_t = 2000)]
    runs: usize,
    /// JSON lines instead of text
    #[arg(long)]
    json: bool,
}

/// Counts what the benchmark's program allocates.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`; the block is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`; the block is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

struct Measured {
    p50_us: f64,
    p99_us: f64,
    allocations: f64,
}

/// Measures every size; the last line is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let evidence = evidence();
    let alert = alert();
    let mut rows = BTreeMap::new();
    for rules in RULES {
        for features in FEATURES {
            let set = rule_set(rules, features)?;
            let measured = measure(&set, &alert, &evidence, options.runs * 300 / rules.max(300));
            if options.json {
                println!(
                    "{}",
                    json!({"rules": rules, "features": features, "p50_us": measured.p50_us,
                        "p99_us": measured.p99_us, "allocations": measured.allocations})
                );
            } else {
                println!(
                    "{rules:>5} rules x {features:>2} features  p50 {:>8.1} us  p99 {:>8.1} us  {:>6.0} allocations",
                    measured.p50_us, measured.p99_us, measured.allocations
                );
            }
            rows.insert((rules, features), measured);
        }
    }
    let [few, many] = FEATURES;
    let p50 = |rules| rows[&(rules, many)].p50_us;
    let per_feature = (rows[&(3000, many)].allocations - rows[&(3000, few)].allocations)
        / (3000.0 * (many - few) as f64);
    let per_rule = (rows[&(3000, many)].allocations - rows[&(300, many)].allocations) / 2700.0;
    let summary = json!({
        "p99_ms_30": rows[&(30, many)].p99_us / 1e3,
        "p99_ms_300": rows[&(300, many)].p99_us / 1e3,
        "p99_ms_3000": rows[&(3000, many)].p99_us / 1e3,
        // 1 = ten times the rules take ten times as long.
        "growth_300_to_3000": p50(3000) / p50(300) / 10.0,
        "allocations_per_feature": per_feature,
        "allocations_per_rule": per_rule,
        "allocations_300": rows[&(300, many)].allocations,
    });
    println!("{summary}");
    Ok(())
}

fn measure(set: &RuleSet, alert: &Alert, evidence: &Evidence, runs: usize) -> Measured {
    let config = DiagnosisConfig::default();
    let source = Source::Manual;
    let runs = runs.max(50);
    let mut times = Vec::with_capacity(runs);
    let mut allocations = 0;
    for run in 0..runs + runs / 10 {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let begun = Instant::now();
        let diagnosis = diagnose(set, alert, &source, evidence, &config);
        let took = begun.elapsed();
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        std::hint::black_box(diagnosis);
        // The first tenth warms up.
        if run >= runs / 10 {
            times.push(took.as_secs_f64() * 1e6);
            allocations += after - before;
        }
    }
    times.sort_by(f64::total_cmp);
    Measured {
        p50_us: times[times.len() / 2],
        p99_us: times[times.len() * 99 / 100],
        allocations: allocations as f64 / times.len() as f64,
    }
}

/// Of one file: what a parser takes at once is bounded.
const RULES_OF_FILE: usize = 300;

/// Rules as people write them, over readings in turn.
fn rule_set(rules: usize, features: usize) -> anyhow::Result<RuleSet> {
    const READINGS: [&str; 12] = [
        "host.cpu.busy",
        "top_share.cpu.cores",
        "culprit.cpu.share",
        "host.mem.available",
        "host.psi.io.some",
        "bystanders.psi.cpu",
        "host.forks_per_cpu_s",
        "culprit.mem.exhausts_in_s",
        "host.disk.util",
        "top_share.mem.bytes",
        "culprit.pids",
        "host.fs.used",
    ];
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for rule in 0..rules {
        if rule % RULES_OF_FILE == 0 {
            let name = format!("bench-{}.yaml", files.len());
            files.push((name.into(), "family: bench\nhypotheses:\n".to_owned()));
        }
        let Some((_, text)) = files.last_mut() else {
            continue;
        };
        writeln!(
            text,
            "  - id: rule-{rule}\n    title: a rule\n    description: made up\n    prior: 0.01\n    culprit: {{by: {}, min_share: 0.3}}\n    applies: {{alerts: [\"Host.*\"]}}\n    features:",
            ["cpu.cores", "mem.bytes", "pids"][rule % 3]
        )?;
        for feature in 0..features {
            let reading = READINGS[(rule + feature) % READINGS.len()];
            writeln!(
                text,
                "      - {{id: f{feature}, reading: {reading}, at_least: {}, given_cause: 0.9, otherwise: 0.2, decisive: {}, group: g{}, says: it is so}}",
                0.1 + 0.05 * (rule % 9) as f64,
                feature == 0,
                feature / 2
            )?;
        }
    }
    let files = files.iter();
    RuleSet::parse(files.map(|(name, text)| (name.as_path(), text.as_str())))
        .map_err(|findings| {
            anyhow!(
                "{}",
                findings
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            )
        })
        .context("the benchmark's own rules")
}

fn alert() -> Alert {
    let labels = BTreeMap::from([("alertname".to_owned(), "HostHighCpu".to_owned())]);
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: BTreeMap::new(),
        starts_at: Timestamp::UNIX_EPOCH,
        ends_at: None,
    }
}

fn evidence() -> Evidence {
    let readings = |pairs: &[(&str, f64)]| {
        let named = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Reading::good(*value)));
        named.collect::<BTreeMap<_, _>>()
    };
    Evidence {
        window_s: 3.0,
        host: readings(&[
            ("cpu.busy", 0.9),
            ("cpu.count", 8.0),
            ("mem.available", 0.3),
            ("mem.total_bytes", 1.6e10),
            ("psi.io.some", 0.1),
            ("forks_per_s", 20.0),
            ("disk.util", 0.4),
            ("fs.used", 0.6),
        ]),
        cgroups: (0..CGROUPS)
            .map(|id| CgroupFacts {
                id: CgroupId(id + 1),
                path: format!("/system.slice/unit-{id}.service"),
                leaf: true,
                readings: readings(&[
                    ("cpu.cores", if id == 7 { 6.0 } else { 0.02 }),
                    ("cpu.share", if id == 7 { 0.75 } else { 0.0025 }),
                    ("cpu.psi", 0.1),
                    ("mem.bytes", if id == 9 { 8e9 } else { 2e7 }),
                    ("mem.growth_bytes_per_s", 1e4),
                    ("pids", if id == 11 { 900.0 } else { 5.0 }),
                ]),
            })
            .collect(),
        ..Evidence::nothing(Timestamp::UNIX_EPOCH)
    }
}
