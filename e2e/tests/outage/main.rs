//! Bad days of the API server, on a whole cluster with the agents as pods: whatever becomes of it, of our token, of our
//! kinds or of an object, packets flow, the status reports it, and what was missed is caught up.
//!
//! One cluster for all of it: bringing one up is most of the time that a test of it takes. An API server that is away
//! for two minutes, instead of half a one, is had by `HELIOGRAPH_OUTAGE_SECONDS=120`.

#[path = "../common/mod.rs"]
mod common;

mod definitions;
mod outside;
mod server;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::print_duration;
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::workload::{Streams, everywhere};
use heliograph_e2e::cluster::{Cluster, Kubectl, Spec, bgp};
use heliograph_e2e::uml::as_root;
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The longest time for anything to happen. Pauses after errors grow with the time that the errors last.
const LATER: Duration = Duration::from_secs(120);
/// A neighbor that does not exist: its session shows which intent an agent follows.
const LATE: &str = "late";
const LATE_ADDRESS: &str = "192.0.2.99";

#[test]
fn bad_days_of_the_api_server() {
    as_root(|| {
        let begun = Instant::now();
        let mut cluster = Cluster::up(Spec { nodes: 3, ..Spec::for_test() })?;
        cluster.apply_network(PodNetwork::Heliograph)?;
        cluster.apply(&configuration())?;
        let outside = outside::start(&mut cluster)?;
        cluster.wait_nodes_ready()?;
        cluster.apply(&everywhere())?;
        let mut streams = Streams::start(&cluster, &[outside])?;
        all_is_well(&cluster)?;
        print_duration("a cluster with a neighbor", begun);

        type Step = fn(&Cluster) -> Result<()>;
        let steps: [(&str, Step); 5] = [
            ("nonsense past validation", definitions::nonsense_past_validation),
            ("kinds are missing", definitions::kinds_are_missing),
            ("the API server is away", server::is_away),
            ("the token is refused", server::refuses_the_token),
            // Last: controllers take minutes to believe that time has gone back.
            ("etcd is restored", server::is_restored),
        ];
        for (what, step) in steps {
            let begun = Instant::now();
            step(&cluster).with_context(|| what.to_owned())?;
            print_duration(what, begun);
            println!("{what}: {} pings, none lost", streams.lost_nothing(what)?);
        }
        cluster.down()
    });
}

fn configuration() -> String {
    bgp::configuration(&json!({ "clusterCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"] }))
}

/// A neighbor that nobody is.
fn late() -> String {
    bgp::ours("BGPPeer", LATE, &json!({ "peerAddress": LATE_ADDRESS, "peerASN": 64601, "passive": true }))
}

/// Waits until the status of every node's agent is as wanted; `look` returns what is not.
fn everywhere_reported(cluster: &Cluster, what: &str, look: impl Fn(&Value) -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    for node in NODES {
        on(cluster, node, what, &look)?;
    }
    print_duration(&format!("  {what}"), begun);
    Ok(())
}

/// Waits until the status of a node's agent is as wanted; `look` returns what is not.
fn on(cluster: &Cluster, node: &str, what: &str, look: impl Fn(&Value) -> Result<()>) -> Result<()> {
    wait_until(LATER, &format!("{node}: {what}"), || {
        let status = cluster.agent_status(node)?;
        look(&status).with_context(|| format!("status {status}"))
    })
}

/// Every session up but those with nobody, and nothing that isn't as it should be.
fn all_is_well(cluster: &Cluster) -> Result<()> {
    everywhere_reported(cluster, "all is well", |status| {
        let (store, intent) = (&status["store"], &status["intent"]);
        ensure!(store["connected"] == true, "not connected: {}", store["lastError"]);
        ensure!(intent["inSync"] == true, "not in sync: {}", intent["rejections"]);
        forwards(status)?;
        let problems = status["problems"].as_array().context("no problems")?;
        // A neighbor that nobody is is one.
        let other = problems.iter().find(|problem| !problem.to_string().contains(LATE_ADDRESS));
        ensure!(other.is_none(), "a problem: {other:?}");
        Ok(())
    })?;
    as_it_is(cluster)
}

/// The sessions with both other nodes and with the neighbor outside are up.
fn forwards(status: &Value) -> Result<()> {
    let sessions = sessions(status)?;
    let up = sessions.values().filter(|session| session["state"] == "Established").count();
    ensure!(up == 3, "{up} up");
    Ok(())
}

/// A node's sessions by the neighbor's name.
fn sessions(status: &Value) -> Result<BTreeMap<&str, &Value>> {
    let sessions = status["sessions"].as_array().context("no sessions")?;
    Ok(sessions.iter().filter_map(|session| Some((session["name"].as_str()?, session))).collect())
}

fn has_session(status: &Value, name: &str, there: bool) -> Result<()> {
    ensure!(sessions(status)?.contains_key(name) == there, "a session with {name}: {}", !there);
    Ok(())
}

/// Waits until the objects in the cluster show all sessions as they are.
fn as_it_is(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    // Counts follow later; state is written at once.
    let facts = |s: &Value| (s["state"] == "Established", s["establishedCount"].as_u64().unwrap_or_default());
    wait_until(LATER, "bgpsessions as they are", || {
        let list = cluster.kubectl_json(&["get", "bgpsessions"])?;
        let object = |o: &Value| {
            let text = |field: &str| o["spec"][field].as_str().unwrap_or_default().to_owned();
            ((text("node"), text("peerName")), facts(&o["status"]))
        };
        let written: BTreeMap<_, _> = list["items"].as_array().into_iter().flatten().map(object).collect();
        let mut real = BTreeMap::new();
        for node in NODES {
            let status = cluster.agent_status(node)?;
            let of_node = sessions(&status)?.into_iter();
            real.extend(of_node.map(|(name, s)| ((node.to_owned(), name.to_owned()), facts(s))));
        }
        ensure!(written == real, "written {written:?}\nreal {real:?}");
        Ok(())
    })?;
    print_duration("  bgpsessions are as they are", begun);
    Ok(())
}

/// Ends a node's agent as a crash does.
fn kill_agent(cluster: &Cluster, node: &str) -> Result<()> {
    cluster.node(node)?.run(["pkill", "-KILL", "-x", "heliograph"]).map(drop)
}

/// Waits for an agent that hasn't run for longer than since `begun`, with all of its sessions, by the last good intent.
fn wait_for_successor(cluster: &Cluster, node: &str, begun: Instant) -> Result<()> {
    on(cluster, node, "the next agent, with the last good intent", |status| {
        let uptime = status["uptimeSeconds"].as_f64().context("no uptime")?;
        ensure!(uptime < begun.elapsed().as_secs_f64(), "this is the one before");
        let origin = status["intent"]["origin"].as_str().unwrap_or_default();
        ensure!(origin.contains("last-good.yaml"), "{origin}");
        forwards(status)
    })?;
    print_duration(&format!("  {node}: from kill -9 to all sessions, with the last good intent"), begun);
    Ok(())
}
