//! Builds a lab from a topology, and lets tests run commands in its nodes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cleanup;
use crate::jail::{Jail, NodePlan, PlannedBind};
use crate::netns::NodeNs;
use crate::topology::Topology;
use crate::wait::wait_until;

/// The number of lines of a daemon's log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// The folder with our topologies.
#[must_use]
pub fn topologies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies")
}

/// A program under test, from the same build as the running program.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find the path of this program")?;
    // Test programs lie in `deps`, one folder below the binaries.
    let folders = me.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        anyhow!(
            "there is no `{name}` beside {}: build it first, `cargo build --workspace --bins`",
            me.display()
        )
    })
}

/// A lab to be: the place to change what a test needs different.
pub struct Builder {
    topology: Topology,
    scratch: TempDir,
}

/// A running lab. Dropping it takes everything down; if the thread panics, the daemons' logs are printed first.
pub struct Lab {
    /// Returns the topology that it was built from.
    pub topology: Topology,
    nodes: BTreeMap<String, NodeState>,
    scratch: TempDir,
    _on_interrupt: cleanup::Registered,
}

struct NodeState {
    // Order matters: fields are dropped in it, and the jail takes the daemon along.
    namespaces: NodeNs,
    daemon: Mutex<Option<Child>>,
    log: PathBuf,
    jail: Jail,
}

/// A node of a running lab.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    lab: &'a Lab,
    name: &'a str,
    state: &'a NodeState,
}

impl Lab {
    /// One of our topologies by name, or any topology file by path.
    ///
    /// # Errors
    /// When there is none, or it is not valid.
    pub fn named(name: &str) -> Result<Builder> {
        let ours = topologies().join(name).join(format!("{name}.clab.yml"));
        let file = if ours.is_file() { ours } else { PathBuf::from(name) };
        Builder::new(Topology::read(&file)?)
    }

