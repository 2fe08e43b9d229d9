//! The pod's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// A network namespace other than the one of this process.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    own: File,
}

impl Namespace {
    /// Opens the namespace at `path`. The host's namespace is an error: a pod on the host's network has no attachment.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // Of this thread, not of the process: they may differ in tests.
        let own = File::open("/proc/thread-self/ns/net")?;
        let (there, here) = (file.metadata()?, own.metadata()?);
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            let problem = "it is the host's network namespace, not one of the container's own";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        Ok(Self { file, own })
    }

    /// Returns the descriptor that identifies the namespace in a netlink request.
    pub fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` in the namespace. Only this thread enters it, and it has left it when this returns without error.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let done = work();
        setns(&self.own, CloneFlags::CLONE_NEWNET)?;
        Ok(done)
    }
}
