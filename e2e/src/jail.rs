//! Processes that die with us, whatever we die of.
//!
//! The lab starts `heliograph-lab jail …`: the *keeper*. It makes a process namespace with a first process in it,
//! the *init*, and then does nothing but read its standard input, a pipe whose other end the lab holds. When the lab
//! ends, even by `kill -9`, the pipe closes, the keeper ends, the kernel kills the init (PR_SET_PDEATHSIG), and with
//! the first process of a process namespace everything else in it.
//!
//! Two kinds of init: a node's, which prepares files and network of the node and then only collects the dead, and
//! one that runs a single command (User-mode Linux).

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

use crate::wait::wait_until;

/// What a node's init prepares.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct NodePlan {
    /// The host name.
    pub hostname: String,
    /// Folders in which the node may write without anybody else seeing it, besides those every node has.
    pub private: Vec<PathBuf>,
    /// Folders that are the node's own, empty at first and in memory, besides those every node has.
    pub empty: Vec<PathBuf>,
    /// Whether what is mounted in one of the node's mount namespaces appears in those below, as Kubernetes wants it.
    pub shared: bool,
    /// Where the keeper and the init complain; the standard error if absent.
    pub log: Option<PathBuf>,
    /// Sources are absolute here.
    pub binds: Vec<PlannedBind>,
    /// Symbolic links: (where, to what).
    pub symlinks: Vec<(PathBuf, PathBuf)>,
}

/// A file or folder of the machine that the node sees elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlannedBind {
    /// Absolute path on the machine.
    pub source: PathBuf,
    /// Absolute path in the node.
    pub target: PathBuf,
    /// Not to be written from the node.
    pub read_only: bool,
}

/// Folders in which a node may write without anybody else seeing it; their content is the machine's at first.
const PRIVATE: [&str; 3] = ["/etc", "/opt", "/usr/local"];
/// Folders that are a node's own and empty at first. FRR keeps its crash logs in the second.
const EMPTY: [&str; 2] = ["/run", "/var/tmp"];

/// What the lab says on the lifeline before it goes and leaves the jail behind.
const RELEASE: u8 = b'!';

/// A running jail. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Jail {
    keeper: Child,
    // Closing it is what ends the keeper.
    lifeline: Option<ChildStdin>,
    init: i32,
}

impl Jail {
    /// Makes a node: namespaces, files, loopback. Returns when all is prepared.
    ///
    /// # Errors
    /// When a step fails; the init's own words are in the message.
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
        let mut answers = BufReader::new(keeper.stdout.take().context("no standard output")?);
        let mut answer = || -> Result<String> {
            let mut line = String::new();
            answers.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let init =
            answer()?.parse().context("the jail's keeper could not make an init; see its message above");
        let said = answer()?;
        let jail = Self { keeper, lifeline: Some(lifeline), init: init? };
        if said != "ready" {
            bail!("node {}: {said}", plan.hostname);
        }
        Ok(jail)
    }

    /// The process number of the init.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Lets the jail live on without us: only the end of its init ends it now. Gives the keeper's process number.
    ///
    /// # Errors
    /// When the keeper is gone; what was inside is killed then.
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

/// The command line that runs `program` in a jail, with its exit status: to be completed with arguments and output,
/// and with a piped standard input that is the lifeline.
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

/// `heliograph-lab jail node`: the keeper of a node. Does not return before the node's end.
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
            Ok(()) => println!("ready"),
            Err(error) => println!("{error:#}"),
        }
        collect_the_dead()
    })
}

/// `heliograph-lab jail run -- PROGRAM…`: the keeper of one command. Returns its exit status.
///
/// # Errors
/// When namespaces cannot be made.
pub fn keep_command(words: &[String]) -> Result<i32> {
    let (program, arguments) = words.split_first().context("no program to run")?;
    keep(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS, false, || {
        mount_private_proc()?;
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        let child = Pid::from_raw(child.with_context(|| format!("cannot start {program}"))?.id() as i32);
        // As the first process we inherit every orphan: collect whatever ends, until it is ours.
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

/// Starts the init in new namespaces and stays until it or the lab ends.
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
                // The init itself knows only that it is number 1.
                println!("{child}");
            }
            wait_for_either(child)
        }
    }
}

/// Waits for the end of the init, and gives its exit status; or for the end of the lab, or SIGTERM, and ends the
/// init. No thread can help here: a process whose children go to another process namespace is refused any.
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
            let mut said = [0];
            released = matches!(nix::unistd::read(&lifeline, &mut said), Ok(1)) && said == [RELEASE];
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

/// Kills an init and takes note of its death, so that not even a zombie is left. Not for ever: it cannot end before
/// somebody has taken note of each of its processes, and the lab, which did that for those it had started, may be
/// gone. They are not running any more in any case.
fn end(init: Pid) {
    let _ = kill(init, Signal::SIGKILL);
    let _ = wait_until(Duration::from_secs(2), "the init's end", || {
        match waitpid(init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Err(anyhow!("still there")),
            _ => Ok(()),
        }
    });
}

/// What a keeper waits for.
fn watched() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM].into_iter().collect()
}

/// One line, without reading a byte further: the rest of the stream is the lifeline.
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
    make_folders_private(&plan.private, &plan.empty)?;
    for (link, to) in &plan.symlinks {
        make_parent(link)?;
        // The machine may have one of its own there: in this node ours counts.
        let _ = std::fs::remove_file(link);
        std::os::unix::fs::symlink(to, link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    plan.binds.iter().try_for_each(bind)?;
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

/// Copy-on-write versions of [`PRIVATE`] and what the plan adds, and [`EMPTY`] ones with what it adds.
fn make_folders_private(private: &[PathBuf], empty: &[PathBuf]) -> Result<()> {
    let tmpfs = |folder: &Path| {
        mount(Some("lab"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {}", folder.display()))
    };
    // Room for what is written. The overlays hold on to it, so nobody need see it afterwards.
    tmpfs(Path::new("/run"))?;
    for (i, folder) in PRIVATE.iter().map(Path::new).chain(private.iter().map(PathBuf::as_path)).enumerate() {
        std::fs::create_dir_all(format!("/run/{i}/upper"))?;
        std::fs::create_dir_all(format!("/run/{i}/work"))?;
        let options = format!("lowerdir={},upperdir=/run/{i}/upper,workdir=/run/{i}/work", folder.display());
        mount(Some("lab"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("cannot put a copy-on-write overlay over {}", folder.display()))?;
    }
    umount2("/run", MntFlags::MNT_DETACH).context("cannot unmount /run")?;
    for folder in EMPTY.iter().map(Path::new).chain(empty.iter().map(PathBuf::as_path)) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        tmpfs(folder)?;
    }
    Ok(())
}

fn bind(bind: &PlannedBind) -> Result<()> {
    let PlannedBind { source, target, read_only } = bind;
    let what = || format!("cannot bind {} to {}", source.display(), target.display());
    let kind = std::fs::metadata(source).with_context(what)?;
    if kind.is_dir() {
        std::fs::create_dir_all(target).with_context(what)?;
    } else {
        make_parent(target)?;
        std::fs::OpenOptions::new().create(true).append(true).open(target).with_context(what)?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(what)?;
    if *read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).with_context(what)?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// The life of a node's init: orphans become its children and would stay zombies.
fn collect_the_dead() -> Result<i32> {
    // `keep` has blocked it.
    let signals: SigSet = [Signal::SIGCHLD].into_iter().collect();
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        signals.wait()?;
    }
}

/// The exit status as a shell would tell it.
#[must_use]
pub fn code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
