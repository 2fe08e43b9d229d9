//! The state of a cluster between `cluster up` and `cluster down`, on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Spec;

/// A process that is not mistaken for a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since boot.
    started: u64,
}

impl Identity {
    /// A process as it is now.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn of(pid: i32) -> Result<Self> {
        let started = started(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, started })
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn me() -> Result<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Returns whether it still runs. A zombie does not.
    #[must_use]
    pub fn lives(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Ends it at once, if it is still there.
    pub fn kill(&self) {
        if self.lives() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// proc(5), /proc/PID/stat: the state is the third field, the start time the 22nd. The second may contain anything.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// A machine as it is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// Its name.
    pub name: String,
    /// Its first process.
    pub init: Identity,
}

/// The state of a cluster. Written before anything it names is used, so that everything can be removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The options.
    pub spec: Spec,
    /// The process that makes it, or made it.
    pub maker: Identity,
    /// All that was made, in order.
    pub machines: Vec<Remembered>,
    /// It came up completely.
    pub complete: bool,
}

impl State {
    /// Returns whether anything of it runs: its machines, or the process that makes it.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.machines.iter().any(|machine| machine.init.lives()) || (!self.complete && self.maker.lives())
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("state.json")
    }

    /// Reads it; nothing if there is none.
    ///
    /// # Errors
    /// When there is one that is not readable.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = Self::file(folder);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(
                serde_json::from_str(&text)
                    .with_context(|| format!("{} is not what a cluster leaves behind", file.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let (file, draft) = (Self::file(folder), folder.join("state.draft"));
        std::fs::write(&draft, serde_json::to_string_pretty(self)?)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = Identity::me().expect("this process");
        assert!(me.lives());
        let other = Identity { started: me.started + 1, ..me };
        assert!(!other.lives());
        other.kill();
        assert!(Identity::of(0).is_err());
    }
}
