//! What all nodes together make of the objects in which people say what they want, told by the one agent that holds the
//! Lease: how the sessions with each BGPPeer stand, counted from BGPSessions, and whether its own intent accepts them.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::counts::Counts;
use self::statuses::{Known, Statuses};
use super::lease::{self, Eye, Turn};
use super::object::Kind;
use super::planner::Write;
use super::requests::{Meaning, Requests, Trouble};
use crate::api::{self, BGPSession};
use crate::status::IntentStatus;
use crate::store::kubernetes::pages;

mod counts;
mod statuses;
#[cfg(test)]
mod testing;

/// Who we are among those who write: the same whichever agent it is, so that nothing of a former one stays.
const MANAGER: &str = "heliograph-peers";
/// A turn without an end has failed after this time.
const TURN: Duration = Duration::from_secs(60);
/// Sessions are counted anew after this time,
const COUNT_EVERY: Duration = Duration::from_secs(3);
/// and after this for each session more: with ten thousand of them once in a minute.
const COUNT_EVERY_SESSION: Duration = Duration::from_millis(6);
/// Where there is no BGPPeer everything else is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Which nodes nothing is heard of is looked at so often,
const NODES_EVERY: Duration = Duration::from_secs(10);
/// and this later for each node: with five thousand of them once in a minute.
const NODES_EVERY_NODE: Duration = Duration::from_millis(10);
/// Whether there is anything to tell of is looked at so often while there isn't; it asks nobody.
const WANTED_EVERY: Duration = Duration::from_secs(5);
/// What the API server refuses is asked again after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// The kinds of which the status is told.
const KINDS: [Kind; 3] = [Kind::Configuration, Kind::Filter, Kind::Peer];

/// One agent that takes part in status_writer.
pub struct Counter {
    client: Client,
    requests: Requests,
    /// Heliograph's namespace, where the Lease is.
    namespace: String,
    /// Our node's name.
    me: String,
    eye: Eye,
    statuses: Statuses,
    /// When to count again.
    count_at: Instant,
    /// Nodes of which nothing is heard.
    silent: BTreeSet<String>,
    /// When to look for these again.
    silent_at: Instant,
}

impl Counter {
    /// The agent of the node `me`, which hasn't told anything yet. `namespace`: where the Lease is.
    pub fn new(client: Client, requests: Requests, namespace: String, me: String) -> Self {
        let now = Instant::now();
        let statuses = Statuses::new(now.into_std());
        let (eye, silent) = (Eye::default(), BTreeSet::new());
        Self { client, requests, namespace, me, eye, statuses, count_at: now, silent, silent_at: now }
    }

    /// Takes part until the process ends, while there is something to tell of: objects of which `intent` knows. Says
    /// what keeps it from that, in words.
    pub async fn run(mut self, intent: watch::Receiver<IntentStatus>, say: watch::Sender<Option<String>>) {
        loop {
            let intent = intent.borrow().clone();
            let (pause, trouble) =
                if intent.objects.is_empty() { (WANTED_EVERY, None) } else { self.turn(&intent).await };
            say.send_replace(trouble);
            sleep(super::jittered(pause)).await;
        }
    }

