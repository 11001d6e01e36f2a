//! Paramedic's kernel probes: raw tracepoints, a file each.
//!
//! Raw tracepoints need neither tracefs nor a particular layout of the kernel: their arguments are
//! those of the tracepoint's prototype. What must be read from inside a `task_struct` goes by the
//! offsets in [`layout`], which the agent takes from the running kernel's own BTF at load time.
#![allow(
    clippy::cast_possible_truncation,
    reason = "ids and numbers come in registers that are wider than they are; checks cost instructions"
)]
#![no_std]
#![no_main]
// For the one atomic addition in `charge`; the BPF target is built by a compiler that allows it.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    clippy::inline_always,
    reason = "a call in BPF is a function of its own to the verifier, with five arguments at most"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "programs take their context as the attribute's macro passes it"
)]

mod block;
mod charge;
mod exec;
mod exit;
mod floor;
mod fork;
mod layout;
mod maps;
mod oom;
mod reclaim;
mod sched;
mod signal;
mod syscalls;
mod tcp;

/// Some helpers (bpf_probe_read_kernel, …) are for programs under a GPL-compatible licence only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
