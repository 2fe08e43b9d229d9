//! A BGP speaker and route reflector.

mod config;
pub mod report;
pub mod rib;
pub mod wire;

pub use config::{Config, ConfigError, Filter, GracefulRestart, Neighbor, Network, PrefixRange, Timers};
