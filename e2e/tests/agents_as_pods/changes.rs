//! A neighbour outside the cluster, and reflectors: all by kubectl.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use heliograph_e2e::cluster::Cluster;
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

use super::common::LATER;
use super::{NAMESPACE, told, wait_for_route};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The router, which BIRD plays.
const TOR: &str = "tor";
const TOR_ASN: u32 = 64600;
/// What it announces.
const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "198.51.100.0/24"];
const CONTROL: &str = "/run/bird.ctl";

/// A BGPPeer comes, changes, and gets another password.
pub fn a_peer_comes(cluster: &mut Cluster) -> Result<()> {
    let [address, _] = cluster.add_machine(TOR)?;
    let router = cluster.machine(TOR)?;
    router.write("/run/bird.conf", &bird(cluster, address, "first"))?;
    let words = ["bird", "-f", "-c", "/run/bird.conf", "-s", CONTROL].map(String::from);
    router.start("bird", &words)?;
    router.wait_for("bird", LATER, || birdc(cluster, &["show", "status"]))?;
    cluster.apply(&secret("first"))?;

    let begun = Instant::now();
    cluster.apply(&peer(address, OUTSIDE[0]))?;
    told("kubectl apply of a BGPPeer took", begun);
    let begun = Instant::now();
    wait_for_tor(cluster, "Established")?;
    told("a BGPPeer is added: all of its sessions up", begun);
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[0], true)?;
    }
    told("a BGPPeer is added: its route on all nodes", begun);
    for (place, networks) in cluster.pod_networks()? {
        let network = networks.iter().find(|network| !network.contains(':')).context("no IPv4")?;
        wait_until(LATER, "the router knows the pods", || {
            let routes = birdc(cluster, &["show", "route", "protocol", &place.name()])?;
            ensure!(routes.contains(network.as_str()), "{network} of {}: {routes}", place.name());
            Ok(())
        })?;
    }

    cluster.apply(&peer(address, OUTSIDE[1]))?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], true)?;
        wait_for_route(cluster, node, OUTSIDE[0], false)?;
    }
    told("a BGPPeer is changed: another route instead, on all nodes", begun);

    cluster.machine(TOR)?.write("/run/bird.conf", &bird(cluster, address, "second"))?;
    let begun = Instant::now();
    cluster.apply(&secret("second"))?;
    birdc(cluster, &["configure"])?;
    for node in NODES {
        wait_until(LATER, "a new session under the new password", || {
            let session = session(&cluster.agent_status(node)?)?;
            let age = session["uptimeSeconds"].as_f64().context("no uptime")?;
            ensure!(age < begun.elapsed().as_secs_f64(), "{node}: {session}");
            Ok(())
        })?;
    }
    wait_for_tor(cluster, "Established")?;
    told("a password is rotated: all sessions up again", begun);
    Ok(())
}

/// What kubectl tells of it all, after a while.
pub fn status_by_kubectl(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let up = "jsonpath={.status.sessions.established}";
    wait_until(LATER, "kubectl get bgppeers", || {
        let said = cluster.kubectl(&["get", "bgppeers", TOR, "-o", up])?;
        ensure!(said == "3/3", "{said:?}");
        Ok(())
    })?;
    told("the BGPPeer's sessions are counted", begun);
    wait_until(LATER, "kubectl get bgpsessions", || {
        let list = cluster.kubectl_json(&["get", "bgpsessions"])?;
        let sessions = list["items"].as_array().context("no list")?;
        let up = sessions.iter().filter(|session| session["status"]["state"] == "Established").count();
        // Each of three nodes with the two others and the router.
        ensure!(up == 9 && sessions.len() == 9, "{up} of {} up: {list}", sessions.len());
        Ok(())
    })?;
    for node in NODES {
        let node = cluster.kubectl_json(&["get", "node", node])?;
        let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
        let network = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable");
        ensure!(network.is_some_and(|condition| condition["status"] == "False"), "{conditions:?}");
    }
    for kind in ["bgppeers", "bgpnodes", "bgpsessions"] {
        let said = cluster.kubectl(&["get", kind])?;
        println!("$ kubectl get {kind}\n{said}");
        ensure!(columns(&said) == documented(kind)?, "docs/operations.md has other columns of {kind}");
    }
    Ok(())
}

/// The names above a table of kubectl's.
fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split_whitespace().collect()
}

/// The columns that the documentation shows of a kind.
fn documented(kind: &str) -> Result<Vec<&'static str>> {
    let page = include_str!("../../../docs/operations.md");
    let (_, after) = page
        .split_once(&format!("$ kubectl get {kind}\n"))
        .with_context(|| format!("docs/operations.md has no `kubectl get {kind}`"))?;
    Ok(columns(after))
}

/// A BGPPeer goes, and its routes with it.
pub fn the_peer_goes(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "bgppeer", TOR])?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], false)?;
    }
    told("a BGPPeer is deleted: no route on any node", begun);
    wait_until(LATER, "no sessions at the router", || {
        let said = birdc(cluster, &["show", "protocols"])?;
        ensure!(!said.contains("Established"), "{said}");
        Ok(())
    })
}

