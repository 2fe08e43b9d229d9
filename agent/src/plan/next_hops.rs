//! The resolution of next hops: direct, through a gateway, through the tunnel, or not at all.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

use super::tunnels::Tunnels;
use super::within;
use crate::dataplane::Hop;
use crate::intent::{Encapsulation, Node, Snapshot};
use crate::names::named;
use crate::underlay::Segment;

/// The way in which packets reach a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reachability {
    /// On the same segment, unencapsulated.
    Direct,
    /// Through the tunnel.
    Tunnel,
    /// Through a gateway, unencapsulated. The gateway needs routes to the pods.
    Routed,
    /// Not reachable: no route is installed.
    Unreachable,
}

named!(Reachability {
    Direct => "Direct",
    Tunnel => "Tunnel",
    Routed => "Routed",
    Unreachable => "Unreachable",
});

/// The reachability of one next hop, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentVerdict {
    /// The next hop.
    pub next_hop: IpAddr,
    /// The node that has this address, if there is one.
    pub node: Option<String>,
    /// The reachability.
    pub reachability: Reachability,
    /// The reason, as a text.
    pub reason: String,
}

/// The nodes by address.
pub type Owners = HashMap<IpAddr, Arc<Node>>;

/// Returns the nodes by address.
pub fn owners(snapshot: &Snapshot) -> Owners {
    let owned = |node: &Arc<Node>| {
        let node = node.clone();
        node.addresses.clone().into_iter().map(move |address| (address, node.clone()))
    };
    snapshot.nodes.values().flat_map(owned).collect()
}

/// The resolution of next hops, from the point of view of one node.
#[derive(Debug)]
pub struct Resolver {
    this: Arc<Node>,
    encapsulation: Encapsulation,
    tunnels: Tunnels,
    owners: Owners,
}

impl Resolver {
    /// Returns the resolution of the next hops of `this` node.
    pub fn new(snapshot: &Snapshot, this: &Arc<Node>, tunnels: Tunnels) -> Self {
        Self {
            this: this.clone(),
            encapsulation: snapshot.configuration.encapsulation,
            tunnels,
            owners: owners(snapshot),
        }
    }

    /// Returns the addresses whose node is another one than in a `former` resolution. `None`: everything may be different.
    pub fn changed_owners(&self, former: &Self) -> Option<BTreeSet<IpAddr>> {
        let same = self.encapsulation == former.encapsulation
            && self.tunnels == former.tunnels
            && self.this.pod_cidrs == former.this.pod_cidrs
            && self.this.segment() == former.this.segment();
        let is_other = |owners: &Owners, address: &IpAddr, node: &Arc<Node>| {
            !owners.get(address).is_some_and(|other| Arc::ptr_eq(other, node))
        };
        let new = self.owners.iter().filter(|(address, node)| is_other(&former.owners, address, node));
        let gone = former.owners.keys().filter(|address| !self.owners.contains_key(*address));
        same.then(|| new.map(|(address, _)| *address).chain(gone.copied()).collect())
    }

    /// Returns the verdict on a next hop, and the hop to install. `inferred`: it is a node that the intent does not contain.
    pub fn resolve(
        &self,
        next_hop: IpAddr,
        segment: Option<&Segment>,
        inferred: bool,
    ) -> (SegmentVerdict, Option<Hop>) {
        let owner = self.owners.get(&next_hop).map(Arc::as_ref);
        let (reachability, reason, hop) = self.decide(next_hop, segment, owner, inferred);
        let node = owner.map(|node| node.name.to_string());
        (SegmentVerdict { next_hop, node, reachability, reason }, hop)
    }

