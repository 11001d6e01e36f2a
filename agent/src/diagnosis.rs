//! Stage: diagnosis.
