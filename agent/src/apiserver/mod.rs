//! The client of the Kubernetes API server, for everything that reads or writes objects there.
//!
//! - `access` finds its address and credentials;
//! - `client` sends requests, with a timeout, counted; `error` classifies their errors, with a remedy;
//! - `pages` lists objects in pages, `watcher` lists and watches them without end;
//! - `lease` elects a leader; `bucket` limits a rate.

mod access;
pub mod bucket;
mod client;
mod error;
pub mod lease;
pub mod pages;
pub mod watcher;

pub use access::Access;
pub use client::ApiClient;
pub use error::{ApiError, ErrorKind};
