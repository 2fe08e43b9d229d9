//! How a node stands, told to a real API server under the very rights that the manifests give.

use std::process::Command;

use heliograph_agent::status::kubernetes::tell;
use heliograph_agent::status::{NodeStatus, SessionStatus, StatusWriterStatus, StoreStatus};
use heliograph_agent::store::kubernetes::Access;
use tokio::sync::{mpsc, oneshot};

use super::binaries::binary;
use super::proxy::{Fault, Proxy};
use super::rights::{done, grant_manifests, granted};
use super::*;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// An agent of which only the writer is real.
struct Agent {
    status: Arc<Mutex<NodeStatus>>,
    hint: watch::Sender<()>,
    status_writer: watch::Receiver<StatusWriterStatus>,
    source: tokio::task::JoinHandle<()>,
}

impl Agent {
    fn start(kubeconfig: PathBuf, status: Value) -> Self {
        let status = Arc::new(Mutex::new(serde_json::from_value::<NodeStatus>(status).unwrap()));
        let (source, mut asked) = mpsc::channel::<oneshot::Sender<NodeStatus>>(1);
        let held = status.clone();
        let source_task = tokio::spawn(async move {
            while let Some(answer) = asked.recv().await {
                let _ = answer.send(held.lock().unwrap().clone());
            }
        });
        let (hint, looks) = watch::channel(());
        let connect = move || {
            let kubeconfig = kubeconfig.clone();
            async move { Access { kubeconfig: Some(kubeconfig), endpoint: None }.connect().await }
        };
        let status_writer = tell("a".into(), None, connect, source, looks);
        Self { status, hint, status_writer, source: source_task }
    }

    fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().unwrap());
        self.hint.send_replace(());
    }

    fn trouble(&self) -> String {
        self.status_writer.borrow().error.clone().unwrap_or_default()
    }

    async fn until_nothing_is_the_matter(&self) {
        let mut status_writer = self.status_writer.clone();
        let well =
            tokio::time::timeout(WAIT, status_writer.wait_for(|status_writer| status_writer.error.is_none()))
                .await
                .is_ok();
        assert!(well, "still the matter: {}", self.trouble());
    }

    /// Waits until it has seen, and told, how things are now.
    async fn until_it_looked(&self) {
        let mut status_writer = self.status_writer.clone();
        // The first may be of a look that was on its way.
        for _ in 0..2 {
            status_writer.borrow_and_update();
            self.hint.send_replace(());
            tokio::time::timeout(WAIT, status_writer.changed()).await.expect("a look").expect("an agent");
        }
    }

    /// Kills it: the writer is heard of no more.
    async fn stop(self) {
        self.source.abort();
        let _ = self.source.await;
    }
}

fn session(name: &str, peer: &str, role: &str, state: &str) -> Value {
    json!({"peer": peer, "name": name, "asn": if role == "External" { 64600 } else { 64512 }, "role": role,
        "state": state, "uptimeSeconds": 90.0, "received": 3, "accepted": 3, "advertised": 1, "stale": 0,
        "routerId": null, "holdSeconds": 90, "establishedCount": u8::from(state == "Established"),
        "lastError": if state == "Established" { Value::Null } else { json!("connect: connection refused") },
        "reason": ""})
}

/// One with a BGPPeer.
fn tor_session() -> Value {
    let mut session = session("tor", "192.0.2.254", "External", "Established");
    session["peerGeneration"] = 1.into();
    session
}

fn node_status() -> Value {
    json!({"node": "a", "version": "1.2.3", "role": "Node", "uptimeSeconds": 10.0, "waitingFor": ["the neighbours"],
        "intent": {"inSync": true, "generation": 1, "origin": "test", "rejections": []},
        "sessions": [
            session("b", "192.0.2.2", "Mesh", "Connect"),
            session("c", "fd00::3", "Mesh", "Established"),
            tor_session()],
        "routes": [{"family": "ipv4", "verdict": "tunnel", "count": 3}],
        "kernel": {"inSync": true, "routes": 0, "desired": 4, "kept": 0, "errors": []},
        "segments": [{"node": "b", "nextHop": "192.0.2.2", "verdict": "Tunnel", "reason": "test"}], "problems": []})
}

impl User {
    async fn session(&self, name: &str) -> Option<Value> {
        self.get(&format!("{OURS}/bgpsessions/{name}")).await
    }

