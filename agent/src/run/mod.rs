//! The agent: store, plan, speaker, kernel and status connected by one loop.
//!
//! After each hint that something may have changed, the loop syncs: it compares everything with the desired state and
//! applies the differences. A hint has no content, so a lost or repeated hint does no harm.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heliograph_bgp::io::{StartError, Stop};
use heliograph_bgp::report::SessionState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::apiserver::Access;
use crate::cni::{self, CniError, Installer};
use crate::forwarding::{self, Forwarding};
use crate::intent::Snapshot;
use crate::netlink::KernelError;
use crate::plan::{self, SpeakerPlan, SpeakerState, TopologyChange};
use crate::preflight::{PreflightError, preflight};
use crate::status::server::{MAX_CONNECTIONS, Query, RunDir, SocketError};
use crate::status::{NodeStatus, Role, StatusWriterStatus, http, kubernetes};
use crate::store::{self, View, last_good};

mod plugin;
mod report;
mod routes;
mod speaker;

use plugin::PluginFiles;
use speaker::AgentSpeaker;

/// The time between a hint and the sync, so that hints that belong together cause one sync.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The interval of syncs without a hint.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// The options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this node.
    pub node: String,
    /// The role of this process.
    pub role: Role,
    /// The source of intent.
    pub store: Store,
    /// The folder of the socket, node.json and the last good intent.
    pub run_dir: PathBuf,
    /// The folder in which the container runtime finds network configurations.
    pub cni_conf_dir: PathBuf,
    /// The folder in which the runtime finds plugins, if the agent has to install the plugin there.
    pub cni_bin_dir: Option<PathBuf>,
    /// The addresses that serve health and metrics.
    pub http: Vec<SocketAddr>,
}

/// The source of intent.
#[derive(Clone, Debug)]
pub enum Store {
    /// A folder of YAML documents.
    Files(PathBuf),
    /// A Kubernetes API server.
    Kubernetes {
        /// Its address and the credentials.
        access: Access,
        /// Heliograph's namespace; `None`: that of the pod or the kubeconfig.
        namespace: Option<String>,
        /// The folder for files that must survive a reboot.
        state_dir: PathBuf,
    },
}

impl Options {
    /// Returns the file of the last good intent. With a folder it is needed only until the machine reboots; an API server may
    /// be unavailable when the machine starts.
    fn last_good(&self) -> PathBuf {
        match &self.store {
            Store::Files(_) => self.run_dir.join(LAST_GOOD_NAME),
            Store::Kubernetes { state_dir, .. } => state_dir.join(STATE_NAME),
        }
    }

    /// Returns the remedy for missing intent.
    fn intent_remedy(&self) -> String {
        match &self.store {
            Store::Files(folder) => {
                format!("put Node and BGPConfiguration documents into {}", folder.display())
            }
            Store::Kubernetes { .. } => {
                "check the connection to the API server (heliograph status, Store)".into()
            }
        }
    }

    /// Starts the status writer, if the store is an API server.
    fn start_status_writer(
        &self,
        report: mpsc::Sender<oneshot::Sender<NodeStatus>>,
        changes: watch::Receiver<()>,
    ) -> Option<watch::Receiver<StatusWriterStatus>> {
        match &self.store {
            Store::Files(_) => None,
            Store::Kubernetes { access, namespace, .. } => {
                let access = access.clone();
                let connect = move || {
                    let access = access.clone();
                    async move { access.connect().await }
                };
                Some(kubernetes::start(self.node.clone(), namespace.clone(), connect, report, changes))
            }
        }
    }

    /// Starts the store.
    async fn watch(&self) -> watch::Receiver<Arc<View>> {
        match &self.store {
            Store::Files(folder) => store::files::watch(folder.clone(), self.last_good()).await,
            Store::Kubernetes { access, namespace, .. } => {
                store::kubernetes::watch(store::kubernetes::Options {
                    node: self.node.clone(),
                    access: access.clone(),
                    namespace: namespace.clone(),
                    last_good: self.last_good(),
                })
            }
        }
    }
}

