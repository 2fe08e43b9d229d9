//! Failures of our kinds' definitions and objects.

use std::time::Instant;

use anyhow::{Result, ensure};
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::{Cluster, Kubectl, bgp, tor};
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

use super::{
    LATE, LATE_ADDRESS, LATER, NODES, all_is_well, configuration, everywhere_reported, forwards, has_session,
    kill_agent, late, sessions, wait_for_successor,
};

const SCHEMA: &str = "/spec/versions/0/schema";

/// An invalid object that the definition accepts is rejected, and nothing but that object.
pub fn nonsense_past_validation(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let crd = cluster.kubectl_json(&["get", "crd", "bgppeers.heliograph.io"])?;
    let schema = crd.pointer(SCHEMA).cloned().unwrap_or_default();
    define_peers(
        cluster,
        &json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } }),
    )?;
    let patch = json!({ "spec": { "peerASN": "a lot" } }).to_string();
    wait_until(LATER, "the lax definition", || {
        cluster.kubectl(&["patch", "bgppeer", tor::NAME, "--type=merge", "-p", &patch]).map(drop)
    })?;
    cluster.apply(&bgp::ours("BGPPeer", "odd", &json!(["no", "object"])))?;
    cluster.apply(&late())?;
    everywhere_reported(cluster, "the invalid object is rejected, the valid ones are accepted", |status| {
        refuses(status, tor::NAME)?;
        refuses(status, "odd")?;
        ensure!(status["intent"]["inSync"] == false && status["store"]["connected"] == true);
        has_session(status, LATE, true)?;
        untouched(status, begun)
    })?;
    for node in NODES {
        wait_until(LATER, &format!("bgpnode {node} names what is refused"), || {
            let status = cluster.kubectl_json(&["get", "bgpnode", node])?["status"].clone();
            ensure!(status["inSync"] == false && status.to_string().contains("spec.peerASN"), "{status}");
            Ok(())
        })?;
    }
    // Others are counted all the same.
    wait_until(LATER, "the status of a BGPPeer that makes sense", || {
        let status = cluster.kubectl_json(&["get", "bgppeer", LATE])?["status"].clone();
        ensure!(status["sessions"]["total"] == 3, "{status}");
        Ok(())
    })?;
    cluster.apply(&tor::peer(&tor::OUTSIDE))?;
    cluster.kubectl(&["delete", "bgppeer", "odd", LATE])?;
    // Who deletes the definition next takes along only what is there.
    everywhere_reported(cluster, "what was there for a while is gone", |status| {
        has_session(status, LATE, false)
    })?;
    define_peers(cluster, &schema)?;
    // The next step kills an agent, which then starts by what is on disk: that is written a few seconds later.
    for node in NODES {
        wait_until(LATER, &format!("{node}: the last good intent without {LATE}"), || {
            let kept = cluster.node(node)?.run(["cat", "/var/lib/heliograph/last-good.yaml"])?;
            ensure!(!kept.contains(LATE_ADDRESS), "{kept}");
            Ok(())
        })?;
    }
    all_is_well(cluster)
}

fn define_peers(cluster: &Cluster, schema: &Value) -> Result<()> {
    let patch = json!([{ "op": "replace", "path": SCHEMA, "value": schema }]).to_string();
    cluster.kubectl(&["patch", "crd", "bgppeers.heliograph.io", "--type=json", "-p", &patch]).map(drop)
}

/// Deleting the definitions deletes all objects with them. This is no change of intent to a network without neighbors.
pub fn kinds_are_missing(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let delete = |plurals: &[&str]| {
        let names: Vec<_> = plurals.iter().map(|plural| format!("{plural}.heliograph.io")).collect();
        let words = ["delete", "crd"].into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>();
        cluster.kubectl(&words).map(drop)
    };
    delete(&["bgppeers", "bgpsessions", "bgpnodes"])?;
    let reported = |status: &Value| {
        let error = status["store"]["lastError"].as_str().unwrap_or_default();
        ensure!(status["store"]["connected"] == false && error.contains("heliograph crds"), "{error}");
        ensure!(status["statusWriter"]["error"].as_str().is_some_and(|words| words.contains("404")));
        untouched(status, begun)
    };
    everywhere_reported(cluster, "kinds are missing", reported)?;
    delete(&["bgpfilters", "bgpconfigurations"])?;
    everywhere_reported(cluster, "all kinds are missing", reported)?;
    let killed = Instant::now();
    kill_agent(cluster, "n2")?;
    wait_for_successor(cluster, "n2", killed)?;

    cluster.apply_network(PodNetwork::Heliograph)?;
    cluster.apply(&configuration())?;
    everywhere_reported(cluster, "the kinds are back, without the objects", |status| {
        ensure!(status["store"]["connected"] == true);
        refuses(status, tor::NAME)?;
        forwards(status)
    })?;
    cluster.apply(&tor::peer(&tor::OUTSIDE))?;
    all_is_well(cluster)
}

/// Checks that a BGPPeer is rejected.
fn refuses(status: &Value, name: &str) -> Result<()> {
    let object = json!({ "kind": "BGPPeer", "name": name });
    let rejections = status["intent"]["rejections"].as_array().into_iter().flatten();
    let of_object = rejections.filter(|rejection| rejection["object"] == object).count();
    ensure!(of_object > 0, "{object} isn't rejected");
    Ok(())
}

/// All sessions are those of before.
fn untouched(status: &Value, begun: Instant) -> Result<()> {
    forwards(status)?;
    let age = sessions(status)?[tor::NAME]["uptimeSeconds"].as_f64().unwrap_or_default();
    ensure!(age > begun.elapsed().as_secs_f64(), "the session with {} is new", tor::NAME);
    Ok(())
}