    async fn sessions(&self) -> Vec<String> {
        let list = self.get(&format!("{OURS}/bgpsessions")).await.unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect()
    }

    async fn network_unavailable(&self) -> Value {
        let node = self.get("/api/v1/nodes/a").await.unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap_or_default()
    }

    async fn events(&self) -> Vec<Value> {
        let list = self.get(EVENTS).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

/// What a person sees.
fn kubectl(server: &Server, what: &str) -> Vec<Vec<String>> {
    let kubeconfig = server.kubeconfig("admin");
    let output = Command::new(binary("kubectl").expect("kubectl"))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--cache-dir={}", kubeconfig.with_file_name("kubectl").display()))
        .args(["get", what])
        .output()
        .expect("run kubectl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("$ kubectl get {what}\n{text}");
    // Columns are at least three spaces apart; a heading may have one.
    let row = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect()
    };
    text.lines().map(row).collect()
}

#[tokio::test]
async fn the_status_in_a_real_api_server() {
    let (Some(_), Some(mut server)) = (binary("kubectl"), Server::start().await) else { return };
    let admin = User(server.client("admin").await);
    let proxy = Proxy::start(server.client("agent").await).await;
    let agent = Agent::start(proxy.kubeconfig(), node_status());
    until("it says that it may do nothing", async || agent.trouble().contains("403")).await;
    put_node(&admin, "a", "192.0.2.1", Some("10.244.1.0/24"), json!({})).await;
    grant_manifests(&admin, None).await;

    the_node_has_no_network_until_it_is_ready(&admin, &agent).await;
    objects_are_there(&admin, &agent, &server).await;
    a_peer_counts_its_sessions(&admin, &agent, &server).await;
    what_is_refused_is_not_accepted(&admin, &agent).await;
    what_a_dead_node_said_does_not_count(&admin).await;
    one_that_may_not_be_written_holds_up_no_other(&admin, &agent).await;
    a_peer_without_sessions_counts_none(&admin, &agent).await;
    transitions_are_told(&admin, &agent).await;
    what_is_gone_goes(&admin, &agent).await;
    nothing_is_left_of_a_node_that_is_deleted(&admin, &agent).await;
    objects_follow_a_node_that_is_made_anew(&admin, &agent).await;
    rights_are_those_that_are_used(&server, &admin).await;
    a_right_that_is_missing_holds_up_nothing_else(&admin, &agent).await;
    an_api_server_in_trouble_is_told_afterwards(&proxy, &admin, &agent).await;
    the_server_goes_and_comes_again(&mut server, &admin, &agent).await;
    a_large_mesh_is_counted(&admin, &agent).await;
    an_agent_that_starts_anew_takes_over(&proxy, &admin, agent).await;
}

async fn the_node_has_no_network_until_it_is_ready(admin: &User, agent: &Agent) {
    until("the node has no network", async || admin.network_unavailable().await["status"] == "True").await;
    let message = admin.network_unavailable().await["message"].clone();
    assert_eq!(message, "Heliograph's first sync waits for the neighbours");
    until("the kinds are missing", async || agent.trouble().contains("404")).await;
    agent.change(|status| status.waiting_for.clear());
    until("it has one, kinds or not", async || admin.network_unavailable().await["status"] == "False").await;
    assert_eq!(admin.network_unavailable().await["reason"], "HeliographIsUp");
    admin.define().await;
}

async fn objects_are_there(admin: &User, agent: &Agent, server: &Server) {
    until("sessions are there", async || {
        let sessions = admin.sessions().await;
        let mut up = sessions.len() == 3;
        for name in sessions {
            up &= admin.session(&name).await.is_some_and(|session| session["status"]["state"].is_string());
        }
        up
    })
    .await;
    agent.until_nothing_is_the_matter().await;
    assert_eq!(admin.sessions().await, ["a-192.0.2.2", "a-192.0.2.254", "a-fd00-0-0-0-0-0-0-3"]);
    let uid = admin.get("/api/v1/nodes/a").await.unwrap()["metadata"]["uid"].clone();
    for path in ["bgpsessions/a-192.0.2.2", "bgpnodes/a"] {
        let object = admin.get(&format!("{OURS}/{path}")).await.unwrap();
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], uid, "{path}");
        let managers = object["metadata"]["managedFields"].as_array().unwrap();
        assert!(managers.iter().all(|one| one["manager"] == "heliograph-a"), "{managers:?}");
        assert_eq!(observed(&object), [json!(1)], "{path}");
    }
    let rows = kubectl(server, "bgpsessions");
    let headings =
        ["NAME", "NODE", "PEER", "ASN", "ROLE", "STATE", "UPTIME", "RECEIVED", "ADVERTISED", "BFD", "ERROR"];
    assert_eq!(rows[0], headings);
    assert_eq!(rows[1][..6], ["a-192.0.2.2", "a", "192.0.2.2", "64512", "Mesh", "Connect"]);
    assert_eq!(rows[1].last().unwrap(), "connect: connection refused");
    assert_eq!(rows[2][..6], ["a-192.0.2.254", "a", "192.0.2.254", "64600", "External", "Established"]);
    let role = async |role: heliograph_agent::plan::NeighborRole, generation: i64| {
        agent.change(|status| status.sessions[0].role = role);
        until("a session of another role says so of itself", async || {
            let session = admin.session("a-192.0.2.2").await.unwrap_or_default();
            session["metadata"]["generation"] == generation && observed(&session) == [json!(generation)]
        })
        .await;
    };
    role(heliograph_agent::plan::NeighborRole::Client, 2).await;
    role(heliograph_agent::plan::NeighborRole::Mesh, 3).await;
    let rows = kubectl(server, "bgpnodes");
    assert_eq!(rows[0], ["NAME", "ROLE", "SESSIONS", "ROUTES", "TUNNELS", "IN SYNC", "AGE"]);
    assert_eq!(rows[1][..6], ["a", "Node", "2/3", "3", "1", "true"]);
}

