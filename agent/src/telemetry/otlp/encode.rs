//! Spans as OTLP's JSON: the mapping of Protobuf to JSON, with trace and span ids in hexadecimal, 64-bit
//! integers as strings and enums as numbers. Pure.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>; messages of
//! `opentelemetry/proto/trace/v1/trace.proto`.

use serde::{Deserialize, Serialize, Serializer};

use super::opened::{Attributes, Ended, Value};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u32 = 1;
/// `STATUS_CODE_ERROR`; unset is left out.
const ERROR: u32 = 2;
/// Of a span's `flags`: sampled (W3C), and that it is known whether the parent is remote, and that it is.
const SAMPLED: u32 = 0x01;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// Before our own fields' names.
const OURS: &str = "paramedic.";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Span<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    #[serde(rename = "spanId")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u32,
    #[serde(serialize_with = "quoted")]
    start_time_unix_nano: i128,
    #[serde(serialize_with = "quoted")]
    end_time_unix_nano: i128,
    attributes: Vec<KeyValue<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_attributes_count: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(serialize_with = "quoted")]
    time_unix_nano: i128,
    name: &'static str,
    attributes: [KeyValue<'a>; 1],
}

#[derive(Serialize)]
struct Status<'a> {
    message: &'a str,
    code: u32,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: String,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
enum AnyValue<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "intValue", serialize_with = "quoted")]
    Int(i128),
    #[serde(rename = "doubleValue")]
    Float(f64),
    #[serde(rename = "boolValue")]
    Bool(bool),
}

/// 64-bit integers are strings: JavaScript's numbers do not hold them.
fn quoted<S: Serializer>(number: &i128, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(number)
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde wants"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The body of one request. `host` is this node's name.
///
/// # Errors
/// None that these types can have.
pub(super) fn request(host: &str, spans: &[Ended]) -> serde_json::Result<Vec<u8>> {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let own = [
        ("service.name", name),
        ("service.version", version),
        ("service.instance.id", host),
        ("host.name", host),
    ];
    let about = own.map(|(key, value)| KeyValue {
        key: key.to_owned(),
        value: AnyValue::Text(value),
    });
    let scope = ScopeSpans {
        scope: Scope { name, version },
        spans: spans.iter().map(span).collect(),
    };
    serde_json::to_vec(&Request {
        resource_spans: [ResourceSpans {
            resource: Resource {
                attributes: about.into(),
            },
            scope_spans: [scope],
        }],
    })
}

fn span(ended: &Ended) -> Span<'_> {
    let remote = if ended.link.remote { IS_REMOTE } else { 0 };
    let error = ended.error.as_deref();
    let event = error.map(|message| Event {
        time_unix_nano: ended.end_ns,
        name: "exception",
        attributes: [KeyValue {
            key: "exception.message".to_owned(),
            value: AnyValue::Text(message),
        }],
    });
    Span {
        trace_id: format!("{:032x}", ended.link.trace),
        id: format!("{:016x}", ended.id),
        parent_span_id: ended.link.parent.map(|parent| format!("{parent:016x}")),
        flags: SAMPLED | HAS_IS_REMOTE | remote,
        name: ended.name,
        kind: INTERNAL,
        start_time_unix_nano: ended.start_ns,
        end_time_unix_nano: ended.end_ns,
        attributes: attributes(&ended.attributes),
        dropped_attributes_count: ended.attributes.dropped,
        events: event.into_iter().collect(),
        status: error.map(|message| Status {
            message,
            code: ERROR,
        }),
    }
}

fn attributes(own: &Attributes) -> Vec<KeyValue<'_>> {
    let value = |value| match value {
        &Value::Int(number) => AnyValue::Int(number.into()),
        &Value::Float(number) => AnyValue::Float(number),
        &Value::Bool(yes) => AnyValue::Bool(yes),
        Value::Text(text) => AnyValue::Text(text),
    };
    let all = own.all.iter();
    all.map(|(name, of)| KeyValue {
        key: format!("{OURS}{name}"),
        value: value(of),
    })
    .collect()
}

/// What a collector says of a request that it took.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    partial_success: Option<Partial>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Partial {
    rejected_spans: Number,
    error_message: String,
}

