//! The guardian (invariant 4): a small process of its own that ends effects when the agent can't.
//!
//! - `lease`: what an effect needs to be undone by somebody else, and when that is due;
//! - `store`: the folder in which agent and guardian meet;
//! - `watch`: the guardian's own loop (`paramedic guardian`);
//! - `warden`: the agent's side: starts the guardian, entrusts effects, reads what it did.
//!
//! They share nothing but files, so that either may die and start again at any moment. The folder
//! needs no sync: what a lease is about does not outlive the kernel, and a lease of an earlier boot is
//! ignored.

mod lease;
mod store;
mod warden;
mod watch;

pub use lease::{Due, Lease};
pub use store::{Done, GuardianError, LeaseStore};
pub use warden::Warden;
pub use watch::{Watch, guard};
