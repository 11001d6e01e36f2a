//! Who we are to Prometheus, and whom we take for it: credentials and TLS.

use reqwest::{Certificate, ClientBuilder, Identity, RequestBuilder, header};
use url::Url;

use super::{SamplingConfig, SamplingError, client::QueryError};
use crate::{
    outbound::pem,
    secret::{SecretError, SecretFile, single},
};

/// What is shown with each request.
#[derive(Debug)]
pub(super) enum Access {
    Nothing,
    Bearer(SecretFile<String>),
    Basic(String, SecretFile<String>),
}

impl Access {
    pub(super) fn load(config: &SamplingConfig) -> Result<Self, SecretError> {
        if let Some(path) = &config.bearer_token_file {
            let token = SecretFile::open(path, "sampling.bearer_token_file", single)?;
            return Ok(Self::Bearer(token));
        }
        match (&config.username, &config.password_file) {
            (Some(name), Some(path)) => {
                let password = SecretFile::open(path, "sampling.password_file", single)?;
                Ok(Self::Basic(name.clone(), password))
            }
            _ => Ok(Self::Nothing),
        }
    }

    pub(super) fn show(&self, request: RequestBuilder) -> Result<RequestBuilder, QueryError> {
        match self {
            Self::Nothing => Ok(request),
            Self::Bearer(token) => {
                let value = format!("Bearer {}", token.current());
                let mut value = header::HeaderValue::try_from(value)
                    .map_err(|_| QueryError::Secret("sampling.bearer_token_file"))?;
                value.set_sensitive(true);
                Ok(request.header(header::AUTHORIZATION, value))
            }
            Self::Basic(name, password) => {
                Ok(request.basic_auth(name, Some(password.current().as_str())))
            }
        }
    }
}

/// TLS as configured. Only where it is used: the system's authorities are read for it.
pub(super) fn with_tls(
    http: ClientBuilder,
    config: &SamplingConfig,
    endpoint: &Url,
) -> Result<ClientBuilder, SamplingError> {
    if endpoint.scheme() != "https" {
        return Ok(http.tls_certs_only(Vec::<Certificate>::new()));
    }
    let mut http = http;
    if let Some(path) = &config.ca_file {
        let pem = pem(path, "sampling.ca_file")?;
        let authorities = Certificate::from_pem_bundle(&pem).map_err(SamplingError::Client)?;
        http = http.tls_certs_only(authorities);
    }
    if let Some(path) = &config.identity_file {
        let pem = pem(path, "sampling.identity_file")?;
        http = http.identity(Identity::from_pem(&pem).map_err(SamplingError::Client)?);
    }
    Ok(http)
}
