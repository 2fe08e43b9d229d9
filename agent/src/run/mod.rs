//! Where everything is wired together: store, plan, speaker, kernel and status.
//!
//! One loop looks at all of it and does what is needed, whenever anything hints that something may have changed.
//! A hint carries nothing: what counts is what a look finds, so a lost or doubled hint does no harm.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heliograph_bgp::io::{BestRoutes, StartError, Stop};
use heliograph_bgp::report::SessionState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::cni::{self, CniError, Installer};
use crate::intent::Snapshot;
use crate::kernel::linux::Linux;
use crate::kernel::preflight::PreflightError;
use crate::kernel::watch::{Changes, Hint};
use crate::kernel::{Kernel, KernelError, preflight};
use crate::plan::{self, Present, SpeakerPlan, TopologyChange};
use crate::status::server::{MAX_CONNECTIONS, Query, RunDir, SocketError};
use crate::status::{NodeStatus, Role, StatusWriterStatus, http, kubernetes};
use crate::store::kubernetes::Access;
use crate::store::{self, View, last_good};

mod forwarding;
mod report;
mod speaker;

use forwarding::Forwarding;
use speaker::Speech;

/// Looks are at least this far apart: many hints in a row are one reason to look.
const BREATH: Duration = Duration::from_millis(20);
/// There is a look at least this often, whether or not anything hinted.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node: String,
    /// What this process is.
    pub role: Role,
    /// Where intent comes from.
    pub store: Store,
    /// Where socket, node.json and the last good intent are.
    pub run_dir: PathBuf,
    /// Where the container runtime looks for network configurations.
    pub cni_conf_dir: PathBuf,
    /// Where it looks for plugins, if the agent is to put ours there.
    pub cni_bin_dir: Option<PathBuf>,
    /// Where to tell of health and metrics.
    pub http: Vec<SocketAddr>,
}

/// Where intent comes from.
#[derive(Clone, Debug)]
pub enum Store {
    /// A folder of YAML documents.
    Files(PathBuf),
    /// A Kubernetes API server.
    Kubernetes {
        /// Where it is and who we are to it.
        access: Access,
        /// Heliograph's namespace; `None`: the one that the pod, or the kubeconfig, is in.
        namespace: Option<String>,
        /// The folder for what outlives the machine's next start.
        state_dir: PathBuf,
    },
}

impl Options {
    /// Where the last good intent is kept. What a folder held is of use as long as the machine is up; an API server may
    /// be away when it starts.
    fn last_good(&self) -> PathBuf {
        match &self.store {
            Store::Files(_) => self.run_dir.join(LAST_GOOD_NAME),
            Store::Kubernetes { state_dir, .. } => state_dir.join(STATE_NAME),
        }
    }

    /// What to do where there is no intent.
    fn where_intent_belongs(&self) -> String {
        match &self.store {
            Store::Files(folder) => {
                format!("put Node and BGPConfiguration documents into {}", folder.display())
            }
            Store::Kubernetes { .. } => {
                "see how it stands with the API server (heliograph status, Store)".into()
            }
        }
    }

    /// Sees that the cluster is told how we stand, if there is one.
    fn tell_cluster(
        &self,
        report: mpsc::Sender<oneshot::Sender<NodeStatus>>,
        looks: watch::Receiver<()>,
    ) -> Option<watch::Receiver<StatusWriterStatus>> {
        match &self.store {
            Store::Files(_) => None,
            Store::Kubernetes { access, namespace, .. } => {
                let access = access.clone();
                let connect = move || {
                    let access = access.clone();
                    async move { access.connect().await }
                };
                Some(kubernetes::start(self.node.clone(), namespace.clone(), connect, report, looks))
            }
        }
    }

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

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run directory can't be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The speaker can't start.
    #[error("{0}{hint}", hint = where_the_port_stands(.0))]
    Bgp(#[from] StartError),
    /// This process may not change the kernel.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The kernel doesn't answer.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The CNI plugin's files can't be removed.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The last good intent can't be removed.
    #[error(
        "remove {path}: {source}; see that the folder may be written to, or remove it by hand: there may be passwords in it"
    )]
    Kept {
        /// Its file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// Something of ours could not be removed.
    #[error("something of Heliograph is left in the kernel:\n{0}")]
    Left(String),
}

fn where_the_port_stands(error: &StartError) -> &'static str {
    match error {
        StartError::Listen { .. } => " (it is spec.listenPort of the BGPConfiguration)",
        _ => "",
    }
}

/// The file in the run directory that keeps the last good intent.
pub const LAST_GOOD_NAME: &str = "intent.last-good.yaml";
/// The same in the state directory, which outlives the machine's next start.
pub const STATE_NAME: &str = "last-good.yaml";

/// Runs until `stop` is done: then everything stays as it is in the kernel, and peers are left to wait for our return
/// (RFC 4724 §4.2).
///
/// # Errors
/// Why it can't run at all; what can be lived with is in the status instead.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    if options.role == Role::Reflector {
        return attend::<Linux>(options, None, stop).await;
    }
    preflight()?;
    let kernel = Linux::open()?;
    // First the hints, then the look, so that nothing falls between.
    let changes = kernel.changes()?;
    attend(options, Some((kernel, changes)), stop).await
}

