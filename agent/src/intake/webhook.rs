//! The routes: `POST /webhook`, `POST /webhook/{tenant}`, `GET /-/healthy`, `GET /-/ready`,
//! `POST /-/reload`.
//!
//! A refusal is a problem document ([`crate::problem`]) that names the problem and the way out. Its
//! status follows what Alertmanager makes of it: 5xx is sent again, 4xx is not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    AcceptError, Accepted, Delivery, IntakeConfig, Reload, Sink,
    auth::Admitted,
    payload::{self, PayloadError},
};
use crate::{
    incident::{Alert, Source, TenantId, TraceContext},
    problem::Problem,
    resilience::Deadline,
};

struct Context {
    config: Arc<IntakeConfig>,
    reload: Reload,
    sink: Arc<dyn Sink>,
    stop: CancellationToken,
    /// Second (since the Unix epoch) of the last refusal logged.
    logged_s: AtomicU64,
    /// Second, and how many accepted requests were told of in it: `second << 8 | count`.
    told: AtomicU64,
}

type Shared = Arc<Context>;

/// A request that was not taken.
struct Refused {
    status: StatusCode,
    reason: &'static str,
    error: String,
}

impl Refused {
    fn new(status: StatusCode, reason: &'static str, error: impl Into<String>) -> Self {
        let error = error.into();
        Self {
            status,
            reason,
            error,
        }
    }
}

impl From<AcceptError> for Refused {
    fn from(error: AcceptError) -> Self {
        let status = match error {
            AcceptError::Busy(_)
            | AcceptError::Journal(_)
            | AcceptError::ShuttingDown
            | AcceptError::Internal(_) => StatusCode::SERVICE_UNAVAILABLE,
            AcceptError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            AcceptError::UnknownTenant(_) => StatusCode::NOT_FOUND,
        };
        Self::new(status, error.reason(), error.to_string())
    }
}

impl From<PayloadError> for Refused {
    fn from(error: PayloadError) -> Self {
        let reason = match error {
            PayloadError::NotJson(_) => "not_json",
            PayloadError::Shape { .. } => "shape",
            PayloadError::Version(_) => "version",
            PayloadError::Limit { .. } => "limit",
        };
        Self::new(StatusCode::BAD_REQUEST, reason, error.to_string())
    }
}

/// Every route of intake.
fn table() -> [(&'static str, MethodRouter<Shared>); 5] {
    [
        ("/webhook", post(webhook)),
        ("/webhook/{tenant}", post(webhook_of)),
        ("/-/healthy", get(|| async { "healthy\n" })),
        ("/-/ready", get(ready)),
        ("/-/reload", post(ask_reload)),
    ]
}

/// All routes, those of others included. Once `stop` is cancelled new alerts are answered 503.
pub(super) fn routes(
    config: Arc<IntakeConfig>,
    reload: Reload,
    sink: Arc<dyn Sink>,
    extra: Router,
    stop: CancellationToken,
) -> Router {
    let context = Arc::new(Context {
        config,
        reload,
        sink,
        stop,
        logged_s: AtomicU64::new(0),
        told: AtomicU64::new(0),
    });
    let extra = extra.layer(middleware::from_fn_with_state(context.clone(), in_time));
    let own = table().into_iter();
    own.fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods)
    })
    .with_state(context.clone())
    .merge(extra)
    .fallback(not_found)
    .method_not_allowed_fallback(wrong_method)
    .layer(middleware::from_fn_with_state(context, guard))
}

/// Asks for the token everywhere but at the health checks, and counts and logs what was refused.
async fn guard(State(context): State<Shared>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = path == "/-/healthy" || path == "/-/ready";
    let admitted = if open {
        Some(Admitted::All)
    } else {
        context.reload.auth.admits(request.headers()).await
    };
    let mut response = match admitted {
        Some(Admitted::Tenant(_)) if !path.starts_with("/webhook") => {
            let error = "these credentials are for a tenant's webhook only";
            Refused::new(StatusCode::FORBIDDEN, "forbidden", error).into_response()
        }
        Some(admitted) => {
            request.extensions_mut().insert(admitted);
            next.run(request).await
        }
        None => unauthorized(),
    };
    if let Some(refused) = response.extensions_mut().remove::<Arc<Refused>>() {
        context.sink.refused(refused.reason);
        context.log(&refused);
    }
    response
}