    fn decide(
        &self,
        next_hop: IpAddr,
        segment: Option<&Segment>,
        owner: Option<&Node>,
        inferred: bool,
    ) -> (Reachability, String, Option<Hop>) {
        let unreachable = |reason: String| (Reachability::Unreachable, reason, None);
        let segment = match segment {
            None => return unreachable("its segment has not been looked up yet".into()),
            Some(Segment::Local) => return unreachable("it is an address of this node itself".into()),
            Some(Segment::Unreachable { error }) => {
                return unreachable(format!("the kernel has no route to it: {error}"));
            }
            Some(segment) => segment,
        };
        let direct = |oif, reason| (Reachability::Direct, reason, Some(Hop::Direct { via: next_hop, oif }));
        if owner.is_none() && !inferred {
            return match segment {
                Segment::Routed { gateway, oif, name, .. } => {
                    routed(*gateway, *oif, name, "no node of the cluster")
                }
                Segment::Direct { oif, name, .. } => {
                    direct(*oif, format!("on the link {name}, without a gateway"))
                }
                _ => unreachable("the kernel has no route to it".into()),
            };
        }
        let labels = match (self.this.segment(), owner.and_then(Node::segment)) {
            (Some(ours), Some(its)) => Some((ours == its, ours, its)),
            _ => None,
        };
        match (self.encapsulation, labels, segment) {
            (Encapsulation::Always, ..) => self.tunnel(next_hop, "encapsulation is Always".into()),
            (_, Some((true, ours, _)), Segment::Direct { oif, .. }) => {
                direct(*oif, format!("both nodes have the segment label {ours}"))
            }
            (_, Some((true, ours, _)), Segment::Routed { gateway, oif, .. }) => direct(
                *oif,
                format!(
                    "both nodes have the segment label {ours}, although the kernel would use gateway {gateway}"
                ),
            ),
            (Encapsulation::Never, _, Segment::Routed { gateway, oif, name, .. }) => {
                routed(*gateway, *oif, name, "encapsulation is Never")
            }
            (Encapsulation::CrossSubnet, Some((false, ours, its)), _) => {
                self.tunnel(next_hop, format!("segment labels differ: {ours} here, {its} there"))
            }
            (Encapsulation::CrossSubnet, None, Segment::Routed { gateway, name, .. }) => {
                self.tunnel(next_hop, format!("behind gateway {gateway} on {name}"))
            }
            (_, _, Segment::Direct { oif, name, .. }) => {
                direct(*oif, format!("on the link {name}, without a gateway"))
            }
            _ => unreachable("the kernel has no route to it".into()),
        }
    }

    fn tunnel(&self, remote: IpAddr, reason: String) -> (Reachability, String, Option<Hop>) {
        let family = IpFamily::of(remote);
        match self.tunnels.to(family) {
            Some((tunnel, local)) => {
                (Reachability::Tunnel, reason, Some(Hop::Tunnel { tunnel, remote, local }))
            }
            None => {
                let reason =
                    format!("needs the tunnel ({reason}), but this node has no {family} address for it");
                (Reachability::Unreachable, reason, None)
            }
        }
    }

    /// Returns the reason for which the route to a prefix must not be installed, if there is one.
    pub fn rejection(&self, prefix: &IpNetwork, hop: &Hop) -> Option<String> {
        if let Some(own) = self.this.pod_cidrs.iter().find(|own| within(own, prefix)) {
            return Some(format!("{prefix} is in this node's own pod CIDR {own}"));
        }
        let host = prefix.prefix() == IpFamily::of_network(prefix).bits();
        if let Some(node) = self.owners.get(&prefix.network()).filter(|_| host) {
            return Some(format!(
                "{prefix} is the address of Node {}, which is reached by the underlay",
                node.name
            ));
        }
        if let Some(name) = special_network(prefix) {
            return Some(format!("{prefix} is {name}, which is never routed between nodes"));
        }
        match *hop {
            Hop::Tunnel { remote, .. } if prefix.contains(remote) => {
                Some(format!("{prefix} contains {remote}, the remote end of the tunnel that it would use"))
            }
            Hop::Tunnel { remote, .. } if remote.is_ipv4() && prefix.is_ipv6() => {
                Some(format!("an IPv6 route can't go through the IPv4 tunnel to {remote}"))
            }
            Hop::Direct { via, .. } if via.is_ipv4() && prefix.is_ipv6() => {
                Some(format!("an IPv6 route can't have the IPv4 next hop {via}"))
            }
            _ => None,
        }
    }
}

fn routed(gateway: IpAddr, oif: u32, name: &str, why: &str) -> (Reachability, String, Option<Hop>) {
    // RFC 4271 §5.1.3: a next hop that isn't on a link is resolved through the routes to it.
    let reason =
        format!("{why}; through gateway {gateway} on {name}, which needs a route to the destination");
    (Reachability::Routed, reason, Some(Hop::Direct { via: gateway, oif }))
}

/// Returns the name of a kind of network that is never routed between nodes (RFC 6890, RFC 4291).
fn special_network(prefix: &IpNetwork) -> Option<&'static str> {
    if prefix.prefix() == 0 {
        return None;
    }
    match prefix.network() {
        IpAddr::V4(address) if address.is_loopback() => Some("loopback"),
        IpAddr::V4(address) if address.is_link_local() => Some("link-local"),
        IpAddr::V4(address) if address.octets()[0] >= 224 => Some("multicast or reserved"),
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("\"this network\""),
        IpAddr::V6(address) if address.is_loopback() || address.is_unspecified() => Some("loopback"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(address) if address.is_multicast() => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
