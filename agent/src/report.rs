//! What people and machines read: the JSON API and the metrics.

mod api;
mod metrics;
mod text;

pub use api::{ReportState, routes};
pub use metrics::Metrics;
pub use text::{incident_table, incident_text};