/// The generations that the conditions of an object are about.
fn observed(object: &Value) -> Vec<Value> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut observed: Vec<_> = conditions.iter().map(|one| one["observedGeneration"].clone()).collect();
    observed.dedup();
    observed
}

/// A condition of one of our objects: its status, the generation that it is about, and its message.
async fn condition(admin: &User, path: &str, kind: &str) -> (String, Value, String) {
    let object = admin.get(&format!("{OURS}/{path}")).await.unwrap_or_default();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_string();
    (text("status"), found["observedGeneration"].clone(), text("message"))
}

async fn counted(admin: &User, peer: &str) -> String {
    let peer = admin.get(&format!("{OURS}/bgppeers/{peer}")).await.unwrap_or_default();
    peer["status"]["sessions"]["established"].as_str().unwrap_or_default().to_string()
}

/// What the agent's store would say of the objects that are there.
fn taken(tor: (i64, i64), nobody: Option<i64>) -> Value {
    json!([
        {"object": "BGPConfiguration default", "generation": 1, "inForce": 1},
        {"object": "BGPFilter f", "generation": 1, "inForce": 1},
        {"object": "BGPPeer nobody", "generation": 1, "inForce": nobody},
        {"object": "BGPPeer tor", "generation": tor.0, "inForce": tor.1}])
}

async fn a_peer_counts_its_sessions(admin: &User, agent: &Agent, server: &Server) {
    let tor = json!({"peerAddress": "192.0.2.254", "peerASN": 64600, "passwordSecretRef": {"name": "tor"}});
    let nobody = json!({"peerAddress": "192.0.2.253", "peerASN": 64600,
        "nodeSelector": {"matchLabels": {"no": "node"}}});
    for (name, spec) in [("tor", tor), ("nobody", nobody)] {
        admin.put(&format!("{OURS}/bgppeers"), &ours("BGPPeer", name, spec)).await;
    }
    admin.put(&format!("{OURS}/bgpfilters"), &ours("BGPFilter", "f", json!({"otherwise": "Reject"}))).await;
    admin.put(&format!("{OURS}/bgpconfigurations"), &configuration(json!({"asNumber": 64512}))).await;
    agent.change(|status| {
        status.intent.objects = serde_json::from_value(taken((1, 1), Some(1))).unwrap();
    });
    until("its sessions are counted", async || counted(admin, "tor").await == "1/1").await;
    until("nobody's are, too", async || counted(admin, "nobody").await == "0/0").await;
    let yes = |message: &str| ("True".to_string(), json!(1), message.to_string());
    assert_eq!(condition(admin, "bgppeers/tor", "Established").await, yes(""));
    for path in ["bgppeers/tor", "bgppeers/nobody", "bgpfilters/f", "bgpconfigurations/default"] {
        assert_eq!(condition(admin, path, "Accepted").await, yes("in force on a"), "{path}");
    }
    let rows = kubectl(server, "bgppeers");
    assert_eq!(rows[0], ["NAME", "PEER", "ASN", "SESSIONS", "ACCEPTED", "AGE"]);
    assert_eq!(rows[2][..5], ["tor", "192.0.2.254", "64600", "1/1", "True"]);
    for (kind, headings) in [
        ("bgpfilters", &["NAME", "OTHERWISE", "ACCEPTED", "AGE"][..]),
        ("bgpconfigurations", &["NAME", "ASN", "TOPOLOGY", "ENCAPSULATION", "ACCEPTED", "AGE"]),
    ] {
        let rows = kubectl(server, kind);
        assert_eq!(rows[0], headings);
        assert_eq!(rows[1][headings.len() - 2], "True");
    }
}

