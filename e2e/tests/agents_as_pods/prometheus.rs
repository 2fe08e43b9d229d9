//! Prometheus scrapes the agents by the annotations of their pods, and reports what kubectl reports.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::{Cluster, Kubectl};
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

use super::common::LATER;

const FOLDER: &str = "/run/prometheus";
const ADDRESS: &str = "127.0.0.1:9090";

/// The pods that Prometheus scrapes: all that are annotated, at their port and path. Debian's Prometheus is built
/// without the discovery of pods, so the test does that part.
fn configuration(cluster: &Cluster) -> Result<String> {
    let pods = cluster.kubectl_json(&["get", "pods", "-A"])?;
    let nodes: Vec<_> = cluster.places().iter().map(|place| place.name()).collect();
    // Pods of a node that has just gone are still listed for a while.
    let stands = |pod: &&Value| nodes.iter().any(|node| pod["spec"]["nodeName"] == node.as_str());
    let mut scrapes = Vec::new();
    for pod in pods["items"].as_array().context("no pods")?.iter().filter(stands) {
        let annotation =
            |name: &str| pod["metadata"]["annotations"][format!("prometheus.io/{name}")].as_str();
        if annotation("scrape") != Some("true") {
            continue;
        }
        let (port, path) = (annotation("port").context("no port")?, annotation("path").context("no path")?);
        let address = pod["status"]["podIP"].as_str().context("no address")?;
        scrapes.push(json!({
            "job_name": pod["metadata"]["name"],
            "metrics_path": path,
            "static_configs": [{
                "targets": [format!("{address}:{port}")],
                "labels": { "node": pod["spec"]["nodeName"] },
            }],
        }));
    }
    let global = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
    Ok(json!({ "global": global, "scrape_configs": scrapes }).to_string())
}

/// All agents are scraped, and their figures are those of `kubectl get bgpnodes`.
pub fn reports_what_kubectl_reports(cluster: &Cluster) -> Result<()> {
    let machine = cluster.control_machine();
    machine.write(&format!("{FOLDER}/prometheus.yml"), &configuration(cluster)?)?;
    let words = [
        "prometheus",
        &format!("--config.file={FOLDER}/prometheus.yml"),
        &format!("--storage.tsdb.path={FOLDER}/data"),
        &format!("--web.listen-address={ADDRESS}"),
    ];
    machine.start("prometheus", &words.map(String::from))?;
    let nodes = cluster.places().len();
    machine.wait_for("prometheus", LATER, || {
        let targets = ask(cluster, "targets?state=active")?;
        let targets = targets["activeTargets"].as_array().context("no targets")?;
        let up = targets.iter().filter(|target| target["health"] == "up").count();
        ensure!(up == nodes && targets.len() == nodes, "{up} of {}: {targets:?}", targets.len());
        Ok(())
    })?;
    // Both outputs change by themselves: they agree when nothing happens.
    wait_until(LATER, "Prometheus and kubectl report the same", || {
        let list = cluster.list(&["bgpnodes"])?;
        ensure!(list.len() == nodes, "{} objects: {list:?}", list.len());
        for (query, field) in [
            (r#"sum by (node) (heliograph_bgp_sessions{state="Established"})"#, "/status/sessions/up"),
            ("sum by (node) (heliograph_bgp_sessions)", "/status/sessions/total"),
            ("sum by (node) (heliograph_bgp_routes)", "/status/routes"),
            ("sum by (node) (heliograph_ready)", ""),
        ] {
            let measured = query_by_node(cluster, query)?;
            ensure!(measured.len() == nodes, "{query}: {measured:?}");
            for item in &list {
                let node = item["spec"]["node"].as_str().context("no node")?;
                let expected =
                    if field.is_empty() { Some(1.0) } else { item.pointer(field).and_then(Value::as_f64) };
                let found = measured.get(node).copied();
                ensure!(found.is_some() && found == expected, "{node}, {query}: {found:?}, but {item}");
            }
        }
        Ok(())
    })
}

/// Returns the answer of Prometheus' HTTP API.
fn ask(cluster: &Cluster, what: &str) -> Result<Value> {
    let url = format!("http://{ADDRESS}/api/v1/{what}");
    let text = cluster.control_machine().run(["busybox", "wget", "-q", "-O", "-", &url])?;
    let answer: Value = serde_json::from_str(&text).with_context(|| format!("{url}: {text}"))?;
    ensure!(answer["status"] == "success", "{url}: {answer}");
    Ok(answer["data"].clone())
}

/// The value of a query for each node.
fn query_by_node(cluster: &Cluster, query: &str) -> Result<BTreeMap<String, f64>> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let data = ask(cluster, &format!("query?query={escaped}"))?;
    let series = data["result"].as_array().context("no result")?;
    let value = |one: &Value| {
        let node = one["metric"]["node"].as_str().context("no label `node`")?;
        Ok((node.to_owned(), one["value"][1].as_str().context("no value")?.parse()?))
    };
    series.iter().map(value).collect()
}
