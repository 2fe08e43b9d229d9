//! The status in the cluster: a BGPNode for the node, a BGPSession for each of its sessions, Events when these
//! come and go, and the Node's condition NetworkUnavailable. One agent tells how BGPPeers, BGPFilters and the
//! BGPConfiguration stand.
//!
//! [`view`] makes objects of the one [`NodeStatus`], [`planner`] says which of them to write now, [`events`] what is
//! worth an Event; all three are pure. [`cluster`] asks the API server. Nothing waits for this: forwarding is done
//! elsewhere, and what could not be written is written when the API server is back.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use self::cluster::Cluster;
use self::events::{Events, Unsent};
use self::peers::Counter;
use self::planner::{May, Pace, Planner, Write};
use self::requests::{Meaning, Requests, Trouble};
use self::view::View;
use super::{IntentStatus, NodeStatus, StatusWriterStatus};
use crate::backoff::{Backoff, jittered};

pub mod bucket;
pub mod cluster;
pub mod events;
pub mod lease;
pub mod object;
pub mod peers;
pub mod planner;
pub mod requests;
pub mod view;

/// Time between two looks at the status, however much happens.
const BREATH: Duration = Duration::from_millis(250);
/// The status is looked at so often even if nothing hints at a change.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What the API server holds of ours is looked at so often, give or take a quarter: somebody may have changed it.
const COMPARE_EVERY: Duration = Duration::from_secs(15 * 60);
/// While there is no Node of ours it is looked for so often, give or take a quarter, if the store doesn't tell before.
const SEARCH_EVERY: Duration = Duration::from_secs(60);
/// Pauses after failures grow from the first to the last of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// An agent that starts doesn't know of all its sessions at once; after this time it does, or they aren't.
const GRACE_SECONDS: f64 = 60.0;
/// So many different things are said in the log while not all is well; the status always has the last.
const MOST_WARNINGS: usize = 8;

/// Where to get the status from.
pub type Source = mpsc::Sender<oneshot::Sender<NodeStatus>>;

/// Tells the cluster how a node stands until the process ends. `namespace`: Heliograph's; `None`: the one that the pod,
/// or the kubeconfig, is in. `looks` hints that the status may have changed. Gives how that goes.
pub fn tell<C, F>(
    node: String,
    namespace: Option<String>,
    connect: C,
    source: Source,
    looks: watch::Receiver<()>,
) -> watch::Receiver<StatusWriterStatus>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = Result<(Client, String), String>> + Send,
{
    let (say, told) = watch::channel(StatusWriterStatus::default());
    tokio::spawn(async move {
        let client = loop {
            match connect().await {
                Ok((client, _)) => break client,
                // The store says so, too.
                Err(words) => say.send_modify(|status_writer| status_writer.error = Some(words)),
            }
            sleep(PAUSES.1).await;
        };
        let requests = Requests::default();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_string());
        let counter = Counter::new(client.clone(), requests.clone(), namespace, node.clone());
        let (complain, complaint) = watch::channel(None);
        let (intent, intents) = watch::channel(IntentStatus::default());
        let counting = tokio::spawn(counter.run(intents, complain)).abort_handle();
        let now = Instant::now().into_std();
        let writer = Writer {
            cluster: Cluster::new(client, requests.clone(), node),
            view: View::default(),
            planner: Planner::new(Pace::AGENT, now),
            events: Events::new(now),
            unsent: Unsent::default(),
            network_unavailable: None,
            node_told: None,
            compare_at: Instant::now(),
            compared_at: None,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            intent,
        };
        writer.run(source, looks, Report { say, requests, complaint, warned: BTreeSet::new() }).await;
        counting.abort();
    });
    told
}

/// Says how telling goes: in the status and, each thing once, in the log.
struct Report {
    say: watch::Sender<StatusWriterStatus>,
    requests: Requests,
    /// What is the matter with telling of BGPPeers and the like.
    complaint: watch::Receiver<Option<String>>,
    /// What was said in the log since all was well.
    warned: BTreeSet<String>,
}

