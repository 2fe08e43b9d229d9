//! The status in the cluster: a BGPNode for the node, a BGPSession for each of its sessions, Events when these go up or
//! down, and the Node's condition NetworkUnavailable. One agent, the leader, writes the status of BGPPeers, BGPFilters and
//! the BGPConfiguration.
//!
//! [`render`] makes objects from the one [`NodeStatus`], [`planner`] selects those to write now, and [`events`] makes the
//! Events; all three are pure. [`cluster`] sends the requests to the API server. Forwarding does not depend on any of this.
//! Writes that fail are retried.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use self::cluster::Cluster;
use self::events::{EventQueue, Events};
use self::leader::Candidate;
use self::planner::{Permitted, Planner, RateLimits, Write};
use self::render::Renderer;
use super::{IntentStatus, NodeStatus, Role, StatusWriterStatus};
use crate::apiserver::{ApiClient, ApiError, ErrorKind};
use crate::backoff::{Backoff, jittered};

pub mod cluster;
pub mod events;
pub mod leader;
pub mod object;
pub mod planner;
pub mod render;

/// The shortest time between two passes.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// The interval of passes without a hint of a change.
const PASS_INTERVAL: Duration = Duration::from_secs(10);
/// The interval of comparisons with the objects in the API server, plus or minus a quarter: another client may have changed
/// them.
const RESYNC_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// The same while there is no Node of ours; the store may report it earlier.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// The first and the longest pause after failures.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The time after an agent's start in which sessions may be missing from the status.
const START_GRACE_PERIOD: Duration = Duration::from_secs(60);
/// The largest number of characters of a condition's message.
const MAX_MESSAGE: usize = 1000;
/// The largest number of different warnings in the log until all is well again. The status always has the last error.
const MAX_WARNINGS: usize = 8;

/// The channel on which the status is requested.
pub type Source = mpsc::Sender<oneshot::Sender<NodeStatus>>;

/// Starts the status writer of a node. It runs until the process ends. `namespace` is Heliograph's; `None`: that of the pod or
/// of the kubeconfig. `changes` hints that the status may have changed. Returns the writer's own state.
pub fn start<C, F>(
    node: String,
    namespace: Option<String>,
    connect: C,
    source: Source,
    changes: watch::Receiver<()>,
) -> watch::Receiver<StatusWriterStatus>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = Result<(ApiClient, String), String>> + Send,
{
    let (sender, state) = watch::channel(StatusWriterStatus::default());
    tokio::spawn(async move {
        let client = loop {
            match connect().await {
                Ok((client, _)) => break client,
                // The store logs the same error.
                Err(error) => sender.send_modify(|state| state.error = Some(error)),
            }
            sleep(BACKOFF.1).await;
        };
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_string());
        let candidate = Candidate::new(client.clone(), namespace, node.clone());
        let (leader_errors, leader_error) = watch::channel(None);
        let (intent, intents) = watch::channel(IntentStatus::default());
        let leading = tokio::spawn(candidate.run(intents, leader_errors)).abort_handle();
        let now = Instant::now().into_std();
        let writer = Writer {
            cluster: Cluster::new(client.clone(), node),
            renderer: Renderer::default(),
            planner: Planner::new(RateLimits::AGENT, now),
            events: Events::new(now),
            queue: EventQueue::default(),
            network_unavailable: None,
            store_node_uid: None,
            resync_at: Instant::now(),
            resynced_at: None,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            intent,
        };
        let reporter = Reporter { sender, client, leader_error, warnings: BTreeSet::new() };
        writer.run(source, changes, reporter).await;
        leading.abort();
    });
    state
}

/// Reports the writer's state, in the status and, each error once, in the log.
struct Reporter {
    sender: watch::Sender<StatusWriterStatus>,
    client: ApiClient,
    /// The error of the status of shared objects.
    leader_error: watch::Receiver<Option<String>>,
    /// The warnings logged since all was well.
    warnings: BTreeSet<String>,
}

