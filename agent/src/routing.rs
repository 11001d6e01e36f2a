//! Stage: routing.
