//! Errors of kernel operations: the operation, the cause, and the remedy.

use nix::errno::Errno;
use thiserror::Error;

/// The result of a kernel operation.
pub type KernelResult<T> = Result<T, KernelError>;

/// A failed kernel operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}: {cause}; {remedy}")]
pub struct KernelError {
    /// The operation, and the object it was for.
    pub what: String,
    /// The cause.
    pub cause: Cause,
    /// The action that helps.
    pub remedy: String,
}

/// The cause of a failed kernel operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// The kernel rejected the request.
    #[error("{} ({errno:?}){}", .errno.desc(), explanation(.message))]
    Rejected {
        /// The error number.
        errno: Errno,
        /// The kernel's explanation (extended ACK), if it gave one.
        message: Option<String>,
    },
    /// The kernel's tables changed during each of several attempts to read them.
    #[error("the dump was interrupted by changes {0} times in a row")]
    Interrupted(u32),
    /// The kernel sent no answer in time.
    #[error("no answer from the kernel")]
    NoAnswer,
    /// The answer has an unexpected form.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// A foreign object conflicts.
    #[error("{0}")]
    Conflict(String),
    /// A file in /proc could not be read or written.
    #[error("{0}")]
    File(String),
    /// Another change has to succeed first.
    #[error("waits until {0}")]
    Waiting(String),
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Cause::Rejected { errno: Errno::from_raw(code), message: None },
            None => Cause::Unexpected(error.to_string()),
        }
    }
}

fn explanation(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(", the kernel's explanation: {text}")).unwrap_or_default()
}

impl KernelError {
    /// Makes an error of its three parts.
    pub fn new(what: impl Into<String>, cause: Cause, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), cause, remedy: remedy.into() }
    }

    /// Makes an error with the general remedy for its cause.
    pub fn from_cause(what: impl Into<String>, cause: Cause) -> Self {
        let remedy = remedy_for(&cause);
        Self { what: what.into(), cause, remedy: remedy.into() }
    }

    /// Returns the error number, if the kernel returned one.
    pub fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Rejected { errno, .. } => Some(errno),
            _ => None,
        }
    }

    /// Replaces the remedy by a more specific one.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

fn remedy_for(cause: &Cause) -> &'static str {
    match cause {
        Cause::Rejected { errno, .. } => match errno {
            Errno::EPERM | Errno::EACCES => {
                "run as root or with the capability NET_ADMIN, in the node's own network namespace"
            }
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => {
                "check that the next hop is on a link of this node that is up (ip route get NEXTHOP)"
            }
            Errno::ENETDOWN => "bring the interface of the next hop up (ip link set DEV up)",
            Errno::ENODEV | Errno::ENXIO => {
                "the interface does not exist (any more); the agent tries again when links change"
            }
            Errno::EEXIST => "a foreign object has the same key; remove or change it",
            Errno::ENOENT | Errno::ESRCH => "it no longer exists; the agent reads the kernel again",
            Errno::ENOBUFS | Errno::ENOMEM => "the kernel is short of memory; the agent tries again",
            Errno::EBUSY | Errno::EAGAIN | Errno::EINTR => "the agent tries again",
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
                "this kernel lacks the feature; load its module or use a kernel that has it"
            }
            _ => {
                "the agent tries again; if the error stays, report it with the output of `ip -d route show proto 104`"
            }
        },
        Cause::Interrupted(_) => {
            "a program changes routes all the time (see ip monitor route); the agent tries again"
        }
        Cause::NoAnswer => "the agent tries again",
        Cause::Waiting(_) => "see the error of that change",
        _ => "the agent tries again",
    }
}
