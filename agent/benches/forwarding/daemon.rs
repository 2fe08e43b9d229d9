//! A daemon under test: its start, resource usage and end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::network::{AgentNet, address};
use crate::objects::{ASN, name};
use crate::outside::{Family, HOLD_SECONDS, TABLE};
use crate::processes::{bind_to_us, kill_all};

/// A program to measure.
pub enum Program {
    Agent(PathBuf),
    Bird(PathBuf),
}

/// A program with the name that the report gives it.
pub struct Subject {
    pub name: String,
    pub program: Program,
}

impl Subject {
    pub fn agent(&self) -> Result<&Path> {
        match &self.program {
            Program::Agent(path) => Ok(path),
            Program::Bird(_) => bail!("{} is no agent", self.name),
        }
    }
}

/// A running daemon. It is killed when this is dropped.
pub struct Daemon {
    child: Child,
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts the agent of node 0 with these objects in a folder.
    pub fn with_folder(network: &AgentNet, program: &Path, objects: &[Value]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let intent = folder.path().join("intent");
        fs::create_dir(&intent)?;
        let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
        fs::write(intent.join("all.yaml"), documents.join("\n---\n"))?;
        let arguments = ["--store=files".into(), format!("--intent={}", intent.display())];
        Self::agent(network, program, folder, &arguments)
    }

    /// Starts the agent of node 0 with an API server.
    pub fn with_api_server(network: &AgentNet, program: &Path, kubeconfig: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("kubeconfig");
        fs::write(&file, kubeconfig)?;
        let arguments = ["--store=kubernetes".into(), format!("--kubeconfig={}", file.display())];
        Self::agent(network, program, folder, &arguments)
    }

    fn agent(
        network: &AgentNet,
        program: &Path,
        folder: tempfile::TempDir,
        arguments: &[String],
    ) -> Result<Self> {
        let mut command = Self::command(network, program);
        command.args(["agent", "--node", &name(0)]).args(arguments);
        for (option, place) in [("run-dir", "run"), ("state-dir", "state"), ("cni-conf-dir", "cni")] {
            command.arg(format!("--{option}={}", folder.path().join(place).display()));
        }
        fs::create_dir(folder.path().join("cni"))?;
        Self::start(command, program, folder)
    }

    /// Starts BIRD with the one neighbor, whose routes go into the kernel.
    pub fn bird(network: &AgentNet, program: &Path, family: Family) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("bird.conf");
        let (local, channel) = (address(0), family.name().to_lowercase());
        let text = format!(
            "router id {local};\nprotocol device {{}}\nprotocol kernel {{ {channel} {{ import none; export all; }}; }}\n\
             protocol bgp {{ local {local} as {ASN}; neighbor {} as {}; passive; direct; hold time {HOLD_SECONDS};\n \
             {channel} {{ import all; export none; }};\n}}\n",
            TABLE.0, TABLE.1
        );
        fs::write(&config, text)?;
        let mut command = Self::command(network, program);
        command.arg("-f").arg("-c").arg(config);
        command.arg("-s").arg(folder.path().join("ctl")).arg("-P").arg(folder.path().join("pid"));
        Self::start(command, program, folder)
    }

    fn command(network: &AgentNet, program: &Path) -> Command {
        let mut command = network.command();
        crate::priority::before(&mut command);
        command.arg(program);
        command
    }

    fn start(mut command: Command, program: &Path, folder: tempfile::TempDir) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        bind_to_us(&mut command);
        let child = command.spawn().context("cannot run nsenter (util-linux)")?;
        Ok(Self { child, program: program.to_path_buf(), folder })
    }

    /// Adds an object to the folder of intent.
    pub fn add(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let place = |suffix| self.folder.path().join("intent").join(format!("{name}.{suffix}"));
        fs::write(place("new"), object.to_string())?;
        fs::rename(place("new"), place("yaml"))?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns an error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.program.display(), self.log_tail());
        }
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Waits until the agent has written the CNI configuration, after the routes of its own node.
    pub fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::read_dir(self.folder.path().join("cni"))?.next().is_none() {
            self.check()?;
            ensure!(Instant::now() < deadline, "no CNI configuration in time:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs `heliograph routes`, and returns the time that it took.
    pub fn list_routes(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        command.arg("routes").arg(format!("--run-dir={}", self.folder.path().join("run").display()));
        bind_to_us(command.stdout(Stdio::null()));
        ensure!(command.status()?.success(), "`heliograph routes` failed");
        Ok(start.elapsed())
    }

    /// Returns the CPU time of all its threads, those that have ended included.
    pub fn cpu(&self) -> Duration {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write one value each, to which they get a valid pointer.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.pid() as libc::pid_t, &mut clock) != 0
                || libc::clock_gettime(clock, &mut time) != 0
        };
        // After its end: the next check reports it.
        if failed { Duration::ZERO } else { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) }
    }

    /// Returns its resident memory in octets.
    pub fn memory(&self) -> u64 {
        self.octets("VmRSS:")
    }

    /// Returns the peak of its resident memory since the last reset, in octets.
    pub fn peak(&self) -> u64 {
        self.octets("VmHWM:")
    }

    /// Returns a size from the kernel's status of the process.
    fn octets(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Starts the peak of its resident memory anew, from the present value.
    pub fn reset_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("cannot reset the peak of memory")
    }

    /// Returns the median of the CPU time of an event: of windows, each with one event.
    pub fn cpu_of(
        &mut self,
        count: usize,
        window: Duration,
        mut event: impl FnMut(usize) -> Result<()>,
    ) -> Result<f64> {
        let mut samples = Vec::new();
        for n in 0..count {
            let (start, before) = (Instant::now(), self.cpu());
            event(n)?;
            std::thread::sleep(window.saturating_sub(start.elapsed()));
            self.check()?;
            samples.push(self.cpu().saturating_sub(before).as_secs_f64());
        }
        Ok(crate::report::median_of(samples.into_iter()).unwrap_or_default())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill_all(&mut self.child);
    }
}
