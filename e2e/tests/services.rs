//! Services on a real Kubernetes: kube-proxy in nftables mode, CoreDNS, and results of Kubernetes' own tests of the
//! pods' network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::{Cluster, Kubectl, Spec, images};
use heliograph_e2e::uml::as_root;
use heliograph_e2e::wait::wait_until;
use serde_json::{Value, json};

/// The time in which kube-proxy must have received an object of the API server.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A pod on a node, and a Service of its name that leads to it.
fn server(name: &str, node: &str) -> Value {
    let script =
        format!("mkdir -p /tmp/web && echo {name} >/tmp/web/index.html && httpd -f -p 8080 -h /tmp/web");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name, "set": "services" } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "pod", "image": images::POD, "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [pod, service] })
}

#[test]
fn a_service_is_reached_by_its_name_and_by_its_address() {
    as_root(|| {
        let cluster = Cluster::up(Spec { nodes: 2, services: true, ..Spec::for_test() })?;
        cluster.apply_network(PodNetwork::Heliograph)?;
        cluster.wait_nodes_ready()?;
        cluster.apply(&server("one", "n1").to_string())?;
        cluster.apply(&server("two", "n2").to_string())?;
        cluster.wait_pods_ready("set=services", 2)?;
        for (from, to) in [("one", "two"), ("two", "one")] {
            let service = cluster.kubectl_json(&["get", "service", to])?;
            let address = service["spec"]["clusterIP"].as_str().context("it has no address")?;
            for host in [address, to, &format!("{to}.default.svc.cluster.local")] {
                let got = ask(&cluster, from, host)?;
                ensure!(got.trim() == to, "{from} asked {host} and got `{got}`");
            }
        }
        let proxies = cluster.node("n1")?.run(["nft", "list", "table", "ip", "kube-proxy"])?;
        ensure!(proxies.contains("10.96.0.10"), "kube-proxy made no rules for the DNS: {proxies}");
        cluster.down()
    });
}

/// Returns a web server's answer to a pod. kube-proxy gets an endpoint at its own time, perhaps after its pod is Ready.
fn ask(cluster: &Cluster, pod: &str, host: &str) -> Result<String> {
    // busybox's own time limit (`wget -T`) crashes it.
    let words = ["busybox", "timeout", "5", "wget", "-q", "-O", "-", &format!("http://{host}/")];
    wait_until(TIMEOUT, &format!("{pod} reaches {host}"), || cluster.exec(pod, &words))
}
