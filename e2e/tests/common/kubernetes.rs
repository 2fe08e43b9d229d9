//! What tests of a whole cluster share: pods, and who reaches whom.

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::{Cluster, images};
use serde_json::{Value, json};

/// What pods are made from.
fn template(app: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "pod", "image": images::POD, "imagePullPolicy": "Never" }],
        },
    })
}

/// A pod on every node.
pub fn everywhere() -> String {
    let labels = json!({ "matchLabels": { "app": "everywhere" } });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "everywhere" },
        "spec": { "selector": labels, "template": template("everywhere") },
    })
    .to_string()
}

/// Pods wherever there is room.
pub fn somewhere(replicas: usize) -> String {
    let labels = json!({ "matchLabels": { "app": "somewhere" } });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "somewhere" },
        "spec": { "replicas": replicas, "selector": labels, "template": template("somewhere") },
    })
    .to_string()
}

/// (name, addresses of both families) of each pod.
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

/// Every ordered pair of pods, over both families; how many there were.
pub fn all_reach(cluster: &Cluster, pods: &[Value]) -> Result<usize> {
    let pods = addresses(pods);
    let mut reached = 0;
    for (from, _) in &pods {
        let mut targets = Vec::new();
        for (to, addresses) in pods.iter().filter(|(name, _)| name != from) {
            ensure!(addresses.len() == 2, "{to} has not both families: {addresses:?}");
            targets.extend(addresses.iter().map(String::as_str));
        }
        let words = [&["sh", "-c", PING, "ping"], targets.as_slice()].concat();
        cluster.exec(from, &words).with_context(|| format!("{from} does not reach all of {pods:?}"))?;
        reached += targets.len();
    }
    Ok(reached)
}
