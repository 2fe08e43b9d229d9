//! The status writer: the objects, conditions and Events that an agent writes, with the rights of the manifests.

pub mod faults;
pub mod lifetime;
pub mod node;
pub mod peers;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use heliograph_agent::apiserver::Access;
use heliograph_agent::status::kubernetes::start as start_writer;
use heliograph_agent::status::{NodeStatus, StatusWriterStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::binaries::binary;
use super::fixture::Fixture;
use super::objects::{EVENTS, configuration, ours};
use super::rights::grant_manifests;
use super::server::Server;
use super::user::{OURS, TIMEOUT, User, progress, until};

/// An agent's status writer, with the node's status that it writes.
pub struct Agent {
    status: Arc<Mutex<NodeStatus>>,
    changes: watch::Sender<()>,
    writer: watch::Receiver<StatusWriterStatus>,
    source: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub fn start(kubeconfig: PathBuf, status: Value) -> Self {
        let status = Arc::new(Mutex::new(serde_json::from_value::<NodeStatus>(status).unwrap()));
        let (source, mut requests) = mpsc::channel::<oneshot::Sender<NodeStatus>>(1);
        let held = status.clone();
        let source_task = tokio::spawn(async move {
            while let Some(answer) = requests.recv().await {
                let _ = answer.send(held.lock().unwrap().clone());
            }
        });
        let (changes, hints) = watch::channel(());
        let connect = move || {
            let kubeconfig = kubeconfig.clone();
            async move { Access { kubeconfig: Some(kubeconfig), endpoint: None }.connect().await }
        };
        let writer = start_writer("a".into(), None, connect, source, hints);
        Self { status, changes, writer, source: source_task }
    }

    /// Changes the node's status.
    pub fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().unwrap());
        self.changes.send_replace(());
    }

    /// Returns the writer's last error.
    pub fn error(&self) -> String {
        self.writer.borrow().error.clone().unwrap_or_default()
    }

    pub fn failures(&self) -> u64 {
        self.writer.borrow().failures
    }

    /// Waits until the writer has no error.
    pub async fn until_no_error(&self) {
        let mut writer = self.writer.clone();
        let ended = tokio::time::timeout(TIMEOUT, writer.wait_for(|writer| writer.error.is_none())).await;
        assert!(ended.is_ok(), "timeout: the writer has an error: {}", self.error());
    }

    /// Waits until the writer has compared the status of now with what it wrote.
    pub async fn until_compared(&self) {
        let mut writer = self.writer.clone();
        // The first change may be of a comparison that was running.
        for _ in 0..2 {
            writer.borrow_and_update();
            self.changes.send_replace(());
            tokio::time::timeout(TIMEOUT, writer.changed()).await.expect("a comparison").expect("an agent");
        }
    }

    /// Kills the agent: its writer stops.
    pub async fn stop(self) {
        self.source.abort();
        let _ = self.source.await;
    }
}

/// Returns the status of a session.
pub fn session(name: &str, peer: &str, role: &str, state: &str) -> Value {
    json!({"peer": peer, "name": name, "asn": if role == "External" { 64600 } else { 64512 }, "role": role,
        "state": state, "uptimeSeconds": 90.0, "received": 3, "accepted": 3, "advertised": 1, "stale": 0,
        "routerId": null, "holdSeconds": 90, "establishedCount": u8::from(state == "Established"),
        "lastError": if state == "Established" { Value::Null } else { json!("connect: connection refused") },
        "reason": ""})
}

/// Returns the status of a session with a BGPPeer.
pub fn tor_session() -> Value {
    let mut session = session("tor", "192.0.2.254", "External", "Established");
    session["peerGeneration"] = 1.into();
    session
}

/// Returns the status of a node with three sessions, before the first sync.
pub fn node_status() -> Value {
    json!({"node": "a", "version": "1.2.3", "role": "Node", "uptimeSeconds": 10.0, "waitingFor": ["the neighbors"],
        "intent": {"inSync": true, "generation": 1, "origin": "test", "rejections": []},
        "sessions": [
            session("b", "192.0.2.2", "Mesh", "Connect"),
            session("c", "fd00::3", "Mesh", "Established"),
            tor_session()],
        "routeCounts": [{"family": "IPv4", "disposition": "Tunnel", "count": 3}],
        "kernel": {"inSync": true, "routes": 0, "desired": 4, "kept": 0, "errors": []},
        "nextHops": [{"node": "b", "address": "192.0.2.2", "reachability": "Tunnel", "reason": "test"}], "problems": []})
}

impl User {
    /// Returns the BGPSession with this name.
    pub async fn session(&self, name: &str) -> Option<Value> {
        self.get(&format!("{OURS}/bgpsessions/{name}")).await
    }

    /// Returns the names of all BGPSessions.
    pub async fn sessions(&self) -> Vec<String> {
        let list = self.get(&format!("{OURS}/bgpsessions")).await.unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect()
    }

