//! The Heliograph lab: builds the networks that containerlab topology files describe out of network namespaces,
//! runs the real binaries in them, and looks at what really happens on the wire.
//!
//! A test is a few lines:
//! ```no_run
//! use heliograph_e2e::{lab::Lab, uml};
//!
//! // #[test]
//! fn pods_reach_each_other() {
//!     uml::with_ipip("pods_reach_each_other", || {
//!         let lab = Lab::named("two-racks")?.up()?;
//!         lab.wait_ready()?;
//!         let pod = lab.add_pod("rack1-a", "pod-1")?;
//!         println!("{} {}", pod.address, lab.node("rack1-a").run(["ip", "route"])?);
//!         Ok(())
//!     });
//! }
//! ```
//! Where the machine's kernel has no ipip, [`uml::with_ipip`] runs the same test in User-mode Linux.

pub mod cache;
pub mod cleanup;
pub mod cluster;
pub mod conformance;
pub mod demo;
pub mod guest;
pub mod image;
pub mod jail;
pub mod lab;
mod mounts;
pub mod netns;
pub mod ours;
pub mod pods;
pub mod probe;
pub mod processor;
pub mod setup;
pub mod sniff;
pub mod survey;
pub mod topology;
pub mod transfer;
pub mod uml;
pub mod wait;
