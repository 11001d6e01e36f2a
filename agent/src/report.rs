//! What people and machines read: the page, the JSON API and the metrics.

mod answers;
mod api;
mod events;
mod metrics;
mod notify;
mod page;
mod post_mortem;
mod text;

pub use answers::{AnswerState, Answering, Denied, Levels, answer_routes};
pub use api::{RecorderQuery, ReportState, routes};
pub use metrics::{Metrics, ProbeStanding, QueueStanding, Standing};
pub use notify::{Notifier, NotifyConfig, NotifyError, SinkConfig, SinkKind};
pub use post_mortem::{Format, write as post_mortem};
pub use text::{incident_table, incident_text, level_table};
