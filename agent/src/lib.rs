//! The node agent of Heliograph as a library, for its program, tests and benchmarks.

pub mod api;
pub mod apiserver;
pub mod backoff;
pub mod cli;
pub mod cni;
pub mod dataplane;
pub mod disk;
pub mod forwarding;
pub mod intent;
pub mod names;
pub mod netlink;
pub mod plan;
pub mod preflight;
pub mod run;
pub mod status;
pub mod store;
pub mod underlay;
