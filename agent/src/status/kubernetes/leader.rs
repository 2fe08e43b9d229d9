//! The status of shared objects: BGPPeers, BGPFilters and the BGPConfiguration. The leader, which holds the Lease, writes
//! it: the sessions of all nodes with each BGPPeer, counted from BGPSessions, and whether its own intent accepts the object.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::counts::Counts;
use self::statuses::{Input, Statuses};
use super::planner::Write;
use crate::api::{self, BGPSession, ObjectKind};
use crate::apiserver::lease::{self, Observer, Step};
use crate::apiserver::{ApiClient, ApiError, ErrorKind};
use crate::status::IntentStatus;

mod condition;
mod counts;
mod statuses;
#[cfg(test)]
mod testing;

/// The field manager: the same for each leader, so that no fields of a former one remain.
const MANAGER: &str = "heliograph-peers";
/// The longest time for one round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval of counts of the sessions, without sessions.
const COUNT_INTERVAL: Duration = Duration::from_secs(3);
/// The addition to it for each session: one minute with ten thousand of them.
const COUNT_INTERVAL_PER_SESSION: Duration = Duration::from_millis(6);
/// The interval of updates while there is no BGPPeer.
const UPDATE_INTERVAL: Duration = Duration::from_secs(10);
/// The interval of searches for unreachable nodes, without nodes.
const NODES_INTERVAL: Duration = Duration::from_secs(10);
/// The addition to it for each node: one minute with five thousand of them.
const NODES_INTERVAL_PER_NODE: Duration = Duration::from_millis(10);
/// The interval of checks while the intent has no shared object. They need no request.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause after a request that the API server rejects.
const RETRY: Duration = Duration::from_secs(30);

/// An agent that takes part in the leader election.
pub struct Candidate {
    client: ApiClient,
    /// Heliograph's namespace, which has the Lease.
    namespace: String,
    /// Our node's name.
    me: String,
    observer: Observer,
    statuses: Statuses,
    /// The time of the next count.
    count_at: Instant,
    /// The nodes whose kubelet does not report.
    unreachable: BTreeSet<String>,
    /// The time of the next search for these.
    nodes_at: Instant,
}

/// The result of a round: the pause until the next, and an error that did not end the round.
type Round = (Duration, Option<String>);

impl Candidate {
    /// Returns the agent of the node `me`. `namespace` is that of the Lease.
    pub fn new(client: ApiClient, namespace: String, me: String) -> Self {
        let now = Instant::now();
        let statuses = Statuses::new(now.into_std());
        let (observer, unreachable) = (Observer::default(), BTreeSet::new());
        Self { client, namespace, me, observer, statuses, count_at: now, unreachable, nodes_at: now }
    }

    /// Takes part in the election while `intent` has shared objects, until the process ends. Sends the present error, or
    /// `None`, to `report`.
    pub async fn run(mut self, intent: watch::Receiver<IntentStatus>, report: watch::Sender<Option<String>>) {
        loop {
            let intent = intent.borrow().clone();
            let (pause, error) =
                if intent.objects.is_empty() { (IDLE_INTERVAL, None) } else { self.round(&intent).await };
            report.send_replace(error);
            sleep(super::jittered(pause)).await;
        }
    }

    /// Runs one round.
    async fn round(&mut self, intent: &IntentStatus) -> Round {
        match timeout(ROUND_TIMEOUT, self.try_round(intent)).await {
            Ok(Ok(round)) => round,
            Ok(Err(ApiError { kind: ErrorKind::Conflict, .. })) => (lease::OBSERVE_INTERVAL, None),
            Ok(Err(error)) => (RETRY.max(error.retry_after.unwrap_or_default()), Some(error.message)),
            Err(_) => {
                let timeout = ROUND_TIMEOUT.as_secs();
                let error = format!("count the sessions of each BGPPeer: not finished within {timeout} s");
                (lease::OBSERVE_INTERVAL, Some(error))
            }
        }
    }

    /// Writes the status of shared objects if this agent is the leader.
    async fn try_round(&mut self, intent: &IntentStatus) -> Result<Round, ApiError> {
        if !self.lead().await? {
            return Ok((self.observer.next_observation(Instant::now().into_std()), None));
        }
        let mut errors = FirstError::default();
        if Instant::now() >= self.count_at {
            let pause = self.update(intent, &mut errors).await?;
            self.count_at = Instant::now() + pause;
        }
        let error = errors.0.or_else(|| self.statuses.0.error().map(str::to_string));
        // The Lease must be renewed before the next count, if that is late.
        let next = self.count_at.saturating_duration_since(Instant::now());
        Ok((next.min(lease::RENEW_INTERVAL / 2), error))
    }

