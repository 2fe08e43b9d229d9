//! The parts of a cluster for Services: kube-proxy on the nodes, and for their names CoreDNS beside the API server.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::binaries::Binaries;
use super::control::{ADMIN, Control, PKI, line};
use super::machine::{Input, Machine};
use super::network::{CONTROL, POD_NETWORKS, Place};

/// The Service address of the cluster's DNS.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const TIMEOUT: Duration = Duration::from_secs(90);

/// Lets every kubelet's identity do what kube-proxy does, too.
pub(super) fn allow_proxies(control: &Control) -> Result<()> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "heliograph-cluster:kube-proxy" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier",
        },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes" }],
    });
    control.kubectl(&["apply", "-f", "-"], Input::Text(binding.to_string())).map(drop)
}

/// Starts kube-proxy on a node, in nftables mode.
pub(super) fn start_proxy(node: &Machine, place: Place, binaries: &Binaries) -> Result<()> {
    let name = place.name();
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_NETWORKS,
        "hostnameOverride": name,
        "clientConnection": { "kubeconfig": format!("{PKI}/{name}.kubeconfig") },
        "metricsBindAddress": "127.0.0.1:10249",
        // The limit is the whole machine's, and not ours to raise.
        "conntrack": { "maxPerCore": 0, "min": 0 },
    });
    node.write(&format!("{PKI}/kube-proxy.yaml"), &config.to_string())?;
    let program = binaries.path("kube-proxy");
    node.start(
        "kube-proxy",
        &line(&program.to_string_lossy(), &["--config", &format!("{PKI}/kube-proxy.yaml")]),
    )
}

/// Starts CoreDNS on the control plane's machine, and makes the Service that leads to it.
pub(super) fn start_dns(control: &Control) -> Result<()> {
    let corefile = format!(
        ".:53 {{\n  errors\n  ready 127.0.0.1:8181\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    \
         kubeconfig {ADMIN} heliograph\n    pods insecure\n  }}\n  cache 5\n}}\n"
    );
    control.machine.write("/etc/coredns/Corefile", &corefile)?;
    let program = control.binaries.path("coredns");
    control
        .machine
        .start("coredns", &line(&program.to_string_lossy(), &["-conf", "/etc/coredns/Corefile"]))?;
    let ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
        .map(|(name, protocol)| json!({ "name": name, "port": 53, "protocol": protocol }));
    // Without a selector only we write its endpoints.
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } },
        "spec": { "clusterIP": DNS, "ports": ports },
    });
    let endpoints = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-control", "namespace": "kube-system",
            "labels": { "kubernetes.io/service-name": "kube-dns" },
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{ "addresses": [CONTROL] }],
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [service, endpoints] });
    control.kubectl(&["apply", "-f", "-"], Input::Text(list.to_string()))?;
    control.machine.wait_for("coredns", TIMEOUT, || {
        control.machine.run(["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8181/ready"]).map(drop)
    })
}