async fn what_is_refused_is_not_accepted(admin: &User, agent: &Agent) {
    let answer =
        admin.merge(&format!("{OURS}/bgppeers/tor"), json!({"spec": {"importFilter": "none"}})).await;
    assert!(answer.code < 300, "{answer:?}");
    agent.change(|status| {
        status.intent.objects = serde_json::from_value(taken((2, 1), Some(1))).unwrap();
        status.intent.rejections =
            serde_json::from_value(json!([{"file": "", "line": null, "object": "BGPPeer tor",
            "field": "spec.importFilter", "problem": "there is no such filter", "remedy": "add it"}]))
            .unwrap();
    });
    until("it is not accepted", async || {
        let (status, generation, message) = condition(admin, "bgppeers/tor", "Accepted").await;
        status == "False" && generation == 2 && message.contains("no such filter")
    })
    .await;
    let (status, generation, _) = condition(admin, "bgppeers/tor", "Established").await;
    assert_eq!((status.as_str(), generation), ("True", json!(1)), "the session goes by the one before");
    admin.merge(&format!("{OURS}/bgppeers/tor"), json!({"spec": {"importFilter": null}})).await;
    agent.change(|status| {
        status.intent.objects = serde_json::from_value(taken((3, 3), Some(1))).unwrap();
        status.intent.rejections.clear();
        status.sessions[2].peer_generation = Some(3);
    });
    for kind in ["Accepted", "Established"] {
        until(&format!("{kind}, the newest"), async || {
            let (status, generation, _) = condition(admin, "bgppeers/tor", kind).await;
            status == "True" && generation == 3
        })
        .await;
    }
}

