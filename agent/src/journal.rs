//! Stage: journal.
