//! How the sessions with each BGPPeer stand, all nodes taken together: counted from BGPSessions by the one agent that
//! holds the Lease.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::lease::{self, Turn};
use super::requests::{Meaning, Requests, Trouble};
use crate::api::node_status::SessionCounts;
use crate::api::status::BGPPeerStatus;
use crate::api::{self, BGPPeer, BGPSession};

/// Who we are among those who write: the same whichever agent it is, so that nothing of a former one stays.
const MANAGER: &str = "heliograph-peers";
/// Objects a page.
const PAGE: u32 = 500;
/// A turn without an end has failed after this time.
const TURN: Duration = Duration::from_secs(60);
/// Sessions are counted anew after this time,
const COUNT_EVERY: Duration = Duration::from_secs(3);
/// and after this for each session more: with ten thousand of them once in a minute.
const COUNT_EVERY_SESSION: Duration = Duration::from_millis(6);
/// Whether there is anything to count is looked at so often while there isn't; it asks nobody.
const WANTED_EVERY: Duration = Duration::from_secs(5);
/// So many nodes whose session is down are named.
const NAMED: usize = 5;

/// One agent that takes part in counting.
pub struct Counter {
    /// The way to the API server.
    pub client: Client,
    /// What was asked of it.
    pub requests: Requests,
    /// Heliograph's namespace, where the Lease is.
    pub namespace: String,
    /// Our node's name.
    pub me: String,
}

impl Counter {
    /// Takes part until the process ends, in each of these turns in which `wanted` says so: an agent without a session
    /// with a BGPPeer has no reason to. Tells what keeps it from that, in words.
    pub async fn run(self, wanted: impl Fn() -> bool + Send, say: watch::Sender<Option<String>>) {
        loop {
            let (pause, trouble) = if wanted() { self.turn().await } else { (WANTED_EVERY, None) };
            say.send_replace(trouble);
            sleep(super::jittered(pause)).await;
        }
    }

    /// One turn: the time until the next, and what was the matter.
    async fn turn(&self) -> (Duration, Option<String>) {
        match timeout(TURN, self.count()).await {
            Ok(Ok(Some(sessions))) => (COUNT_EVERY + COUNT_EVERY_SESSION * sessions as u32, None),
            Ok(Ok(None)) => (lease::LOOK_EVERY, None),
            Ok(Err(Trouble { meaning: Meaning::Overtaken, .. })) => (lease::LOOK_EVERY, None),
            Ok(Err(Trouble { failure, .. })) => (lease::LOOK_EVERY / 2, Some(failure.words)),
            Err(_) => {
                let words =
                    format!("count the sessions of each BGPPeer: not done within {} s", TURN.as_secs());
                (lease::LOOK_EVERY, Some(words))
            }
        }
    }

    /// Counts, if it is our turn; how many sessions there are then.
    async fn count(&self) -> Result<Option<usize>, Trouble> {
        if !self.ours().await? {
            return Ok(None);
        }
        let (counts, total) = self.sessions().await?;
        let peers = Api::<BGPPeer>::all(self.client.clone());
        let all = self.requests.read("list bgppeers", peers.list(&ListParams::default())).await?;
        let params = PatchParams::apply(MANAGER).force();
        for peer in all.items {
            let status = counts.status(&peer, super::now());
            if peer.status.as_ref() == Some(&status) {
                continue;
            }
            let name = peer.name_any();
            let patch = json!({"apiVersion": api::API_VERSION, "kind": "BGPPeer", "metadata": {"name": name},
                "status": status});
            let what = format!("write the status of bgppeer {name}");
            let written =
                self.requests.write(&what, peers.patch_status(&name, &params, &Patch::Apply(&patch))).await;
            match written {
                // It was deleted after it had been listed.
                Err(trouble) if trouble.meaning != Meaning::Missing => return Err(trouble),
                _ => {}
            }
        }
        Ok(Some(total))
    }

