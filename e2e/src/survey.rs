//! The whole picture: every pod to every other, every node to every pod, and which way the packets took.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::pods::Pod;
use crate::probe::{Responder, Views, ask_all, ping_all};
use crate::sniff::{Sniffer, Traffic};
use crate::wait::wait_until;

/// The way of packets from one pod to another, from the capture on the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No answer came.
    Unreached,
    /// As they are.
    Direct,
    /// Inside IPIP.
    Tunnel,
    /// Both: a route changed meanwhile, or something is wrong.
    Mixed,
    /// Answered, but never seen on the router, though the pods are on different nodes.
    Unseen,
}

/// The result of [`survey`].
#[derive(Debug)]
pub struct Survey {
    /// Every ordered pair of pods.
    pub ways: BTreeMap<(IpAddr, IpAddr), Way>,
    /// The addresses that both sides saw of each other; a pair is missing if no answer came.
    pub views: BTreeMap<(IpAddr, IpAddr), Views>,
    /// The pods that answered each node.
    pub from_nodes: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// Pings and queries every ordered pair of pods, and every pod from every node with a daemon of ours; `step` receives
/// how many of how many answers are there.
///
/// # Errors
/// When a socket fails. That pods do not answer is no error but a finding.
pub fn survey(
    lab: &Lab,
    pods: &[Pod],
    sniffer: &Sniffer,
    within: Duration,
    step: &(dyn Fn(usize, usize) + Sync),
) -> Result<Survey> {
    let _responders: Vec<_> = pods.iter().map(|pod| Responder::start(&pod.netns)).collect::<Result<_>>()?;
    let nodes: Vec<_> = lab.with_role("node").collect();
    let addresses: Vec<IpAddr> = pods.iter().map(|pod| pod.address).collect();
    let total = pods.len() * pods.len().saturating_sub(1) + nodes.len() * pods.len();
    let done = AtomicUsize::new(0);
    let answered = |_| step(done.fetch_add(1, Ordering::Relaxed) + 1, total);

    let (from_pods, from_nodes) = std::thread::scope(|scope| -> Result<_> {
        let pings: Vec<_> = (pods.iter())
            .map(|pod| {
                let others: Vec<_> = addresses.iter().copied().filter(|a| *a != pod.address).collect();
                scope.spawn(move || -> Result<_> {
                    let reached = ping_all(&pod.netns, &others, within, answered)?;
                    Ok((pod.address, reached, ask_all(&pod.netns, &others, within)?))
                })
            })
            .collect();
        let from_nodes: Vec<_> = (nodes.iter())
            .map(|node| {
                let addresses = &addresses;
                scope.spawn(move || ping_all(&node.namespaces().net, addresses, within, answered))
            })
            .collect();
        let pings: Result<Vec<_>> = pings.into_iter().map(join).collect();
        let from_nodes: Result<Vec<_>> = from_nodes.into_iter().map(join).collect();
        Ok((pings?, from_nodes?))
    })?;

    sniffer.catch_up()?;
    let mut survey = Survey { ways: BTreeMap::new(), views: BTreeMap::new(), from_nodes: BTreeMap::new() };
    for (from, reached, views) in from_pods {
        survey.views.extend(views.into_iter().map(|(to, views)| ((from, to), views)));
        for to in pods.iter().filter(|pod| pod.address != from) {
            let same_node = pods.iter().any(|pod| pod.address == from && pod.node == to.node);
            let way = match reached.contains(&to.address) {
                false => Way::Unreached,
                true => way_of(&sniffer.traffic(from, to.address), same_node),
            };
            survey.ways.insert((from, to.address), way);
        }
    }
    for (node, reached) in nodes.iter().zip(from_nodes) {
        survey.from_nodes.insert(node.name().into(), reached);
    }
    Ok(survey)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn way_of(seen: &Traffic, same_node: bool) -> Way {
    match (seen.plain, seen.tunnelled) {
        (0, 0) if same_node => Way::Direct,
        (0, 0) => Way::Unseen,
        (_, 0) => Way::Direct,
        (0, _) => Way::Tunnel,
        _ => Way::Mixed,
    }
}

impl Survey {
    /// Returns how many pairs went this way.
    #[must_use]
    pub fn count(&self, way: Way) -> usize {
        self.ways.values().filter(|w| **w == way).count()
    }

    /// Returns how many pairs reached each other, either way.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.ways.len() - self.count(Way::Unreached)
    }

    /// The pairs where one side saw another address than the other's own.
    #[must_use]
    pub fn translated(&self) -> Vec<(IpAddr, IpAddr)> {
        let own = |((from, to), views): &(&(IpAddr, IpAddr), &Views)| {
            views.asker == *from && views.responder == *to
        };
        self.views.iter().filter(|pair| !own(pair)).map(|(pair, _)| *pair).collect()
    }

    /// Everything that is not as it should be: same rack (label `rack`) direct, otherwise IPIP; nobody translated;
    /// nobody unreached.
    #[must_use]
    pub fn faults(&self, lab: &Lab, pods: &[Pod]) -> Vec<String> {
        let mut faults = Vec::new();
        let rack = |pod: &Pod| lab.node(&pod.node).label("rack").to_owned();
        for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
            let pair = (from.address, to.address);
            let Some(way) = self.ways.get(&pair) else {
                continue;
            };
            let expected = if rack(from) == rack(to) { Way::Direct } else { Way::Tunnel };
            let named = format!("{} ({}) to {} ({})", from.id, from.address, to.id, to.address);
            if *way != expected {
                faults.push(format!("{named}: {way:?}, expected {expected:?}"));
            }
            match self.views.get(&pair) {
                None => faults.push(format!("{named}: no answer to the question who is seen")),
                Some(v) if v.asker != pair.0 => faults.push(format!("{named}: seen as {}", v.asker)),
                Some(v) if v.responder != pair.1 => {
                    faults.push(format!("{named}: answered as {}", v.responder))
                }
                Some(_) => {}
            }
        }
        for (node, reached) in &self.from_nodes {
            for pod in pods.iter().filter(|pod| !reached.contains(&pod.address)) {
                faults.push(format!("node {node} to {} ({}): no answer", pod.id, pod.address));
            }
        }
        faults
    }
}

