//! A router outside the cluster, which BIRD plays: a neighbour whose routes must outlive all that is done here.

use std::net::IpAddr;

use anyhow::Result;
use heliograph_e2e::cluster::Cluster;
use serde_json::json;

use super::common::LATER;
use super::{NAMESPACE, ours};

/// Its name as a BGPPeer, a machine and a Secret.
pub const TOR: &str = "tor";
const ASN: u32 = 64600;
/// What it announces from the start, and what later.
pub const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "198.51.100.0/24"];
const CONTROL: &str = "/run/bird.ctl";
const PASSWORD: &str = "a password";

/// Starts it and makes it known to the cluster. An address behind it.
pub fn start(cluster: &mut Cluster) -> Result<IpAddr> {
    let [address, _] = cluster.add_machine(TOR)?;
    announce(cluster, &OUTSIDE[..1])?;
    let router = cluster.machine(TOR)?;
    router.run(["ip", "address", "add", "203.0.113.1/32", "dev", "lo", "scope", "host"])?;
    let words = ["bird", "-f", "-c", "/run/bird.conf", "-s", CONTROL].map(String::from);
    router.start("bird", &words)?;
    router.wait_for("bird", LATER, || router.run(["birdc", "-s", CONTROL, "show", "status"]))?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": TOR, "namespace": NAMESPACE },
        "stringData": { "password": PASSWORD },
    });
    cluster.apply(&secret.to_string())?;
    cluster.apply(&peer(address, &OUTSIDE))?;
    Ok("203.0.113.1".parse()?)
}

/// Its address.
pub fn address(cluster: &Cluster) -> Result<IpAddr> {
    let peer = cluster.machine(TOR)?.run(["ip", "-4", "-o", "address", "show", "scope", "global"])?;
    let words = peer.split_whitespace();
    let address = words.skip_while(|word| *word != "inet").nth(1).unwrap_or_default();
    Ok(address.split('/').next().unwrap_or_default().parse()?)
}

/// It as a neighbour of all nodes, that may tell of these networks.
pub fn peer(address: IpAddr, import: &[&str]) -> String {
    let import: Vec<_> = import.iter().map(|cidr| json!({ "cidr": cidr })).collect();
    let spec = json!({
        "peerAddress": address,
        "peerASN": ASN,
        "passwordSecretRef": { "name": TOR, "key": "password" },
        "timers": { "connectRetrySeconds": 1 },
        "import": import,
        "export": [{ "cidr": "10.244.0.0/16", "maxLength": 24 }],
    });
    ours("BGPPeer", TOR, &spec)
}

/// Has it announce these networks.
pub fn announce(cluster: &Cluster, networks: &[&str]) -> Result<()> {
    let address = address(cluster)?;
    let routes: String = networks.iter().map(|network| format!("route {network} blackhole; ")).collect();
    let mut text = format!(
        "router id {address};\nprotocol device {{}}\nprotocol static {{ ipv4; {routes}}}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n\
         template bgp node {{\n  local {address} as {ASN};\n  password \"{PASSWORD}\";\n\
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 1;\n\
         ipv4 {{ import all; export where source = RTS_STATIC; }};\n}}\n"
    );
    for place in cluster.places() {
        let [v4, _] = place.addresses();
        text += &format!("protocol bgp {} from node {{ neighbor {v4} as 64512; }}\n", place.name());
    }
    let router = cluster.machine(TOR)?;
    router.write("/run/bird.conf", &text)?;
    if router.runs("bird") {
        router.run(["birdc", "-s", CONTROL, "configure"])?;
    }
    Ok(())
}