    /// Takes or renews the Lease if possible. Returns whether this agent is the leader.
    async fn lead(&mut self) -> Result<bool, ApiError> {
        let leases = self.client.in_namespace::<Lease>(&self.namespace);
        let params = PostParams::default();
        let name = lease::NAME;
        let found = self.client.read(&format!("get lease {name}"), leases.get_opt(name)).await?;
        match self.observer.observe(found.as_ref(), &self.me, Instant::now().into_std(), super::now()) {
            Step::Follow => return Ok(false),
            Step::Lead => return Ok(true),
            Step::Write(lease) if found.is_none() => {
                self.client.write(&format!("create lease {name}"), leases.create(&params, &lease)).await?;
            }
            Step::Write(lease) => {
                let operation = format!("update lease {name}");
                self.client.write(&operation, leases.replace(name, &params, &lease)).await?;
            }
        }
        self.observer.renewed(Instant::now().into_std());
        Ok(true)
    }

    /// Reads all input and sends the writes that are due. Returns the pause until the next update.
    async fn update(&mut self, intent: &IntentStatus, errors: &mut FirstError) -> Result<Duration, ApiError> {
        let has = |kind: ObjectKind| intent.objects.iter().any(|object| object.object.kind == kind);
        let counted = if has(ObjectKind::BGPPeer) { self.count(errors).await? } else { None };
        let pause = match &counted {
            Some((_, sessions)) => COUNT_INTERVAL + COUNT_INTERVAL_PER_SESSION * *sessions,
            None if has(ObjectKind::BGPPeer) => RETRY,
            None => UPDATE_INTERVAL,
        };
        let mut listed = Vec::new();
        // BGPPeers need the counts.
        let kinds = ObjectKind::wishes()
            .filter(|kind| has(*kind) && (*kind != ObjectKind::BGPPeer || counted.is_some()));
        for kind in kinds {
            let operation = format!("list {}", kind.plural());
            let list = self
                .client
                .read(&operation, self.client.untyped(&kind.resource()).list(&ListParams::default()))
                .await;
            let objects = errors.unless_unavailable(list)?.map(|list| list.items).unwrap_or_default();
            listed.extend(objects.into_iter().map(|object| (kind, object)));
        }
        let counts = counted.map(|(counts, _)| counts).unwrap_or_default();
        let input = Input { me: &self.me, intent, counts: &counts, clock: super::now() };
        for write in self.statuses.plan(&listed, &input, Instant::now().into_std()) {
            self.write(write).await?;
        }
        Ok(pause)
    }