impl Report {
    fn tell(&mut self, trouble: Option<&str>) {
        let trouble = trouble.map(str::to_string).or_else(|| self.complaint.borrow().clone());
        let error = trouble.map(|words| format!("the status in the cluster is not up to date: {words}"));
        match &error {
            Some(words) if self.warned.len() < MOST_WARNINGS && self.warned.insert(words.clone()) => {
                tracing::warn!("{words}");
            }
            Some(_) => {}
            None if self.warned.is_empty() => {}
            None => {
                self.warned.clear();
                tracing::info!("the status in the cluster is up to date again");
            }
        }
        let (writes, failures) = (self.requests.writes(), self.requests.failures());
        self.say.send_replace(StatusWriterStatus { error, writes, failures });
    }
}

struct Writer {
    cluster: Cluster,
    view: View,
    planner: Planner,
    events: Events,
    unsent: Unsent,
    /// What our Node's condition says.
    network_unavailable: Option<bool>,
    /// UID of our Node as the store told it last.
    node_told: Option<String>,
    /// When to look again what the API server holds.
    compare_at: Instant,
    /// When that was last done.
    compared_at: Option<Instant>,
    /// After failures that keep us from doing anything.
    backoff: Backoff,
    /// For the one who tells what all nodes together make of it.
    intent: watch::Sender<IntentStatus>,
}

impl Writer {
    async fn run(mut self, source: Source, mut looks: watch::Receiver<()>, mut report: Report) {
        loop {
            looks.borrow_and_update();
            let (answer, status) = oneshot::channel();
            if source.send(answer).await.is_err() {
                return;
            }
            let Ok(status) = status.await else { return };
            self.intent.send_if_modified(|intent| {
                let news = *intent != status.intent;
                if news {
                    intent.clone_from(&status.intent);
                }
                news
            });
            let result = self.tell(&status).await;
            let away = result.as_ref().err().map(|trouble| trouble.failure.words.as_str());
            let nodeless = self.nodeless();
            let trouble = away.or(nodeless.as_deref()).or_else(|| self.planner.trouble());
            report.tell(trouble.or_else(|| self.unsent.trouble()));
            self.pause(result, &mut looks).await;
        }
    }

    /// Waits until there is something to do.
    async fn pause(&mut self, result: Result<(), Trouble>, looks: &mut watch::Receiver<()>) {
        match result {
            Err(Trouble { failure, .. }) => {
                let growing = self.backoff.fail();
                self.compare_at = Instant::now();
                sleep(jittered(growing.max(failure.wait.unwrap_or_default()))).await;
            }
            Ok(()) => {
                self.backoff.reset();
                sleep(BREATH).await;
                let regular = Instant::now() + LOOK_EVERY;
                let due = [self.planner.next(), self.unsent.next()].into_iter().flatten();
                let next = due.map(Instant::from_std).fold(regular, Instant::min);
                tokio::select! {
                    () = sleep_until(next) => {}
                    // An end of hints is an end of the agent, which is noticed elsewhere.
                    Ok(()) = looks.changed() => {}
                }
            }
        }
    }

    /// Brings the cluster up to date. What is refused is kept in mind, and no reason to leave out anything else.
    ///
    /// # Errors
    /// Nothing can be done now.
    async fn tell(&mut self, status: &NodeStatus) -> Result<(), Trouble> {
        // What happened is kept, also while nobody can be told.
        self.unsent.add(self.events.look(status, Instant::now().into_std(), now()));
        let node_is_another = self.node_is_another(status);
        let compare = node_is_another || Instant::now() >= self.compare_at || self.may_be_another(status);
        if compare {
            // Should this fail it is still to be done.
            self.compare_at = Instant::now();
            self.network_unavailable = self.cluster.look_up_node().await.map_err(Trouble::of_everything)?;
        }
        let network = self.tell_network(status).await;
        if compare {
            let found = self.cluster.look_up().await.map_err(Trouble::of_everything)?;
            self.planner.adopt(&found);
            let again = if self.cluster.owner().is_some() { COMPARE_EVERY } else { SEARCH_EVERY };
            self.compare_at = Instant::now() + jittered(again);
            self.compared_at = Some(Instant::now());
        }
        self.tell_objects(status).await?;
        self.tell_events().await?;
        network
    }

