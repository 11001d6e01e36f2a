//! Starts the real parts for end-to-end and kernel tests: Prometheus, Alertmanager, the node
//! exporter, the agent itself, cgroups with something in them.
//!
//! Everything listens on loopback, lives in a temporary folder, ends with the program that started
//! it (even if that is killed), and shows its log when something goes wrong. Every wait has a
//! deadline.
//!
//! ```no_run
//! use paramedic_parts::{Agent, Alertmanager, NodeExporter, Prometheus, Scrape};
//! # fn main() -> anyhow::Result<()> {
//! let agent = Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\n")?;
//! let alertmanager = Alertmanager::start(&agent.url("/webhook"))?;
//! let exporter = NodeExporter::start()?;
//! let prometheus = Prometheus::builder()
//!     .scrape(Scrape::new("node", exporter.address()))
//!     .alert("HostHighCpu", "node_load1 > 100")
//!     .alertmanager(alertmanager.address())
//!     .start()?;
//! println!("{}", prometheus.url());
//! # Ok(())
//! # }
//! ```

pub mod agent;
pub mod alertmanager;
pub mod cgroup;
pub mod chance;
pub mod exporter;
pub mod figures;
pub mod http;
pub mod module;
pub mod payload;
pub mod process;
pub mod prometheus;
pub mod schema;
pub mod seccomp;
pub mod tools;
pub mod wait;

pub use agent::Agent;
pub use alertmanager::Alertmanager;
pub use cgroup::Cgroup;
pub use exporter::NodeExporter;
pub use process::Process;
pub use prometheus::{Prometheus, Scrape};
pub use wait::wait_for;
