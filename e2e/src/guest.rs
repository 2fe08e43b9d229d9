//! The first process of a User-mode Linux guest: makes a root to write in, runs one command, switches off.
//!
//! The guest's root is the machine's own file system, read through hostfs; what is written goes to a tmpfs over it
//! and is gone with the guest. So the binaries under test, `ip` and all the rest are simply there.

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

/// Marks our lines on the console among those of the kernel.
pub const MARK: u8 = 0x1e;
/// Follows [`MARK`] where the command's output begins.
pub const BEGIN: &str = "heliograph-guest begin";
/// Follows [`MARK`] where it ends; the exit status follows.
pub const END: &str = "heliograph-guest end ";

/// What the guest is there for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Program and arguments.
    pub words: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub folder: PathBuf,
}

/// `heliograph-lab guest JOB`: never returns, as the guest is off then.
pub fn guest(job: &Path) -> ! {
    let code = run(job).unwrap_or_else(|error| {
        println!("the guest could not be prepared: {error:#}");
        125
    });
    println!("{}{END}{code}", MARK as char);
    let _ = std::io::stdout().flush();
    nix::unistd::sync();
    let error = reboot(RebootMode::RB_POWER_OFF);
    // Without this process the kernel panics, which ends the guest just as well.
    panic!("cannot switch off: {error:?}");
}

fn run(job: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(job).with_context(|| format!("cannot read {}", job.display()))?;
    let job: Job = serde_json::from_str(&text)?;
    pass_output_as_it_is()?;
    make_root()?;
    let lo = Command::new("ip").env("PATH", PATH).args(["link", "set", "lo", "up"]).status();
    lo.context("cannot run `ip`")?;
    println!("{}{BEGIN}", MARK as char);

    let (program, arguments) = job.words.split_first().context("an empty job")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&job.env).current_dir(&job.folder).stdin(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let child = nix::unistd::Pid::from_raw(child.id() as i32);
    // Every orphan becomes a child of the first process: collect whatever ends, until it is the command.
    loop {
        match waitpid(None, None).context("lost the command")? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}

/// Where a guest finds programs.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The console would put a carriage return before each line feed.
fn pass_output_as_it_is() -> Result<()> {
    let console = std::io::stdout();
    let mut settings = tcgetattr(&console).context("the console is no terminal")?;
    settings.output_flags.remove(OutputFlags::OPOST);
    tcsetattr(&console, SetArg::TCSANOW, &settings).context("cannot set up the console")
}

fn make_root() -> Result<()> {
    let mounted = |kind: &str, target: &str, options: Option<&str>| {
        mount(Some("guest"), target, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("cannot mount {kind} on {target}"))
    };
    // /mnt is there on every system, and nothing the lab runs lies in it.
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
    mounted("tmpfs", "run", None)?;
    mounted("cgroup2", "sys/fs/cgroup", None)?;
    mounted("bpf", "sys/fs/bpf", None)?;
    // Moved over the old root, and not only entered: user namespaces are refused to a process in a chroot.
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("cannot move the root")?;
    chroot(".").context("cannot enter the root")?;
    std::env::set_current_dir("/").context("cannot enter the root")
}