    /// A node by name.
    ///
    /// # Panics
    /// When the topology has no such node.
    #[must_use]
    pub fn node(&self, name: &str) -> Node<'_> {
        let (name, state) =
            self.nodes.get_key_value(name).unwrap_or_else(|| panic!("the lab has no node `{name}`"));
        Node { lab: self, name, state }
    }

    /// The nodes whose label `role` has this value, in order of name.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = Node<'a>> {
        self.topology.with_role(role).map(|name| self.node(name))
    }

    /// The private copy of a folder that the topology binds into nodes, such as `intent`: what is changed here
    /// changes in the nodes, and nowhere else.
    #[must_use]
    pub fn private(&self, folder: &str) -> PathBuf {
        self.scratch.path().join("binds").join(folder)
    }

    /// Writes a file of a private folder the way a careful editor does, so that nobody reads half of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &str, file: &str, text: &str) -> Result<()> {
        write_whole(&self.private(folder).join(file), text)
    }

    /// Removes a file of a private folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, folder: &str, file: &str) -> Result<()> {
        let path = self.private(folder).join(file);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn write_whole(path: &Path, text: &str) -> Result<()> {
    // The name does not end in `.yaml`: nobody looks at the half-written one.
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)
        .and_then(|()| std::fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Builder {
    /// A lab of this topology. Folders and files it binds are copied, so that a test can change its own.
    ///
    /// # Errors
    /// When a bind's source is missing.
    pub fn new(topology: Topology) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("heliograph-lab-")
            .tempdir()
            .context("cannot make a folder for the lab's logs")?;
        let copies = scratch.path().join("binds");
        std::fs::create_dir_all(&copies)?;
        for (name, node) in &topology.nodes {
            for bind in node.binds.iter().filter(|b| b.source.is_relative()) {
                copy(&topology.folder.join(&bind.source), &copies.join(&bind.source))
                    .with_context(|| format!("topology.nodes.{name}.binds: {}", bind.source.display()))?;
            }
        }
        Ok(Self { topology, scratch })
    }

    /// Changes a file of a private folder before the lab starts: the text `from` becomes `to`.
    ///
    /// # Errors
    /// When the file does not have that text.
    pub fn replace(self, file: &str, from: &str, to: &str) -> Result<Self> {
        let path = self.scratch.path().join("binds").join(file);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !text.contains(from) {
            bail!("{file} has no `{from}` to replace");
        }
        write_whole(&path, &text.replace(from, to))?;
        Ok(self)
    }

    /// Changes the topology itself, for example a node's `cmd`.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Topology)) -> Self {
        change(&mut self.topology);
        self
    }

    /// Builds the lab: nodes, links, `exec`, and the daemons of `cmd`.
    ///
    /// # Errors
    /// When a step fails; what was built until then is taken down.
    pub fn up(self) -> Result<Lab> {
        let Self { topology, scratch } = self;
        let path = scratch.path().to_owned();
        let inits = Arc::new(Mutex::new(Vec::new()));
        let on_interrupt = cleanup::register({
            let inits = inits.clone();
            move || end_quickly(&inits, &path)
        });
        let mut nodes = BTreeMap::new();
        for (name, node) in &topology.nodes {
            let mut plan = NodePlan {
                hostname: name.clone(),
                binds: Vec::new(),
                symlinks: vec![
                    ("/usr/local/bin/heliograph".into(), binary("heliograph")?),
                    ("/opt/cni/bin/heliograph-cni".into(), binary("heliograph-cni")?),
                ],
                ..NodePlan::default()
            };
            for bind in &node.binds {
                // An absolute source replaces the whole path here, as it should.
                let source = scratch.path().join("binds").join(&bind.source);
                plan.binds.push(PlannedBind {
                    source,
                    target: bind.target.clone(),
                    read_only: bind.read_only,
                });
            }
            let jail = Jail::node(&plan)?;
            inits.lock().unwrap_or_else(|e| e.into_inner()).push(jail.init());
            let namespaces = NodeNs::of(jail.init())?;
            let log = scratch.path().join(format!("{name}.log"));
            nodes.insert(name.clone(), NodeState { namespaces, daemon: Mutex::new(None), log, jail });
        }
        let lab = Lab { topology, nodes, scratch, _on_interrupt: on_interrupt };
        lab.connect()?;
        for node in lab.all() {
            for words in &node.described().exec {
                node.run(words)?;
            }
        }
        lab.all().try_for_each(|node| node.start())?;
        Ok(lab)
    }
}

/// The short way out, for Ctrl-C: no locks of the running lab are needed.
fn end_quickly(inits: &Mutex<Vec<i32>>, scratch: &Path) {
    let inits = std::mem::take(&mut *inits.lock().unwrap_or_else(|e| e.into_inner()));
    for init in &inits {
        let _ = kill(Pid::from_raw(*init), Signal::SIGKILL);
    }
    // Taking note of every death ourselves, daemons' and keepers': what is left to the machine's first process may
    // stay a zombie, and a zombie keeps its node's namespaces.
    let gone = || match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Err(nix::errno::Errno::ECHILD) => Ok(()),
        state => Err(anyhow!("children are left: {state:?}")),
    };
    if let Err(error) = wait_until(Duration::from_secs(5), "the end of the lab", gone) {
        eprintln!("{error:#}");
    }
    let _ = std::fs::remove_dir_all(scratch);
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    if std::fs::metadata(from).with_context(what)?.is_dir() {
        std::fs::create_dir_all(to).with_context(what)?;
        for entry in std::fs::read_dir(from).with_context(what)? {
            let name = entry.with_context(what)?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap_or(to)).with_context(what)?;
        std::fs::copy(from, to).with_context(what)?;
    }
    Ok(())
}

