//! What goes wrong with a kernel: what was tried, what came back, what to do next.

use nix::errno::Errno;
use thiserror::Error;

/// The result of asking something of the kernel.
pub type KernelResult<T> = Result<T, KernelError>;

/// One failed request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}: {cause}; {remedy}")]
pub struct KernelError {
    /// What was tried, on what.
    pub what: String,
    /// What came back.
    pub cause: Cause,
    /// What to do next.
    pub remedy: String,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// The kernel refused, with an error number and perhaps words of its own.
    #[error("{} ({errno:?}){}", .errno.desc(), spoken(.message))]
    Refused {
        /// The error number.
        errno: Errno,
        /// The kernel's explanation (extended ACK), where it gave one.
        message: Option<String>,
    },
    /// The kernel's tables changed under each of several attempts to read them.
    #[error("the dump was interrupted by changes {0} times in a row")]
    Interrupted(u32),
    /// No answer in time, or none at all.
    #[error("no answer from the kernel")]
    Silent,
    /// An answer of a form that isn't understood.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// Something of somebody else is in the way.
    #[error("{0}")]
    Occupied(String),
    /// A program that was run failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// A file of the kernel's could not be read or written.
    #[error("{0}")]
    File(String),
    /// Something else has to succeed first.
    #[error("held back until {0}")]
    Waiting(String),
}

fn spoken(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(", the kernel says: {text}")).unwrap_or_default()
}

impl KernelError {
    /// An error with its three parts.
    pub fn new(what: impl Into<String>, cause: Cause, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), cause, remedy: remedy.into() }
    }

    /// An error from its cause alone, with the remedy that fits it.
    pub fn from_cause(what: impl Into<String>, cause: Cause) -> Self {
        let remedy = remedy_for(&cause);
        Self { what: what.into(), cause, remedy: remedy.into() }
    }

    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Refused { errno, .. } => Some(errno),
            _ => None,
        }
    }

    /// The same with a remedy that knows more.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

fn remedy_for(cause: &Cause) -> &'static str {
    match cause {
        Cause::Refused { errno, .. } => match errno {
            Errno::EPERM | Errno::EACCES => {
                "run as root or with the capability NET_ADMIN, in the node's own network namespace"
            }
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => {
                "see that the next hop is on a link of this node that is up (ip route get NEXTHOP)"
            }
            Errno::ENETDOWN => "bring the interface of the next hop up (ip link set DEV up)",
            Errno::ENODEV | Errno::ENXIO => {
                "the interface is gone or not made yet; it is tried again when links change"
            }
            Errno::EEXIST => "something else with the same key is in the way; remove or move it",
            Errno::ENOENT | Errno::ESRCH => "it was gone already; the kernel will be read again",
            Errno::ENOBUFS | Errno::ENOMEM => "the kernel is short of memory; it is tried again",
            Errno::EBUSY | Errno::EAGAIN | Errno::EINTR => "it is tried again",
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
                "this kernel lacks the feature; load its module or use a kernel that has it"
            }
            _ => "it is tried again; if it stays, report it with the output of `ip -d route show proto 104`",
        },
        Cause::Interrupted(_) => {
            "something changes routes without pause (ip monitor route); it is tried again"
        }
        Cause::Silent => "it is tried again",
        Cause::Waiting(_) => "see the error it waits for",
        _ => "it is tried again",
    }
}
