//! Where the moments come from: a running agent, asked over HTTP, or a recording.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use reqwest::{Certificate, header};
use serde::{Deserialize, Serialize};
use url::Url;

use super::moment::Moment;
use crate::{
    cli::reach::{address, token as token_of},
    config::Config,
    evidence::recording::Recording,
    incident::Evidence,
    outbound,
};

/// An agent that does not answer within this is not waited for.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A longer answer is not one: evidence of 512 cgroups is an eighth of it.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An event, as the agent tells it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Event {
    pub(crate) age_s: f64,
    pub(crate) path: Option<String>,
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) text: String,
}

/// What of the agent's answer is shown; it has more.
#[derive(Debug, Deserialize)]
struct Glance {
    evidence: Evidence,
    events: Vec<Event>,
}

/// A running agent.
#[derive(Debug)]
pub(super) struct Agent {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: Url,
    token: Option<String>,
}

/// How to reach it.
#[derive(Debug, Default)]
pub(super) struct Way<'a> {
    pub(super) url: Option<&'a str>,
    pub(super) token_file: Option<&'a Path>,
    pub(super) ca_file: Option<&'a Path>,
}

impl Agent {
    /// By the options, else by its own configuration. Nothing is sent yet.
    pub(super) fn new(config: &Config, way: &Way<'_>) -> anyhow::Result<Self> {
        let base = way.url.map_or_else(|| address(config), str::to_owned);
        let mut url = Url::parse(&base).with_context(|| format!("{base} is no address"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            bail!("{base} is no address of an agent: http://HOST:PORT is one");
        }
        url.set_path("/api/v1/recorder");
        let token = way.token_file.or(config.intake.token_file.as_deref());
        let token = token.map(token_of).transpose()?;
        let mut http = outbound::client().timeout(TIMEOUT);
        if url.scheme() == "http" {
            http = http.tls_certs_only(Vec::<Certificate>::new());
        } else if let Some(path) = way.ca_file {
            let pem = outbound::pem(path, "--ca-file")?;
            http = http.tls_certs_only(Certificate::from_pem_bundle(&pem)?);
        }
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?,
            http: http.build().context("cannot set up HTTP")?,
            url,
            token,
        })
    }

    /// `host:port`.
    pub(super) fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{host}:{port}")
    }

    /// The last `window` of it.
    pub(super) fn ask(&self, window: Duration) -> anyhow::Result<(Moment, Vec<Event>)> {
        let mut url = self.url.clone();
        url.set_query(Some(&format!("window_s={}", window.as_secs_f64())));
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            let value = header::HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.context("the token is no header's value")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let bytes = self.runtime.block_on(async {
            let mut answer = request.send().await.with_context(|| {
                format!(
                    "no agent answers at {}; start one (`paramedic run`), or name another (--url)",
                    self.name()
                )
            })?;
            let status = answer.status();
            let mut bytes = Vec::new();
            while let Some(part) = answer.chunk().await? {
                bytes.extend_from_slice(&part);
                if bytes.len() > ANSWER_BYTES_MAX {
                    bail!(
                        "{} answers with more than {ANSWER_BYTES_MAX} bytes",
                        self.name()
                    );
                }
            }
            match status.as_u16() {
                200 => Ok(bytes),
                401 | 403 => bail!(
                    "{} wants a token: --token-file, or --config with intake.token_file",
                    self.name()
                ),
                404 => bail!(
                    "{} is no agent, or one without a recorder's API",
                    self.name()
                ),
                _ => bail!("{} answers {status}", self.name()),
            }
        })?;
        let glance: Glance = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} does not answer as an agent does", self.name()))?;
        Ok((Moment::of(&glance.evidence), glance.events))
    }
}

/// All of a recording.
pub(super) fn recorded(path: &Path) -> anyhow::Result<Vec<Moment>> {
    let mut moments = Vec::new();
    Recording::each(path, |_, evidence| moments.push(Moment::of(&evidence)))?;
    Ok(moments)
}