async fn what_a_dead_node_said_does_not_count(admin: &User) {
    // One of its own: what changes again and again is written ever more rarely.
    let far = json!({"peerAddress": "192.0.2.252", "peerASN": 64600});
    admin.put(&format!("{OURS}/bgppeers"), &ours("BGPPeer", "far", far)).await;
    put_node(admin, "b", "192.0.2.2", Some("10.244.2.0/24"), json!({})).await;
    let ready = async |status: &str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let answer = admin.merge("/api/v1/nodes/b/status", status).await;
        assert!(answer.code < 300, "{answer:?}");
    };
    ready("True").await;
    let spec = json!({"node": "b", "peer": "192.0.2.252", "peerKind": "BGPPeer", "peerName": "far",
        "peerASN": 64600, "role": "External"});
    admin.put(&format!("{OURS}/bgpsessions"), &ours("BGPSession", "b-192.0.2.252", spec)).await;
    let up = json!({"status": {"state": "Established", "conditions": [{"type": "Established", "status": "True",
        "reason": "Established", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let answer = admin.merge(&format!("{OURS}/bgpsessions/b-192.0.2.252/status"), up).await;
    assert!(answer.code < 300, "{answer:?}");
    until("it is up", async || counted(admin, "far").await == "1/1").await;
    ready("Unknown").await;
    until("it isn't any more", async || counted(admin, "far").await == "0/1").await;
    let (status, _, message) = condition(admin, "bgppeers/far", "Established").await;
    assert_eq!((status.as_str(), message.as_str()), ("False", "nothing is heard of b"));
    ready("True").await;
    until("it is back", async || counted(admin, "far").await == "1/1").await;
    for path in ["bgpsessions/b-192.0.2.252", "bgppeers/far"] {
        admin.delete(&format!("{OURS}/{path}")).await;
    }
    admin.delete("/api/v1/nodes/b").await;
}

/// Somebody's admission refuses what is written to one object.
async fn one_that_may_not_be_written_holds_up_no_other(admin: &User, agent: &Agent) {
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hands-off"},
            "spec": spec})
    };
    let rule = json!({"apiGroups": ["heliograph.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
        "resources": ["bgppeers/status"], "resourceNames": ["nobody"]});
    let policy = json!({"matchConstraints": {"resourceRules": [rule]}, "failurePolicy": "Fail",
        "validations": [{"expression": "false", "message": "hands off"}]});
    let binding = json!({"policyName": "hands-off", "validationActions": ["Deny"]});
    let policies = format!("{admission}/validatingadmissionpolicies");
    let bindings = format!("{admission}/validatingadmissionpolicybindings");
    admin.put(&policies, &object("ValidatingAdmissionPolicy", policy)).await;
    admin.put(&bindings, &object("ValidatingAdmissionPolicyBinding", binding)).await;
    until("the policy is in force", async || {
        let patch = json!({"status": {"sessions": {"established": "none"}}});
        admin.merge(&format!("{OURS}/bgppeers/nobody/status"), patch).await.code >= 400
    })
    .await;
    let refused = |status: &mut NodeStatus| {
        status.intent.objects = serde_json::from_value(taken((3, 3), None)).unwrap()
    };
    agent.change(refused);
    until("it is said", async || agent.trouble().contains("hands off")).await;
    // Those after it are told all the same.
    agent.change(|status| status.sessions[2].state = "Idle".into());
    until("the other is counted", async || counted(admin, "tor").await == "0/1").await;
    admin.delete(&format!("{bindings}/hands-off")).await;
    admin.delete(&format!("{policies}/hands-off")).await;
    until("it is told, too", async || {
        condition(admin, "bgppeers/nobody", "Accepted").await.0 == "False"
            && counted(admin, "nobody").await == "0/0"
    })
    .await;
    agent.until_nothing_is_the_matter().await;
}

/// Nobody peers with it any more.
async fn a_peer_without_sessions_counts_none(admin: &User, agent: &Agent) {
    agent.change(|status| {
        status.sessions.pop();
    });
    until("there are none", async || counted(admin, "tor").await == "0/0").await;
    let (status, generation, message) = condition(admin, "bgppeers/tor", "Established").await;
    assert_eq!((status.as_str(), generation), ("False", json!(3)));
    assert_eq!(message, "no node has a session with it");
    agent.change(|status| status.sessions.push(serde_json::from_value(tor_session()).unwrap()));
    until("there is one again", async || counted(admin, "tor").await == "1/1").await;
}

async fn transitions_are_told(admin: &User, agent: &Agent) {
    let state = async || admin.session("a-192.0.2.2").await.unwrap_or_default()["status"].clone();
    agent.change(|status| {
        let session = &mut status.sessions[0];
        (session.state, session.established_count, session.last_error) = ("Established".into(), 1, None);
    });
    let begun = Instant::now();
    until("the session is up", async || state().await["state"] == "Established").await;
    println!("a transition is told after {:?}", begun.elapsed());
    assert!(state().await.get("error").is_none());
    until("the node counts it", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["sessions"]["established"] == "3/3"
    })
    .await;
    agent.change(|status| {
        let session = &mut status.sessions[0];
        (session.state, session.last_error) = ("Idle".into(), Some("hold timer expired".into()));
    });
    until("it is down again", async || state().await["error"] == "hold timer expired").await;
    until("there are Events of it", async || {
        let events = admin.events().await;
        let told = |reason: &str| {
            events
                .iter()
                .any(|event| event["reason"] == reason && event["regarding"]["name"] == "a-192.0.2.2")
        };
        told("SessionUp") && told("SessionDown")
    })
    .await;
    let uid = admin.session("a-192.0.2.2").await.unwrap()["metadata"]["uid"].clone();
    let events = admin.events().await;
    let down = events.iter().find(|event| event["reason"] == "SessionDown").unwrap();
    assert_eq!((&down["type"], &down["regarding"]["uid"]), (&json!("Warning"), &uid));
}

async fn what_is_gone_goes(admin: &User, agent: &Agent) {
    agent.change(|status| {
        status.sessions.retain(|session| session.name != "c");
    });
    until("a neighbour's session goes with it", async || admin.sessions().await.len() == 2).await;
    // Somebody removes one: it comes again with the next that there is to tell.
    admin.delete(&format!("{OURS}/bgpsessions/a-192.0.2.2")).await;
    agent.change(|status| status.sessions[0].last_error = Some("another".into()));
    until("it is there again", async || {
        admin.session("a-192.0.2.2").await.is_some_and(|session| session["status"]["error"] == "another")
    })
    .await;
}

/// There is no garbage collector here: what it does is done in its place.
async fn nothing_is_left_of_a_node_that_is_deleted(admin: &User, agent: &Agent) {
    admin.delete("/api/v1/nodes/a").await;
    admin.delete(&format!("{OURS}/bgpnodes/a")).await;
    for session in admin.sessions().await {
        admin.delete(&format!("{OURS}/bgpsessions/{session}")).await;
    }
    // The agent lives on a while, and has something to tell.
    agent.change(|status| status.sessions[0].last_error = Some("the node is gone".into()));
    until("it says that there is no Node", async || agent.trouble().contains("there is no Node")).await;
    agent.change(|status| status.sessions[0].state = "Active".into());
    agent.until_it_looked().await;
    assert_eq!(admin.sessions().await, [""; 0]);
    assert!(admin.get(&format!("{OURS}/bgpnodes/a")).await.is_none(), "nobody would ever remove it");
}

async fn objects_follow_a_node_that_is_made_anew(admin: &User, agent: &Agent) {
    let make = async || {
        put_node(admin, "a", "192.0.2.1", Some("10.244.1.0/24"), json!({})).await;
        let uid =
            admin.get("/api/v1/nodes/a").await.unwrap()["metadata"]["uid"].as_str().unwrap().to_string();
        agent.change(|status| {
            status.store = Some(StoreStatus {
                server: "test".into(),
                connected: true,
                since_seconds: 1e6,
                last_error: None,
                node_uid: Some(uid.clone()),
                refused: false,
            });
        });
        for path in ["bgpnodes/a", "bgpsessions/a-192.0.2.2", "bgpsessions/a-192.0.2.254"] {
            until(&format!("{path} belongs to the new Node"), async || {
                let object = admin.get(&format!("{OURS}/{path}")).await.unwrap_or_default();
                let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                owners.iter().map(|owner| &owner["uid"]).eq([uid.as_str()]) && object["status"].is_object()
            })
            .await;
        }
        until("it has a network", async || admin.network_unavailable().await["status"] == "False").await;
    };
    make().await;
    // Deleted and made anew before anything of ours went.
    admin.delete("/api/v1/nodes/a").await;
    make().await;
    agent.until_nothing_is_the_matter().await;
}

/// With the store beside it, as in an agent: nothing it needs is missing, and nothing is granted that it doesn't use.
async fn rights_are_those_that_are_used(server: &Server, admin: &User) {
    admin.put(SECRETS, &secret("secret")).await;
    admin.put(&format!("{OURS}/bgpconfigurations"), &configuration(json!({"asNumber": 64512}))).await;
    let before = server.audit().len();
    let folder = tempfile::tempdir().unwrap();
    let mut store = Followed::start(server.kubeconfig("agent"), &folder.path().join("last-good.yaml"));
    store.until("the store has the password", |view| password(view) == md5("secret")).await;
    // Whether its kind went is asked when an object is gone.
    let gone = ours("BGPPeer", "gone", json!({"peerAddress": "192.0.2.250", "peerASN": 64650}));
    admin.put(&format!("{OURS}/bgppeers"), &gone).await;
    store
        .until("the store has it", |view| in_force(view).is_some_and(|all| all.peers.contains_key("gone")))
        .await;
    admin.delete(&format!("{OURS}/bgppeers/gone")).await;
    let granted = granted();
    until(&format!("{granted:?} are all used"), async || granted.is_subset(&done(&server.audit()).0)).await;
    let (done, _) = done(&server.audit());
    assert_eq!(done, granted, "done and granted");
    let refused = rights::done(&server.audit()[before..]).1;
    assert!(refused.is_empty(), "{refused:?}");
}

async fn a_right_that_is_missing_holds_up_nothing_else(admin: &User, agent: &Agent) {
    grant_manifests(admin, Some("bgpsessions/status")).await;
    let session = async || admin.session("a-192.0.2.2").await.unwrap_or_default()["status"].clone();
    // That it is forbidden shows at the first write after the API server knows.
    let mut turn = 0;
    until("it says that it may not write", async || {
        turn += 1;
        agent.change(|status| status.sessions[0].last_error = Some(format!("error {turn}")));
        agent.trouble().contains("403")
    })
    .await;
    agent.change(|status| {
        status.problems = vec!["something else".into()];
        status.sessions[0].last_error = Some("the last error".into());
    });
    until("the node is told of all the same", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["problems"] == json!(["something else"])
    })
    .await;
    assert!(agent.trouble().contains("bgpsessions a-192.0.2.2"), "it is still said: {:?}", agent.trouble());
    grant_manifests(admin, None).await;
    until("the session is told of, too", async || session().await["error"] == "the last error").await;
    agent.until_nothing_is_the_matter().await;
    agent.change(|status| status.problems.clear());
}

