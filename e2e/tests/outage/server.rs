//! Failures of the API server, of its data, and of its authentication.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::tor::{self, OUTSIDE};
use heliograph_e2e::cluster::{Cluster, Kubectl};
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

use super::common::on_cluster::wait_for_route;
use super::common::{LATER, SOON, print_duration};
use super::outside::PASSWORD;
use super::{
    LATE, NODES, all_is_well, everywhere_reported, forwards, has_session, kill_agent, late, on,
    wait_for_successor,
};

/// For how long the API server is away.
fn outage() -> Result<f64> {
    match std::env::var("HELIOGRAPH_OUTAGE_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("HELIOGRAPH_OUTAGE_SECONDS={text}: give a number")),
        Err(_) => Ok(30.0),
    }
}

/// It is stopped. Agents go on, also those that start meanwhile, and BGP goes on.
pub fn is_away(cluster: &Cluster) -> Result<()> {
    cluster.stop_api_server()?;
    let stopped = Instant::now();
    everywhere_reported(cluster, "the API server is missed", |status| {
        away(status, 0.0)?;
        forwards(status)
    })?;
    kill_agent(cluster, "n3")?;
    wait_for_successor(cluster, "n3", stopped)?;
    for node in NODES {
        pages_report(cluster, node)?;
    }
    tor::configure(cluster, &OUTSIDE, PASSWORD)?;
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], true)?;
    }
    print_duration("  a new route from outside is on all nodes", stopped);
    // The length of the outage, by the status of an agent that did not restart, and not by a sleep.
    let outage = outage()?;
    let timeout = LATER.max(std::time::Duration::from_secs_f64(2.0 * outage));
    wait_until(timeout, "the end of the outage", || away(&cluster.agent_status("n2")?, outage))?;
    let killed = Instant::now();
    kill_agent(cluster, "n1")?;
    wait_for_successor(cluster, "n1", killed)?;
    for node in NODES {
        on(cluster, node, "all sessions up", |status| {
            away(status, 0.0)?;
            forwards(status)
        })?;
    }
    print_duration("  the API server was away for", stopped);

    cluster.start_api_server()?;
    let begun = Instant::now();
    cluster.apply(&late())?;
    everywhere_reported(cluster, "caught up", |status| has_session(status, LATE, true))?;
    all_is_well(cluster)?;
    print_duration("  from the API server's start until all is well", begun);
    Ok(())
}

/// It doesn't answer, and that has been known for so long.
fn away(status: &Value, seconds: f64) -> Result<()> {
    let store = &status["store"];
    let error = store["lastError"].as_str().unwrap_or_default();
    ensure!(store["connected"] == false && error.contains("can't be reached"), "{store}");
    ensure!(store["sinceSeconds"].as_f64().is_some_and(|since| since >= seconds), "{store}");
    Ok(())
}

/// Checks probes and metrics while the API server is away: ready, with the age of the intent.
fn pages_report(cluster: &Cluster, node: &str) -> Result<()> {
    let get = |page: &str| {
        let address = format!("http://127.0.0.1:9179/{page}");
        cluster.node(node)?.run(["busybox", "wget", "-q", "-O", "-", &address])
    };
    wait_until(SOON, &format!("{node}: ready"), || get("readyz"))?;
    let metrics = get("metrics")?;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        line.with_context(|| format!("no {name} in {metrics}"))
    };
    ensure!(value("heliograph_store_connected ")? == 0.0 && value("heliograph_ready ")? == 1.0);
    ensure!(value("heliograph_store_state_duration_seconds ")? > 0.0);
    Ok(())
}

/// Its key for tokens is another: none is good any more until the kubelets have written new ones.
pub fn refuses_the_token(cluster: &Cluster) -> Result<()> {
    cluster.change_token_key()?;
    everywhere_reported(cluster, "the token is refused", |status| {
        let error = status["store"]["lastError"].as_str().unwrap_or_default();
        ensure!(status["store"]["connected"] == false && error.contains("401"), "{error}");
        ensure!(error.contains("ServiceAccount"), "what to do: {error}");
        forwards(status)
    })?;
    cluster.apply(&late())?;
    cluster.kubectl(&["delete", "bgppeer", LATE])?;
    for node in NODES {
        cluster.restart_kubelet(node)?;
    }
    let begun = Instant::now();
    everywhere_reported(cluster, "caught up with another token", |status| has_session(status, LATE, false))?;
    all_is_well(cluster)?;
    print_duration("  from the kubelets' restart until all is well", begun);
    Ok(())
}

/// etcd is put back to what it held before: the older intent is in force again.
pub fn is_restored(cluster: &Cluster) -> Result<()> {
    cluster.apply(&late())?;
    everywhere_reported(cluster, "before", |status| has_session(status, LATE, true))?;
    as_saved(cluster)?;
    cluster.save_etcd("before")?;

    cluster.kubectl(&["delete", "bgppeer", LATE])?;
    cluster.apply(&tor::peer(&OUTSIDE[..1]))?;
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "lost" } });
    cluster.apply(&node.to_string())?;
    let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.98" }] } });
    cluster.kubectl(&["patch", "node", "lost", "--subresource=status", "-p", &status.to_string()])?;
    everywhere_reported(cluster, "after", |status| {
        has_session(status, LATE, false)?;
        has_session(status, "lost", true)
    })?;
    for node in NODES {
        wait_for_route(cluster, node, OUTSIDE[1], false)?;
    }
    super::as_it_is(cluster)?;

    // A restored history may have grown beyond the agents' versions again; agents list anew after outages of over 5 s.
    cluster.stop_api_server()?;
    everywhere_reported(cluster, "the API server is missed for long enough", |status| away(status, 6.0))?;
    cluster.restore_etcd("before")?;
    let begun = Instant::now();
    everywhere_reported(cluster, "the older intent is in force again", |status| {
        has_session(status, LATE, true)?;
        has_session(status, "lost", false)
    })?;
    as_saved(cluster)?;
    all_is_well(cluster)?;
    print_duration("  from the restored API server until all is well", begun);
    Ok(())
}

fn as_saved(cluster: &Cluster) -> Result<()> {
    for node in NODES {
        for network in OUTSIDE {
            wait_for_route(cluster, node, network, true)?;
        }
    }
    Ok(())
}
