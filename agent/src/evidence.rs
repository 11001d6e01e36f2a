//! Stage: evidence.
