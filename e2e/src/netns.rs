//! Entering network and mount namespaces with a thread of one's own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held open.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<File>);

impl NetNs {
    /// Opens a namespace file such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        Ok(Self(Arc::new(file)))
    }

    /// Runs `work` in the namespace. Sockets it makes belong there for good, whoever uses them later.
    ///
    /// # Errors
    /// When the namespace cannot be entered (needs root), or what `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            work()
        })
    }
}

/// Runs `work` on a thread that may change its namespaces, as nobody else uses it afterwards.
///
/// # Errors
/// What `work` returns.
///
/// # Panics
/// When `work` panics, with its panic.
pub fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `work` in a new network namespace that is gone afterwards.
///
/// # Errors
/// When none can be made (needs root), or what `work` returns.
pub fn in_fresh_netns<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace: the lab needs root")?;
        work()
    })
}

/// All namespaces of a node, held open by way of its init process.
#[derive(Debug)]
pub struct NodeNs {
    /// The network namespace.
    pub net: NetNs,
    mount: Arc<File>,
    pid: Arc<File>,
    uts: Arc<File>,
}

impl NodeNs {
    /// Opens the namespaces of a process.
    ///
    /// # Errors
    /// When the process is gone or not ours to look at.
    pub fn of(pid: i32) -> Result<Self> {
        let open = |kind: &str| -> Result<Arc<File>> {
            let path = format!("/proc/{pid}/ns/{kind}");
            Ok(Arc::new(File::open(&path).with_context(|| format!("cannot open {path}"))?))
        };
        Ok(Self { net: NetNs(open("net")?), mount: open("mnt")?, pid: open("pid")?, uts: open("uts")? })
    }

    /// Runs `work` seeing the node's network and files (not its processes).
    ///
    /// # Errors
    /// When the namespaces cannot be entered (needs root), or what `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            // A mount namespace can be entered only with a root and working directory that no other thread shares.
            unshare(CloneFlags::CLONE_FS).context("cannot unshare the working directory")?;
            setns(self.mount.as_fd(), CloneFlags::CLONE_NEWNS).context("cannot enter a mount namespace")?;
            setns(self.net.0.as_fd(), CloneFlags::CLONE_NEWNET)
                .context("cannot enter a network namespace")?;
            work()
        })
    }

    /// Starts a command as a process of the node: its network, files, host name and process numbers.
    ///
    /// # Errors
    /// When it cannot be started; the command itself is not in the message.
    pub fn spawn(&self, command: &mut std::process::Command) -> Result<std::process::Child> {
        use std::os::unix::process::CommandExt;
        let (mount, net, uts) = (self.mount.clone(), self.net.0.clone(), self.uts.clone());
        // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing.
        unsafe {
            command.pre_exec(move || {
                setns(mount.as_fd(), CloneFlags::CLONE_NEWNS)?;
                setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
                setns(uts.as_fd(), CloneFlags::CLONE_NEWUTS)?;
                Ok(())
            });
        }
        on_own_thread(|| {
            // A process namespace is entered by the children to come, hence not in the closure above.
            setns(self.pid.as_fd(), CloneFlags::CLONE_NEWPID).context("cannot enter a process namespace")?;
            Ok(command.spawn()?)
        })
    }
}
