//! The store: the intent that the objects of an API server make.

pub mod connection;
pub mod definitions;
pub mod objects;
pub mod topologies;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use heliograph_agent::apiserver::Access;
use heliograph_agent::intent::Snapshot;
use heliograph_agent::store::kubernetes::{self, Options};
use heliograph_agent::store::{Rejection, View};
use heliograph_bgp::{Authentication, Key};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fixture::Fixture;
use super::objects::{SECRETS, configuration, ours, secret};
use super::rights::grant_store;
use super::user::{TIMEOUT, progress};

/// A running store, and the snapshots in force that it has had: of several in quick succession only the last.
pub struct Store {
    views: watch::Receiver<Arc<View>>,
    seen: Arc<Mutex<Vec<Arc<Snapshot>>>>,
}

impl Store {
    /// Starts a store with this file for the last good intent.
    pub fn start(kubeconfig: PathBuf, last_good: &Path) -> Self {
        let options = Options {
            node: "a".into(),
            access: Access { kubeconfig: Some(kubeconfig), endpoint: None },
            namespace: None,
            last_good: last_good.into(),
        };
        let views = kubernetes::watch(options);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut changes, list) = (views.clone(), seen.clone());
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                list.lock().unwrap().extend(changes.borrow_and_update().snapshot.clone());
            }
        });
        Self { views, seen }
    }

    /// Waits until its view is as expected.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&View) -> bool) -> Arc<View> {
        let begun = Instant::now();
        let found = tokio::time::timeout(TIMEOUT, self.views.wait_for(|view| holds(view))).await;
        let Ok(Ok(view)) = found.map(|view| view.map(|view| view.clone())) else {
            panic!("timeout: {what}: {:#?}", self.views.borrow());
        };
        progress(&format!("{what}: {:?}", begun.elapsed()));
        view
    }

    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }
}

pub fn in_force(view: &View) -> Option<&Snapshot> {
    view.snapshot.as_deref()
}

pub fn nodes(view: &View) -> Vec<&str> {
    in_force(view).map(|snapshot| snapshot.nodes.keys().map(|name| &**name).collect()).unwrap_or_default()
}

pub fn connected(view: &View) -> bool {
    view.connection.as_ref().is_some_and(|connection| connection.connected)
}

pub fn error(view: &View) -> String {
    view.connection.as_ref().and_then(|connection| connection.last_error.clone()).unwrap_or_default()
}

/// Returns the newest generation of the BGPPeer, and the one in force.
pub fn generations_of_tor(view: &View) -> (i64, Option<i64>) {
    let tor = view.objects.iter().find(|one| one.object.to_string() == "BGPPeer tor").expect("the BGPPeer");
    (tor.generation, tor.in_force)
}

/// Returns kind and name of the object that is rejected.
pub fn object_of(rejection: &Rejection) -> String {
    rejection.object.as_ref().map(ToString::to_string).unwrap_or_default()
}

pub fn password(view: &View) -> Option<Authentication> {
    in_force(view)?.peers.get("tor")?.neighbor.authentication.clone()
}

pub fn md5(text: &str) -> Option<Authentication> {
    Some(Authentication::Md5(Key::new(text)))
}

/// The objects of [`intent`], without Nodes, by the plural of their kind.
pub fn intent_objects() -> [(&'static str, Value); 3] {
    [
        (
            "bgpconfigurations",
            configuration(json!({"asNumber": 64512, "clusterCIDRs": ["10.244.0.0/16", "fd00:10::/48"],
            "encapsulation": "Always", "timers": {"holdSeconds": 9, "sendHoldSeconds": 60},
            "gracefulRestart": {"restartSeconds": 30, "notifications": true}, "listenPort": 1790})),
        ),
        (
            "bgpfilters",
            ours(
                "BGPFilter",
                "from-tor",
                json!({"otherwise": "Reject", "rules": [
            {"name": "not-theirs", "match": {"asPath": {"contains": 64666}}, "action": "Reject"},
            {"name": "nets", "match": {"prefixes": [{"cidr": "10.9.0.0/16", "minLength": 20, "maxLength": 24}],
                "communities": ["64600:1", "65535:65535", "1:2:4294967295", "rt:65535:4294967295", "rt:65536:65535",
                    "soo:192.0.2.1:65535", "0x00ff00FF00ff00FF", "no-export", "accept-own"], "nextHops": ["192.0.2.0/24"], "source": "External"},
             "unless": {"communities": ["64600:666"]}, "action": "Accept",
             "set": {"addCommunities": ["64512:1:2"], "removeCommunities": ["rt:64512:1"], "localPref": 50,
                "med": 7, "prepend": 1}}]}),
            ),
        ),
        (
            "bgppeers",
            ours(
                "BGPPeer",
                "tor",
                json!({"peerAddress": "192.0.2.254", "peerASN": 64600, "peerPort": 1790,
            "localASN": 64700, "nodeSelector": {"matchLabels": {"rack": "1"}, "matchExpressions": [
                {"key": "rack", "operator": "In", "values": ["1", ""]}, {"key": "e.x/y_Z.1", "operator": "DoesNotExist"}]},
            "passwordSecretRef": {"name": "tor"}, "ttlSecurity": 1, "sourceAddress": "InternalIP",
            "role": "Customer", "strictRole": true, "families": ["IPv4"], "passive": true,
            "prefixLimit": {"max": 100, "warnPercent": 50, "restartSeconds": 60},
            "timers": {"holdSeconds": 30, "keepaliveSeconds": 10}, "importFilter": "from-tor",
            "export": [{"cidr": "10.244.0.0/16", "maxLength": 24}]}),
            ),
        ),
    ]
}

impl Fixture {
    /// Applies definitions, a Secret, one object of each kind and three Nodes, and starts a store, which has them all.
    pub async fn store(&self) -> Store {
        let admin = &self.admin;
        grant_store(admin).await;
        admin.define().await;
        admin.put(SECRETS, &secret("secret")).await;
        for (plural, object) in intent_objects() {
            admin.put_ours(plural, &object).await;
        }
        let labels = json!({"rack": "1", "heliograph.io/segment": "one"});
        admin.put_node("a", "192.0.2.1", Some("10.244.1.0/24"), labels).await;
        let labels = json!({"heliograph.io/segment": "two"});
        admin.put_node("b", "192.0.2.2", Some("10.244.2.0/24"), labels).await;
        admin.put_node("c", "2001:db8::3", Some("fd00:10:0:3::/64"), json!({})).await;
        let mut store = self.start_store();
        store
            .until("the store has all objects", |view| {
                view.in_sync && connected(view) && nodes(view) == ["a", "b", "c"] && password(view).is_some()
            })
            .await;
        store
    }

    /// Starts a store, as the first of this node.
    pub fn start_store(&self) -> Store {
        Store::start(self.kubeconfig(), &self.last_good())
    }

    /// Returns the file with the last good intent.
    pub fn last_good(&self) -> PathBuf {
        self.folder().join("state/last-good.yaml")
    }
}
