//! Access to the Kubernetes API server: the client, its errors and lists in pages.

mod access;
mod error;
pub mod pages;

pub use access::Access;
pub use error::{ApiError, ErrorKind};