fn unauthorized() -> Response {
    let error = "credentials are needed: set `authorization: {credentials_file: …}` in the sender's \
                 http_config to a token of intake.token_file, or `basic_auth` to a user of \
                 intake.users_file";
    let mut response =
        Refused::new(StatusCode::UNAUTHORIZED, "unauthorized", error).into_response();
    for challenge in ["Bearer", "Basic realm=\"paramedic\""] {
        let challenge = HeaderValue::from_static(challenge);
        response
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Others' routes get no longer than an alert does.
async fn in_time(State(context): State<Shared>, request: Request, next: Next) -> Response {
    let limit = context.config.request_limit();
    tokio::time::timeout(limit, next.run(request))
        .await
        .unwrap_or_else(|_| late(&context).into_response())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = Problem::new(self.status, self.reason, &self.error);
        let mut response = problem.into_response();
        // The guard counts and logs it.
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl Context {
    /// At most one line a second: whoever sends rubbish must not fill the disk with it.
    fn log(&self, refused: &Refused) {
        let second = jiff::Timestamp::now().as_second().unsigned_abs();
        let (status, reason) = (refused.status.as_u16(), refused.reason);
        if self.logged_s.swap(second, Ordering::Relaxed) == second {
            debug!(status, reason, error = refused.error, "request refused");
        } else {
            warn!(status, reason, error = refused.error, "request refused");
        }
    }

    /// At most so many lines a second of what was accepted: in a storm, writing them would cost more
    /// than accepting, and the counters and the journal have everything.
    fn worth_a_line(&self) -> bool {
        const LINES_MAX: u64 = 10;
        let second = jiff::Timestamp::now().as_second().unsigned_abs() << 8;
        let told = self.told.load(Ordering::Relaxed);
        let count = if told & !0xff == second {
            told & 0xff
        } else {
            0
        };
        let more = count < LINES_MAX;
        if more {
            // Two at once may both be told of: no harm.
            self.told.store(second | (count + 1), Ordering::Relaxed);
        }
        more
    }

    fn tenant(&self, name: &str, whence: &str) -> Result<TenantId, Refused> {
        let known = name.parse().ok();
        let known = known.filter(|tenant| self.config.tenants.contains(tenant));
        known.ok_or_else(|| {
            let shown: String = name.chars().take(63).collect();
            let error = format!(
                "unknown tenant {shown:?} ({whence}); known: {}; add it to intake.tenants",
                self.config.tenant_names()
            );
            Refused::new(StatusCode::NOT_FOUND, "unknown_tenant", error)
        })
    }

    /// Sorts alerts by the tenant of the path, of their label, or the default one.
    fn by_tenant(
        &self,
        of_path: Option<&TenantId>,
        alerts: Vec<Alert>,
    ) -> Result<BTreeMap<TenantId, Vec<Alert>>, Refused> {
        let mut groups: BTreeMap<TenantId, Vec<Alert>> = BTreeMap::new();
        for (i, alert) in alerts.into_iter().enumerate() {
            let label = self.config.tenant_label.as_deref();
            let named = label.and_then(|label| Some((label, alert.labels.get(label)?)));
            let tenant = match (of_path, named) {
                (Some(tenant), _) => tenant.clone(),
                (None, Some((label, name))) => {
                    self.tenant(name, &format!("label {label:?} of alerts[{i}]"))?
                }
                (None, None) => self.config.default_tenant.clone(),
            };
            groups.entry(tenant).or_default().push(alert);
        }
        Ok(groups)
    }
}

async fn webhook(
    State(context): State<Shared>,
    request: Request,
) -> Result<Json<Accepted>, Refused> {
    take(&context, None, request).await.map(Json)
}

async fn webhook_of(
    State(context): State<Shared>,
    Path(tenant): Path<String>,
    request: Request,
) -> Result<Json<Accepted>, Refused> {
    let tenant = context.tenant(&tenant, "in the path")?;
    take(&context, Some(tenant), request).await.map(Json)
}

/// One request, top to bottom.
async fn take(
    context: &Context,
    tenant: Option<TenantId>,
    request: Request,
) -> Result<Accepted, Refused> {
    if context.stop.is_cancelled() {
        return Err(AcceptError::ShuttingDown.into());
    }
    let deadline = Deadline::after(context.config.request_limit());
    check_type(request.headers())?;
    // Whoever gets here without having been asked may do everything.
    let admitted = request.extensions().get::<Admitted>().cloned();
    let admitted = admitted.unwrap_or(Admitted::All);
    let trace = trace(request.headers());
    let body = read_body(context, deadline, request).await?;
    let payload = payload::parse(&body, &context.config)?;
    drop(body);
    let truncated = payload.truncated;
    let groups = context.by_tenant(tenant.as_ref(), payload.alerts)?;
    if let Some(other) = groups.keys().find(|tenant| !admitted.covers(tenant)) {
        let error = format!("these credentials do not send alerts of tenant {other}");
        return Err(Refused::new(StatusCode::FORBIDDEN, "forbidden", error));
    }
    let delivery = Delivery {
        groups,
        source: Source::Alertmanager {
            receiver: payload.receiver,
        },
        trace,
    };
    let trace_id = delivery.trace.trace_id.clone();
    let accepted = tokio::time::timeout_at(deadline.at(), context.sink.accept(delivery))
        .await
        .unwrap_or_else(|_| Err(AcceptError::Busy(late(context).error)))?;
    let Accepted {
        opened,
        seen,
        resolved,
        ignored,
    } = accepted;
    if opened + resolved > 0 && context.worth_a_line() {
        info!(
            trace_id,
            opened, seen, resolved, ignored, truncated, "accepted"
        );
    } else {
        debug!(trace_id, seen, ignored, truncated, "accepted");
    }
    Ok(accepted)
}

fn late(context: &Context) -> Refused {
    let limit_ms = context.config.request_ms;
    let error = format!("not done within {limit_ms} ms (intake.request_ms)");
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", error)
}

fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let unsupported = |reason, error| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(Refused::new(status, reason, error))
    };
    let text = |name| {
        let value = headers.get(name).map(HeaderValue::to_str);
        value.map(|value| value.unwrap_or("(not text)").trim())
    };
    let sent = text(header::CONTENT_TYPE).unwrap_or("(none)");
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let sent: String = sent.chars().take(100).collect();
        let error = format!("Content-Type {sent} is not application/json; send that");
        return unsupported("content_type", error);
    }
    match text(header::CONTENT_ENCODING) {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => {
            let coding: String = coding.chars().take(100).collect();
            let error = format!("Content-Encoding {coding} is not supported; send the plain body");
            unsupported("content_encoding", error)
        }
        _ => Ok(()),
    }
}