    /// Whether the Lease is ours, taking or renewing it if it may be.
    async fn ours(&self) -> Result<bool, Trouble> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams::default();
        let name = lease::NAME;
        let found = self.requests.read(&format!("get lease {name}"), leases.get_opt(name)).await?;
        match lease::turn(found.as_ref(), &self.me, super::now()) {
            Turn::Theirs => return Ok(false),
            Turn::Ours => {}
            Turn::Ask(lease) if found.is_none() => {
                self.requests.write(&format!("create lease {name}"), leases.create(&params, &lease)).await?;
            }
            Turn::Ask(lease) => {
                let what = format!("update lease {name}");
                self.requests.write(&what, leases.replace(name, &params, &lease)).await?;
            }
        }
        Ok(true)
    }

    /// The sessions of all nodes with BGPPeers, counted; how many there are.
    async fn sessions(&self) -> Result<(Counts, usize), Trouble> {
        let sessions = Api::<BGPSession>::all(self.client.clone());
        let mut page =
            ListParams { limit: Some(PAGE), ..ListParams::default().fields("spec.peerKind=BGPPeer") };
        let mut counts = Counts::default();
        let mut total = 0;
        loop {
            let list = self.requests.read("list bgpsessions with bgppeers", sessions.list(&page)).await?;
            total += list.items.len();
            list.items.iter().for_each(|session| counts.add(session));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok((counts, total)),
            }
        }
    }
}

/// The sessions with each BGPPeer.
#[derive(Debug, Default)]
struct Counts(BTreeMap<String, Count>);

#[derive(Debug, Default)]
struct Count {
    up: u64,
    total: u64,
    /// The first few nodes without.
    down: Vec<String>,
}

impl Counts {
    fn add(&mut self, session: &BGPSession) {
        let conditions = session.status.iter().flat_map(|status| &status.conditions);
        let up = conditions
            .into_iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True");
        let count = self.0.entry(session.spec.peer_name.clone()).or_default();
        count.total += 1;
        count.up += u64::from(up);
        if !up && count.down.len() < NAMED {
            count.down.push(session.spec.node.clone());
        }
    }

    fn status(&self, peer: &BGPPeer, now: Timestamp) -> BGPPeerStatus {
        let none = Count::default();
        let count = self.0.get(&peer.name_any()).unwrap_or(&none);
        let (status, reason, message) = match count {
            Count { total: 0, .. } => ("False", "NoSessions", "no node has a session with it".into()),
            Count { up, total, .. } if up == total => ("True", "All", String::new()),
            Count { up, total, down } => {
                let more = (total - up) as usize - down.len();
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                ("False", "NotAll", format!("not established on {}{more}", down.join(", ")))
            }
        };
        let conditions = peer.status.iter().flat_map(|status| &status.conditions);
        let before = conditions.into_iter().find(|condition| condition.type_ == "Established");
        let since =
            before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        // Whole seconds, as they are written.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let established = Condition {
            type_: "Established".into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: peer.metadata.generation,
        };
        BGPPeerStatus {
            sessions: Some(SessionCounts::new(count.up, count.total)),
            conditions: vec![established],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(node: &str, peer: &str, up: bool) -> BGPSession {
        serde_json::from_value(json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPSession",
            "metadata": {"name": format!("{node}-{peer}")},
            "spec": {"node": node, "peer": "192.0.2.1", "peerKind": "BGPPeer", "peerName": peer, "peerASN": 64600,
                "role": "External"},
            "status": {"conditions": [{"type": "Established", "status": if up { "True" } else { "False" },
                "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap()
    }

    #[test]
    fn sessions_are_counted_by_peer_and_conditions_keep_their_time() {
        let mut counts = Counts::default();
        for number in 0..10 {
            counts.add(&session(&format!("n{number}"), "tor", number > 6));
        }
        counts.add(&session("n1", "other", true));
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let mut cases = Vec::new();
        for name in ["tor", "other", "unused"] {
            let mut peer: BGPPeer = serde_json::from_value(json!({"metadata": {"name": name, "generation": 3},
                "spec": {"peerAddress": "192.0.2.1", "peerASN": 64600}, "apiVersion": "heliograph.io/v1alpha1",
                "kind": "BGPPeer"}))
            .unwrap();
            let status = counts.status(&peer, at(1000));
            peer.status = Some(status.clone());
            assert_eq!(counts.status(&peer, at(2000)), status, "nothing to write");
            let condition = &status.conditions[0];
            assert_eq!(condition.observed_generation, Some(3));
            let established = status.sessions.unwrap().established;
            cases.push(format!("{established} {} {}", condition.status, condition.message));
            // When it turns the time does, too.
            peer.status.as_mut().unwrap().conditions[0].status = "Unknown".into();
            assert_eq!(counts.status(&peer, at(2000)).conditions[0].last_transition_time, Time(at(2000)));
        }
        let expected = [
            "3/10 False not established on n0, n1, n2, n3, n4 and 2 more",
            "1/1 True ",
            "0/0 False no node has a session with it",
        ];
        assert_eq!(cases, expected);
    }
}