async fn an_api_server_in_trouble_is_told_afterwards(proxy: &Proxy, admin: &User, agent: &Agent) {
    let faults = [409, 410, 422, 429, 500, 503, 504].map(Fault::Answer);
    for (number, fault) in faults.into_iter().chain([Fault::Silence]).enumerate() {
        let failures = agent.status_writer.borrow().failures;
        proxy.set(Some(fault));
        // Each time another: one that changes again and again is written ever more rarely.
        let peer = format!("203.0.113.{number}");
        let new = session("n", &peer, "Mesh", "Established");
        agent.change(|status| status.sessions.push(serde_json::from_value(new).unwrap()));
        until(&format!("{fault:?} is said"), async || match fault {
            Fault::Answer(code @ (429 | 500..)) => agent.trouble().contains(&format!("answered {code}")),
            // What else failed may be said first.
            Fault::Answer(_) => {
                !agent.trouble().is_empty() && agent.status_writer.borrow().failures > failures
            }
            Fault::Silence => agent.trouble().contains("no answer"),
        })
        .await;
        proxy.set(None);
        until("it is told", async || {
            let told = admin.session(&format!("a-{peer}")).await;
            told.is_some_and(|session| session["status"]["state"] == "Established")
        })
        .await;
    }
    agent.until_nothing_is_the_matter().await;
    agent.change(|status| status.sessions.truncate(2));
    until("those sessions are gone", async || admin.sessions().await.len() == 2).await;
}