impl Reporter {
    fn report(&mut self, error: Option<&str>) {
        let error = error.map(str::to_string).or_else(|| self.leader_error.borrow().clone());
        let error = error.map(|error| format!("the status in the cluster is not up to date: {error}"));
        match &error {
            Some(error) if self.warnings.len() < MAX_WARNINGS && self.warnings.insert(error.clone()) => {
                tracing::warn!("{error}");
            }
            Some(_) => {}
            None if self.warnings.is_empty() => {}
            None => {
                self.warnings.clear();
                tracing::info!("the status in the cluster is up to date again");
            }
        }
        let (writes, failures) = (self.client.writes(), self.client.failures());
        self.sender.send_replace(StatusWriterStatus { error, writes, failures });
    }
}

struct Writer {
    cluster: Cluster,
    renderer: Renderer,
    planner: Planner,
    events: Events,
    queue: EventQueue,
    /// The status of our Node's condition.
    network_unavailable: Option<bool>,
    /// The UID of our Node in the last status.
    store_node_uid: Option<String>,
    /// The time of the next comparison with the API server's objects.
    resync_at: Instant,
    /// The time of the last one.
    resynced_at: Option<Instant>,
    /// The pauses after errors that prevent all requests.
    backoff: Backoff,
    /// The intent, for the leader election.
    intent: watch::Sender<IntentStatus>,
}

impl Writer {
    async fn run(mut self, source: Source, mut changes: watch::Receiver<()>, mut reporter: Reporter) {
        loop {
            changes.borrow_and_update();
            let (answer, status) = oneshot::channel();
            if source.send(answer).await.is_err() {
                return;
            }
            let Ok(status) = status.await else { return };
            self.intent.send_if_modified(|intent| {
                let changed = *intent != status.intent;
                if changed {
                    intent.clone_from(&status.intent);
                }
                changed
            });
            let result = self.pass(&status).await;
            let unavailable = result.as_ref().err().map(|error| error.message.as_str());
            let no_node = self.no_node();
            let error = unavailable.or(no_node.as_deref()).or_else(|| self.planner.error());
            reporter.report(error.or_else(|| self.queue.error()));
            self.pause(result, &mut changes).await;
        }
    }

    /// Waits until the next pass is due.
    async fn pause(&mut self, result: Result<(), ApiError>, changes: &mut watch::Receiver<()>) {
        match result {
            Err(error) => {
                let growing = self.backoff.next_pause();
                self.resync_at = Instant::now();
                sleep(jittered(growing.max(error.retry_after.unwrap_or_default()))).await;
            }
            Ok(()) => {
                self.backoff.reset();
                sleep(DEBOUNCE).await;
                let regular = Instant::now() + PASS_INTERVAL;
                let due = [self.planner.next(), self.queue.next()].into_iter().flatten();
                let next = due.map(Instant::from_std).fold(regular, Instant::min);
                tokio::select! {
                    () = sleep_until(next) => {}
                    // When the channel ends, so does the agent; the request for the status notices it.
                    Ok(()) = changes.changed() => {}
                }
            }
        }
    }

    /// Brings the cluster up to date. A rejected request does not prevent the others.
    ///
    /// # Errors
    /// The API server is unavailable.
    async fn pass(&mut self, status: &NodeStatus) -> Result<(), ApiError> {
        // Events are queued while the API server is unavailable.
        self.queue.add(self.events.detect(status, Instant::now().into_std(), now()));
        let node_replaced = self.node_replaced(status);
        let resync = node_replaced || Instant::now() >= self.resync_at || self.store_reconnected(status);
        if resync {
            // If this fails it is due again.
            self.resync_at = Instant::now();
            self.network_unavailable = self.cluster.read_node().await?;
        }
        let network = self.write_network_condition(status).await;
        if resync {
            let found = self.cluster.list_objects().await?;
            self.planner.adopt(&found);
            let interval = if self.cluster.owner().is_some() { RESYNC_INTERVAL } else { SEARCH_INTERVAL };
            self.resync_at = Instant::now() + jittered(interval);
            self.resynced_at = Some(Instant::now());
        }
        self.write_objects(status).await?;
        self.send_events().await?;
        network
    }