/// A mesh becomes clients of a reflector, and a mesh again.
pub fn reflectors_on_and_off(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["label", "node", "n1", "heliograph.io/reflector=true"])?;
    let selector = json!({ "matchLabels": { "heliograph.io/reflector": "true" } });
    let reflectors = json!({ "topology": "Reflectors", "reflectors": { "nodeSelector": selector } });
    cluster.apply(&configuration(reflectors))?;
    let said = cluster.kubectl(&["get", "bgpconfigurations"])?;
    ensure!(columns(&said) == documented("bgpconfigurations")?, "docs/operations.md, not: {said}");
    let begun = Instant::now();
    wait_for_roles(cluster, "n1", "Client", 2)?;
    for node in ["n2", "n3"] {
        wait_for_roles(cluster, node, "Reflector", 1)?;
    }
    told("reflectors are switched on: all sessions with the reflector", begun);
    for node in ["n2", "n3"] {
        wait_for_roles(cluster, node, "Mesh", 0)?;
    }
    told("reflectors are switched on: the last session of the mesh gone", begun);

    cluster.apply(&configuration(json!({ "topology": "FullMesh" })))?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_roles(cluster, node, "Mesh", 2)?;
    }
    told("reflectors are switched off: all sessions of the mesh", begun);
    let heliograph = heliograph_e2e::lab::binary("heliograph")?;
    for node in ["n2", "n3"] {
        wait_until(LATER, "nothing reflected any more", || {
            let words = [heliograph.as_os_str(), "routes".as_ref(), "-o".as_ref(), "json".as_ref()];
            let routes: Vec<Value> = serde_json::from_str(&cluster.node(node)?.run(words)?)?;
            let reflected = routes.iter().filter(|route| !route["originator"].is_null()).count();
            ensure!(reflected == 0, "{node}: {reflected} of {} reflected", routes.len());
            Ok(())
        })?;
    }
    told("reflectors are switched off: nothing reflected any more", begun);
    Ok(())
}

fn configuration(more: Value) -> String {
    let mut spec = json!({ "asNumber": 64512, "clusterCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"] });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let metadata = json!({ "name": "default" });
    ours("BGPConfiguration", metadata, spec).to_string()
}

fn ours(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({ "apiVersion": "heliograph.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
}

/// The router as a neighbour that may tell us of one network.
fn peer(address: IpAddr, import: &str) -> String {
    let spec = json!({
        "peerAddress": address,
        "peerASN": TOR_ASN,
        "passwordSecretRef": { "name": TOR, "key": "password" },
        "timers": { "connectRetrySeconds": 1 },
        "import": [{ "cidr": import }],
        "export": [{ "cidr": "10.244.0.0/16", "maxLength": 24 }],
    });
    ours("BGPPeer", json!({ "name": TOR }), spec).to_string()
}

fn secret(password: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": TOR, "namespace": NAMESPACE },
        "stringData": { "password": password },
    })
    .to_string()
}

/// BIRD's configuration: all nodes are its neighbours.
fn bird(cluster: &Cluster, address: IpAddr, password: &str) -> String {
    let routes = OUTSIDE.map(|network| format!("route {network} blackhole;")).join(" ");
    let mut text = format!(
        "router id {address};\nprotocol device {{}}\nprotocol static {{ ipv4; {routes} }}\n\
         template bgp node {{\n  local {address} as {TOR_ASN};\n  password \"{password}\";\n\
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 1;\n\
         ipv4 {{ import all; export where source = RTS_STATIC; }};\n}}\n"
    );
    for place in cluster.places() {
        let [v4, _] = place.addresses();
        text += &format!("protocol bgp {} from node {{ neighbor {v4} as 64512; }}\n", place.name());
    }
    text
}

fn birdc(cluster: &Cluster, words: &[&str]) -> Result<String> {
    cluster.machine(TOR)?.run([&["birdc", "-s", CONTROL], words].concat())
}

/// Waits until all nodes' sessions with the router are in a state, on both sides.
fn wait_for_tor(cluster: &Cluster, state: &str) -> Result<()> {
    for node in NODES {
        wait_until(LATER, &format!("{node}: the session with the router {state}"), || {
            let session = session(&cluster.agent_status(node)?)?;
            ensure!(session["state"] == state, "{session}");
            let said = birdc(cluster, &["show", "protocols", node])?;
            ensure!(said.contains(state), "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

fn session(status: &Value) -> Result<Value> {
    let sessions = status["sessions"].as_array().context("no sessions")?;
    match sessions.iter().find(|session| session["name"] == TOR) {
        Some(session) => Ok(session.clone()),
        None => bail!("no session with {TOR} among {sessions:?}"),
    }
}

/// Waits until a node has so many sessions of a role, all up.
fn wait_for_roles(cluster: &Cluster, node: &str, role: &str, count: usize) -> Result<()> {
    wait_until(LATER, &format!("{node}: {count} sessions of role {role}"), || {
        let status = cluster.agent_status(node)?;
        let sessions = status["sessions"].as_array().context("no sessions")?;
        let up = sessions.iter().filter(|s| s["role"] == role && s["state"] == "Established").count();
        ensure!(up == count, "{up} of {count}: {sessions:?}");
        Ok(())
    })
}