    /// The API server was away since we last looked: it may know an older state than we told it.
    fn may_be_another(&self, status: &NodeStatus) -> bool {
        let back = status.store.as_ref().filter(|store| store.connected);
        let since = |at: Instant| at.elapsed().as_secs_f64();
        back.zip(self.compared_at).is_some_and(|(store, at)| store.since_seconds < since(at))
    }

    /// Our Node came, went, or is another of the same name, and we don't know it yet.
    fn node_is_another(&mut self, status: &NodeStatus) -> bool {
        let Some(store) = &status.store else { return false };
        let news = store.node_uid != self.node_told && store.node_uid.as_deref() != self.cluster.owner();
        self.node_told.clone_from(&store.node_uid);
        news
    }

    fn nodeless(&self) -> Option<String> {
        let words =
            "there is no Node of this name that the objects could belong to; they are made when it is there";
        self.cluster.owner().is_none().then(|| words.into())
    }

    /// First of all: without it no pod comes to the node.
    async fn tell_network(&mut self, status: &NodeStatus) -> Result<(), Trouble> {
        if status.role == super::Role::Reflector || self.cluster.owner().is_none() {
            return Ok(());
        }
        let Some(unavailable) = events::network_unavailable(self.network_unavailable, status) else {
            return Ok(());
        };
        let why = match unavailable {
            true => format!("Heliograph's first sync waits for {}", status.waiting_for.join("; ")),
            false => "Heliograph's first sync is done: pods are wired, and routes are in place".into(),
        };
        let why: String = why.chars().take(1000).collect();
        match self.cluster.set_network(unavailable, &why, now()).await {
            // There may be no Node of ours; that is looked at again with everything else.
            Err(trouble) if trouble.meaning != Meaning::Missing => Err(trouble.of_everything()),
            _ => {
                self.network_unavailable = Some(unavailable);
                Ok(())
            }
        }
    }

    async fn tell_objects(&mut self, status: &NodeStatus) -> Result<(), Trouble> {
        let wanted = self.view.objects(status, now());
        let complete = status.waiting_for.is_empty() || status.uptime_seconds > GRACE_SECONDS;
        // What belongs to no Node would never be removed.
        let may = May { make: self.cluster.owner().is_some(), remove: complete };
        for write in self.planner.plan(&wanted, may, Instant::now().into_std()) {
            let written = match &write {
                Write::Apply { object, whole } => self.cluster.apply(object, *whole).await,
                Write::Delete(key) => self.cluster.delete(key).await.map(|()| String::new()),
            };
            let now = Instant::now().into_std();
            match written {
                Ok(version) => self.planner.done(write, &version, now),
                Err(trouble) if trouble.meaning == Meaning::Away => return Err(trouble),
                // Somebody removed it.
                Err(trouble)
                    if trouble.meaning == Meaning::Missing
                        && matches!(write, Write::Apply { whole: false, .. }) =>
                {
                    self.planner.missing(write.key());
                    self.compare_at = Instant::now();
                }
                Err(trouble) => self.planner.failed(write.key(), trouble.failure, now),
            }
        }
        Ok(())
    }

    async fn tell_events(&mut self) -> Result<(), Trouble> {
        while let Some(event) = self.unsent.due(Instant::now().into_std()) {
            match self.cluster.send(event.clone()).await {
                Err(trouble) if trouble.meaning == Meaning::Away => return Err(trouble),
                Err(Trouble { failure, .. }) => {
                    self.unsent.refused(failure.words, failure.wait, Instant::now().into_std());
                }
                Ok(()) => self.unsent.done(),
            }
        }
        Ok(())
    }
}

/// Events and conditions have the time of day.
fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}