    /// Returns whether the API server was unavailable since the last resync. It may hold an older state than we wrote.
    fn store_reconnected(&self, status: &NodeStatus) -> bool {
        let connected = status.store.as_ref().filter(|store| store.connected);
        let since = |at: Instant| at.elapsed().as_secs_f64();
        connected.zip(self.resynced_at).is_some_and(|(store, at)| store.since_seconds < since(at))
    }

    /// Returns whether our Node was created, deleted or replaced since the last resync.
    fn node_replaced(&mut self, status: &NodeStatus) -> bool {
        let Some(store) = &status.store else { return false };
        let replaced =
            store.node_uid != self.store_node_uid && store.node_uid.as_deref() != self.cluster.owner();
        self.store_node_uid.clone_from(&store.node_uid);
        replaced
    }

    fn no_node(&self) -> Option<String> {
        let error = "there is no Node of this name to own the objects; they are created when it exists";
        self.cluster.owner().is_none().then(|| error.into())
    }

    /// Writes the Node's condition, before anything else: it keeps pods from the node.
    async fn write_network_condition(&mut self, status: &NodeStatus) -> Result<(), ApiError> {
        if status.role == Role::Reflector || self.cluster.owner().is_none() {
            return Ok(());
        }
        let Some(unavailable) = events::network_unavailable(self.network_unavailable, status) else {
            return Ok(());
        };
        let message = match unavailable {
            true => format!("Heliograph's first sync waits for {}", status.waiting_for.join("; ")),
            false => "Heliograph's first sync is done: the CNI plugin and the routes are in place".into(),
        };
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        match self.cluster.set_network(unavailable, &message, now()).await {
            // Without a Node of ours the next resync will notice it.
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => {
                self.network_unavailable = Some(unavailable);
                Ok(())
            }
        }
    }

    async fn write_objects(&mut self, status: &NodeStatus) -> Result<(), ApiError> {
        let desired = self.renderer.objects(status, now());
        let complete =
            status.waiting_for.is_empty() || status.uptime_seconds > START_GRACE_PERIOD.as_secs_f64();
        // Objects without an owner would never be deleted.
        let permitted = Permitted { create: self.cluster.owner().is_some(), delete: complete };
        for write in self.planner.plan(&desired, permitted, Instant::now().into_std()) {
            let written = match &write {
                Write::Apply { object, whole } => self.cluster.apply(object, *whole).await,
                Write::Delete(key) => self.cluster.delete(key).await.map(|()| String::new()),
            };
            let now = Instant::now().into_std();
            match written {
                Ok(version) => self.planner.done(write, &version, now),
                Err(error) if error.kind.stops_all() => return Err(error),
                // Another client deleted it.
                Err(error)
                    if error.kind == ErrorKind::NotFound
                        && matches!(write, Write::Apply { whole: false, .. }) =>
                {
                    self.planner.not_found(write.key());
                    self.resync_at = Instant::now();
                }
                Err(error) => self.planner.failed(write.key(), error, now),
            }
        }
        Ok(())
    }

    async fn send_events(&mut self) -> Result<(), ApiError> {
        while let Some(event) = self.queue.due(Instant::now().into_std()) {
            match self.cluster.send(event.clone()).await {
                Err(error) if error.kind.stops_all() => return Err(error),
                Err(error) => {
                    self.queue.failed(error.message, error.retry_after, Instant::now().into_std());
                }
                Ok(()) => self.queue.done(),
            }
        }
        Ok(())
    }
}

/// Returns the time of day, for Events and conditions.
fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}