/// The reason for which an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run directory can't be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The speaker can't start.
    #[error("{0}{hint}", hint = listen_hint(.0))]
    Bgp(#[from] StartError),
    /// This process may not change the kernel.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The kernel can't be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The forwarding thread has ended.
    #[error(
        "the forwarding thread has stopped by itself: please report this as a bug; routes stay in the kernel"
    )]
    ForwardingEnded,
    /// The CNI plugin's files can't be removed.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The last good intent can't be removed.
    #[error(
        "remove {path}: {source}; make its folder writable, or remove the file by hand: it may contain passwords"
    )]
    Kept {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// An object of Heliograph could not be removed.
    #[error("objects of Heliograph are left in the kernel:\n{0}")]
    Left(String),
}

/// Returns the field to change if the speaker can't listen.
fn listen_hint(error: &StartError) -> &'static str {
    match error {
        StartError::Listen { .. } => " (the port is spec.listenPort of the BGPConfiguration)",
        _ => "",
    }
}

/// The name of the file of the last good intent in the run directory.
pub const LAST_GOOD_NAME: &str = "intent.last-good.yaml";
/// The name of the same file in the state directory, which survives a reboot.
pub const STATE_NAME: &str = "last-good.yaml";

/// Runs until `stop` is done. Then the kernel stays as it is, and peers keep their routes for the restart time
/// (RFC 4724 §4.2).
///
/// # Errors
/// The reason for which the agent can't run. Other problems are in the status.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    if options.role == Role::Node {
        preflight()?;
    }
    start(options, stop).await
}

/// Removes Heliograph's objects from this node's kernel, the plugin's files, and the last good intent: it may contain
/// passwords, and it would be used again in the next cluster.
///
/// # Errors
/// An agent runs, or something could not be removed.
pub async fn cleanup(run_dir: &Path, state_dir: &Path, cni_conf_dir: &Path) -> Result<(), RunError> {
    let _taken = RunDir::take(run_dir)?;
    preflight()?;
    // First, so that the runtime starts no new pods here.
    Installer::new(run_dir, cni_conf_dir).uninstall()?;
    let removed = remove_last_good(run_dir, state_dir);
    let summary = forwarding::purge()?;
    if summary.errors.is_empty() && summary.routes == 0 {
        return removed;
    }
    let lines: Vec<_> =
        summary.errors.iter().map(|e| format!("{}: {}; {}", e.what, e.error, e.remedy)).collect();
    Err(RunError::Left(lines.join("\n")))
}

fn remove_last_good(run_dir: &Path, state_dir: &Path) -> Result<(), RunError> {
    for path in [run_dir.join(LAST_GOOD_NAME), state_dir.join(STATE_NAME)] {
        if last_good::remove(&path).map_err(|source| RunError::Kept { path: path.clone(), source })? {
            tracing::info!(path = %path.display(), "removed");
        }
    }
    Ok(())
}

/// Starts everything and runs the loop. A stand-alone reflector has no forwarding.
async fn start(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let run_dir = RunDir::take(&options.run_dir)?;
    let (ask, questions) = mpsc::channel(MAX_CONNECTIONS);
    run_dir.serve(ask)?;
    let (report, reports) = mpsc::channel(1);
    let (probe, probes) = mpsc::channel(1);
    let sources = http::Sources { status: report.clone(), waiting_for: probe };
    let http_errors = options.http.iter().map(|address| http::serve(*address, sources.clone())).collect();
    let (synced, changes) = watch::channel(());
    let status_writer = options.start_status_writer(report, changes);
    let speaker = AgentSpeaker::default();
    let forwarding = match options.role {
        Role::Node => Some(Forwarding::start(options.node.clone(), speaker.handles()).await?),
        Role::Reflector => None,
    };
    let mut installer = Installer::new(&options.run_dir, &options.cni_conf_dir);
    if let Some(folder) = &options.cni_bin_dir {
        installer = installer.with_plugin(cni::bundled_plugin(), folder);
    }
    let restarting = match &forwarding {
        Some(forwarding) => forwarding.had_routes(),
        // A reflector has no routes in the kernel; the file shows that there was an earlier run.
        None => options.last_good().exists(),
    };
    let views = options.watch().await;
    let mut agent = Agent {
        options,
        started: Instant::now(),
        view: Arc::default(),
        plan: None,
        topology_change: TopologyChange::default(),
        speaker,
        restarting,
        forwarding,
        plugin_files: PluginFiles::new(installer),
        was_in_intent: None,
        changed_at: None,
        waiting_for: vec!["the first sync".into()],
        http_errors,
        status_writer,
        synced,
    };
    let requests = Requests { questions, reports, probes };
    let result = agent.run(views, requests, stop).await;
    agent.speaker.stop(Stop::Silent).await;
    result
}