    /// One turn: the time until the next, and what was the matter.
    async fn turn(&mut self, intent: &IntentStatus) -> (Duration, Option<String>) {
        match timeout(TURN, self.take_turn(intent)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Trouble { meaning: Meaning::Overtaken, .. })) => (lease::LOOK_EVERY, None),
            Ok(Err(Trouble { failure, .. })) => {
                (AGAIN.max(failure.wait.unwrap_or_default()), Some(failure.words))
            }
            Err(_) => {
                let words =
                    format!("count the sessions of each BGPPeer: not done within {} s", TURN.as_secs());
                (lease::LOOK_EVERY, Some(words))
            }
        }
    }

    /// Tells, if it is our turn.
    async fn take_turn(&mut self, intent: &IntentStatus) -> Result<(Duration, Option<String>), Trouble> {
        if !self.ours().await? {
            return Ok((self.eye.look_in(Instant::now().into_std()), None));
        }
        let mut troubles = Troubles::default();
        if Instant::now() >= self.count_at {
            let pause = self.tell(intent, &mut troubles).await?;
            self.count_at = Instant::now() + pause;
        }
        let trouble = troubles.0.or_else(|| self.statuses.0.trouble().map(str::to_string));
        // The Lease doesn't wait for the next count.
        let next = self.count_at.saturating_duration_since(Instant::now());
        Ok((next.min(lease::RENEW_EVERY / 2), trouble))
    }

    /// Whether the Lease is ours, taking or renewing it if it may be.
    async fn ours(&mut self) -> Result<bool, Trouble> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams::default();
        let name = lease::NAME;
        let found = self.requests.read(&format!("get lease {name}"), leases.get_opt(name)).await?;
        match self.eye.turn(found.as_ref(), &self.me, Instant::now().into_std(), super::now()) {
            Turn::Theirs => return Ok(false),
            Turn::Ours => return Ok(true),
            Turn::Ask(lease) if found.is_none() => {
                self.requests.write(&format!("create lease {name}"), leases.create(&params, &lease)).await?;
            }
            Turn::Ask(lease) => {
                let what = format!("update lease {name}");
                self.requests.write(&what, leases.replace(name, &params, &lease)).await?;
            }
        }
        self.eye.renewed(Instant::now().into_std());
        Ok(true)
    }

    /// Looks at everything, and writes what is to be written now; the time until the next look.
    async fn tell(&mut self, intent: &IntentStatus, troubles: &mut Troubles) -> Result<Duration, Trouble> {
        let holds = |kind: Kind| {
            let prefix = format!("{} ", kind.name());
            intent.objects.iter().any(|taken| taken.object.starts_with(&prefix))
        };
        let counted = if holds(Kind::Peer) { self.count(troubles).await? } else { None };
        let pause = match &counted {
            Some((_, sessions)) => COUNT_EVERY + COUNT_EVERY_SESSION * *sessions,
            None if holds(Kind::Peer) => AGAIN,
            None => LOOK_EVERY,
        };
        let mut listed = Vec::new();
        // Where sessions could not be counted nothing is said of them.
        for kind in
            KINDS.into_iter().filter(|kind| holds(*kind) && (*kind != Kind::Peer || counted.is_some()))
        {
            let what = format!("list {}", kind.plural());
            let list = self.requests.read(&what, self.api(kind).list(&ListParams::default())).await;
            let objects = troubles.unless_away(list)?.map(|list| list.items).unwrap_or_default();
            listed.extend(objects.into_iter().map(|object| (kind, object)));
        }
        let counts = counted.map(|(counts, _)| counts).unwrap_or_default();
        let known = Known { me: &self.me, intent, counts: &counts, clock: super::now() };
        for write in self.statuses.plan(&listed, &known, Instant::now().into_std()) {
            self.write(write).await?;
        }
        Ok(pause)
    }

    async fn write(&mut self, write: Write) -> Result<(), Trouble> {
        let Write::Apply { object, .. } = &write else { return Ok(()) };
        let (kind, name) = (object.key.kind, &object.key.name);
        let patch = json!({"apiVersion": api::API_VERSION, "kind": kind.name(), "metadata": {"name": name},
            "status": object.status});
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&patch));
        let what = format!("write the status of {} {name}", kind.plural());
        let written = self.requests.write(&what, self.api(kind).patch_status(name, &params, &patch)).await;
        let now = Instant::now().into_std();
        match written {
            Ok(written) => {
                let version = written.resource_version().unwrap_or_default();
                self.statuses.0.done(write, &version, now);
            }
            Err(trouble) if trouble.meaning == Meaning::Away => return Err(trouble),
            // It was deleted after it had been listed.
            Err(trouble) if trouble.meaning == Meaning::Missing => self.statuses.0.missing(write.key()),
            // That is no reason not to write to others.
            Err(trouble) => self.statuses.0.failed(write.key(), trouble.failure, now),
        }
        Ok(())
    }

    /// The sessions of all nodes with BGPPeers, and how many there are; `None`: that isn't told.
    async fn count(&mut self, troubles: &mut Troubles) -> Result<Option<(Counts, u32)>, Trouble> {
        if Instant::now() >= self.silent_at {
            let nodes = self.look_for_silent(troubles).await?;
            self.silent_at = Instant::now() + NODES_EVERY + NODES_EVERY_NODE * nodes;
        }
        let sessions = self.api(Kind::Session);
        let mut page = pages::first(ListParams::default().fields("spec.peerKind=BGPPeer"));
        let (mut counts, mut total) = (Counts::default(), 0);
        loop {
            let list = self.requests.read("list bgpsessions with bgppeers", sessions.list(&page)).await;
            let Some(list) = troubles.unless_away(list)? else { return Ok(None) };
            for object in list.items {
                total += 1;
                let name = object.name_any();
                match decoded(object) {
                    Ok(session) => counts.add(&session, &self.silent),
                    Err(error) => {
                        troubles.note(format!("bgpsession {name} is not counted: {error}; delete it"))
                    }
                }
            }
            if !pages::turn(&mut page, &list.metadata) {
                return Ok(Some((counts, total)));
            }
        }
    }

    /// Sees of which nodes nothing is heard; how many nodes there are.
    async fn look_for_silent(&mut self, troubles: &mut Troubles) -> Result<u32, Trouble> {
        let nodes = Api::<Node>::all(self.client.clone());
        let mut page = pages::first(ListParams::default());
        let (mut silent, mut total) = (BTreeSet::new(), 0);
        loop {
            let list = self.requests.read("list nodes", nodes.list(&page)).await;
            let Some(list) = troubles.unless_away(list)? else { break };
            total += list.items.len() as u32;
            silent.extend(list.items.iter().filter(|node| is_silent(node)).map(ResourceExt::name_any));
            if !pages::turn(&mut page, &list.metadata) {
                break;
            }
        }
        self.silent = silent;
        Ok(total)
    }

    /// Objects come as they are: one that makes no sense is no reason not to tell of others.
    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let kinds = GroupVersionKind::gvk(api::GROUP, "v1alpha1", kind.name());
        let resource = ApiResource::from_gvk_with_plural(&kinds, kind.plural());
        Api::all_with(self.client.clone(), &resource)
    }
}

