//! The networks between the machines: one L2 segment a rack, a router between them, the control plane behind it.
//!
//! | machine   | what it is                                                                     |
//! |-----------|--------------------------------------------------------------------------------|
//! | `switch`  | a bridge a rack: what stays within a rack is seen here only                     |
//! | `router`  | the gateway of every rack: what is seen here left its rack                      |
//! | `control` | etcd, API server and controllers, on a network of its own, and the link to us   |
//! | `n1`, …   | the nodes                                                                       |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::Machine;
use crate::lab::ip_batch;

/// The cabling of the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// All nodes on one segment.
    #[default]
    Flat,
    /// Two segments with a router between: packets between them take IPIP, which the kernel must have.
    TwoRacks,
}

/// Pod networks; the controller manager gives each node a part.
pub const POD_NETWORKS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// Service networks.
pub const SERVICE_NETWORKS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// The API server's address in the cluster's networks.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The API server's address for the machine all this runs on. Link-local: it is in nobody's way.
pub const FROM_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// Our end of that link.
const HOST: &str = "169.254.77.2/30";
/// A table of the router for what comes from the control plane only: the API server calls webhooks and proxies to
/// pods, but no pod shall reach another by way of it.
const FROM_CONTROL: u32 = 77;

impl Topology {
    /// The rack of a node: numbers start at 1.
    #[must_use]
    pub fn rack(self, node: usize, nodes: usize) -> usize {
        match self {
            Self::Flat => 1,
            Self::TwoRacks => 1 + usize::from(node > nodes.div_ceil(2)),
        }
    }

    fn racks(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Flat => 1..=1,
            Self::TwoRacks => 1..=2,
        }
    }
}

/// The place of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1.
    pub number: usize,
    /// Its rack, from 1.
    pub rack: usize,
}

impl Place {
    /// The node's name.
    #[must_use]
    pub fn name(self) -> String {
        format!("n{}", self.number)
    }

    /// The node's addresses, IPv4 first.
    #[must_use]
    pub fn addresses(self) -> [IpAddr; 2] {
        let (rack, host) = (self.rack as u16, 10 + self.number as u16);
        [
            Ipv4Addr::new(10, 77, rack as u8, host as u8).into(),
            Ipv6Addr::new(0xfd77, 0, 0, rack, 0, 0, 0, host).into(),
        ]
    }
}

/// Settings of a machine that passes packets on. Addresses count at once: nobody else could have them.
fn forward(machine: &Machine) -> Result<()> {
    let settings = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    machine.net().enter(|| {
        for setting in settings {
            let path = format!("/proc/sys/{setting}");
            std::fs::write(&path, "1").with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })
}

/// Makes the interfaces of switch, router and control plane.
pub(super) fn cable(topology: Topology, switch: &Machine, router: &Machine, control: &Machine) -> Result<()> {
    let (s, r, c) = (switch.init().pid, router.init().pid, control.init().pid);
    let mut host = vec![format!("link add name control netns {r} type veth peer name eth0 netns {c}")];
    let (mut switching, mut routing) = (Vec::new(), Vec::new());
    for rack in topology.racks() {
        host.push(format!("link add name router{rack} netns {s} type veth peer name rack{rack} netns {r}"));
        switching.extend([
            format!("link add name rack{rack} type bridge"),
            format!("link set rack{rack} up"),
            format!("link set router{rack} master rack{rack} up"),
        ]);
        routing.extend([
            format!("address add 10.77.{rack}.1/24 dev rack{rack}"),
            format!("address add fd77:0:0:{rack}::1/64 dev rack{rack} nodad"),
            format!("link set rack{rack} up"),
        ]);
    }
    routing.extend([
        "address add 10.77.0.1/24 dev control".into(),
        "address add fd77::1/64 dev control nodad".into(),
        "link set control up".into(),
        format!("rule add iif control lookup {FROM_CONTROL}"),
        format!("-6 rule add iif control lookup {FROM_CONTROL}"),
    ]);
    ip_batch(Command::new("ip"), &host)
        .context("cannot make the links of switch, router and control plane")?;
    switch.ip(&switching)?;
    router.ip(&routing)?;
    forward(router)?;
    control.ip(&[
        format!("address add {CONTROL}/24 dev eth0"),
        "address add fd77::2/64 dev eth0 nodad".into(),
        "link set eth0 up".into(),
        "route add default via 10.77.0.1".into(),
        "-6 route add default via fd77::1".into(),
    ])
}

/// Joins a node to its rack.
pub(super) fn join(place: Place, node: &Machine, switch: &Machine) -> Result<()> {
    join_as(&place.name(), place, node, switch)
}

/// Joins a machine of any name to a rack.
pub(super) fn join_as(name: &str, place: Place, node: &Machine, switch: &Machine) -> Result<()> {
    let [v4, v6] = place.addresses();
    let (s, n, rack) = (switch.init().pid, node.init().pid, place.rack);
    let line = format!("link add name {name} netns {s} type veth peer name eth0 netns {n}");
    ip_batch(Command::new("ip"), &[line]).with_context(|| format!("cannot make the link of {name}"))?;
    switch.ip(&[format!("link set {name} master rack{rack} up")])?;
    node.ip(&[
        format!("address add {v4}/24 dev eth0"),
        format!("address add {v6}/64 dev eth0 nodad"),
        "link set eth0 up".into(),
        format!("route add default via 10.77.{rack}.1"),
        format!("-6 route add default via fd77:0:0:{rack}::1"),
    ])?;
    forward(node)
}

/// Makes the API server reachable from where we are, through an interface of this name.
pub(super) fn join_host(interface: &str, control: &Machine) -> Result<()> {
    let line = format!("link add name {interface} type veth peer name host netns {}", control.init().pid);
    let ours = [line, format!("address add {HOST} dev {interface}"), format!("link set {interface} up")];
    ip_batch(Command::new("ip"), &ours).context("cannot make the link from here to the API server")?;
    control.ip(&[format!("address add {FROM_HOST}/30 dev host"), "link set host up".into()])
}

/// Lets the API server reach the pods of nodes, given as (place, pod networks).
pub(super) fn let_control_reach(router: &Machine, nodes: &[(Place, Vec<String>)]) -> Result<()> {
    let lines = nodes.iter().flat_map(|(place, networks)| {
        networks.iter().map(|network| route(network, *place, &format!("table {FROM_CONTROL}")))
    });
    router.ip(&lines.collect::<Vec<_>>())
}

/// The `ip` command for a route to a node's pods by way of its address.
pub(super) fn route(network: &str, place: Place, more: &str) -> String {
    let [v4, v6] = place.addresses();
    if network.contains(':') {
        format!("-6 route replace {network} via {v6} {more}")
    } else {
        format!("route replace {network} via {v4} {more}")
    }
}

/// The pod networks of a Node object.
pub(super) fn pod_networks(node: &Value) -> Vec<String> {
    let list = node["spec"]["podCIDRs"].as_array();
    list.into_iter().flatten().filter_map(|network| network.as_str().map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn racks_are_filled_in_order() {
        let racks = |nodes: usize| (1..=nodes).map(|n| Topology::TwoRacks.rack(n, nodes)).collect::<Vec<_>>();
        assert_eq!(racks(2), [1, 2]);
        assert_eq!(racks(3), [1, 1, 2]);
        assert_eq!(racks(4), [1, 1, 2, 2]);
        let place = Place { number: 3, rack: 2 };
        assert_eq!(place.addresses().map(|a| a.to_string()), ["10.77.2.13", "fd77:0:0:2::d"]);
    }
}
