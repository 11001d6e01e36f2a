//! Stage: intake. Alerts in over HTTP, episodes out; nothing is acknowledged before it is durable.

pub mod episode;
