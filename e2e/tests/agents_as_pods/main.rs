//! Heliograph as people get it: one `kubectl apply` on a whole Kubernetes, the agents pods like any others, and then
//! everything that is changed by kubectl while packets flow.
//!
//! One cluster for all of it: bringing one up is most of the time that a test of it takes.

#[path = "../common/mod.rs"]
mod common;

mod audit;
mod changes;
mod prometheus;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use common::on_cluster::wait_for_route;
use common::{LATER, print_duration};
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::workload::{NAMESPACE, Streams, all_reach, everywhere, somewhere};
use heliograph_e2e::cluster::{Cluster, Kubectl, Spec, network};
use heliograph_e2e::uml::as_root;
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

#[test]
fn one_apply_and_everything_by_kubectl() {
    as_root(|| {
        let mut cluster = Cluster::up(Spec { nodes: 3, ..Spec::for_test() })?;
        let begun = Instant::now();
        cluster.apply_network(PodNetwork::Heliograph)?;
        one_apply_is_enough(&cluster)?;
        print_duration("from `kubectl apply` until every pair reaches", begun);
        audit::nothing_refused(&cluster)?;

        let mut streams = Streams::start(&cluster, &[])?;
        the_api_server_has_another_address(&cluster)?;
        an_upgrade(&cluster)?;
        nothing_lost(&mut streams, "a rolling restart")?;
        a_node_joins_and_leaves(&mut cluster)?;
        nothing_lost(&mut streams, "a node that joins and leaves")?;
        changes::a_peer_comes(&mut cluster)?;
        changes::the_peer_changes(&cluster)?;
        changes::the_password_changes(&cluster)?;
        nothing_lost(&mut streams, "a BGPPeer that comes and changes")?;
        changes::status_by_kubectl(&cluster)?;
        prometheus::reports_what_kubectl_reports(&cluster)?;
        changes::reflectors_on_and_off(&cluster)?;
        nothing_lost(&mut streams, "reflectors on and off")?;
        changes::the_peer_goes(&cluster)?;
        nothing_lost(&mut streams, "a BGPPeer that goes")?;

        audit::nothing_refused(&cluster)?;
        audit::nothing_granted_in_vain(&cluster)?;
        cluster.down()
    });
}

fn one_apply_is_enough(cluster: &Cluster) -> Result<()> {
    cluster.wait_nodes_ready()?;
    let nodes = cluster.kubectl_json(&["get", "nodes"])?;
    let taints = |node: &Value| node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
    wait_until(LATER, "no taint on any node", || {
        let nodes = cluster.kubectl_json(&["get", "nodes"])?;
        let tainted = nodes["items"].as_array().into_iter().flatten().find(|node| taints(node));
        tainted.map_or(Ok(()), |node| bail!("{}", node["spec"]["taints"]))
    })?;
    let agents = cluster.wait_pods_ready("app.kubernetes.io/name=heliograph", 3)?;
    for agent in &agents {
        let context = &agent["spec"]["containers"][0]["securityContext"];
        ensure!(context["privileged"] == false, "{context}");
    }
    cluster.apply(&everywhere())?;
    cluster.apply(&somewhere(2))?;
    let pods = cluster.wait_pods_ready("app in (everywhere, somewhere)", 5)?;
    let reached = all_reach(cluster, &pods)?;
    ensure!(reached == 5 * 4 * 2, "{reached}");
    // Nobody wrote a BGPConfiguration, and that is output.
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let status = cluster.agent_status(name)?;
        let origin = status["intent"]["origin"].as_str().unwrap_or_default();
        ensure!(origin.contains("10.96.0.1") && origin.contains("defaults"), "{name}: {origin}");
        let problems = status["problems"].as_array().context("no problems")?;
        ensure!(problems.is_empty() && status["intent"]["inSync"] == true, "{name}: {status}");
    }
    Ok(())
}

/// Checks that no ping of the streams was lost, and prints how many were sent.
fn nothing_lost(streams: &mut Streams, what: &str) -> Result<()> {
    let pings = streams.lost_nothing(what)?;
    println!("{what}: {pings} pings, none lost");
    Ok(())
}

/// A ConfigMap with the API server's own address, for clusters without kube-proxy.
fn the_api_server_has_another_address(cluster: &Cluster) -> Result<()> {
    let endpoint = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "kubernetes-services-endpoint", "namespace": NAMESPACE },
        "data": { "KUBERNETES_SERVICE_HOST": network::CONTROL, "KUBERNETES_SERVICE_PORT": "6443" },
    });
    cluster.apply(&endpoint.to_string()).map(drop)
}

/// Every agent anew, one after the other.
fn an_upgrade(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/heliograph"])?;
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", "daemonset/heliograph", "--timeout=240s"])?;
    print_duration("kubectl rollout restart of three agents", begun);
    for place in cluster.places() {
        let server = format!("https://{}:6443", network::CONTROL);
        wait_until(LATER, "the new agent with its new API server", || {
            let status = cluster.agent_status(&place.name())?;
            ensure!(status["store"]["server"] == server, "{}", status["store"]);
            established(&status, 2)
        })?;
    }
    Ok(())
}

/// So many sessions with nodes, all of them up.
fn established(status: &Value, count: usize) -> Result<()> {
    let sessions = status["sessions"].as_array().context("no sessions")?;
    let up = sessions.iter().filter(|session| session["state"] == "Established").count();
    ensure!(up == count && sessions.len() == count, "{up} of {} up: {sessions:?}", sessions.len());
    Ok(())
}

fn a_node_joins_and_leaves(cluster: &mut Cluster) -> Result<()> {
    let joined = cluster.join_node()?;
    let networks = cluster.pod_networks()?;
    let (_, networks) =
        networks.iter().find(|(place, _)| place.name() == joined).context("it has no networks")?;
    let known = Instant::now();
    for network in networks {
        wait_for_route(cluster, "n1", network, true)?;
    }
    print_duration("a node joins: from its pod networks to the routes on others", known);
    cluster.wait_nodes_ready()?;
    let pods = cluster.wait_pods_ready("app=everywhere", 4)?;
    ensure!(all_reach(cluster, &pods)? == 4 * 3 * 2);

    let begun = Instant::now();
    cluster.kubectl(&["delete", "node", &joined])?;
    for node in ["n1", "n2", "n3"] {
        for network in networks {
            wait_for_route(cluster, node, network, false)?;
        }
    }
    print_duration("a node leaves: from `kubectl delete node` to no routes on others", begun);
    cluster.kill_node(&joined)
}
