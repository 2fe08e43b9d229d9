//! A neighbor outside the cluster, and reflectors: all by kubectl.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use heliograph_e2e::cluster::tor::{self, OUTSIDE};
use heliograph_e2e::cluster::{Cluster, Kubectl, bgp};
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

use super::common::on_cluster::{wait_for_role, wait_for_route};
use super::common::{LATER, print_duration};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A BGPPeer comes: sessions, its route on all nodes, and ours on the router.
pub fn a_peer_comes(cluster: &mut Cluster) -> Result<()> {
    tor::start(cluster, &OUTSIDE, "first")?;
    cluster.apply(&tor::secret("first"))?;

    let begun = Instant::now();
    cluster.apply(&tor::peer(&OUTSIDE[..1]))?;
    print_duration("kubectl apply of a BGPPeer took", begun);
    let begun = Instant::now();
    wait_for_tor(cluster, "Established")?;
    print_duration("a BGPPeer is added: all of its sessions up", begun);
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[0], true)?;
    }
    print_duration("a BGPPeer is added: its route on all nodes", begun);
    for (place, networks) in cluster.pod_networks()? {
        let network = networks.iter().find(|network| !network.contains(':')).context("no IPv4")?;
        wait_until(LATER, "the router has the pods' routes", || {
            let routes = tor::birdc(cluster, &["show", "route", "protocol", &place.name()])?;
            ensure!(routes.contains(network.as_str()), "{network} of {}: {routes}", place.name());
            Ok(())
        })?;
    }
    Ok(())
}

/// Another network may be learned from it, and the one of before no longer.
pub fn the_peer_changes(cluster: &Cluster) -> Result<()> {
    cluster.apply(&tor::peer(&OUTSIDE[1..]))?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], true)?;
        wait_for_route(cluster, node, OUTSIDE[0], false)?;
    }
    print_duration("a BGPPeer is changed: another route instead, on all nodes", begun);
    Ok(())
}

/// Its sessions get another password.
pub fn the_password_changes(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    cluster.apply(&tor::secret("second"))?;
    tor::configure(cluster, &OUTSIDE, "second")?;
    for node in NODES {
        wait_until(LATER, "a new session under the new password", || {
            let session = session(&cluster.agent_status(node)?)?;
            let age = session["uptimeSeconds"].as_f64().context("no uptime")?;
            ensure!(age < begun.elapsed().as_secs_f64(), "{node}: {session}");
            Ok(())
        })?;
    }
    wait_for_tor(cluster, "Established")?;
    print_duration("a password is rotated: all sessions up again", begun);
    Ok(())
}

/// Checks kubectl's output for all kinds, after a while.
pub fn status_by_kubectl(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let up = "jsonpath={.status.sessions.established}";
    wait_until(LATER, "kubectl get bgppeers", || {
        let output = cluster.kubectl(&["get", "bgppeers", tor::NAME, "-o", up])?;
        ensure!(output == "3/3", "{output:?}");
        Ok(())
    })?;
    print_duration("the BGPPeer's sessions are counted", begun);
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
    let filter =
        json!({ "rules": [{ "action": "Accept", "match": { "prefixes": [{ "cidr": OUTSIDE[0] }] } }] });
    cluster.apply(&bgp::ours("BGPFilter", "from-tor", &filter))?;
    for object in ["bgpfilter/from-tor", &format!("bgppeer/{}", tor::NAME)] {
        wait_until_accepted(cluster, object)?;
    }
    for kind in ["bgppeers", "bgpfilters", "bgpnodes", "bgpsessions"] {
        let output = cluster.kubectl(&["get", kind])?;
        println!("$ kubectl get {kind}\n{output}");
        ensure!(columns(&output) == documented(kind)?, "docs/observe.md has other columns of {kind}");
    }
    Ok(())
}

fn wait_until_accepted(cluster: &Cluster, object: &str) -> Result<()> {
    let accepted = "jsonpath={.status.conditions[?(@.type=='Accepted')].status}";
    wait_until(LATER, &format!("{object} is accepted"), || {
        let output = cluster.kubectl(&["get", object, "-o", accepted])?;
        ensure!(output == "True", "{output:?}");
        Ok(())
    })
}

/// The names above a table of kubectl's.
fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split_whitespace().collect()
}

/// The columns that the documentation shows of a kind.
fn documented(kind: &str) -> Result<Vec<&'static str>> {
    let page = include_str!("../../../docs/observe.md");
    let (_, after) = page
        .split_once(&format!("$ kubectl get {kind}\n"))
        .with_context(|| format!("docs/observe.md has no `kubectl get {kind}`"))?;
    Ok(columns(after))
}

/// A BGPPeer goes, and its routes with it.
pub fn the_peer_goes(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "bgppeer", tor::NAME])?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], false)?;
    }
    print_duration("a BGPPeer is deleted: no route on any node", begun);
    wait_until(LATER, "no sessions at the router", || {
        let output = tor::birdc(cluster, &["show", "protocols"])?;
        ensure!(!output.contains("Established"), "{output}");
        Ok(())
    })
}

