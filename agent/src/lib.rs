//! The first responder on a Linux node.
//!
//! ```text
//! Alertmanager ──▶ intake ──▶ routing ──▶ sampling ─┐
//! PSI trigger  ──▶   │           │        evidence ─┼─▶ diagnosis ──▶ remedy ──▶ verify ──▶ report
//!                    │           │                  │       │           │          │         │
//!                    └───────────┴──────── journal (write-ahead: every step above is durable first)
//! ```
//!
//! [`pipeline::handle`] takes one episode from top to bottom. Stages never import each other: they
//! meet only there, through the nouns in [`incident`].

pub mod incident;

/// `app.rs` is wired up once every stage is there.
pub mod app;
pub mod cli;
pub mod config;
pub mod diagnosis;
pub mod evidence;
pub mod intake;
pub mod journal;
pub mod ledger;
pub mod pipeline;
pub mod remedy;
pub mod report;
pub mod routing;
pub mod sampling;
pub mod verify;

pub mod clock;
pub mod confine;
#[cfg(test)]
mod mutate;
mod outbound;
pub mod problem;
pub mod resilience;
pub mod secret;
pub mod telemetry;
