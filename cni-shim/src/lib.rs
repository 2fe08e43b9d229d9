//! The Heliograph CNI plugin: wires the pods of one node, without asking anybody.
//!
//! Two kinds of callers use this crate:
//!
//! - the binary `heliograph-cni`, which a container runtime starts for each verb of the
//!   [CNI specification](https://www.cni.dev/docs/spec/) 1.1 and which is nothing but [`run`];
//! - the node agent, which writes the two files the plugin lives from: [`node::NodeFile`]
//!   (`node.json`: pod CIDRs, MTU) and [`conflist::Conflist`] (what makes the runtime call us).
//!
//! # How a pod is wired
//! An address a family is reserved in the run directory under a file lock, then a pure plan of small steps is
//! carried out: a veth pair whose far end is born inside the pod's namespace, a host route to the pod's address
//! (route protocol 105), permanent neighbour entries both ways, and a default route in the pod. There is no
//! bridge, no proxy ARP and no address on the host's end, so there is nothing to resolve and nothing to spoof.
//! Every step has an undo; an ADD that fails leaves nothing.
//!
//! Pods can't spoof IPv4 sources (strict reverse-path filter on each veth). IPv6 has no such filter in the
//! kernel; that takes a packet filter rule, which is the agent's to set.

mod addresses;
mod args;
mod attachment;
mod check;
mod config;
pub mod conflist;
mod error;
mod files;
mod namespace;
mod net;
mod netlink;
pub mod node;
mod plan;
mod result;
mod store;
mod verbs;

pub use attachment::{HOST_INTERFACE_PREFIX, host_interface, is_host_interface};
pub use verbs::run;

/// Route protocol number of everything this plugin puts into a routing table (`proto 105`).
pub const ROUTE_PROTOCOL: u8 = 105;

/// Where the agent and the plugin meet unless the network configuration says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/heliograph";