/// A mesh becomes clients of a reflector, and a mesh again.
pub fn reflectors_on_and_off(cluster: &Cluster) -> Result<()> {
    let misspelt = json!({ "matchLabels": { "heliograph.io/reflector": "ture" } });
    cluster.kubectl(&["label", "node", "n1", bgp::REFLECTOR])?;
    configure(cluster, json!({ "topology": "Reflectors", "reflectors": { "nodeSelector": misspelt } }))?;
    for node in NODES {
        wait_for_rejection(cluster, node, "the BGPConfiguration stays as it was")?;
        wait_for_role(cluster, node, "Mesh", 2)?;
    }
    configure(cluster, bgp::reflectors())?;
    let output = cluster.kubectl(&["get", "bgpconfigurations"])?;
    ensure!(columns(&output) == documented("bgpconfigurations")?, "docs/observe.md, not: {output}");
    let begun = Instant::now();
    wait_for_role(cluster, "n1", "Client", 2)?;
    for node in ["n2", "n3"] {
        wait_for_role(cluster, node, "Reflector", 1)?;
    }
    print_duration("reflectors are switched on: all sessions with the reflector", begun);
    for node in NODES {
        wait_for_role(cluster, node, "Mesh", 0)?;
    }
    print_duration("reflectors are switched on: the last session of the mesh gone", begun);
    wait_for_reflected(cluster, true)?;
    print_duration("reflectors are switched on: routes are reflected", begun);
    wait_until_accepted(cluster, "bgpconfiguration/default")?;
    wait_until(LATER, "kubectl get bgpnodes shows which node reflects", || {
        let output = cluster.kubectl(&["get", "bgpnodes", "-o", "jsonpath={.items[*].status.role}"])?;
        ensure!(output == "Reflector Node Node", "{output:?}");
        Ok(())
    })?;
    cluster.kubectl(&["label", "node", "n1", "heliograph.io/reflector-"])?;
    for node in NODES {
        wait_for_rejection(cluster, node, "the former reflectors stay: n1")?;
    }
    wait_for_role(cluster, "n1", "Client", 2)?;

    configure(cluster, bgp::full_mesh())?;
    let begun = Instant::now();
    for node in NODES {
        wait_for_role(cluster, node, "Mesh", 2)?;
    }
    print_duration("reflectors are switched off: all sessions of the mesh", begun);
    for (node, role) in [("n1", "Client"), ("n2", "Reflector"), ("n3", "Reflector")] {
        wait_for_role(cluster, node, role, 0)?;
    }
    wait_for_reflected(cluster, false)?;
    print_duration("reflectors are switched off: nothing reflected any more", begun);
    Ok(())
}

/// Waits until an agent refuses something of the intent with these words.
fn wait_for_rejection(cluster: &Cluster, node: &str, words: &str) -> Result<()> {
    wait_until(LATER, &format!("{node} refuses: {words}"), || {
        let intent = &cluster.agent_status(node)?["intent"];
        let refused = intent["rejections"].to_string().contains(words);
        ensure!(refused && intent["inSync"] == false, "{intent}");
        Ok(())
    })
}

/// Waits until the clients have reflected routes (RFC 4456 §8: ORIGINATOR_ID), or none.
fn wait_for_reflected(cluster: &Cluster, there: bool) -> Result<()> {
    let heliograph = heliograph_e2e::lab::binary("heliograph")?;
    for node in ["n2", "n3"] {
        wait_until(LATER, &format!("{node}: reflected routes: {there}"), || {
            let words = [heliograph.as_os_str(), "routes".as_ref(), "-o".as_ref(), "json".as_ref()];
            let document: Value = serde_json::from_str(&cluster.node(node)?.run(words)?)?;
            let routes = document["items"].as_array().context("no items")?;
            let reflected = routes.iter().filter(|route| !route["originator"].is_null()).count();
            ensure!((reflected > 0) == there, "{reflected} of {} reflected", routes.len());
            Ok(())
        })?;
    }
    Ok(())
}

/// Applies the BGPConfiguration with these fields besides the clusters' networks.
fn configure(cluster: &Cluster, mut fields: Value) -> Result<()> {
    fields["clusterCIDRs"] = json!(["10.244.0.0/16", "fd00:10:244::/56"]);
    cluster.apply(&bgp::configuration(&fields)).map(drop)
}

/// Waits until all nodes' sessions with the router are in a state, on both sides.
fn wait_for_tor(cluster: &Cluster, state: &str) -> Result<()> {
    for node in NODES {
        wait_until(LATER, &format!("{node}: the session with the router {state}"), || {
            let session = session(&cluster.agent_status(node)?)?;
            ensure!(session["state"] == state, "{session}");
            let output = tor::birdc(cluster, &["show", "protocols", node])?;
            ensure!(output.contains(state), "{output}");
            Ok(())
        })?;
    }
    Ok(())
}

fn session(status: &Value) -> Result<Value> {
    let sessions = status["sessions"].as_array().context("no sessions")?;
    match sessions.iter().find(|session| session["name"] == tor::NAME) {
        Some(session) => Ok(session.clone()),
        None => bail!("no session with {} among {sessions:?}", tor::NAME),
    }
}
