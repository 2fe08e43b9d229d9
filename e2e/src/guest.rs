//! The first process of a User-mode Linux guest: makes a writable root, runs one command, switches off.
//!
//! The guest's root is the machine's own file system, read through hostfs. Writes go to a tmpfs over it, which ends with
//! the guest. So the guest has the same programs and files as the machine.

use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::io::Write;
use std::os::unix::fs::chroot;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::mounts::{Covered, always_visible};

/// The first byte of our own lines on the console, which the kernel writes to as well.
pub const MARK: u8 = 0x1e;
/// The line, after [`MARK`], at the begin of the command's output.
pub const BEGIN: &str = "heliograph-guest begin";
/// The line, after [`MARK`], at its end; the exit status follows.
pub const END: &str = "heliograph-guest end ";

/// The command that a guest runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Program and arguments.
    pub words: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub folder: PathBuf,
}

/// Runs `heliograph-lab guest JOB`. Never returns, as the guest is off then.
pub fn guest(job: &Path) -> ! {
    let code = run(job).unwrap_or_else(|error| {
        println!("the guest could not be prepared: {error:#}");
        125
    });
    println!("{}{END}{code}", MARK as char);
    let _ = std::io::stdout().flush();
    nix::unistd::sync();
    let error = reboot(RebootMode::RB_POWER_OFF);
    // Without this process the kernel panics, which ends the guest, too.
    panic!("cannot switch off: {error:?}");
}

fn run(job: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(job).with_context(|| format!("cannot read {}", job.display()))?;
    let job: Job = serde_json::from_str(&text)?;
    disable_output_processing()?;
    make_root(&job.folder)?;
    let lo = Command::new("ip").env("PATH", PATH).args(["link", "set", "lo", "up"]).status();
    lo.context("cannot run `ip`")?;
    println!("{}{BEGIN}", MARK as char);

    let (program, arguments) = job.words.split_first().context("an empty job")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&job.env).current_dir(&job.folder).stdin(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let child = nix::unistd::Pid::from_raw(child.id() as i32);
    // The first process is the parent of every orphan: reap until the child that ends is the command.
    loop {
        match waitpid(None, None).context("lost the command")? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}

/// The `PATH` of a guest.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Sets the console not to put a carriage return before each line feed.
fn disable_output_processing() -> Result<()> {
    let console = std::io::stdout();
    let mut settings = tcgetattr(&console).context("the console is no terminal")?;
    settings.output_flags.remove(OutputFlags::OPOST);
    tcsetattr(&console, SetArg::TCSANOW, &settings).context("cannot set up the console")
}

/// Makes the root of a guest that works in `folder`.
fn make_root(folder: &Path) -> Result<()> {
    let mounted = |kind: &str, target: &str, options: Option<&str>| {
        mount(Some("guest"), target, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("cannot mount {kind} on {target}"))
    };
    let visible = always_visible()?.into_iter().chain([folder.to_owned()]);
    // Every system has a /mnt.
    mounted("tmpfs", "/mnt", None)?;
    for folder in ["/mnt/upper", "/mnt/work", "/mnt/root"] {
        create_dir_all(folder)?;
    }
    mounted("overlay", "/mnt/root", Some("lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work"))?;
    std::env::set_current_dir("/mnt/root")?;
    mounted("proc", "proc", None)?;
    mounted("sysfs", "sys", None)?;
    mounted("devtmpfs", "dev", None)?;
    create_dir_all("dev/shm")?;
    create_dir_all("dev/pts")?;
    mounted("tmpfs", "dev/shm", None)?;
    mounted("devpts", "dev/pts", None)?;
    mounted("cgroup2", "sys/fs/cgroup", None)?;
    mounted("bpf", "sys/fs/bpf", None)?;
    // Moved over the old root, and not only entered: a process in a chroot may not make user namespaces.
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("cannot move the root")?;
    chroot(".").context("cannot enter the root")?;
    std::env::set_current_dir("/").context("cannot enter the root")?;
    let visible = Covered::open(&[Path::new("/run")], visible)?;
    mounted("tmpfs", "/run", None)?;
    visible.uncover()
}
