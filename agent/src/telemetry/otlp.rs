//! Traces for a collector: OTLP over HTTP, encoded as JSON.
//!
//! Specification: <https://opentelemetry.io/docs/specs/otlp/> (OTLP/HTTP, JSON Protobuf encoding).
//!
//! [`Spans`] is a layer beside the one that logs. It sees the pipeline's spans and puts those that ended
//! into a queue, without ever waiting; [`Exporter`] empties it. A collector that is slow or dead has the
//! queue fill and a counter rise, and nothing else. gRPC is not spoken.

mod config;
mod encode;
mod export;
mod layer;
mod opened;
#[cfg(test)]
pub(crate) mod receiver;
mod send;

pub use config::{OtlpConfig, OtlpError};
pub use export::{Exporter, Exporting};
pub use layer::{Finished, Spans};
pub(super) use opened::{Opened, Place};

/// Spans that wait for the collector. An episode has some fifteen: a storm of a hundred finds room.
const QUEUE_MAX: usize = 2048;
/// Attributes of a span, and characters of a text in it: rules and alerts write them.
const ATTRIBUTES_MAX: usize = 16;
const TEXT_CHARS_MAX: usize = 1024;
