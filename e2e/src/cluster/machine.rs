//! The machines of a cluster: jails with daemons in them that live on when the program that made them has ended.
//!
//! A machine has its own network, mounts, processes and host name. Whatever is started in it is a child of its init,
//! so killing the init ends all of it, containers included, and with the last process its mounts and interfaces go.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::state::Identity;
use crate::guest::PATH;
use crate::jail::{Jail, NodePlan};
use crate::lab::ip_batch;
use crate::netns::{NetNs, NodeNs};
use crate::wait::{wait_until, wait_while};

/// The folder of the process numbers of a machine's daemons.
const PIDS: &str = "/run/daemons";
/// The timeout for a daemon to end, and for a started one to be seen.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The number of lines of a daemon's log in an error.
const LOG_LINES: usize = 25;

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    init: Identity,
    namespaces: NodeNs,
    logs: PathBuf,
    /// Absent if somebody else made it, or it was released.
    jail: Option<Jail>,
}

impl Machine {
    /// Makes a machine. `logs` is where its daemons write.
    ///
    /// # Errors
    /// When it cannot be made (needs root).
    pub fn up(plan: NodePlan, logs: &Path) -> Result<Self> {
        let name = plan.hostname.clone();
        let log = logs.join(format!("{name}-jail.log"));
        let plan = NodePlan { log: Some(log.clone()), ..plan };
        let jail = Jail::node(&plan).with_context(|| {
            format!("{name}: {}", std::fs::read_to_string(&log).unwrap_or_default().trim())
        })?;
        let init = Identity::of(jail.init())?;
        let namespaces = NodeNs::of(jail.init())?;
        let machine = Self { name, init, namespaces, logs: logs.to_owned(), jail: Some(jail) };
        std::fs::create_dir_all(machine.path(PIDS))?;
        Ok(machine)
    }

    /// Finds a machine that another program made.
    ///
    /// # Errors
    /// When it is gone.
    pub fn attach(name: &str, init: Identity, logs: &Path) -> Result<Self> {
        ensure!(init.lives(), "{name} is gone");
        let namespaces = NodeNs::of(init.pid)?;
        Ok(Self { name: name.to_owned(), init, namespaces, logs: logs.to_owned(), jail: None })
    }

    /// Lets it live on without us.
    ///
    /// # Errors
    /// When it is gone.
    pub fn release(&mut self) -> Result<()> {
        self.jail.take().map_or(Ok(0), Jail::release).map(drop)
    }

    /// Kills everything in it.
    pub fn end(&mut self) {
        self.init.kill();
        drop(self.jail.take());
    }

    /// Its name, which is its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its init.
    #[must_use]
    pub fn init(&self) -> &Identity {
        &self.init
    }

    /// Its network namespace.
    #[must_use]
    pub fn net(&self) -> &NetNs {
        &self.namespaces.net
    }