/// Of a collector: a string by the standard, a number by some.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Quoted(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Plain(0)
    }
}

/// Spans that a collector refused out of a request that it took, and what it says of them. An answer that
/// cannot be read is no refusal.
pub(super) fn refused(body: &[u8]) -> (u64, String) {
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    let rejected = match partial.rejected_spans {
        Number::Plain(number) => number,
        Number::Quoted(text) => text.parse().unwrap_or(0),
    };
    (rejected, partial.error_message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::opened::Link;
    use super::*;

    fn ended() -> Ended {
        Ended {
            name: "act",
            id: 0x00f0_67aa_0ba9_02b7,
            link: Link {
                trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
                parent: Some(0x0000_0000_0000_00ff),
                remote: true,
            },
            start_ns: 1_544_712_660_000_000_001,
            end_ns: 1_544_712_661_000_000_000,
            attributes: Attributes {
                all: vec![
                    ("episode", Value::Text("ep-1".to_owned())),
                    ("took_us", Value::Int(i64::MAX)),
                    ("posterior", Value::Float(0.5)),
                    ("dry_run", Value::Bool(false)),
                ],
                dropped: 0,
            },
            error: None,
        }
    }

    fn encoded(spans: &[Ended]) -> Json {
        serde_json::from_slice(&request("node-7", spans).unwrap()).unwrap()
    }

    #[test]
    fn a_span_is_what_the_standard_says() {
        // After the standard's own example, opentelemetry-proto/examples/trace.json.
        let own = json!({
            "traceId": "0af7651916cd43dd8448eb211c80319c",
            "spanId": "00f067aa0ba902b7",
            "parentSpanId": "00000000000000ff",
            "flags": 0x301,
            "name": "act",
            "kind": 1,
            "startTimeUnixNano": "1544712660000000001",
            "endTimeUnixNano": "1544712661000000000",
            "attributes": [
                {"key": "paramedic.episode", "value": {"stringValue": "ep-1"}},
                {"key": "paramedic.took_us", "value": {"intValue": "9223372036854775807"}},
                {"key": "paramedic.posterior", "value": {"doubleValue": 0.5}},
                {"key": "paramedic.dry_run", "value": {"boolValue": false}},
            ],
        });
        let all = encoded(&[ended()]);
        let of = &all["resourceSpans"][0];
        assert_eq!(of["scopeSpans"][0]["spans"], json!([own]));
        assert_eq!(of["scopeSpans"][0]["scope"]["name"], "paramedic");
        let about = of["resource"]["attributes"].as_array().unwrap();
        let says = |key: &str, value: &str| {
            about.contains(&json!({"key": key, "value": {"stringValue": value}}))
        };
        assert!(says("service.name", "paramedic") && says("host.name", "node-7"));
    }

    #[test]
    fn a_failure_has_a_status_and_the_exception_and_a_root_has_no_parent() {
        let mut failed = ended();
        failed.link.parent = None;
        failed.link.remote = false;
        failed.attributes.dropped = 3;
        failed.error = Some("cannot apply \"it\"".to_owned());
        let all = encoded(&[ended(), failed]);
        let span = &all["resourceSpans"][0]["scopeSpans"][0]["spans"][1];
        assert_eq!(
            span["status"],
            json!({"code": 2, "message": "cannot apply \"it\""})
        );
        let message = json!([{"key": "exception.message",
            "value": {"stringValue": "cannot apply \"it\""}}]);
        let event = json!([{"name": "exception", "timeUnixNano": "1544712661000000000",
            "attributes": message}]);
        assert_eq!(span["events"], event);
        assert_eq!(span["droppedAttributesCount"], 3);
        assert_eq!(span["flags"], 0x101);
        assert_eq!(span.get("parentSpanId"), None);
    }

    #[test]
    fn what_a_collector_refuses_is_counted() {
        let said = br#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}"#;
        assert_eq!(refused(said), (3, "too old".to_owned()));
        let number = br#"{"partialSuccess": {"rejectedSpans": 2}}"#;
        assert_eq!(refused(number), (2, String::new()));
        for nothing in [&b"{}"[..], b"", b"<html>", br#"{"partialSuccess": null}"#] {
            assert_eq!(refused(nothing), (0, String::new()));
        }
    }
}
