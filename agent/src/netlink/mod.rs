//! The kernel's languages: rtnetlink, and nf_tables. All of it is synchronous.

pub mod error;
pub mod hint;

pub use error::{Cause, KernelError, KernelResult};
pub use hint::Hint;
