//! Workloads that check a cluster's network: pods, the pairs that reach each other, and packets that flow all the time.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, Kubectl, images};
use crate::netns::NetNs;
use crate::probe::PingStream;

/// Heliograph's namespace.
pub const NAMESPACE: &str = "heliograph-system";

/// The image of the pods.
fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            // A node that takes no work takes no pod of ours, but a control plane may.
            "tolerations": [{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }],
            "containers": [{
                "name": "pod", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
            }],
        },
    })
}

/// A DaemonSet `everywhere`: a pod on every node.
#[must_use]
pub fn everywhere() -> String {
    everywhere_from(images::POD)
}

/// The same from another image, which has a shell, `sleep` and `ping`.
#[must_use]
pub fn everywhere_from(image: &str) -> String {
    let labels = json!({ "matchLabels": { "app": "everywhere" } });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "everywhere" },
        "spec": { "selector": labels, "template": template("everywhere", image) },
    })
    .to_string()
}

/// A Deployment `somewhere`: pods wherever there is room.
#[must_use]
pub fn somewhere(replicas: usize) -> String {
    somewhere_from(images::POD, replicas)
}

/// The same from another image, as [`everywhere_from`].
#[must_use]
pub fn somewhere_from(image: &str, replicas: usize) -> String {
    let labels = json!({ "matchLabels": { "app": "somewhere" } });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "somewhere" },
        "spec": { "replicas": replicas, "selector": labels, "template": template("somewhere", image) },
    })
    .to_string()
}

/// (name, addresses of both families) of each pod.
#[must_use]
pub fn addresses(pods: &[Value]) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ips = |pod: &Value| {
        pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| text(&ip["ip"])).collect()
    };
    pods.iter().map(|pod| (text(&pod["metadata"]["name"]), ips(pod))).collect()
}

/// Pings all of its arguments, one after the other; names those that don't answer.
const PING: &str =
    r#"for a; do ping -c 1 -W 10 "$a" >/dev/null || { echo "no answer from $a" >&2; exit 1; }; done"#;

/// Pings every ordered pair of pods over every family that pods have; gives how many pings there were.
///
/// # Errors
/// When one does not answer; it is named.
pub fn all_reach(cluster: &impl Kubectl, pods: &[Value]) -> Result<usize> {
    let pods = addresses(pods);
    let families = pods.iter().map(|(_, addresses)| addresses.len()).max().unwrap_or_default();
    let mut reached = 0;
    for (from, _) in &pods {
        let mut targets = Vec::new();
        for (to, addresses) in pods.iter().filter(|(name, _)| name != from) {
            ensure!(addresses.len() == families, "{to} has not {families} addresses: {addresses:?}");
            targets.extend(addresses.iter().map(String::as_str));
        }
        let words = [&["sh", "-c", PING, "ping"], targets.as_slice()].concat();
        cluster.exec(from, &words).with_context(|| format!("{from} does not reach all of {pods:?}"))?;
        reached += targets.len();
    }
    Ok(reached)
}

/// Pings from the pod of `everywhere` on the first node to those on all others, over both families, and to others.
pub struct Streams {
    running: Vec<(String, PingStream)>,
    from: NetNs,
    to: Vec<IpAddr>,
}

impl Streams {
    /// Starts them, also to the addresses in `more`.
    ///
    /// # Errors
    /// When there are no such pods.
    pub fn start(cluster: &Cluster, more: &[IpAddr]) -> Result<Self> {
        let pods = cluster.wait_pods_ready("app=everywhere", cluster.places().len())?;
        let (first, others): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| pod["spec"]["nodeName"] == "n1");
        let first = first.first().context("no pod on n1")?;
        let from = cluster.pod_netns(first["metadata"]["name"].as_str().unwrap_or_default())?;
        let to = addresses(&others).into_iter().flat_map(|(_, addresses)| addresses);
        let mut to = to.map(|address| Ok(address.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
        to.extend(more);
        ensure!(!to.is_empty(), "there is nobody to ping but the pod on n1 itself");
        let mut streams = Self { running: Vec::new(), from, to };
        streams.go()?;
        Ok(streams)
    }

    fn go(&mut self) -> Result<()> {
        for to in &self.to {
            self.running.push((to.to_string(), PingStream::start(&self.from, *to)?));
        }
        Ok(())
    }

    /// Waits until `count` more pings to an address were sent.
    ///
    /// # Errors
    /// When they don't flow.
    pub fn wait_for(&self, count: usize) -> Result<()> {
        self.running.first().context("no ping flows: a stream has failed before")?.1.wait_for(count)
    }

    /// Ends them, sees that every ping was answered, and starts others. Gives how many there were.
    ///
    /// # Errors
    /// When one was lost, or there were none.
    pub fn lost_nothing(&mut self, what: &str) -> Result<usize> {
        ensure!(!self.running.is_empty(), "{what}: no ping flows: a stream has failed before");
        let mut sent = 0;
        for (to, stream) in std::mem::take(&mut self.running) {
            let found = stream.stop()?;
            ensure!(found.sent > 0 && found.lost.is_empty(), "{what}: to {to}: {found:?}");
            sent += found.sent;
        }
        self.go()?;
        Ok(sent)
    }
}
