//! Stage: verify.