impl Lab {
    /// Every node, in order of name.
    pub fn all(&self) -> impl Iterator<Item = Node<'_>> {
        self.nodes.iter().map(|(name, state)| Node { lab: self, name, state })
    }

    /// Makes the links: each end appears in its node under its name at once, so labs never collide.
    fn connect(&self) -> Result<()> {
        let mut lines = Vec::new();
        for link in &self.topology.links {
            let [a, b] = &link.ends;
            let init = |node: &str| self.nodes[node].jail.init();
            let mtu = link.mtu.map(|mtu| format!("mtu {mtu}")).unwrap_or_default();
            lines.push(format!(
                "link add name {} {mtu} netns {} type veth peer name {} {mtu} netns {}",
                a.interface,
                init(&a.node),
                b.interface,
                init(&b.node),
            ));
        }
        ip_batch(Command::new("ip"), &lines).context("cannot make the links")?;
        for node in self.all() {
            let ends = self.topology.links.iter().flat_map(|l| &l.ends).filter(|end| end.node == node.name);
            let lines: Vec<_> = ends.map(|end| format!("link set {} up", end.interface)).collect();
            node.state
                .namespaces
                .net
                .enter(|| ip_batch(Command::new("ip"), &lines))
                .with_context(|| format!("node {}: cannot set its links up", node.name))?;
        }
        Ok(())
    }

    /// The last lines of each daemon's log.
    fn logs(&self) -> String {
        let mut text = String::new();
        for node in self.all().filter(|node| !node.described().cmd.is_empty()) {
            let log = node.log();
            let lines: Vec<_> = log.lines().collect();
            if !lines.is_empty() {
                let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
                text += &format!("--- the last lines of {}'s log\n{}\n", node.name, tail.join("\n"));
            }
        }
        text
    }
}

