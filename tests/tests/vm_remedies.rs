//! Remedies on a real kernel: real cgroups, real hogs, effects measured, undone to the byte.
//!
//! Runs in the VM, as root in the root cgroup, one test at a time.

#[path = "vm_remedies/effects.rs"]
mod effects;
#[path = "vm_remedies/guards.rs"]
mod guards;
#[path = "vm_remedies/matrix.rs"]
mod matrix;
#[path = "vm_remedies/measured.rs"]
mod measured;
#[path = "vm_remedies/rig.rs"]
mod rig;
#[path = "vm_remedies/sandbox.rs"]
mod sandbox;
