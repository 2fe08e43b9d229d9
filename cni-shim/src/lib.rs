//! The Heliograph CNI plugin: attaches the pods of one node to the network, without the agent or an API server.
//!
//! Two programs use this crate:
//!
//! - the binary `heliograph-cni`, which a container runtime starts for each verb of the
//!   [CNI specification](https://www.cni.dev/docs/spec/) 1.1 and which only calls [`run`];
//! - the node agent, which writes [`node::NodeFile`] (`node.json`: pod CIDRs, MTU) for the plugin. It also uses the
//!   names and numbers defined here, and the netlink codec.
//!
//! # Steps
//! The plugin reserves one address per family in the run directory under a file lock. Then it executes a pure plan of
//! small steps: it creates a veth pair whose peer is in the pod's namespace from the start, a host route to the pod's
//! address (route protocol 105), permanent neighbor entries on both sides, and a default route in the pod. There is no
//! bridge, no proxy ARP and no address on the host's end, so there is nothing to resolve and nothing to spoof.
//! Every step has an undo; an ADD that fails leaves nothing.
//!
//! Pods can't spoof IPv4 sources (strict reverse-path filter on each veth). IPv6 has no such filter in the
//! kernel; it needs a packet filter rule, which the agent has to set.

mod addresses;
mod args;
mod attachment;
mod check;
pub mod codec;
mod config;
mod error;
mod family;
mod files;
mod hash;
mod namespace;
mod net;
mod netlink;
pub mod node;
mod plan;
mod result;
mod store;
mod verbs;

pub use attachment::{HOST_INTERFACE_PREFIX, host_interface, is_host_interface};
pub use family::IpFamily;
pub use hash::fnv1a;
pub use verbs::run;

/// The plugin's name in the network configuration, and the file name of its binary.
pub const PLUGIN_NAME: &str = "heliograph-cni";

/// The route protocol number of every route that the plugin installs (`proto 105`).
pub const ROUTE_PROTOCOL: u8 = 105;

/// The run directory, which agent and plugin share, unless the network configuration names another.
pub const DEFAULT_RUN_DIR: &str = "/run/heliograph";