/// Removes everything of ours from this node's kernel, the plugin's files, and the last good intent: there may be
/// passwords in it, and it would revive this network in the next cluster.
///
/// # Errors
/// An agent runs, or something could not be removed.
pub async fn cleanup(run_dir: &Path, state_dir: &Path, cni_conf_dir: &Path) -> Result<(), RunError> {
    let _taken = RunDir::take(run_dir)?;
    preflight()?;
    // First of all nobody is to put new pods here.
    Installer::new(run_dir, cni_conf_dir).withdraw()?;
    let forgotten = forget(run_dir, state_dir);
    let summary = forwarding::purge(Linux::open()?).await;
    if summary.errors.is_empty() && summary.routes == 0 {
        return forgotten;
    }
    let lines: Vec<_> =
        summary.errors.iter().map(|e| format!("{}: {}; {}", e.what, e.error, e.remedy)).collect();
    Err(RunError::Left(lines.join("\n")))
}

fn forget(run_dir: &Path, state_dir: &Path) -> Result<(), RunError> {
    for path in [run_dir.join(LAST_GOOD_NAME), state_dir.join(STATE_NAME)] {
        if last_good::remove(&path).map_err(|source| RunError::Kept { path: path.clone(), source })? {
            tracing::info!(path = %path.display(), "removed");
        }
    }
    Ok(())
}

async fn attend<K: Kernel>(
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
    let doors = options.http.iter().map(|address| http::serve(*address, sources.clone())).collect();
    let (looked, looks) = watch::channel(());
    let status_writer = options.tell_cluster(report, looks);
    let (forwarding, hints) = match kernel {
        Some((kernel, changes)) => {
            let mut installer = Installer::new(&options.run_dir, &options.cni_conf_dir);
            if let Some(folder) = &options.cni_bin_dir {
                installer = installer.with_plugin(cni::plugin_beside_us(), folder);
            }
            (Some(Forwarding::new(kernel, installer)), Some(changes))
        }
        None => (None, None),
    };
    let restarting = match &forwarding {
        Some(forwarding) => forwarding.holds_routes().await?,
        // Nothing is forwarded here, so nothing was lost; that there was an earlier run shows by what it left.
        None => options.last_good().exists(),
    };
    let views = options.watch().await;
    let mut agent = Agent {
        options,
        started: Instant::now(),
        view: Arc::default(),
        speaking: None,
        topology_change: TopologyChange::default(),
        speech: Speech::default(),
        restarting,
        best: BestRoutes::default(),
        forwarding,
        was_known: None,
        changed_at: None,
        waiting_for: vec!["the first look".into()],
        doors,
        status_writer,
        looked,
    };
    let asked = Asked { questions, reports, probes };
    let result = agent.attend(views, asked, hints, stop).await;
    agent.speech.stop(Stop::Silent).await;
    result
}

/// The agent between two looks: what it found and did at the last one.
struct Agent<K> {
    options: Options,
    started: Instant,
    view: Arc<View>,
    speaking: Option<SpeakerPlan>,
    topology_change: TopologyChange,
    speech: Speech,
    /// There was an earlier run, by whose routes packets still go: peers are asked to keep theirs (RFC 4724 §4.1).
    restarting: bool,
    best: BestRoutes,
    /// `None` for a reflector.
    forwarding: Option<Forwarding<K>>,
    was_known: Option<bool>,
    /// When the intent in force last changed.
    changed_at: Option<SystemTime>,
    /// What the first sync waits for; once nothing is missing, nothing ever is again.
    waiting_for: Vec<String>,
    /// The addresses of health and metrics.
    doors: Vec<http::ListenError>,
    /// What is told to the cluster, if there is one.
    status_writer: Option<watch::Receiver<StatusWriterStatus>>,
    /// Hints that the status may have changed.
    looked: watch::Sender<()>,
}

/// Those who want to know how we stand.
struct Asked {
    /// People, by the socket.
    questions: mpsc::Receiver<Query>,
    /// Scrapers, and the writer of objects in the cluster.
    reports: mpsc::Receiver<oneshot::Sender<NodeStatus>>,
    /// Probes of readiness.
    probes: mpsc::Receiver<oneshot::Sender<Vec<String>>>,
}