thread_local! {
    static LAST_LOGS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Returns the last logs of daemons in labs that this thread has taken down: for a failure that is found only after
/// the lab is gone, as an error on its way out is.
#[must_use]
pub fn last_logs() -> String {
    LAST_LOGS.take()
}

/// Keeps the logs of daemons for [`last_logs`]; while the thread panics it prints them.
pub(crate) fn keep_last_logs(logs: &str) {
    if std::thread::panicking() {
        println!("{logs}");
    } else {
        LAST_LOGS.with_borrow_mut(|words| words.push_str(logs));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        keep_last_logs(&self.logs());
        // All at once first: nobody need notice a neighbor's end and write about it.
        for state in self.nodes.values() {
            let _ = kill(Pid::from_raw(state.jail.init()), Signal::SIGKILL);
        }
        for state in self.nodes.values_mut() {
            // First the daemon: its init cannot end before its death was taken note of.
            if let Some(daemon) = state.daemon.get_mut().unwrap_or_else(|e| e.into_inner()) {
                let _ = daemon.wait();
            }
            state.jail.end();
        }
    }
}

/// One `ip` process for many commands: in User-mode Linux starting a process is what costs.
pub(crate) fn ip_batch(mut ip: Command, lines: &[String]) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run `ip`: install iproute2 (`make setup`)")?;
    child.stdin.take().context("no standard input")?.write_all(lines.join("\n").as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -batch`: {}\n{}", String::from_utf8_lossy(&output.stderr).trim(), lines.join("\n"));
    }
    Ok(())
}

impl<'a> Node<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its description in the topology.
    #[must_use]
    pub fn described(&self) -> &'a crate::topology::Node {
        &self.lab.topology.nodes[self.name]
    }

    /// A label's value, empty if absent.
    #[must_use]
    pub fn label(&self, key: &str) -> &'a str {
        self.described().labels.get(key).map_or("", String::as_str)
    }

    /// Its namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &'a NodeNs {
        &self.state.namespaces
    }

    /// A file of the node as seen from outside.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.state.jail.init()))
    }

    fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().context("an empty command")?);
        // `sbin` is where Debian keeps `ip` and `nft`, and not everybody has it on the path.
        command.args(words).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(&self.described().env).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in the node to its end and returns all its output, whether it failed or not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.output_with(words, &[], b"")
    }

    /// The same with more environment and a standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output_with(
        &self,
        words: impl IntoIterator<Item = impl AsRef<OsStr>>,
        env: &[(&str, &str)],
        input: &[u8],
    ) -> Result<Output> {
        let mut command = self.command(words)?;
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.state.namespaces.spawn(&mut command);
        let mut child = child.with_context(|| format!("node {}: cannot run {command:?}", self.name))?;
        // Who does not read its input closes it; that is no fault.
        let _ = child.stdin.take().context("no standard input")?.write_all(input);
        Ok(child.wait_with_output()?)
    }

    /// Runs a command in the node and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; its standard error is in the message.
    pub fn run(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let words: Vec<_> = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
        let output = self.output(&words)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let line = words.join(OsStr::new(" "));
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("node {}: `{}` ended with {}\n{stdout}{stderr}", self.name, line.display(), output.status);
        }
        Ok(stdout)
    }

    /// Runs a command that prints JSON, and reads it.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<serde_json::Value> {
        let text = self.run(words)?;
        serde_json::from_str(&text).with_context(|| format!("node {}: this is no JSON: {text}", self.name))
    }

    /// Starts a command in the node, its output going to the node's log. It dies with the lab at the latest.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.state.log)?;
        let mut command = self.command(words)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = self.state.namespaces.spawn(&mut command);
        child.with_context(|| format!("node {}: cannot start {command:?}", self.name))
    }

    /// Runs `work` on a thread that sees the node's network and files.
    ///
    /// # Errors
    /// What `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.state.namespaces.enter(work)
    }

    fn daemon(&self) -> MutexGuard<'a, Option<Child>> {
        self.state.daemon.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Starts the daemon of `cmd`; nothing if the node has none.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<()> {
        let cmd = &self.described().cmd;
        if !cmd.is_empty() {
            *self.daemon() = Some(self.spawn(cmd)?);
        }
        Ok(())
    }

    /// Sends the daemon a signal and waits for its end.
    ///
    /// # Errors
    /// When there is none, or it has not ended within 20 s.
    pub fn stop(&self, signal: Signal) -> Result<()> {
        let mut daemon = self.daemon();
        let child = daemon.as_mut().with_context(|| format!("node {}: no daemon runs", self.name))?;
        kill(Pid::from_raw(child.id() as i32), signal)?;
        let what = format!("node {}: the daemon's end after {signal}", self.name);
        wait_until(Duration::from_secs(20), &what, || child.try_wait()?.context("it still runs"))?;
        *daemon = None;
        Ok(())
    }

    /// Kills the daemon without warning and starts it again.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub fn restart(&self) -> Result<()> {
        self.stop(Signal::SIGKILL)?;
        self.start()
    }

    /// Returns the exit status of the daemon, if it has ended.
    ///
    /// # Errors
    /// When the kernel gives no status.
    pub fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        Ok(match self.daemon().as_mut() {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// All that its daemons have written.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.state.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// `heliograph status -o json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        self.json(["heliograph", "status", "-o", "json"])
    }

    /// `heliograph routes -o json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn routes(&self) -> Result<serde_json::Value> {
        self.json(["heliograph", "routes", "-o", "json"])
    }

    /// `ip -j ARGUMENTS`, read.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip(&self, arguments: &str) -> Result<Vec<serde_json::Value>> {
        let words = ["ip", "-j"].into_iter().chain(arguments.split_whitespace());
        let text = self.run(words)?;
        // Debian's `ip -j` prints nothing at all for an empty list.
        if text.trim().is_empty() { Ok(Vec::new()) } else { Ok(serde_json::from_str(&text)?) }
    }

    /// A counter of /proc/net/snmp, such as `Ip` `FragCreates`.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.run(["cat", "/proc/net/snmp"])?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let found = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name);
        let (_, value) = found.with_context(|| format!("/proc/net/snmp has no {group} {name}"))?;
        value.parse().with_context(|| format!("{group} {name} is `{value}`"))
    }
}
