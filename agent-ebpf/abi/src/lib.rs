//! Types shared by the probes and the agent: `#[repr(C)]`, explicit padding, no `bool`.
#![no_std]