/// The state of the agent between two syncs.
struct Agent {
    options: Options,
    started: Instant,
    view: Arc<View>,
    /// The plan that the speaker uses, with the snapshot of which it was made.
    plan: Option<(Arc<Snapshot>, Arc<SpeakerPlan>)>,
    topology_change: TopologyChange,
    speaker: AgentSpeaker,
    /// Set if the kernel still has the routes of an earlier run: then peers are asked to keep theirs (RFC 4724 §4.1).
    restarting: bool,
    /// `None` for a reflector.
    forwarding: Option<Forwarding>,
    plugin_files: PluginFiles,
    /// Set if this node was in the intent at the last sync; `None`: there was no intent.
    was_in_intent: Option<bool>,
    /// The time of the last change of the intent in force.
    changed_at: Option<SystemTime>,
    /// The conditions that the first sync still waits for. Once it is empty, it stays empty.
    waiting_for: Vec<String>,
    /// The errors of the addresses that serve health and metrics.
    http_errors: Vec<http::ListenError>,
    /// The state of the status writer, if there is one.
    status_writer: Option<watch::Receiver<StatusWriterStatus>>,
    /// Notifies of syncs: the status may have changed.
    synced: watch::Sender<()>,
}

/// The sources of requests for the status.
struct Requests {
    /// Requests by the socket.
    questions: mpsc::Receiver<Query>,
    /// Requests of metrics scrapers and of the status writer.
    reports: mpsc::Receiver<oneshot::Sender<NodeStatus>>,
    /// Readiness probes.
    probes: mpsc::Receiver<oneshot::Sender<Vec<String>>>,
}

