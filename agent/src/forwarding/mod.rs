//! The forwarding of a node: the best routes that BGP learned, joined with intent and underlay, in the kernel.
//!
//! [`Forwarding`] is the handle of a thread of its own; `forwarder` is the state machine that it runs, and `learned` the
//! table of routes.

mod forwarder;
mod learned;
mod state;
mod thread;

pub use forwarder::Intent;
pub use state::{ForwardingState, InKernel, RouteUse};
pub use thread::{Forwarding, purge};
