//! `paramedic incidents approve|reject`: a person's word, told to the running agent over HTTP.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Certificate, StatusCode};

use super::{
    EXIT_FINDINGS, EXIT_OK,
    place::Place,
    reach::{address, token},
};
use crate::{config::Config, incident::EpisodeId, outbound};

/// Longer than the agent itself gives a request.
const WITHIN: Duration = Duration::from_secs(30);

/// How to reach the agent.
#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    /// Where it listens; found in the configuration if left out
    #[arg(long)]
    url: Option<String>,
    /// Whose word it is, for the record
    #[arg(long)]
    by: Option<String>,
}

/// Tells the agent; exits 1 if nothing waited for that word.
pub(super) fn answer(
    place: &Place,
    id: EpisodeId,
    word: &str,
    reach: &Reach,
) -> anyhow::Result<u8> {
    let config = place.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, said) = runtime.block_on(tell(&config, id, word, reach))?;
    if status == StatusCode::ACCEPTED {
        println!("{id}: {word} taken; `paramedic incidents show {id}` tells what comes of it");
        return Ok(EXIT_OK);
    }
    eprintln!("paramedic: {said}");
    let nothing_waits = [
        StatusCode::NOT_FOUND,
        StatusCode::CONFLICT,
        StatusCode::GONE,
    ];
    if nothing_waits.contains(&status) {
        return Ok(EXIT_FINDINGS);
    }
    bail!("the agent answered {status}")
}

async fn tell(
    config: &Config,
    id: EpisodeId,
    word: &str,
    reach: &Reach,
) -> anyhow::Result<(StatusCode, String)> {
    let intake = &config.intake;
    let base = reach.url.clone().unwrap_or_else(|| address(config));
    let mut http = outbound::client().timeout(WITHIN);
    if let Some(tls) = &intake.tls {
        // Its own certificate is the best that can be known of it here.
        let pem = std::fs::read(&tls.cert_file)
            .with_context(|| format!("cannot read {}", tls.cert_file.display()))?;
        for certificate in Certificate::from_pem_bundle(&pem)? {
            http = http.add_root_certificate(certificate);
        }
    }
    let by = reach.by.clone().unwrap_or_else(own_name);
    let url = format!(
        "{}/api/v1/incidents/{id}/{word}",
        base.trim_end_matches('/')
    );
    let mut request = http
        .build()?
        .post(&url)
        .json(&serde_json::json!({ "by": by }));
    if let Some(file) = &intake.token_file {
        request = request.bearer_auth(token(file)?);
    }
    let answer = request.send().await.with_context(|| {
        format!("no agent answers at {base}: does it run? name another place with --url")
    })?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let error = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|said| Some(said.get("detail")?.as_str()?.to_owned()));
    let said = error.unwrap_or(text);
    let said = said.chars().filter(|c| !c.is_control()).take(500).collect();
    Ok((status, said))
}

/// The account that runs this.
fn own_name() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
