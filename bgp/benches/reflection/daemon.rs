//! A daemon under test: started, watched, ended.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::clients::{DAEMON, PORT};
use crate::peers::{Peer, Setting};

/// A running daemon; killed with all its processes when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// What its processes have used so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// The sum of each process's peak of resident memory, in octets.
    pub peak: u64,
}

impl Daemon {
    pub fn start(peer: &Peer, dir: &Path, clients: &[Ipv4Addr]) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let setting = Setting { dir, clients };
        let binary = peer.binary().with_context(|| format!("{} is not installed", peer.name))?;
        let config = dir.join("config");
        fs::write(&config, (peer.config)(&setting)).with_context(|| format!("cannot write {config:?}"))?;
        let log = dir.join("log");
        let output = File::create(&log).with_context(|| format!("cannot write {log:?}"))?;
        let mut command = Command::new(&binary);
        (peer.command)(&mut command, &setting, &config.display().to_string());
        command.current_dir(dir).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output).process_group(0);
        let end_with_us = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe { command.pre_exec(end_with_us) };
        // What the one before has left behind may take a moment to go.
        let patience = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpListener::bind((DAEMON, PORT)) {
            ensure!(Instant::now() < patience, "port {PORT} does not become free: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let child = command.spawn().with_context(|| format!("cannot start {binary:?}"))?;
        Ok(Self { child, log })
    }

    /// The last words it wrote, for an error.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for pid in tree(self.child.id()) {
            usage.cpu += cpu(pid);
            usage.peak += peak(pid);
        }
        usage
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let tree = tree(self.child.id());
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        for pid in tree {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// A process and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children: Vec<u32> = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|children| children.split(' ').filter_map(|c| c.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        at += 1;
    }
    all
}

/// Time on a processor, of all its threads: nanoseconds from the scheduler, where it tells.
fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let spent = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
