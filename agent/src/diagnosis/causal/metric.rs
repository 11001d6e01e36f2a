//! What a column measures, by its name.

use serde::{Deserialize, Serialize};

/// Kinds of metrics, which are also the families of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Seconds a request takes.
    Latency,
    /// Failed requests, a count or a share; or the successful share, see `is_success`.
    Errors,
    /// Requests.
    Traffic,
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Disks and files.
    Disk,
    /// Packets, connections.
    Network,
    /// Anything else.
    Other,
}

impl Kind {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::Traffic => "traffic",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Other => "other",
        }
    }

    /// Whether it belongs to the entity itself rather than to its requests.
    pub fn is_resource(self) -> bool {
        matches!(
            self,
            Self::Cpu | Self::Memory | Self::Disk | Self::Network | Self::Other
        )
    }
}

/// Words by which a name is known, in the order in which they are tried. A word matches a token of
/// the name; one that ends in `*`, the beginning of a token.
const WORDS: &[(Kind, &[&str])] = &[
    (
        Kind::Errors,
        &[
            "availab*",
            "success*",
            "error*",
            "err",
            "errs",
            "fail*",
            "fault*",
            "exception*",
            "5xx",
            "4xx",
            "timeout*",
            "abort*",
            "reject*",
            "unavailab*",
            "sli",
        ],
    ),
    (
        Kind::Cpu,
        &[
            "cpu*",
            "processor*",
            "load1",
            "load5",
            "load15",
            "loadavg",
            "steal",
            "throttl*",
        ],
    ),
    (
        Kind::Memory,
        &[
            "mem",
            "memory*",
            "rss",
            "heap*",
            "swap*",
            "oom*",
            "gc",
            "workingset",
            "working",
            "pgmajfault",
            "pagefault*",
        ],
    ),
    (Kind::Disk, &["disk*", "diskio", "io", "iops"]),
    (
        Kind::Latency,
        &[
            "latenc*",
            "duration*",
            "response*",
            "delay*",
            "rtt",
            "rt",
            "elapsed",
            "time",
            "ttfb",
            "wait*",
            "lat",
            "p50",
            "p90",
            "p95",
            "p99",
            "ms",
            "seconds",
            "millis*",
            "us",
            "micros*",
        ],
    ),
    (
        Kind::Disk,
        &[
            "fs",
            "filesystem*",
            "inode*",
            "read*",
            "write*",
            "blk*",
            "volume",
            "file*",
            "storage",
            "fd",
            "fds",
            "handles",
        ],
    ),
    (
        Kind::Network,
        &[
            "net",
            "network*",
            "socket*",
            "sock*",
            "tcp",
            "udp",
            "conn*",
            "packet*",
            "receive*",
            "transmit*",
            "rx",
            "tx",
            "loss",
            "drop*",
            "retrans*",
            "bandwidth",
            "bytes",
        ],
    ),
    (
        Kind::Traffic,
        &[
            "request*",
            "req",
            "reqs",
            "count",
            "calls",
            "call",
            "throughput",
            "qps",
            "rps",
            "tps",
            "traffic",
            "workload*",
            "load",
            "ops",
            "invocation*",
            "hits",
            "transactions",
            "queries",
            "messages",
            "visits",
        ],
    ),
];

/// The kind of a metric by its name.
pub fn kind_of(metric: &str) -> Kind {
    let tokens = tokens(metric);
    let matches = |word: &str| {
        let (stem, open) = word
            .strip_suffix('*')
            .map_or((word, false), |stem| (stem, true));
        tokens
            .iter()
            .any(|token| token == stem || (open && token.starts_with(stem)))
    };
    WORDS
        .iter()
        .find(|(_, words)| words.iter().any(|word| matches(word)))
        .map_or(Kind::Other, |(kind, _)| *kind)
}

/// Whether a metric of kind [`Kind::Errors`] counts what went well.
pub(super) fn is_success(metric: &str) -> bool {
    let good = |token: &String| {
        (token.starts_with("availab") || token.starts_with("success") || token == "sli")
            && !token.starts_with("unavail")
    };
    let tokens = tokens(metric);
    tokens.iter().any(good)
        && !tokens
            .iter()
            .any(|t| t.starts_with("err") || t.starts_with("fail"))
}

/// Factor to seconds, from a unit in the name.
pub(super) fn seconds_per_unit(metric: &str) -> f64 {
    let tokens = tokens(metric);
    let has = |words: &[&str]| tokens.iter().any(|token| words.contains(&token.as_str()));
    if has(&["ms", "msec", "millis", "milliseconds"]) {
        1e-3
    } else if has(&["us", "usec", "micros", "microseconds"]) {
        1e-6
    } else if has(&["ns", "nsec", "nanos", "nanoseconds"]) {
        1e-9
    } else {
        1.0
    }
}

/// Part of a histogram or summary: what `_sum` and `_count` are to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All seconds of all requests.
    Sum,
    /// The number of requests.
    Count,
    /// Of no use here.
    Bucket,
    /// A value by itself.
    Whole,
}

/// Which part of a latency a column is, and the metric's name without it.
pub(super) fn part(metric: &str, statistic: &str) -> (Part, String) {
    let lower = metric.to_ascii_lowercase();
    for (suffix, part) in [
        ("_sum", Part::Sum),
        ("_count", Part::Count),
        ("_bucket", Part::Bucket),
    ] {
        if let Some(stem) = lower.strip_suffix(suffix) {
            return (part, stem.to_owned());
        }
    }
    let part = match statistic.to_ascii_lowercase().as_str() {
        "sum" | "total" => Part::Sum,
        "count" | "n" | "samplecount" => Part::Count,
        _ => Part::Whole,
    };
    (part, lower)
}

/// Which statistic stands best for the whole: means add up, medians hide failures, extremes are
/// noise. Smaller is better. Without a statistic, the end of the metric's name may tell it.
pub(super) fn preference(metric: &str, statistic: &str) -> u8 {
    if statistic.is_empty() {
        return match tokens(metric).last() {
            Some(last) if last != metric => rank_of(last).min(8),
            _ => rank_of(""),
        };
    }
    rank_of(statistic)
}

fn rank_of(statistic: &str) -> u8 {
    match statistic.to_ascii_lowercase().as_str() {
        "mean" | "average" | "avg" => 0,
        "" | "value" | "rate" | "sum" | "total" | "count" => 1,
        "p90" | "q90" | "90" | "0.9" => 2,
        "p95" | "q95" | "95" | "0.95" => 3,
        "p75" => 4,
        "p99" | "q99" | "99" | "0.99" => 5,
        "p50" | "median" | "50" | "0.5" => 6,
        "max" | "maximum" => 7,
        "min" | "minimum" | "std" | "stddev" | "variance" => 9,
        _ => 8,
    }
}

fn tokens(name: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        let breaks = !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase());
        if breaks {
            tokens.push(String::new());
        }
        if let (true, Some(last)) = (c.is_alphanumeric(), tokens.last_mut()) {
            last.extend(c.to_lowercase());
        }
        before = c;
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}