async fn read_body(
    context: &Context,
    deadline: Deadline,
    request: Request,
) -> Result<Bytes, Refused> {
    let max = context.config.body_bytes_max;
    let too_large = || {
        let error = format!(
            "the body is larger than {max} bytes; raise intake.body_bytes_max, or set max_alerts \
             in Alertmanager's webhook_config"
        );
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let reading = Limited::new(request.into_body(), max).collect();
    match tokio::time::timeout_at(deadline.at(), reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let error = format!("the body could not be read to its end: {error}");
            Err(Refused::new(StatusCode::BAD_REQUEST, "body_cut", error))
        }
        Err(_) => {
            let limit_ms = context.config.request_ms;
            let error = format!("the body was not there within {limit_ms} ms (intake.request_ms)");
            Err(Refused::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_slow",
                error,
            ))
        }
    }
}

/// The sender's trace, or a new one.
fn trace(headers: &HeaderMap) -> TraceContext {
    let mut all = headers.get_all("traceparent").iter();
    let sent = match (all.next(), all.next()) {
        (Some(only), None) => only.to_str().ok().and_then(TraceContext::parse),
        _ => None,
    };
    sent.unwrap_or_else(super::fresh_trace)
}

async fn ready(State(context): State<Shared>) -> Response {
    let ready = if context.stop.is_cancelled() {
        Err("the agent is shutting down".to_owned())
    } else {
        context.sink.ready()
    };
    match ready {
        Ok(()) => "ready\n".into_response(),
        // No refusal of a request: it is not counted.
        Err(error) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", error).into_response()
        }
    }
}

async fn ask_reload(State(context): State<Shared>) -> Result<&'static str, Refused> {
    if !context.config.reload_endpoint {
        let error = "not enabled: set intake.reload_endpoint, or send the agent SIGHUP";
        return Err(Refused::new(StatusCode::FORBIDDEN, "forbidden", error));
    }
    context.reload.ask();
    Ok("reloading\n")
}

async fn not_found(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(100).collect();
    let error = format!("nothing at {path}; alerts go to POST /webhook or /webhook/TENANT");
    Refused::new(StatusCode::NOT_FOUND, "not_found", error)
}

async fn wrong_method(method: Method, uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(100).collect();
    let method: String = method.as_str().chars().take(20).collect();
    let error = format!("{path} does not take {method}; the Allow header names what it takes");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method", error)
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn every_route_is_documented() {
        let text = include_str!("../report/api/openapi.json");
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        for (path, _) in table() {
            assert!(document["paths"].get(path).is_some(), "{path}");
        }
    }
}