impl Agent {
    /// Runs the loop.
    async fn run(
        &mut self,
        mut views: watch::Receiver<Arc<View>>,
        mut requests: Requests,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(stop);
        let mut next_sync = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep_until(next_sync) => {
                    let view = views.borrow_and_update().clone();
                    if view.generation != self.view.generation {
                        self.changed_at = Some(SystemTime::now());
                    }
                    self.view = view;
                    self.sync().await?;
                    self.note_first_sync().await;
                    next_sync = self.next_sync();
                    self.synced.send_replace(());
                }
                Ok(()) = views.changed() => next_sync = debounced(next_sync),
                () = self.speaker.changed() => next_sync = debounced(next_sync),
                () = forwarding_changed(&mut self.forwarding) => next_sync = debounced(next_sync),
                Some(question) = requests.questions.recv() => self.answer(question).await,
                Some(answer) = requests.reports.recv() => {
                    // The requester may have gone.
                    let _ = answer.send(self.status().await);
                }
                Some(answer) = requests.probes.recv() => drop(answer.send(self.waiting_for.clone())),
            }
        }
    }

    /// Returns the time of the next sync if there is no hint.
    fn next_sync(&self) -> Instant {
        let now = Instant::now();
        let check = self.topology_change.next_check(now.into_std()).map(Instant::from_std);
        let regular = now + RESYNC_INTERVAL;
        check.map_or(regular, |at| at.max(now + DEBOUNCE).min(regular))
    }

    /// Compares everything with the desired state and applies the differences.
    async fn sync(&mut self) -> Result<(), RunError> {
        if self.forwarding.as_ref().is_some_and(Forwarding::has_ended) {
            return Err(RunError::ForwardingEnded);
        }
        let Some(snapshot) = self.view.snapshot.clone() else {
            self.log_intent(None);
            return Ok(());
        };
        let in_intent = snapshot.nodes.contains_key(&*self.options.node);
        self.log_intent(Some(in_intent));
        let planned = self.plan.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, &snapshot));
        // Routes alone are no reason to plan sessions.
        if !planned || self.topology_change.active() || !self.speaker.running() {
            let plan = self.session_plan(&snapshot);
            let (merged, plan) = self.update_topology(&snapshot, plan).await;
            self.update_speaker(&merged, &plan, in_intent).await?;
            self.plan = Some((snapshot, plan));
            if let Some(forwarding) = &self.forwarding {
                forwarding.set_intent(forwarding::Intent { snapshot: merged, in_sync: self.view.in_sync });
            }
        } else if let Some(forwarding) = &self.forwarding {
            forwarding.set_in_sync(self.view.in_sync);
        }
        self.update_plugin_files();
        Ok(())
    }

    /// Returns the plan of the sessions. It stays the same if no change of the snapshot concerns sessions.
    fn session_plan(&self, snapshot: &Arc<Snapshot>) -> Arc<SpeakerPlan> {
        match &self.topology_change.last() {
            Some((former, plan)) if plan::same_sessions(former, snapshot, &self.options.node) => plan.clone(),
            _ => Arc::new(plan::bgp_config(snapshot, &self.options.node, self.options.role == Role::Node)),
        }
    }

    /// Updates the files that the CNI plugin and the container runtime read.
    fn update_plugin_files(&mut self) {
        let (Some(forwarding), Some(snapshot)) = (&self.forwarding, &self.view.snapshot) else { return };
        let state = forwarding.state();
        self.plugin_files.update(snapshot, &self.options.node, &state, self.view.in_sync);
    }

    /// Returns the snapshot and the plan with what is retained during a topology change.
    async fn update_topology(
        &mut self,
        snapshot: &Arc<Snapshot>,
        plan: Arc<SpeakerPlan>,
    ) -> (Arc<Snapshot>, Arc<SpeakerPlan>) {
        let was_active = self.topology_change.active();
        let now = Instant::now().into_std();
        let sessions = if was_active { self.speaker.sessions().await } else { Vec::new() };
        let up = sessions.iter().filter(|session| session.state == SessionState::Established);
        let established = up.map(|session| session.address).collect();
        // A large cluster has many paths, so they are fetched only when they are needed.
        let due = self.topology_change.due(&plan, &established, now);
        let paths = if due { self.speaker.paths().await } else { Vec::new() };
        let paths = paths.iter().filter(|path| !path.stale).map(|path| (path.prefix, path.peer)).collect();
        let state = SpeakerState { established, paths };
        let merged = self.topology_change.update(&self.options.node, snapshot, plan, &state, now);
        match (was_active, self.topology_change.active()) {
            (false, true) => {
                tracing::info!(
                    "the topology changes: old sessions are retained until the new ones are established"
                )
            }
            (true, false) => {
                tracing::info!("the topology change is complete: the new sessions have replaced the old ones")
            }
            _ => {}
        }
        merged
    }

    /// Updates the conditions of the first sync, and logs when it is done.
    async fn note_first_sync(&mut self) {
        if self.waiting_for.is_empty() {
            return;
        }
        self.waiting_for = self.missing().await;
        if self.waiting_for.is_empty() {
            tracing::info!("ready: the first sync is done");
        }
    }

    /// Applies the plan to the speaker. A speaker without neighbors isn't started.
    async fn update_speaker(
        &mut self,
        snapshot: &Snapshot,
        plan: &SpeakerPlan,
        in_intent: bool,
    ) -> Result<(), RunError> {
        if !in_intent && !self.speaker.running() {
            return Ok(());
        }
        let listen = speaker::listen_addresses(snapshot, &self.options.node);
        self.speaker.apply(&plan.config, listen, self.restarting).await?;
        Ok(())
    }

    /// Logs when the node is added to the intent or removed from it; `None`: there is no intent.
    fn log_intent(&mut self, in_intent: Option<bool>) {
        if self.was_in_intent == in_intent && in_intent.is_some() {
            return;
        }
        match in_intent {
            None if self.was_in_intent.is_none() => {
                tracing::warn!("no intent yet: {}", self.options.intent_remedy());
            }
            None => {}
            Some(true) => tracing::info!(node = self.options.node, "this node is in the intent"),
            Some(false) => tracing::warn!(
                node = self.options.node,
                "this node is not in the intent: no sessions, no routes; add a Node of this name"
            ),
        }
        self.was_in_intent = in_intent.or(self.was_in_intent);
    }
}

/// Returns the time of the next sync after a hint.
fn debounced(planned: Instant) -> Instant {
    planned.min(Instant::now() + DEBOUNCE)
}

/// Waits until the state of forwarding changes, for ever without forwarding.
async fn forwarding_changed(forwarding: &mut Option<Forwarding>) {
    match forwarding {
        Some(forwarding) => forwarding.changed().await,
        None => std::future::pending().await,
    }
}
