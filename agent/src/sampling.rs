//! Stage: sampling.
