//! The languages in which the agent and the kernel exchange messages, and their sockets. The meaning of the objects is the
//! task of `dataplane`, the questions about foreign ones that of `underlay`.

pub mod error;
pub mod hint;
pub mod link;
pub mod nftables;
pub mod route;
pub mod socket;
pub mod watch;

pub use error::{Cause, KernelError, KernelResult};
pub use hint::Hint;