    /// Returns the condition NetworkUnavailable of Node a.
    pub async fn network_unavailable(&self) -> Value {
        let node = self.get("/api/v1/nodes/a").await.unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap_or_default()
    }

    pub async fn events(&self) -> Vec<Value> {
        let list = self.get(EVENTS).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

/// Returns the table that `kubectl get` prints, as rows of cells.
pub fn kubectl(server: &Server, what: &str) -> Vec<Vec<String>> {
    let kubeconfig = server.kubeconfig("admin");
    let output = Command::new(binary("kubectl").expect("kubectl"))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--cache-dir={}", kubeconfig.with_file_name("kubectl").display()))
        .args(["get", what])
        .output()
        .expect("run kubectl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    progress(&format!("$ kubectl get {what}\n{text}"));
    // Columns are at least three spaces apart; a heading may contain one.
    let row = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect()
    };
    text.lines().map(row).collect()
}

/// Returns the observed generations of an object's conditions.
pub fn observed(object: &Value) -> Vec<Value> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut observed: Vec<_> = conditions.iter().map(|one| one["observedGeneration"].clone()).collect();
    observed.dedup();
    observed
}

/// Returns a condition of one of our objects: its status, observed generation and message.
pub async fn condition(admin: &User, path: &str, kind: &str) -> (String, Value, String) {
    let object = admin.get(&format!("{OURS}/{path}")).await.unwrap_or_default();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_string();
    (text("status"), found["observedGeneration"].clone(), text("message"))
}

/// Returns the number of a BGPPeer's established sessions of all, as `1/2`.
pub async fn counted(admin: &User, peer: &str) -> String {
    let peer = admin.get(&format!("{OURS}/bgppeers/{peer}")).await.unwrap_or_default();
    peer["status"]["sessions"]["established"].as_str().unwrap_or_default().to_string()
}

/// Returns the generations of all objects and those in force, as a store reports them.
pub fn generations(tor: (i64, i64), nobody: Option<i64>) -> Value {
    json!([
        {"object": {"kind": "BGPConfiguration", "name": "default"}, "generation": 1, "inForce": 1},
        {"object": {"kind": "BGPFilter", "name": "f"}, "generation": 1, "inForce": 1},
        {"object": {"kind": "BGPPeer", "name": "nobody"}, "generation": 1, "inForce": nobody},
        {"object": {"kind": "BGPPeer", "name": "tor"}, "generation": tor.0, "inForce": tor.1}])
}

impl Fixture {
    /// Applies rights, definitions and Node a, and starts an agent, which has written its three sessions.
    pub async fn agent(&self) -> Agent {
        let agent = self.agent_at(self.kubeconfig()).await;
        self.until_written(&agent).await;
        agent
    }

    /// Applies rights, definitions and Node a, and starts an agent after its first sync.
    pub async fn agent_at(&self, kubeconfig: PathBuf) -> Agent {
        self.admin.put_node("a", "192.0.2.1", Some("10.244.1.0/24"), json!({})).await;
        self.admin.define().await;
        grant_manifests(&self.admin, None).await;
        let mut status = node_status();
        status["waitingFor"] = json!([]);
        Agent::start(kubeconfig, status)
    }

    /// Waits until the agent has written its three sessions, their states and the node's condition.
    pub async fn until_written(&self, agent: &Agent) {
        until("sessions are written", async || {
            let sessions = self.admin.sessions().await;
            let mut written = sessions.len() == 3;
            for name in sessions {
                let session = self.admin.session(&name).await;
                written &= session.is_some_and(|session| session["status"]["state"].is_string());
            }
            written && self.admin.network_unavailable().await["status"] == "False"
        })
        .await;
        agent.until_no_error().await;
    }

    /// Applies a BGPFilter, a BGPConfiguration and two BGPPeers, one of them without a node, and waits until the agent has
    /// written their status.
    pub async fn peers(&self, agent: &Agent) {
        let admin = &self.admin;
        let tor =
            json!({"peerAddress": "192.0.2.254", "peerASN": 64600, "passwordSecretRef": {"name": "tor"}});
        let nobody = json!({"peerAddress": "192.0.2.253", "peerASN": 64600,
            "nodeSelector": {"matchLabels": {"no": "node"}}});
        for (name, spec) in [("tor", tor), ("nobody", nobody)] {
            admin.put_ours("bgppeers", &ours("BGPPeer", name, spec)).await;
        }
        admin.put_ours("bgpfilters", &ours("BGPFilter", "f", json!({"otherwise": "Reject"}))).await;
        admin.put_ours("bgpconfigurations", &configuration(json!({"asNumber": 64512}))).await;
        agent.change(|status| {
            status.intent.objects = serde_json::from_value(generations((1, 1), Some(1))).unwrap();
        });
        until("the sessions of tor are counted", async || counted(admin, "tor").await == "1/1").await;
        until("and those of nobody", async || counted(admin, "nobody").await == "0/0").await;
    }
}
