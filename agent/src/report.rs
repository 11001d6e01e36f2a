//! What people and machines read: the page, the JSON API and the metrics.

mod api;
mod events;
mod metrics;
mod page;
mod text;

pub use api::{RecorderQuery, ReportState, routes};
pub use metrics::Metrics;
pub use text::{incident_table, incident_text};