    /// A file of the machine as seen from outside.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.pid))
    }

    /// Writes a file of the machine, its folders included.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let what = || format!("{}: cannot write {path}", self.name);
        let file = self.path(path);
        std::fs::create_dir_all(file.parent().unwrap_or(&file)).with_context(what)?;
        std::fs::write(&file, text).with_context(what)
    }

    fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().context("an empty command")?);
        // Nothing of the caller's environment: a proxy set there would be asked for the API server.
        command.args(words).env_clear().env("PATH", PATH).env("HOME", "/run").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in the machine to its end, with a standard input, and returns all its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>, input: Input) -> Result<Output> {
        let mut command = self.command(words)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = match input {
            Input::None => None,
            Input::File(file) => {
                command.stdin(file);
                None
            }
            Input::Text(text) => {
                command.stdin(Stdio::piped());
                Some(text)
            }
        };
        let child = self.namespaces.spawn(&mut command);
        let mut child = child.with_context(|| format!("{}: cannot run {command:?}", self.name))?;
        if let (Some(text), Some(mut stdin)) = (text, child.stdin.take()) {
            // Who does not read its input closes it; that is no fault.
            let _ = stdin.write_all(text.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs a command in the machine and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; its standard error is in the message.
    pub fn run(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        self.run_with(words, Input::None)
    }

    /// The same with a standard input.
    ///
    /// # Errors
    /// When it cannot be started or fails; its standard error is in the message.
    pub fn run_with(
        &self,
        words: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: Input,
    ) -> Result<String> {
        let words: Vec<_> = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
        let output = self.output(&words, input)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let line = words.join(OsStr::new(" "));
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{}: `{}` ended with {}\n{stdout}{stderr}", self.name, line.display(), output.status);
        }
        Ok(stdout)
    }

    /// Many `ip` commands in one go; those that begin with `-6` are about IPv6, and come last.
    ///
    /// # Errors
    /// At the first that fails.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        let six: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("-6 ").map(String::from)).collect();
        let four: Vec<_> = lines.iter().filter(|l| !l.starts_with("-6 ")).cloned().collect();
        let enter = || {
            ip_batch(Command::new("ip"), &four)?;
            let mut ip = Command::new("ip");
            ip.arg("-6");
            ip_batch(ip, &six)
        };
        self.net().enter(enter).with_context(|| format!("{}: cannot set up its network", self.name))
    }

    /// Starts a daemon, which writes to its log and lives as long as the machine at most.
    ///
    /// # Errors
    /// When it cannot be started; that it ends at once is seen by [`Machine::runs`].
    pub fn start(&self, daemon: &str, words: &[String]) -> Result<()> {
        ensure!(!self.runs(daemon), "{}: {daemon} runs already", self.name);
        let pid_file = format!("{PIDS}/{daemon}");
        let _ = std::fs::remove_file(self.path(&pid_file));
        let log = File::options().create(true).append(true).open(self.log_path(daemon))?;
        // The fork makes it a child of the machine's init: ours it must not be, as we do not stay.
        let script = r#"echo $$ >"$0.draft" && mv "$0.draft" "$0" && exec "$@""#;
        let before = ["setsid", "--fork", "sh", "-c", script, &pid_file];
        let mut command = self.command(before.into_iter().chain(words.iter().map(String::as_str)))?;
        command.stdout(log.try_clone()?).stderr(log);
        let status = self.namespaces.spawn(&mut command)?.wait()?;
        ensure!(status.success(), "{}: cannot start {daemon}: setsid ended with {status}", self.name);
        let what = format!("{}: the start of {daemon}", self.name);
        wait_until(TIMEOUT, &what, || self.pid(daemon).context("not seen yet")).map(drop)
    }

    /// Sends a daemon a signal and waits for its end. One that does not run any more is no fault.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, daemon: &str, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid(daemon) else { return Ok(()) };
        if self.runs(daemon) {
            self.run(["sh", "-c", &format!("kill -{} {pid} 2>/dev/null || true", signal as i32)])?;
            let what = format!("{}: the end of {daemon} after {signal}", self.name);
            wait_until(TIMEOUT, &what, || if self.runs(daemon) { bail!("it still runs") } else { Ok(()) })?;
        }
        // The number may be given to another process one day.
        Ok(std::fs::remove_file(self.path(&format!("{PIDS}/{daemon}")))?)
    }

    /// The number a daemon has among the machine's processes.
    fn pid(&self, daemon: &str) -> Option<i32> {
        std::fs::read_to_string(self.path(&format!("{PIDS}/{daemon}"))).ok()?.trim().parse().ok()
    }

    /// Returns whether a daemon runs.
    #[must_use]
    pub fn runs(&self, daemon: &str) -> bool {
        let stat = |pid| std::fs::read_to_string(self.path(&format!("/proc/{pid}/stat"))).ok();
        // proc(5), /proc/PID/stat: the state is the third field, the number of threads the 20th. A zombie has ended; the init
        // reaps it in a moment. With more threads than one the others still hold its sockets.
        let has_ended = |stat: String| {
            let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
            let zombie = fields.next() == Some("Z");
            zombie
                && fields
                    .nth(16)
                    .and_then(|threads| threads.parse().ok())
                    .is_none_or(|threads: u32| threads <= 1)
        };
        self.pid(daemon).and_then(stat).is_some_and(|stat| !has_ended(stat))
    }

    /// The daemons that were started here and not stopped, in order of name.
    #[must_use]
    pub fn daemons(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.path(PIDS)).into_iter().flatten().flatten();
        let mut names: Vec<_> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Returns the path of a daemon's log.
    #[must_use]
    pub fn log_path(&self, daemon: &str) -> PathBuf {
        self.logs.join(format!("{}-{daemon}.log", self.name))
    }

    /// The last lines of a daemon's log, for an error's message.
    #[must_use]
    pub fn last_logs(&self, daemon: &str) -> String {
        let path = self.log_path(daemon);
        let log = std::fs::read(&path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("{} ends with\n{tail}", path.display())
    }

    /// Waits until `look` gives a value; gives up at once when the daemon has ended.
    ///
    /// # Errors
    /// When the daemon ends, or the time; with the last lines of its log.
    pub fn wait_for<T>(&self, daemon: &str, within: Duration, look: impl FnMut() -> Result<T>) -> Result<T> {
        let what = format!("{}: {daemon} at work", self.name);
        let lives = || {
            ensure!(self.runs(daemon), "it has ended");
            Ok(())
        };
        wait_while(lives, within, &what, look).with_context(|| self.last_logs(daemon))
    }

    /// Sees that a daemon runs.
    ///
    /// # Errors
    /// When it has ended; with the last lines of its log.
    pub fn must_run(&self, daemon: &str) -> Result<()> {
        ensure!(self.runs(daemon), "{}: {daemon} has ended: {}", self.name, self.last_logs(daemon));
        Ok(())
    }
}

/// Returns the standard input of a command.
#[derive(Debug, Default)]
pub enum Input {
    /// Nothing.
    #[default]
    None,
    /// A file.
    File(File),
    /// A text.
    Text(String),
}
