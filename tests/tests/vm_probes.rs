//! Runs in the VM.
