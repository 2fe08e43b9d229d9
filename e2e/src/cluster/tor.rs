//! A router beside the nodes, which BIRD plays: the cluster's neighbor outside.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::bgp::ours;
use super::workload::NAMESPACE;
use super::{BESIDE, Cluster};

/// Its name as a machine, a BGPPeer and a Secret.
pub const NAME: &str = "tor";
/// Networks that it may announce.
pub const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "198.51.100.0/24"];
const ASN: u32 = 64600;
const CONFIGURATION: &str = "/run/bird.conf";
const CONTROL: &str = "/run/bird.ctl";
/// The timeout for BIRD's answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Puts it beside the nodes, announcing networks under a password. The cluster does not know it yet.
///
/// # Errors
/// When BIRD does not start.
pub fn start(cluster: &mut Cluster, networks: &[&str], password: &str) -> Result<()> {
    cluster.add_machine(NAME)?;
    let router = cluster.machine(NAME)?;
    router.write(CONFIGURATION, &configuration(cluster, networks, password))?;
    router.start("bird", &["bird", "-f", "-c", CONFIGURATION, "-s", CONTROL].map(String::from))?;
    router.wait_for("bird", TIMEOUT, || birdc(cluster, &["show", "status"])).map(drop)
}

/// Has it announce these networks under that password from now on.
///
/// # Errors
/// When BIRD refuses.
pub fn configure(cluster: &Cluster, networks: &[&str], password: &str) -> Result<()> {
    cluster.machine(NAME)?.write(CONFIGURATION, &configuration(cluster, networks, password))?;
    birdc(cluster, &["configure"]).map(drop)
}

/// Runs `birdc` there.
///
/// # Errors
/// When it fails.
pub fn birdc(cluster: &Cluster, words: &[&str]) -> Result<String> {
    cluster.machine(NAME)?.run([&["birdc", "-s", CONTROL], words].concat())
}

/// Its address towards the nodes.
#[must_use]
pub fn address() -> IpAddr {
    BESIDE.addresses()[0]
}

/// The Secret with the password of its sessions.
#[must_use]
pub fn secret(password: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": NAME, "namespace": NAMESPACE },
        "stringData": { "password": password },
    })
    .to_string()
}

/// The BGPPeer: a neighbor of all nodes that may advertise these networks and receives those of the pods.
#[must_use]
pub fn peer(import: &[&str]) -> String {
    let import: Vec<_> = import.iter().map(|cidr| json!({ "cidr": cidr })).collect();
    let spec = json!({
        "peerAddress": address(),
        "peerASN": ASN,
        "passwordSecretRef": { "name": NAME, "key": "password" },
        "timers": { "connectRetrySeconds": 1 },
        "import": import,
        "export": [{ "cidr": "10.244.0.0/16", "maxLength": 24 }],
    });
    ours("BGPPeer", NAME, &spec)
}

/// All nodes are its neighbors, and what they announce goes into its kernel.
fn configuration(cluster: &Cluster, networks: &[&str], password: &str) -> String {
    let address = address();
    let routes: String = networks.iter().map(|network| format!("route {network} blackhole; ")).collect();
    let mut text = format!(
        "router id {address};\nprotocol device {{}}\nprotocol static {{ ipv4; {routes}}}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n\
         template bgp node {{\n  local {address} as {ASN};\n  password \"{password}\";\n\
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 1;\n\
         ipv4 {{ import all; export where source = RTS_STATIC; }};\n}}\n"
    );
    for place in cluster.places() {
        let [v4, _] = place.addresses();
        text += &format!("protocol bgp {} from node {{ neighbor {v4} as 64512; }}\n", place.name());
    }
    text
}
