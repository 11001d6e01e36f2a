//! A refusal over HTTP, as RFC 9457 writes it: `application/problem+json` with `type`, `title`, `status`
//! and `detail`. No I/O.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

const CONTENT_TYPE: &str = "application/problem+json";

/// Why there is no other answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// What kind of problem it is: a word out of a fixed set.
    pub kind: &'static str,
    /// For people: names the object and the way out.
    pub detail: String,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            status,
            kind,
            detail,
        }
    }

    /// The document. Its type is a name, not an address: nothing has to be fetched to understand it.
    pub fn document(&self) -> serde_json::Value {
        json!({
            "type": format!("urn:paramedic:problem:{}", self.kind),
            "title": self.kind.replace('_', " "),
            "status": self.status.as_u16(),
            "detail": self.detail,
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
        (self.status, headers, self.document().to_string()).into_response()
    }
}
