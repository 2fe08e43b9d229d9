//! Helpers of several end-to-end tests.
#![allow(dead_code)] // Each test program uses its part.

pub mod on_cluster;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use heliograph_e2e::lab::{Lab, Node};
use heliograph_e2e::pods::Pod;
use heliograph_e2e::sniff::Sniffer;
use heliograph_e2e::survey::survey;
use heliograph_e2e::wait::wait_until;
use serde_json::Value;

/// Long enough for anything that should happen at once, on the slowest machine.
pub const SOON: Duration = Duration::from_secs(30);
/// Long enough for a hold time to run out and everything after it.
pub const LATER: Duration = Duration::from_secs(60);

/// Our route protocol numbers: the agent's, the shim's.
pub const OURS: [&str; 2] = ["104", "105"];

/// Prints the duration of a step. It is never asserted: machines differ.
pub fn print_duration(what: &str, since: Instant) {
    println!("{what}: {:.2} s", since.elapsed().as_secs_f64());
}

/// Two pods on every node with an agent (the first four).
pub fn two_pods_each(lab: &Lab) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for node in lab.with_role("node").take(4) {
        for i in 1..=2 {
            pods.push(lab.add_pod(node.name(), &format!("{}-{i}", node.name()))?);
        }
    }
    Ok(pods)
}

/// Every pair reached, the way it should, and nobody translated.
pub fn all_as_it_should_be(lab: &Lab, pods: &[Pod]) -> Result<()> {
    let sniffer = Sniffer::start(&lab.node("router").namespaces().net)?;
    let found = survey(lab, pods, &sniffer, LATER, &|_, _| {})?;
    let faults = found.faults(lab, pods);
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    ensure!(found.translated().is_empty() && found.reached() == pods.len() * (pods.len() - 1));
    Ok(())
}

/// The agent's routes to a prefix in a node's kernel.
pub fn routes_to(node: Node<'_>, prefix: &str) -> Result<Vec<Value>> {
    node.ip(&format!("-d route show exact {prefix} proto {}", OURS[0]))
}

/// Waits until a node has a route of ours to a prefix, or has none.
pub fn wait_for_route(node: Node<'_>, prefix: &str, there: bool) -> Result<()> {
    let what = format!("{}: {} route to {prefix}", node.name(), if there { "a" } else { "no" });
    wait_until(LATER, &what, || match routes_to(node, prefix)? {
        routes if routes.is_empty() != there => Ok(()),
        routes => bail!("{routes:?}"),
    })
}

/// Everything of ours in a node's kernel, as text: routes, devices, rules. Empty when nothing is left.
pub fn ours_in_kernel(node: Node<'_>) -> Result<String> {
    let mut found = String::new();
    for family in ["-4", "-6"] {
        found += &node.run(["ip", family, "route", "show", "table", "all", "proto", OURS[0]])?;
    }
    for device in ["heliograph4", "heliograph6"] {
        if node.output(["ip", "link", "show", device])?.status.success() {
            found += &format!("device {device}\n");
        }
    }
    let tables = node.run(["nft", "list", "tables"])?;
    tables.lines().filter(|line| line.contains("heliograph")).for_each(|line| found += line);
    Ok(found)
}

/// Waits until the status of a node's agent is as wanted; `look` returns what is not.
pub fn wait_for_status<T>(node: Node<'_>, what: &str, look: impl Fn(&Value) -> Result<T>) -> Result<T> {
    let what = format!("{}: {what}", node.name());
    wait_until(LATER, &what, || {
        let status = node.status()?;
        look(&status).with_context(|| format!("status {status}"))
    })
}