/// The first thing that is the matter, and no reason not to go on.
#[derive(Default)]
struct Troubles(Option<String>);

impl Troubles {
    fn note(&mut self, words: String) {
        self.0.get_or_insert(words);
    }

    /// What was asked for; `None`: it was refused, which is noted.
    ///
    /// # Errors
    /// Nothing else will do either now.
    fn unless_away<T>(&mut self, answer: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(trouble) if trouble.meaning == Meaning::Away => Err(trouble),
            Err(trouble) => {
                self.note(trouble.failure.words);
                Ok(None)
            }
        }
    }
}

fn decoded(object: DynamicObject) -> serde_json::Result<BGPSession> {
    serde_json::from_value(json!({"metadata": object.metadata, "spec": object.data["spec"],
        "status": object.data["status"], "apiVersion": api::API_VERSION, "kind": "BGPSession"}))
}

/// Its kubelet has reported nothing for a while: the node lifecycle controller says that by Ready being Unknown. The
/// machine is likely away, and its agent's last words with it.
fn is_silent(node: &Node) -> bool {
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
    fn sessions_are_read_one_by_one() {
        let list = json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPSessionList", "metadata": {},
            "items": [{"metadata": {"name": "odd"}, "spec": ["no", "session"]},
                {"metadata": {"name": "older"}, "spec": {"node": "a", "peer": "192.0.2.1", "peerKind": "BGPPeer",
                    "peerName": "tor", "peerASN": 1, "role": "External"}}]});
        let list: kube::core::ObjectList<DynamicObject> = serde_json::from_value(list).unwrap();
        let read: Vec<_> =
            list.items.into_iter().map(|item| decoded(item).map(|one| one.spec.node)).collect();
        assert!(read[0].is_err());
        assert_eq!(read[1].as_ref().unwrap(), "a");
        assert!(decoded(object(json!({"metadata": {}, "spec": null}))).is_err());
    }

    #[test]
    fn what_is_refused_is_no_reason_to_stop() {
        let trouble = |meaning| {
            let failure = crate::store::kubernetes::failure::Failure::silent("list", TURN);
            Err::<(), _>(Trouble { failure, meaning })
        };
        let mut troubles = Troubles::default();
        for meaning in [Meaning::Missing, Meaning::Overtaken, Meaning::Refused] {
            assert!(matches!(troubles.unless_away(trouble(meaning)), Ok(None)));
        }
        assert!(troubles.0.is_some());
        assert!(troubles.unless_away(trouble(Meaning::Away)).is_err());
    }

    #[test]
    fn a_node_is_silent_where_its_kubelet_is() {
        let node = |status: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "Unknown"}, {"type": "Ready", "status": status}]}}))
            .unwrap()
        };
        assert_eq!(["True", "False", "Unknown"].map(|status| is_silent(&node(status))), [false, false, true]);
        assert!(!is_silent(&Node::default()));
    }
}
