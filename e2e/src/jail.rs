//! Processes that end with the lab, however the lab ends.
//!
//! The lab starts `heliograph-lab jail …`, the *keeper*. The keeper makes a process namespace with a first process in
//! it, the *init*, and then only reads its standard input, a pipe whose other end the lab holds. When the lab ends, even
//! by `kill -9`, the pipe closes and the keeper ends. The kernel then kills the init (PR_SET_PDEATHSIG), and with the
//! first process of a process namespace everything else in it.
//!
//! There are two kinds of init. A node's init prepares files and network of the node and then only reaps children. The
//! other kind runs a single command (User-mode Linux).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, sethostname};
use serde::{Deserialize, Serialize};

use crate::mounts::{Covered, always_visible, bind, make_parent};
use crate::wait::wait_until;

/// The preparations of a node's init.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct NodePlan {
    /// The host name.
    pub hostname: String,
    /// Copy-on-write folders, besides `PRIVATE`. Writes to them are visible on the node only.
    pub private: Vec<PathBuf>,
    /// Folders in memory, besides `EMPTY`. They are empty at first, apart from our programs if these are in them.
    pub empty: Vec<PathBuf>,
    /// Shared mount propagation (mount_namespaces(7)), which Kubernetes requires.
    pub shared: bool,
    /// The file for messages of the keeper and the init; the standard error if absent.
    pub log: Option<PathBuf>,
    /// Bind mounts; sources are absolute.
    pub binds: Vec<PlannedBind>,
    /// Symbolic links: (path of the link, target).
    pub symlinks: Vec<(PathBuf, PathBuf)>,
}

/// A file or folder of the machine under another path in the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlannedBind {
    /// Absolute path on the machine.
    pub source: PathBuf,
    /// Absolute path in the node.
    pub target: PathBuf,
    /// True if the node may only read it.
    pub read_only: bool,
}

/// Copy-on-write folders of every node; their content is the machine's at first.
const PRIVATE: [&str; 3] = ["/etc", "/opt", "/usr/local"];
/// Folders of every node that are empty at first. FRR keeps its crash logs in the second.
const EMPTY: [&str; 2] = ["/run", "/var/tmp"];

/// The byte that the lab writes to the lifeline before it ends and leaves the jail behind.
const RELEASE: u8 = b'!';
/// The line of an init whose node is prepared.
const READY: &str = "ready";

/// A running jail. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Jail {
    keeper: Child,
    // The keeper ends when this is closed.
    lifeline: Option<ChildStdin>,
    init: i32,
}