async fn a_large_mesh_is_counted(admin: &User, agent: &Agent) {
    agent.change(|status| {
        status.sessions.extend((0..100).map(|number| {
            let state = if number < 3 { "Active" } else { "Established" };
            let peer = format!("198.51.100.{number}");
            serde_json::from_value::<SessionStatus>(session("n", &peer, "Mesh", state)).unwrap()
        }));
    });
    until("only those that are down, or not with nodes, are listed", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        let status = &node["status"];
        status["unlistedSessions"] == 97
            && status["sessions"]["total"] == 102
            && admin.sessions().await.len() == 5
    })
    .await;
    agent.change(|status| status.sessions.truncate(2));
    until("all of few are", async || admin.sessions().await.len() == 2).await;
}

async fn the_server_goes_and_comes_again(server: &mut Server, admin: &User, agent: &Agent) {
    server.down();
    agent.change(|status| status.sessions[0].last_error = Some("yet another".into()));
    until("the server is away", async || agent.trouble().contains("can't be reached")).await;
    server.up(true).await;
    until("it is told what happened meanwhile", async || {
        admin.session("a-192.0.2.2").await.is_some_and(|session| session["status"]["error"] == "yet another")
    })
    .await;
    agent.until_nothing_is_the_matter().await;
}

async fn an_agent_that_starts_anew_takes_over(proxy: &Proxy, admin: &User, agent: Agent) {
    agent.stop().await;
    let before = admin.network_unavailable().await;
    // The intent isn't there yet.
    let mut empty = node_status();
    empty["sessions"] = json!([]);
    let agent = Agent::start(proxy.kubeconfig(), empty);
    until("the node is told", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["sessions"]["established"] == "0/0"
    })
    .await;
    assert_eq!(admin.sessions().await.len(), 2, "what was stays until everything is known");
    assert_eq!(admin.network_unavailable().await, before);
    agent.change(|status| {
        status.waiting_for.clear();
        status.sessions =
            vec![serde_json::from_value(session("tor", "192.0.2.254", "External", "Established")).unwrap()];
    });
    until("what is no more goes", async || admin.sessions().await == ["a-192.0.2.254"]).await;
    assert_eq!(admin.network_unavailable().await, before);
    agent.stop().await;
}
