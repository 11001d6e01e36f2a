//! Stage: intake.
