//! A BGP speaker and route reflector.

pub mod bfd;
mod config;
#[cfg(feature = "tokio")]
pub mod io;
pub mod report;
mod rib;
mod session;
pub mod speaker;
pub mod wire;

pub use config::{Config, ConfigError, Filter, GracefulRestart, Neighbor, Network, PrefixRange, Timers};
pub use speaker::Speaker;
