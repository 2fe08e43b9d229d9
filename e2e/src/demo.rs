//! The demonstration: a lab comes up, pods reach each other, and the packets on the router are counted. Or a whole
//! Kubernetes does ([`KUBERNETES`]).

mod kubernetes;
mod progress;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use self::progress::Progress;
use crate::lab::Lab;
use crate::pods::Pod;
use crate::sniff::Sniffer;
use crate::survey::{Survey, Way, survey};
use crate::transfer::transfer;
use crate::uml;

/// Pods a node.
const PODS: usize = 2;
/// Nodes that get pods, at most.
const NODES: usize = 4;
/// The timeout for pods to reach each other.
const REACH: Duration = Duration::from_secs(60);
/// The size of the bulk transfer.
const BULK: usize = 100_000_000;

/// Names the demonstration on a whole Kubernetes instead of a topology's.
pub const KUBERNETES: &str = "kubernetes";

/// Runs the demonstration, in User-mode Linux if need be, and gives the exit status.
///
/// # Errors
/// When it could not be run at all.
pub fn demo(topology: &str) -> Result<i32> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("the lab builds networks and needs root: `sudo make demo`");
    }
    if topology == KUBERNETES {
        return kubernetes::show();
    }
    if uml::runs_here()? {
        return show(topology);
    }
    println!("demo: this kernel has no ipip, so the lab runs in User-mode Linux");
    let me = std::env::current_exe()?.to_string_lossy().into_owned();
    let words = [me, "demo".into(), "--topology".into(), topology.into()];
    uml::run(&words, 0, &mut std::io::stdout(), &mut |step| println!("demo: {step}"))
}

fn show(topology: &str) -> Result<i32> {
    let progress = Progress::new();
    progress.phase(&format!("building the lab `{topology}`"));
    let lab = Lab::named(topology)?.up()?;
    progress.phase("waiting for the agents");
    lab.wait_ready_with(&|missing| progress.update(missing))?;

    progress.phase("adding pods through the CNI plugin");
    let mut pods = Vec::new();
    for node in lab.with_role("node").take(NODES) {
        for i in 1..=PODS {
            progress.update(&format!("pod {i} on {}", node.name()));
            pods.push(lab.add_pod(node.name(), &format!("{}-{i}", node.name()))?);
        }
    }
    let router = lab.with_role("router").next().context("the topology has no node with the role `router`")?;
    let sniffer = Sniffer::start(&router.namespaces().net)?;

    progress.phase("pinging every pod from every pod and node");
    let found = survey(&lab, &pods, &sniffer, REACH, &|done, of| {
        progress.update(&format!("{done} of {of} answered"))
    })?;
    progress.end();
    print_matrix(&lab, &pods, &found);
    print_addresses(&pods, &found);
    let mut faults = found.faults(&lab, &pods);

    let first = lab.with_role("node").next().context("the topology has no node with the role `node`")?;
    println!("\n{}$ heliograph status", first.name());
    println!("{}", first.run(["heliograph", "status"])?.trim_end());

    progress.phase("100 MB over TCP from rack to rack");
    let rack = |pod: &Pod| lab.node(&pod.node).label("rack").to_owned();
    let (from, to) = (&pods[0], pods.iter().find(|pod| rack(pod) != rack(&pods[0])));
    match to.context("all pods are in one rack").and_then(|to| bulk(&lab, &sniffer, from, to)) {
        Ok(summary) => {
            progress.end();
            println!("\n{summary}");
        }
        Err(error) => faults.push(format!("TCP transfer: {error:#}")),
    }

    progress.phase("taking the lab down");
    drop(sniffer);
    drop(lab);
    progress.end();
    if !faults.is_empty() {
        println!("\nnot as it should be:");
        faults.iter().for_each(|fault| println!("  {fault}"));
    }
    println!(
        "demo: {}/{} pairs reached, {} direct, {} through IPIP, {} translated",
        found.reached(),
        found.ways.len(),
        found.count(Way::Direct),
        found.count(Way::Tunnel),
        found.translated().len(),
    );
    Ok(i32::from(!faults.is_empty()))
}

