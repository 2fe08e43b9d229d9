//! Two network namespaces with a link between them, ours and theirs, and a mount namespace with a /run of its own. They have
//! no names: nothing is left of them, and of the files in that /run, once the thread and the processes in them are gone,
//! however these ended.

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

/// How long anything may take before it counts as failed: the machine may have much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells no news by itself.
const PAUSE: Duration = Duration::from_millis(100);

/// The peer's address on the link.
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// And its IPv6 address.
pub const THEIRS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The addresses that we have there: [`ours`] and [`ours6`] of these.
pub const HOSTS: std::ops::RangeInclusive<u8> = 11..=19;

/// One of our addresses on the link.
pub fn ours(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

/// One of our IPv6 addresses on the link.
pub fn ours6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into())
}

/// What the peer has on the link of the family of an address.
pub fn theirs_like(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { THEIRS.into() } else { THEIRS6.into() }
}

/// Where the daemons' files are: a /run of our own.
const DIR: &str = "/run/interop";

pub struct Lab {
    theirs: Arc<File>,
}

impl Lab {
    /// Runs `work` on a thread that is in our namespace, and with it all that `work` starts.
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
            lab.ask(Command::new("ip").args(words))?;
        }
        Ok(lab)
    }

    /// A folder of the peer's own.
    pub fn dir(&self) -> &Path {
        Path::new(DIR)
    }

    /// A file in that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Starts a daemon in their namespace. What it says goes to a file.
    pub fn start(&self, mut command: Command, log: &str) -> Result<Child> {
        let output = File::options().create(true).append(true).open(self.path(log))?;
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        processes::bind_to_us(&mut command);
        self.enter_theirs(&mut command);
        command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))
    }

    /// Runs a command in their namespace and gives what it prints.
    pub fn ask(&self, command: &mut Command) -> Result<String> {
        let said = self.try_ask(command)?;
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        ensure!(said.status.success(), "{command:?}: {} {}", out.trim(), err.trim());
        Ok(out.into_owned())
    }

    /// The same, of one that prints JSON.
    pub fn json(&self, command: &mut Command) -> Result<Value> {
        let text = self.ask(command)?;
        serde_json::from_str(&text).with_context(|| format!("{command:?} printed {text:?}"))
    }

    fn try_ask(&self, command: &mut Command) -> Result<Output> {
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

/// Gives this thread a /run of its own, and with it all that it starts.
fn own_run() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    std::fs::create_dir(DIR)?;
    // OpenBGPD confines its processes to it; its service would have made it.
    Ok(std::fs::create_dir("/run/openbgpd")?)
}

/// Puts this thread into a new network namespace, and gives a handle of that.
fn new_namespace() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits for something to be so.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {} s until {what}", PATIENCE.as_secs())));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits for something to be so, while something else always is.
pub fn until_while<T>(
    what: &str,
    mut always: impl FnMut() -> Result<()>,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut broken = None;
    let found = until(what, || {
        if let Err(error) = always() {
            broken = Some(error);
            return Ok(None);
        }
        look().map(Some)
    })?;
    match broken {
        Some(error) => Err(error.context(format!("before {what}"))),
        None => found.context("found"),
    }
}
