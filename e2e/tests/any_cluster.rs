//! Heliograph by kubectl alone, on any cluster: the one of `KUBECONFIG`, such as kind or k3s, where that is set, else
//! one made here. What takes more than kubectl, such as a look at the wire, is for the other tests.

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::LATER;
use heliograph_e2e::cluster::elsewhere::{Elsewhere, NODE_LABEL, configuration};
use heliograph_e2e::cluster::pod_network::MANIFEST;
use heliograph_e2e::cluster::workload::{NAMESPACE, addresses, all_reach, everywhere_from, somewhere_from};
use heliograph_e2e::cluster::{Cluster, Kubectl, Spec, bgp, images};
use heliograph_e2e::uml::as_root;
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

/// Names the image of the pods on a cluster of `KUBECONFIG`: with a shell, `sleep` and a `ping`.
const POD_IMAGE: &str = "HELIOGRAPH_POD_IMAGE";
/// The usual one, which nodes get from the usual place.
const BUSYBOX: &str = "docker.io/library/busybox:1.36";

#[test]
fn heliograph_is_the_network_of_any_cluster() -> Result<()> {
    if let Some(cluster) = Elsewhere::from_env()? {
        println!("on the cluster of KUBECONFIG");
        let image = std::env::var(POD_IMAGE).unwrap_or_else(|_| BUSYBOX.into());
        return is_the_network_of(&cluster.take()?, &image);
    }
    as_root(|| {
        let cluster = Cluster::up(Spec { nodes: 2, ..Spec::for_test() })?;
        is_the_network_of(&cluster, images::POD)?;
        cluster.down()
    });
    Ok(())
}

fn is_the_network_of(cluster: &impl Kubectl, image: &str) -> Result<()> {
    let nodes: Vec<_> = cluster.list(&["nodes"])?.iter().map(name).collect();
    cluster.apply(MANIFEST)?;
    cluster.wait_pods_ready("app.kubernetes.io/name=heliograph", nodes.len()).context(
        "where nodes have no image of Heliograph: `make image` writes target/heliograph-image.tar, and \
         `kind load image-archive` or `k3s ctr images import` gives it to them",
    )?;
    cluster.wait_ready_nodes(nodes.len())?;

    cluster.apply(&everywhere_from(image))?;
    cluster.apply(&somewhere_from(image, 2))?;
    let pods = cluster.wait_pods_ready("app in (everywhere, somewhere)", nodes.len() + 2)?;
    let reached = all_reach(cluster, &pods)?;
    ensure!(reached >= pods.len() * (pods.len() - 1), "{reached} pings between {} pods", pods.len());
    println!("{} pods on {} nodes: {reached} pings answered", pods.len(), nodes.len());
    wait_for_mesh(cluster, &nodes)?;

    let pings = Pings::start(cluster, &pods)?;
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/heliograph"])?;
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", "daemonset/heliograph", "--timeout=240s"])?;
    wait_for_mesh(cluster, &nodes)?;
    pings.lost_nothing("a rolling restart")?;
    if let [first, _, ..] = nodes.as_slice() {
        reflectors_on_and_off(cluster, first, &nodes)?;
        pings.lost_nothing("reflectors on and off")?;
    }
    for kind in ["nodes", "bgpnodes", "bgpsessions"] {
        println!("$ kubectl get {kind}\n{}", cluster.kubectl(&["get", kind])?);
    }
    Ok(())
}

/// The first node reflects what all others announce, and then no longer.
fn reflectors_on_and_off(cluster: &impl Kubectl, first: &str, nodes: &[String]) -> Result<()> {
    cluster.kubectl(&["label", "node", first, &format!("{NODE_LABEL}=true")])?;
    let selector = json!({ "matchLabels": { NODE_LABEL: "true" } });
    let reflectors = json!({ "topology": "Reflectors", "reflectors": { "nodeSelector": selector } });
    cluster.apply(&configuration(&reflectors)?)?;
    wait_for_nodes(
        cluster,
        nodes,
        |node| if node == first { ("Reflector", nodes.len() - 1) } else { ("Node", 1) },
    )?;
    cluster.apply(&configuration(&bgp::full_mesh())?)?;
    wait_for_mesh(cluster, nodes)
}

fn wait_for_mesh(cluster: &impl Kubectl, nodes: &[String]) -> Result<()> {
    wait_for_nodes(cluster, nodes, |_| ("Node", nodes.len() - 1))
}

/// Waits until kubectl lists each node with its role and this number of sessions, all established.
fn wait_for_nodes(
    cluster: &impl Kubectl,
    nodes: &[String],
    wanted: impl Fn(&str) -> (&'static str, usize),
) -> Result<()> {
    wait_until(LATER * 2, "kubectl get bgpnodes", || {
        let found = cluster.list(&["bgpnodes"])?;
        for node in nodes {
            let (role, sessions) = wanted(node);
            let status = found.iter().find(|object| object["spec"]["node"] == node.as_str());
            let status = &status.with_context(|| format!("none of {node}"))?["status"];
            let counts = &status["sessions"];
            ensure!(
                status["role"] == role && counts["up"] == sessions && counts["total"] == sessions,
                "{node}, wanted as {role} with {sessions} sessions: {status}"
            );
        }
        Ok(())
    })
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Pings that go on in one pod, to every other one: fifty a second each.
struct Pings<'a, K: Kubectl> {
    cluster: &'a K,
    from: String,
    to: Vec<String>,
}

impl<'a, K: Kubectl> Pings<'a, K> {
    fn start(cluster: &'a K, pods: &[Value]) -> Result<Self> {
        let mut pods = addresses(pods).into_iter();
        let (from, _) = pods.next().context("no pods")?;
        let pings = Self { cluster, from, to: pods.flat_map(|(_, addresses)| addresses).collect() };
        for to in &pings.to {
            let ping = format!("ping -i 0.02 {to} >/tmp/to-{to} 2>&1 &");
            pings.cluster.exec(&pings.from, &["sh", "-c", &ping])?;
        }
        Ok(pings)
    }

    /// All that were sent until now were answered, but for the very last, which may still be on its way.
    fn lost_nothing(&self, what: &str) -> Result<()> {
        let mut sent = 0;
        for to in &self.to {
            let output = self.cluster.exec(&self.from, &["cat", &format!("/tmp/to-{to}")])?;
            let answered = sequence_numbers(&output);
            let (Some(&first), Some(&last)) = (answered.first(), answered.last()) else {
                bail!("{what}: {to} never answered: {output}");
            };
            ensure!(first <= 1, "{what}: the first pings to {to} were lost, up to {first}");
            let lost: Vec<_> =
                (first..last).filter(|number| answered.binary_search(number).is_err()).collect();
            ensure!(lost.is_empty(), "{what}: pings to {to} were lost, of {last}: {lost:?}");
            sent += last;
        }
        println!("{what}: {sent} pings so far, none lost");
        Ok(())
    }
}

/// Those of answered pings, in order. busybox begins with 0, iputils with 1 and another name.
fn sequence_numbers(output: &str) -> Vec<u64> {
    let number = |line: &str| -> Option<u64> {
        let (_, after) = line.split_once("icmp_seq=").or_else(|| line.split_once("seq="))?;
        after.split_whitespace().next()?.parse().ok()
    };
    let mut numbers: Vec<_> = output.lines().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}
