//! The agent of Heliograph as a library, so that its tests can reach its parts.

pub mod api;
pub mod backoff;
pub mod cli;
pub mod cni;
pub mod disk;
pub mod intent;
pub mod kernel;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod status;
pub mod store;
