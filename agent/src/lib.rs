//! The agent of Heliograph as a library, so that its tests can reach its parts.

pub mod cni;
pub mod kernel;
pub mod reconcile;
