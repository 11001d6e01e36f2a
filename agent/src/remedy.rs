//! Stage: remedy.
