//! `paramedic diagnose`: one diagnosis of this host now, with nothing recorded and nothing done.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;

use super::EXIT_OK;
use crate::{
    diagnosis::{self, DiagnosisConfig, RuleSet, explain},
    evidence::{EvidenceConfig, KernelProbes, NoKernel, Recorder},
    incident::{Alert, AlertStatus, Fingerprint, Source},
};

/// Arguments of `paramedic diagnose`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds to watch before the diagnosis
    #[arg(long = "for", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What a diagnosis goes by.
struct Settings {
    rules: RuleSet,
    evidence: EvidenceConfig,
    diagnosis: DiagnosisConfig,
    probes: Arc<dyn KernelProbes>,
}

/// The one place where configuration and probes come in.
fn settings() -> anyhow::Result<Settings> {
    let rules = RuleSet::shipped().map_err(|findings| {
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the rules were refused:\n{}", findings.join("\n"))
    })?;
    Ok(Settings {
        rules,
        evidence: EvidenceConfig::default(),
        diagnosis: DiagnosisConfig::default(),
        probes: Arc::new(NoKernel),
    })
}

/// Watches this host and prints the ranked answer.
pub(super) fn diagnose(args: &Args) -> anyhow::Result<u8> {
    let settings = settings()?;
    let recorder =
        Recorder::start(&settings.evidence, settings.probes).context("cannot start the readers")?;
    // The first window begins with the recorder, so all of it is this command's own watch.
    let window = Duration::from_secs(args.seconds);
    std::thread::sleep(window);
    let evidence = recorder.evidence(window + settings.evidence.period());
    let answer = diagnosis::diagnose(
        &settings.rules,
        &by_hand(),
        &Source::Manual,
        &evidence,
        &settings.diagnosis,
    );
    if args.json {
        let out = serde_json::json!({ "diagnosis": answer, "evidence": evidence });
        println!("{}", serde_json::to_string_pretty(&out)?);
    } else {
        print!("{}", explain(&answer));
        for gap in evidence.coverage.iter().filter(|source| !source.complete) {
            println!("  {}: {}", gap.source, gap.note);
        }
    }
    Ok(EXIT_OK)
}

/// The alert that nobody sent.
fn by_hand() -> Alert {
    let labels = [("alertname".to_owned(), "manual".to_owned())].into();
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: [].into(),
        starts_at: Timestamp::now(),
        ends_at: None,
    }
}
