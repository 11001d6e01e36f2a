//! The first responder on a Linux node.

pub mod journal;