impl<K: Kernel> Agent<K> {
    /// The loop.
    async fn attend(
        &mut self,
        mut views: watch::Receiver<Arc<View>>,
        mut asked: Asked,
        mut hints: Option<Changes>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(stop);
        let mut look_at = Instant::now();
        let mut distrust_at = look_at + LOOK_EVERY;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep_until(look_at) => {
                    if Instant::now() >= distrust_at {
                        distrust_at = Instant::now() + LOOK_EVERY;
                        self.forwarding.iter_mut().for_each(Forwarding::distrust);
                    }
                    let view = views.borrow_and_update().clone();
                    if view.generation != self.view.generation {
                        self.changed_at = Some(SystemTime::now());
                    }
                    self.view = view;
                    self.look().await?;
                    self.note_first_sync();
                    look_at = self.next_look(distrust_at);
                    self.looked.send_replace(());
                }
                Ok(()) = views.changed() => look_at = soon(look_at),
                () = self.speech.changed() => look_at = soon(look_at),
                hint = next_hint(&mut hints) => {
                    if let Some(forwarding) = &mut self.forwarding {
                        forwarding.hint(hint);
                    }
                    look_at = soon(look_at);
                }
                Some(question) = asked.questions.recv() => self.answer(question).await,
                Some(answer) = asked.reports.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.status().await);
                }
                Some(answer) = asked.probes.recv() => drop(answer.send(self.waiting_for.clone())),
            }
        }
    }

    /// When to look again even if nothing hints at anything.
    fn next_look(&self, regular: Instant) -> Instant {
        let now = Instant::now();
        let retry = self.forwarding.as_ref().and_then(Forwarding::next_retry);
        let leaves = self.topology_change.next_look(now.into_std()).map(Instant::from_std);
        [retry, leaves].into_iter().flatten().map(|at| at.max(now + BREATH)).fold(regular, Instant::min)
    }

    /// Looks at everything and does what is needed.
    async fn look(&mut self) -> Result<(), RunError> {
        let Some(snapshot) = self.view.snapshot.clone() else {
            self.tell_once(None);
            return Ok(());
        };
        let known = snapshot.nodes.contains_key(&self.options.node);
        self.tell_once(Some(known));
        let wanted = plan::bgp_config(&snapshot, &self.options.node, self.options.role == Role::Node);
        let (snapshot, speaking) = self.hand_over(&snapshot, wanted).await;
        self.speak(&snapshot, &speaking, known).await?;
        self.speaking = Some(speaking);
        self.best = self.speech.best_routes().await;
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.look(&snapshot, &self.options.node, &self.best, self.view.in_sync).await;
        }
        Ok(())
    }

    /// What is wanted, and beside it for a while what was wanted before.
    async fn hand_over(
        &mut self,
        snapshot: &Arc<Snapshot>,
        wanted: SpeakerPlan,
    ) -> (Arc<Snapshot>, SpeakerPlan) {
        let was_active = self.topology_change.active();
        let now = Instant::now().into_std();
        let sessions = if was_active { self.speech.sessions().await } else { Vec::new() };
        let up = sessions.iter().filter(|session| session.state == SessionState::Established);
        let established = up.map(|session| session.address).collect();
        // Many, in a large cluster.
        let due = self.topology_change.due(&wanted, &established, now);
        let paths = if due { self.speech.paths().await } else { Vec::new() };
        let paths = paths.iter().filter(|path| !path.stale).map(|path| (path.prefix, path.peer)).collect();
        let present = Present { established, paths };
        let both = self.topology_change.follow(&self.options.node, snapshot, wanted, &present, now);
        match (was_active, self.topology_change.active()) {
            (false, true) => {
                tracing::info!("other sessions between nodes are wanted: the old ones stay meanwhile")
            }
            (true, false) => tracing::info!("the new sessions between nodes have taken over"),
            _ => {}
        }
        both
    }

    /// Says in the log when the first sync is done.
    fn note_first_sync(&mut self) {
        if self.waiting_for.is_empty() {
            return;
        }
        self.waiting_for = self.missing();
        if self.waiting_for.is_empty() {
            tracing::info!("ready: the first sync is done");
        }
    }

    /// Sees that the speaker is what it should be. One that isn't needed yet isn't started: nobody would get through.
    async fn speak(
        &mut self,
        snapshot: &Snapshot,
        speaking: &SpeakerPlan,
        known: bool,
    ) -> Result<(), RunError> {
        if !known && !self.speech.running() {
            return Ok(());
        }
        let listen = speaker::listen_addresses(snapshot, &self.options.node);
        self.speech.be(&speaking.config, listen, self.restarting).await?;
        Ok(())
    }

    /// Says in the log when the node becomes known or unknown.
    fn tell_once(&mut self, known: Option<bool>) {
        if self.was_known == known && known.is_some() {
            return;
        }
        match known {
            None if self.was_known.is_none() => {
                tracing::warn!("no intent yet: {}", self.options.where_intent_belongs());
            }
            None => {}
            Some(true) => tracing::info!(node = self.options.node, "this node is in the intent"),
            Some(false) => tracing::warn!(
                node = self.options.node,
                "this node is not in the intent: no sessions, no routes; add a Node of this name"
            ),
        }
        self.was_known = known.or(self.was_known);
    }
}

/// Soon, but not at once: what else happens in this moment is seen by the same look.
fn soon(planned: Instant) -> Instant {
    planned.min(Instant::now() + BREATH)
}

/// The next hint of the kernel; for ever without one. A subscription that broke off is an end to hints, not to looks.
async fn next_hint(hints: &mut Option<Changes>) -> Hint {
    if let Some(changes) = hints {
        if let Some(hint) = changes.next().await {
            return hint;
        }
        tracing::warn!("the kernel tells of no more changes: it is looked at every {LOOK_EVERY:?}");
        *hints = None;
    }
    std::future::pending().await
}
