//! The objects in the API server: nodes as kubelets describe them, and the configuration of Heliograph.

use std::fmt;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::network::{address, address6, pod_cidrs};

/// The AS number of all speakers.
pub const ASN: u32 = 64512;
/// The number of images that a node reports: kubelets report 50 at most, and nodes of a usual size have about 30.
const IMAGES: usize = 30;
const REFLECTOR: &str = "heliograph.io/reflector";
/// The conditions that a kubelet reports periodically.
const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];

/// A cluster for a measurement. The agent is that of node 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Set for two reflectors, else there is a full mesh.
    pub reflected: bool,
    pub nodes: usize,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topology = if self.reflected { "with two reflectors" } else { "in a mesh" };
        write!(f, "{} nodes {topology}", self.nodes)
    }
}

impl Cluster {
    pub fn configuration(self) -> Value {
        let spec = match self.reflected {
            true => {
                json!({"asNumber": ASN, "topology": "Reflectors", "reflectors": {"nodeSelector": {"matchExpressions":
                [{"key": REFLECTOR, "operator": "Exists"}]}}})
            }
            false => json!({"asNumber": ASN}),
        };
        json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPConfiguration",
            "metadata": {"name": "default"}, "spec": spec})
    }
}

pub fn name(n: usize) -> String {
    format!("node-{n:05}")
}

pub fn is_reflector(n: usize) -> bool {
    n == 1 || n == 2
}

/// Returns node `n` as its kubelet creates it.
pub fn node(n: usize) -> Value {
    let name = name(n);
    let mut labels = json!({
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "general-8", "topology.kubernetes.io/region": "north",
        "topology.kubernetes.io/zone": format!("north-{}", n % 3),
    });
    if is_reflector(n) {
        labels[REFLECTOR] = "".into();
    }
    let resources = json!({"cpu": "8", "ephemeral-storage": "101430960Ki", "hugepages-1Gi": "0",
        "hugepages-2Mi": "0", "memory": "32596980Ki", "pods": "110"});
    let images: Vec<_> = (0..IMAGES)
        .map(|image| {
            let image_name = format!("registry.example.com/platform/component-{image}");
            json!({"names": [format!("{image_name}@sha256:{:064x}", image * 7919 + n % 5), format!("{image_name}:v1.{image}.0")],
                "sizeBytes": 10_000_000 + image * 1_234_567})
        })
        .collect();
    let pod_cidrs = pod_cidrs(n).map(|cidr| cidr.to_string());
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {
            "node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs, "providerID": format!("example:///north/{name}")},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": address(n)},
                {"type": "InternalIP", "address": address6(n)},
                {"type": "Hostname", "address": name},
            ],
            "allocatable": resources, "capacity": resources,
            "conditions": conditions(SystemTime::now()),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "images": images,
            "nodeInfo": {"architecture": "amd64", "bootID": format!("6f0a2b1c-0000-4000-8000-{n:012}"),
                "containerRuntimeVersion": "containerd://2.2.1", "kernelVersion": "6.12.0-amd64",
                "kubeProxyVersion": "", "kubeletVersion": "v1.34.4", "machineID": format!("{n:032x}"),
                "operatingSystem": "linux", "osImage": "Debian GNU/Linux 13 (trixie)",
                "systemUUID": format!("0c3e7d5a-0000-4000-8000-{n:012}")},
        },
    })
}

/// Returns the patch that a kubelet sends every five minutes: unchanged conditions with a new time.
pub fn heartbeat(now: SystemTime) -> Value {
    json!({"status": {"conditions": conditions(now)}})
}

fn conditions(now: SystemTime) -> Vec<Value> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = Timestamp::from_second(seconds.cast_signed()).unwrap_or_default();
    CONDITIONS
        .map(|(kind, status, reason, message)| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": now.to_string()})
        })
        .to_vec()
}
