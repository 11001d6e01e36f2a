//! The agent's own process, under the names that every Prometheus client library gives them.

use std::fmt;

use procfs::process::Process;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct OwnProcess;

struct Own {
    cpu_s: f64,
    resident_bytes: f64,
    threads: f64,
    started_s: f64,
    open_files: f64,
}

fn own() -> Option<Own> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let per_second = procfs::ticks_per_second() as f64;
    let booted_s = procfs::boot_time_secs().ok()? as f64;
    Some(Own {
        cpu_s: (stat.utime + stat.stime) as f64 / per_second,
        resident_bytes: (stat.rss * procfs::page_size()) as f64,
        threads: stat.num_threads as f64,
        started_s: booted_s + stat.starttime as f64 / per_second,
        open_files: process.fd_count().ok()? as f64,
    })
}

impl Collector for OwnProcess {
    /// Nothing where `/proc` cannot be read.
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(own) = own() else { return Ok(()) };
        let name = "process_cpu_seconds";
        let help = "User and system CPU time";
        let cpu = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(own.cpu_s).encode(cpu)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                own.resident_bytes,
            ),
            ("process_threads", "Threads", own.threads),
            ("process_open_fds", "Open file descriptors", own.open_files),
            (
                "process_start_time_seconds",
                "Start of the process since the Unix epoch",
                own.started_s,
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
