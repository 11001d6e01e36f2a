//! The first responder on a Linux node.
