//! The agent: store, plan, speaker, kernel and status connected by one loop.
//!
//! After each hint that something may have changed, the loop syncs: it compares everything with the desired state and
//! applies the differences. A hint has no content, so a lost or repeated hint does no harm.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heliograph_bgp::io::{BestRoutes, StartError, Stop};
use heliograph_bgp::report::SessionState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::apiserver::Access;
use crate::cni::{self, CniError, Installer};
use crate::intent::Snapshot;
use crate::kernel::linux::Linux;
use crate::kernel::preflight::PreflightError;
use crate::kernel::watch::{Changes, Hint};
use crate::kernel::{Kernel, KernelError, preflight};
use crate::plan::{self, SpeakerPlan, SpeakerState, TopologyChange};
use crate::status::server::{MAX_CONNECTIONS, Query, RunDir, SocketError};
use crate::status::{NodeStatus, Role, StatusWriterStatus, http, kubernetes};
use crate::store::{self, View, last_good};

mod forwarding;
mod report;
mod speaker;

use forwarding::Forwarding;
use speaker::AgentSpeaker;

/// The time between a hint and the sync, so that hints that belong together cause one sync.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The interval of syncs that read everything again, without a hint.
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
    if options.role == Role::Reflector {
        return start::<Linux>(options, None, stop).await;
    }
    preflight()?;
    let kernel = Linux::open()?;
    // Subscribe before the first dump, so that no change is missed.
    let changes = kernel.changes()?;
    start(options, Some((kernel, changes)), stop).await
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
    let summary = forwarding::purge(Linux::open()?).await;
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

/// Starts everything and runs the loop. Without a kernel it is a stand-alone reflector.
async fn start<K: Kernel>(
    options: Options,
    kernel: Option<(K, Changes)>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let run_dir = RunDir::take(&options.run_dir)?;
    let (ask, questions) = mpsc::channel(MAX_CONNECTIONS);
    run_dir.serve(ask)?;
    let (report, reports) = mpsc::channel(1);
    let (probe, probes) = mpsc::channel(1);
    let sources = http::Sources { status: report.clone(), waiting_for: probe };
    let http_errors = options.http.iter().map(|address| http::serve(*address, sources.clone())).collect();
    let (synced, changes) = watch::channel(());
    let status_writer = options.start_status_writer(report, changes);
    let (forwarding, hints) = match kernel {
        Some((kernel, hints)) => {
            let mut installer = Installer::new(&options.run_dir, &options.cni_conf_dir);
            if let Some(folder) = &options.cni_bin_dir {
                installer = installer.with_plugin(cni::bundled_plugin(), folder);
            }
            (Some(Forwarding::new(kernel, installer)), Some(hints))
        }
        None => (None, None),
    };
    let restarting = match &forwarding {
        Some(forwarding) => forwarding.has_routes().await?,
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
        speaker: AgentSpeaker::default(),
        restarting,
        best: BestRoutes::default(),
        forwarding,
        was_in_intent: None,
        changed_at: None,
        waiting_for: vec!["the first sync".into()],
        http_errors,
        status_writer,
        synced,
    };
    let requests = Requests { questions, reports, probes };
    let result = agent.run(views, requests, hints, stop).await;
    agent.speaker.stop(Stop::Silent).await;
    result
}

/// The state of the agent between two syncs.
struct Agent<K> {
    options: Options,
    started: Instant,
    view: Arc<View>,
    /// The plan that the speaker uses.
    plan: Option<SpeakerPlan>,
    topology_change: TopologyChange,
    speaker: AgentSpeaker,
    /// Set if the kernel still has the routes of an earlier run: then peers are asked to keep theirs (RFC 4724 §4.1).
    restarting: bool,
    best: BestRoutes,
    /// `None` for a reflector.
    forwarding: Option<Forwarding<K>>,
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

impl<K: Kernel> Agent<K> {
    /// Runs the loop.
    async fn run(
        &mut self,
        mut views: watch::Receiver<Arc<View>>,
        mut requests: Requests,
        mut hints: Option<Changes>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(stop);
        let mut next_sync = Instant::now();
        let mut next_resync = next_sync + RESYNC_INTERVAL;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep_until(next_sync) => {
                    if Instant::now() >= next_resync {
                        next_resync = Instant::now() + RESYNC_INTERVAL;
                        self.forwarding.iter_mut().for_each(Forwarding::resync);
                    }
                    let view = views.borrow_and_update().clone();
                    if view.generation != self.view.generation {
                        self.changed_at = Some(SystemTime::now());
                    }
                    self.view = view;
                    self.sync().await?;
                    self.note_first_sync();
                    next_sync = self.next_sync(next_resync);
                    self.synced.send_replace(());
                }
                Ok(()) = views.changed() => next_sync = debounced(next_sync),
                () = self.speaker.changed() => next_sync = debounced(next_sync),
                hint = next_hint(&mut hints) => {
                    if let Some(forwarding) = &mut self.forwarding {
                        forwarding.hint(hint);
                    }
                    next_sync = debounced(next_sync);
                }
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
    fn next_sync(&self, regular: Instant) -> Instant {
        let now = Instant::now();
        let retry = self.forwarding.as_ref().and_then(Forwarding::next_retry);
        let check = self.topology_change.next_check(now.into_std()).map(Instant::from_std);
        [retry, check].into_iter().flatten().map(|at| at.max(now + DEBOUNCE)).fold(regular, Instant::min)
    }

    /// Compares everything with the desired state and applies the differences.
    async fn sync(&mut self) -> Result<(), RunError> {
        let Some(snapshot) = self.view.snapshot.clone() else {
            self.log_intent(None);
            return Ok(());
        };
        let in_intent = snapshot.nodes.contains_key(&*self.options.node);
        self.log_intent(Some(in_intent));
        let plan = plan::bgp_config(&snapshot, &self.options.node, self.options.role == Role::Node);
        let (snapshot, plan) = self.update_topology(&snapshot, plan).await;
        self.update_speaker(&snapshot, &plan, in_intent).await?;
        self.plan = Some(plan);
        self.best = self.speaker.best_routes().await;
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.sync(&snapshot, &self.options.node, &self.best, self.view.in_sync).await;
        }
        Ok(())
    }

    /// Returns the snapshot and the plan with what is retained during a topology change.
    async fn update_topology(
        &mut self,
        snapshot: &Arc<Snapshot>,
        plan: SpeakerPlan,
    ) -> (Arc<Snapshot>, SpeakerPlan) {
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
    fn note_first_sync(&mut self) {
        if self.waiting_for.is_empty() {
            return;
        }
        self.waiting_for = self.missing();
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

/// Waits for the next hint of the kernel, for ever if there is no subscription. If the subscription ends, resyncs continue.
async fn next_hint(hints: &mut Option<Changes>) -> Hint {
    if let Some(changes) = hints {
        if let Some(hint) = changes.next().await {
            return hint;
        }
        tracing::warn!(
            "the subscription to the kernel's changes ended: the agent reads the kernel every {RESYNC_INTERVAL:?}"
        );
        *hints = None;
    }
    std::future::pending().await
}