impl Jail {
    /// Makes a node: namespaces, files, loopback. Returns when it is ready.
    ///
    /// # Errors
    /// When a step fails; the message contains that of the init.
    pub fn node(plan: &NodePlan) -> Result<Self> {
        let mut command = keeper_command()?;
        command.args(["jail", "node"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(log) = &plan.log {
            let file = File::options().create(true).append(true).open(log);
            command.stderr(file.with_context(|| format!("cannot write {}", log.display()))?);
        }
        let mut keeper = command.spawn().context("cannot start `heliograph-lab jail`")?;
        let mut lifeline = keeper.stdin.take().context("no standard input")?;
        writeln!(lifeline, "{}", serde_json::to_string(plan)?).context("the jail's keeper is gone")?;
        let mut reports = BufReader::new(keeper.stdout.take().context("no standard output")?);
        let mut report = || -> Result<String> {
            let mut line = String::new();
            reports.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let init =
            report()?.parse().context("the jail's keeper could not make an init; see its message above");
        let state = report()?;
        let jail = Self { keeper, lifeline: Some(lifeline), init: init? };
        if state != READY {
            bail!("node {}: {state}", plan.hostname);
        }
        Ok(jail)
    }

    /// The process number of the init.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Detaches the jail from this program: only the end of its init ends it now. Returns the keeper's process number.
    ///
    /// # Errors
    /// When the keeper is gone; everything inside is killed then.
    pub fn release(mut self) -> Result<i32> {
        let mut lifeline = self.lifeline.take().context("the jail has ended")?;
        if let Err(error) = lifeline.write_all(&[RELEASE]) {
            self.lifeline = Some(lifeline);
            return Err(error).context("the jail's keeper is gone");
        }
        Ok(self.keeper.id() as i32)
    }

    /// Kills everything inside and waits until the keeper is gone too.
    pub fn end(&mut self) {
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        drop(self.lifeline.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        if self.lifeline.is_some() {
            self.end();
        }
    }
}

/// Returns the command line that runs `program` in a jail and ends with its exit status. The caller adds arguments and
/// output. The standard input is a pipe, the lifeline.
///
/// # Errors
/// When `heliograph-lab` is not there.
pub fn jailed(program: &Path) -> Result<Command> {
    let mut command = keeper_command()?;
    command.args(["jail", "run", "--"]).arg(program).stdin(Stdio::piped());
    Ok(command)
}

fn keeper_command() -> Result<Command> {
    let mut command = Command::new(crate::lab::binary("heliograph-lab")?);
    // A Ctrl-C in the terminal is for the lab, which takes things down in order.
    command.process_group(0);
    Ok(command)
}

/// Runs `heliograph-lab jail node`, the keeper of a node, until the node's end.
///
/// # Errors
/// When namespaces cannot be made.
pub fn keep_node() -> Result<i32> {
    let plan = read_line(std::io::stdin())?;
    let plan: NodePlan = serde_json::from_str(&plan).context("no plan on standard input")?;
    let kinds = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS;
    keep(kinds, true, move || {
        match prepare(&plan) {
            Ok(()) => println!("{READY}"),
            Err(error) => println!("{error:#}"),
        }
        reap_children()
    })
}

/// Runs `heliograph-lab jail run -- PROGRAM…`, the keeper of one command. Returns the command's exit status.
///
/// # Errors
/// When namespaces cannot be made.
pub fn keep_command(words: &[String]) -> Result<i32> {
    let (program, arguments) = words.split_first().context("no program to run")?;
    keep(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS, false, || {
        mount_private_proc()?;
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        let child = Pid::from_raw(child.with_context(|| format!("cannot start {program}"))?.id() as i32);
        // The first process is the parent of every orphan: reap until the child that ends is the command.
        loop {
            match waitpid(None, None)? {
                WaitStatus::Exited(pid, code) if pid == child => return Ok(code),
                WaitStatus::Signaled(pid, signal, _) if pid == child => {
                    return Ok(128 + signal as i32);
                }
                _ => {}
            }
        }
    })
}

/// Starts the init in new namespaces and waits until it or the lab ends.
fn keep(kinds: CloneFlags, announce: bool, init: impl FnOnce() -> Result<i32>) -> Result<i32> {
    watched().thread_block().context("cannot block signals to wait for them")?;
    unshare(kinds).context("cannot make namespaces: the lab needs root")?;
    // SAFETY: this program has one thread so far.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            let code = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
                .context("cannot tie the init to its keeper")
                .and_then(|()| init())
                .unwrap_or_else(|error| {
                    eprintln!("{error:#}");
                    125
                });
            std::process::exit(code);
        }
        ForkResult::Parent { child } => {
            if announce {
                // In its own namespace the init is number 1.
                println!("{child}");
            }
            wait_for_either(child)
        }
    }
}

/// Waits for the end of the init and returns its exit status, or kills the init at the end of the lab or on SIGTERM.
/// Threads are not possible here: the kernel allows none in a process whose children go to another process namespace.
fn wait_for_either(init: Pid) -> Result<i32> {
    let signals = SignalFd::new(&watched()).context("cannot watch the init")?;
    let lifeline = std::io::stdin();
    let mut released = false;
    loop {
        let mut events = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
        ];
        let watched = if released { &mut events[..1] } else { &mut events[..] };
        match poll(watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled.context("cannot watch the lab")?,
        };
        let mut over = false;
        if !released && events[1].any().unwrap_or(true) {
            let mut byte = [0];
            released = matches!(nix::unistd::read(&lifeline, &mut byte), Ok(1)) && byte == [RELEASE];
            over = !released;
        }
        if events[0].any().unwrap_or(false) {
            let signal = signals.read_signal().context("cannot read a signal")?;
            over |= signal.is_some_and(|signal| signal.ssi_signo == Signal::SIGTERM as u32);
        }
        if over {
            end(init);
            return Ok(130);
        }
        match waitpid(init, Some(WaitPidFlag::WNOHANG)).context("lost the init")? {
            WaitStatus::Exited(_, code) => return Ok(code),
            WaitStatus::Signaled(_, signal, _) => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}

/// Kills an init and reaps it, so that not even a zombie is left. Waits only for a limited time: an init cannot end
/// before each of its processes is reaped, and the lab, the parent of those that it started, may be gone. None of them
/// runs any more in any case.
fn end(init: Pid) {
    let _ = kill(init, Signal::SIGKILL);
    let _ = wait_until(Duration::from_secs(2), "the init's end", || {
        match waitpid(init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Err(anyhow!("still there")),
            _ => Ok(()),
        }
    });
}

/// Returns the signals that a keeper waits for.
fn watched() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM].into_iter().collect()
}

/// Reads one line and not a byte more: the rest of the stream is the lifeline.
fn read_line(mut stream: impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line)?)
}

