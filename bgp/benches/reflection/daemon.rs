//! A daemon under test: its start, resource usage and end.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clients::{DAEMON, PORT};
use crate::peers::{Peer, Setting};
use crate::processes::{self, tree};
use crate::usage::{cpu, peak};

/// A running daemon. It is killed with all its processes when this is dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// The resource usage of its processes so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// The sum of each process's peak of resident memory, in octets.
    pub peak: u64,
}

impl Daemon {
    pub fn start(peer: &Peer, dir: &Path, clients: &[Ipv4Addr]) -> Result<Self> {
        let setting = Setting { dir, clients };
        let binary = peer.binary().with_context(|| format!("{} is not installed", peer.name))?;
        let config = dir.join("config");
        fs::write(&config, (peer.config)(&setting)).with_context(|| format!("cannot write {config:?}"))?;
        let log = dir.join("log");
        let output = File::create(&log).with_context(|| format!("cannot write {log:?}"))?;
        let mut command = Command::new(&binary);
        (peer.command)(&mut command, &setting, &config.display().to_string());
        command.current_dir(dir).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        processes::bind_to_us(&mut command);
        // The port of the daemon before may be in use for a moment.
        let timeout = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpListener::bind((DAEMON, PORT)) {
            ensure!(Instant::now() < timeout, "port {PORT} does not become free: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let child = command.spawn().with_context(|| format!("cannot start {binary:?}"))?;
        Ok(Self { child, log })
    }

    /// Returns the last lines of its output, for an error.
    pub fn last_output(&self) -> String {
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
        processes::kill_all(&mut self.child);
    }
}
