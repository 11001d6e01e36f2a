//! What machines read: rules, routes and dashboards by the tools that load them; metrics and API against
//! what is said of them.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod machines {
    pub mod api;
    pub mod notified;
    pub mod shipped;
}
