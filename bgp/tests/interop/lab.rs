//! Two network namespaces with a link between them, ours and the daemon's, and a mount namespace with a /run of its own.
//! They have no names, so that they and the files in that /run vanish with the threads and processes in them, however these
//! ended.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::processes;

/// The longest time for any condition; the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The daemon's address on the link.
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The daemon's IPv6 address on the link.
pub const THEIRS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The host numbers of our addresses on the link, [`ours`] and [`ours6`].
pub const HOSTS: std::ops::RangeInclusive<u8> = 11..=19;

/// Returns one of our addresses on the link.
pub fn ours(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

/// Returns one of our IPv6 addresses on the link.
pub fn ours6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into())
}

/// Returns the daemon's address on the link, of the family of `address`.
pub fn theirs_like(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { THEIRS.into() } else { THEIRS6.into() }
}

/// The folder of the daemons' files, in a /run of our own.
const DIR: &str = "/run/interop";

pub struct Lab {
    theirs: Arc<File>,
}

impl Lab {
    /// Runs `work` on a thread in our namespaces, which everything that it starts inherits.
    pub fn enter<T: Send>(work: impl FnOnce(&Lab) -> Result<T> + Send) -> Result<T> {
        let on_thread = || work(&Lab::build()?);
        std::thread::scope(|scope| {
            scope.spawn(on_thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn build() -> Result<Self> {
        own_run().context("cannot make a mount namespace with a /run of its own")?;
        let theirs = std::thread::spawn(new_namespace).join().expect("no panic")?;
        new_namespace()?;
        let lab = Self { theirs: Arc::new(theirs) };
        let there = format!("/proc/{}/fd/{}", std::process::id(), lab.theirs.as_raw_fd());
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "ours", "type", "veth", "peer", "name", "theirs", "netns", &there])?;
        ip(&["link", "set", "ours", "up"])?;
        for host in HOSTS {
            ip(&["address", "add", &format!("{}/24", ours(host)), "dev", "ours"])?;
            ip(&["address", "add", &format!("{}/64", ours6(host)), "dev", "ours", "nodad"])?;
        }
        for words in [
            &["link", "set", "lo", "up"][..],
            &["link", "set", "theirs", "up"],
            &["address", "add", &format!("{THEIRS}/24"), "dev", "theirs"],
            &["address", "add", &format!("{THEIRS6}/64"), "dev", "theirs", "nodad"],
        ] {
            lab.run(Command::new("ip").args(words))?;
        }
        Ok(lab)
    }

    /// Returns the daemon's folder.
    pub fn dir(&self) -> &Path {
        Path::new(DIR)
    }

    /// Returns the path of a file in that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Starts a daemon in its namespace, with its output in a file.
    pub fn start(&self, mut command: Command, log: &str) -> Result<Child> {
        let output = File::options().create(true).append(true).open(self.path(log))?;
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        processes::bind_to_us(&mut command);
        self.enter_theirs(&mut command);
        command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))
    }

    /// Runs a command in the daemon's namespace and returns its output.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        let output = self.try_run(command)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{command:?}: {} {}", out.trim(), err.trim());
        Ok(out.into_owned())
    }

    /// Runs a command that prints JSON and returns that.
    pub fn json(&self, command: &mut Command) -> Result<Value> {
        let text = self.run(command)?;
        serde_json::from_str(&text).with_context(|| format!("{command:?} printed {text:?}"))
    }

    fn try_run(&self, command: &mut Command) -> Result<Output> {
        self.enter_theirs(command);
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))
    }

    fn enter_theirs(&self, command: &mut Command) {
        let theirs = self.theirs.clone();
        let enter = move || Ok(setns(theirs.as_fd(), CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }
}

/// Gives this thread, and everything that it starts, a /run of its own.
fn own_run() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    std::fs::create_dir(DIR)?;
    // OpenBGPD changes its root to this folder, which its service creates otherwise.
    Ok(std::fs::create_dir("/run/openbgpd")?)
}

/// Moves this thread into a new network namespace, and returns a handle of it.
fn new_namespace() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits until `condition` returns a value.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match condition() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {} s", TIMEOUT.as_secs())));
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Waits until `condition` returns a value, and checks `always` on the way.
pub fn until_while<T>(
    what: &str,
    mut always: impl FnMut() -> Result<()>,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut broken = None;
    let found = until(what, || {
        if let Err(error) = always() {
            broken = Some(error);
            return Ok(None);
        }
        condition().map(Some)
    })?;
    match broken {
        Some(error) => Err(error.context(format!("before {what}"))),
        None => found.context("found"),
    }
}