fn bulk(lab: &Lab, sniffer: &Sniffer, from: &Pod, to: &Pod) -> Result<String> {
    let mtu = pod_mtu(lab, from)?;
    let done = transfer(lab, sniffer, from, to, BULK)?;
    let seen = &done.traffic;
    anyhow::ensure!(seen.plain == 0 && seen.tunnelled > 0, "it did not go through IPIP: {seen:?}");
    anyhow::ensure!(seen.fragments == 0, "{} fragments were seen", seen.fragments);
    anyhow::ensure!(done.fragments == 0, "{} fragments were made", done.fragments);
    anyhow::ensure!(
        seen.largest == mtu,
        "the largest packet had {} bytes, the pod's MTU is {mtu}",
        seen.largest
    );
    let (megabytes, seconds) = (done.bytes as f64 / 1e6, done.took.as_secs_f64());
    Ok(format!(
        "TCP {} ({}) to {} ({}): {megabytes:.0} MB in {seconds:.1} s, {:.1} MB/s, all through IPIP, \
         largest packet {} bytes (the pod's MTU), no fragments",
        from.id,
        from.address,
        to.id,
        to.address,
        megabytes / seconds,
        seen.largest,
    ))
}

/// The MTU of a pod's interface in bytes.
///
/// # Errors
/// When `ip` fails.
pub fn pod_mtu(lab: &Lab, pod: &Pod) -> Result<usize> {
    let links = lab.node(&pod.node).ip(&format!("-n cni-{} link show dev eth0", pod.id))?;
    let mtu = links.first().and_then(|link| link["mtu"].as_u64()).context("the pod's eth0 has no MTU")?;
    Ok(mtu as usize)
}

fn print_matrix(lab: &Lab, pods: &[Pod], found: &Survey) {
    let width = pods
        .iter()
        .map(|pod| pod.id.len())
        .chain(lab.topology.nodes.keys().map(String::len))
        .max()
        .unwrap_or(0);
    println!("\nWho reaches whom (row to column), by the packets on the router:");
    for (i, pod) in pods.iter().enumerate() {
        println!("  {:>2}  {:<width$}  {}", i + 1, pod.id, pod.address);
    }
    let head: String = (1..=pods.len()).map(|i| format!("{i:>4}")).collect();
    println!("\n  {:<width$}{head}", "");
    for from in pods {
        let cells: String =
            pods.iter().map(|to| format!("{:>4}", cell(found, from.address, to.address))).collect();
        println!("  {:<width$}{cells}", from.id);
    }
    for (node, reached) in &found.from_nodes {
        let cells: String =
            pods.iter().map(|pod| if reached.contains(&pod.address) { "  ok" } else { "   -" }).collect();
        println!("  {node:<width$}{cells}   (the node itself)");
    }
    println!("\n  d direct   T through IPIP   - no answer   ? seen both ways, or not at all");
}

fn cell(found: &Survey, from: IpAddr, to: IpAddr) -> &'static str {
    match found.ways.get(&(from, to)) {
        None => "·",
        Some(Way::Direct) => "d",
        Some(Way::Tunnel) => "T",
        Some(Way::Unreached) => "-",
        Some(Way::Mixed | Way::Unseen) => "?",
    }
}

fn print_addresses(pods: &[Pod], found: &Survey) {
    println!("\nThe address each pod is seen with by the {} others:", pods.len().saturating_sub(1));
    for pod in pods {
        let asked: Vec<IpAddr> = (found.views.iter())
            .filter(|((from, _), _)| *from == pod.address)
            .map(|(_, views)| views.asker)
            .chain(
                found
                    .views
                    .iter()
                    .filter(|((_, to), _)| *to == pod.address)
                    .map(|(_, views)| views.responder),
            )
            .collect();
        let strange: Vec<_> = asked.iter().filter(|seen| **seen != pod.address).collect();
        if strange.is_empty() {
            println!("  {}  {}: its own, {} times of {}", pod.id, pod.address, asked.len(), asked.len());
        } else {
            println!("  {}  {}: translated to {strange:?}", pod.id, pod.address);
        }
    }
}