/// The timeout for all agents of a lab to be ready. Generous: User-mode Linux has one slow processor.
const READY: Duration = Duration::from_secs(90);

impl Lab {
    /// Waits until every agent is ready and every node has the routes to the pods of all others.
    ///
    /// # Errors
    /// With what is missing, when that takes too long.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_ready_with(&|_| {})
    }

    /// The same; `step` receives what is still missing.
    ///
    /// # Errors
    /// With what is missing, when that takes too long.
    pub fn wait_ready_with(&self, step: &dyn Fn(&str)) -> Result<()> {
        wait_until(READY, "all agents ready", || {
            let ready = self.ready();
            if let Err(missing) = &ready {
                step(&format!("{missing:#}"));
            }
            ready
        })
    }

    fn ready(&self) -> Result<()> {
        let mut cidrs = BTreeSet::new();
        for node in self.with_role("node") {
            if let Some(status) = node.ended()? {
                bail!("{}: the agent has ended with {status}", node.name());
            }
            cidrs.extend(self.pod_cidrs(node.name())?);
        }
        for node in self.with_role("node") {
            ready_by_itself(&node.status()?).with_context(|| node.name().to_owned())?;
            let own = self.pod_cidrs(node.name())?;
            let installed = installed(&node.routes()?);
            if let Some(missing) =
                cidrs.iter().find(|cidr| !own.contains(*cidr) && !installed.contains(*cidr))
            {
                bail!("{}: no route to {missing} yet", node.name());
            }
        }
        Ok(())
    }

    /// The pod CIDRs of a node, by the file the agent writes for the shim.
    ///
    /// # Errors
    /// When it is not there yet.
    pub fn pod_cidrs(&self, node: &str) -> Result<Vec<String>> {
        let file = self.node(node).path("/run/heliograph/node.json");
        let text = std::fs::read_to_string(file).with_context(|| format!("{node}: no node.json yet"))?;
        let node_file: Value = serde_json::from_str(&text)?;
        Ok(node_file["podCIDRs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c.as_str()?.into()))
            .collect())
    }
}

fn ready_by_itself(status: &Value) -> Result<()> {
    let sessions = status["sessions"].as_array().context("no sessions in the status")?;
    if let Some(down) = sessions.iter().find(|s| s["state"] != "Established") {
        bail!("session with {} is {}, last error {}", down["name"], down["state"], down["lastError"]);
    }
    if sessions.is_empty() {
        bail!("no sessions yet");
    }
    for part in ["intent", "kernel"] {
        if status[part]["inSync"] != true {
            return Err(anyhow!("{part} is not in sync: {}", status[part]));
        }
    }
    Ok(())
}

/// The prefixes of `heliograph routes -o json` that are in the kernel.
#[must_use]
pub fn installed(routes: &Value) -> BTreeSet<String> {
    let routes = routes["items"].as_array().into_iter().flatten();
    routes.filter(|r| r["installed"] == true).filter_map(|r| Some(r["prefix"].as_str()?.to_owned())).collect()
}