fn prepare(plan: &NodePlan) -> Result<()> {
    sethostname(&plan.hostname).context("cannot set the host name")?;
    mount_private_proc()?;
    let empty: Vec<_> = EMPTY.iter().map(Path::new).chain(plan.empty.iter().map(PathBuf::as_path)).collect();
    let visible = Covered::open(&empty, always_visible()?)?;
    let sources = Covered::open(&empty, plan.binds.iter().map(|bind| bind.source.clone()))?;
    make_folders_private(&plan.private)?;
    empty.into_iter().try_for_each(make_folder_empty)?;
    visible.uncover()?;
    for (link, to) in &plan.symlinks {
        make_parent(link)?;
        // The machine may have a file there: in this node the link replaces it.
        let _ = std::fs::remove_file(link);
        std::os::unix::fs::symlink(to, link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    for PlannedBind { source, target, read_only } in &plan.binds {
        bind(&sources.path(source), target, *read_only)
            .with_context(|| format!("cannot bind {}", source.display()))?;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run `ip`")?;
    if !status.success() {
        bail!("`ip link set lo up` failed");
    }
    if plan.shared {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
            .context("cannot make the mounts shared")?;
    }
    Ok(())
}

fn mount_private_proc() -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).context("cannot mount /proc")
}

/// Puts copy-on-write overlays over [`PRIVATE`] and the folders that the plan adds.
fn make_folders_private(private: &[PathBuf]) -> Result<()> {
    // Room for the overlays' files. They keep it mounted, so it need not be visible afterwards.
    make_folder_empty(Path::new("/run"))?;
    for (i, folder) in PRIVATE.iter().map(Path::new).chain(private.iter().map(PathBuf::as_path)).enumerate() {
        std::fs::create_dir_all(format!("/run/{i}/upper"))?;
        std::fs::create_dir_all(format!("/run/{i}/work"))?;
        let options = format!("lowerdir={},upperdir=/run/{i}/upper,workdir=/run/{i}/work", folder.display());
        mount(Some("lab"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("cannot put a copy-on-write overlay over {}", folder.display()))?;
    }
    umount2("/run", MntFlags::MNT_DETACH).context("cannot unmount /run")
}

/// Mounts an empty file system in memory over a folder.
fn make_folder_empty(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    mount(Some("lab"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount {}", folder.display()))
}

/// Reaps children for as long as the node runs: orphans become children of the init and would stay zombies.
fn reap_children() -> Result<i32> {
    // `keep` has blocked it.
    let signals: SigSet = [Signal::SIGCHLD].into_iter().collect();
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        signals.wait()?;
    }
}

/// Returns the exit status as a shell reports it.
#[must_use]
pub fn code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