    async fn write(&mut self, write: Write) -> Result<(), ApiError> {
        let Write::Apply { object, .. } = &write else { return Ok(()) };
        let (kind, name) = (object.key.kind, &object.key.name);
        let patch = json!({"apiVersion": api::API_VERSION, "kind": kind.as_str(), "metadata": {"name": name},
            "status": object.status});
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&patch));
        let operation = format!("write the status of {} {name}", kind.plural());
        let written = self
            .client
            .write(&operation, self.client.untyped(&kind.resource()).patch_status(name, &params, &patch))
            .await;
        let now = Instant::now().into_std();
        match written {
            Ok(written) => {
                let version = written.resource_version().unwrap_or_default();
                self.statuses.0.done(write, &version, now);
            }
            Err(error) if error.kind.stops_all() => return Err(error),
            // It was deleted after it had been listed.
            Err(error) if error.kind == ErrorKind::NotFound => self.statuses.0.not_found(write.key()),
            // Other objects can still be written.
            Err(error) => self.statuses.0.failed(write.key(), error, now),
        }
        Ok(())
    }

    /// Counts the sessions of all nodes with BGPPeers. Returns the counts and the number of sessions; `None`: the API server
    /// rejects the request.
    async fn count(&mut self, errors: &mut FirstError) -> Result<Option<(Counts, u32)>, ApiError> {
        if Instant::now() >= self.nodes_at {
            let nodes = self.find_unreachable_nodes(errors).await?;
            self.nodes_at = Instant::now() + NODES_INTERVAL + NODES_INTERVAL_PER_NODE * nodes;
        }
        let sessions = self.client.untyped(&ObjectKind::BGPSession.resource());
        let params = ListParams::default().fields("spec.peerKind=BGPPeer");
        let (mut counts, mut total) = (Counts::default(), 0);
        let mut invalid = Vec::new();
        let each = |object: DynamicObject| {
            total += 1;
            let name = object.name_any();
            match decode(object) {
                Ok(session) => counts.add(&session, &self.unreachable),
                Err(error) => invalid.push(format!("decode bgpsession {name}: {error}; delete it")),
            }
        };
        let list = self.client.list("list bgpsessions with bgppeers", &sessions, params, each).await;
        invalid.into_iter().for_each(|error| errors.add(error));
        Ok(errors.unless_unavailable(list)?.map(|_| (counts, total)))
    }

    /// Lists the nodes, and records those that are unreachable. Returns the number of all nodes.
    async fn find_unreachable_nodes(&mut self, errors: &mut FirstError) -> Result<u32, ApiError> {
        let nodes = self.client.all::<Node>();
        let (mut unreachable, mut total) = (BTreeSet::new(), 0);
        let each = |node: Node| {
            total += 1;
            unreachable.extend(is_unreachable(&node).then(|| node.name_any()));
        };
        let list = self.client.list("list nodes", &nodes, ListParams::default(), each).await;
        errors.unless_unavailable(list)?;
        self.unreachable = unreachable;
        Ok(total)
    }
}

/// The first error of a round that does not end it.
#[derive(Default)]
struct FirstError(Option<String>);

impl FirstError {
    fn add(&mut self, error: String) {
        self.0.get_or_insert(error);
    }

    /// Returns the answer; `None`: the API server rejected the request, which is recorded.
    ///
    /// # Errors
    /// The API server is unavailable.
    fn unless_unavailable<T>(&mut self, answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind.stops_all() => Err(error),
            Err(error) => {
                self.add(error.message);
                Ok(None)
            }
        }
    }
}

fn decode(object: DynamicObject) -> serde_json::Result<BGPSession> {
    serde_json::from_value(json!({"metadata": object.metadata, "spec": object.data["spec"],
        "status": object.data["status"], "apiVersion": api::API_VERSION, "kind": "BGPSession"}))
}

/// Returns whether a node's kubelet has not reported for a while: the node lifecycle controller sets the condition Ready to
/// Unknown. Then the agent's last report is out of date.
fn is_unreachable(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: serde_json::Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn invalid_sessions_do_not_hide_others() {
        let list = json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPSessionList", "metadata": {},
            "items": [{"metadata": {"name": "odd"}, "spec": ["no", "session"]},
                {"metadata": {"name": "older"}, "spec": {"node": "a", "peer": "192.0.2.1", "peerKind": "BGPPeer",
                    "peerName": "tor", "peerASN": 1, "role": "External"}}]});
        let list: kube::core::ObjectList<DynamicObject> = serde_json::from_value(list).unwrap();
        let read: Vec<_> = list.items.into_iter().map(|item| decode(item).map(|one| one.spec.node)).collect();
        assert!(read[0].is_err());
        assert_eq!(read[1].as_ref().unwrap(), "a");
        assert!(decode(object(json!({"metadata": {}, "spec": null}))).is_err());
    }

    #[test]
    fn rejected_requests_do_not_end_a_round() {
        let error = |kind| {
            let error = ApiError::timeout("list", ROUND_TIMEOUT);
            Err::<(), _>(ApiError { kind, ..error })
        };
        let mut errors = FirstError::default();
        for kind in [ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::Rejected] {
            assert!(matches!(errors.unless_unavailable(error(kind)), Ok(None)));
        }
        assert!(errors.0.is_some());
        assert!(errors.unless_unavailable(error(ErrorKind::Unavailable)).is_err());
    }

    #[test]
    fn a_node_is_unreachable_if_its_kubelet_does_not_report() {
        let node = |status: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "Unknown"}, {"type": "Ready", "status": status}]}}))
            .unwrap()
        };
        assert_eq!(
            ["True", "False", "Unknown"].map(|status| is_unreachable(&node(status))),
            [false, false, true]
        );
        assert!(!is_unreachable(&Node::default()));
    }
}
