//! Access to the Kubernetes API server: the client, its errors and lists in pages.

mod access;
mod error;
pub mod pages;
pub mod watcher;

pub use access::Access;
pub use error::{ApiError, ErrorKind};
