//! What a node's kernel should hold: best routes, joined with the kernel's word on where each next hop is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heliograph_bgp::report::BestRoute;
use ipnetwork::IpNetwork;

use crate::intent::{Encapsulation, Node, Snapshot};
use crate::kernel::desired::{
    Desired, Hop, IP6TNL_OVERHEAD, IPIP_OVERHEAD, NatOutgoing, Route, Segment, TunnelDevice, Tunnels,
};
use crate::kernel::ranges::Ranges;
use crate::names::named;

/// MTU in bytes of the interface that has each of this node's own addresses.
pub type Underlays = BTreeMap<IpAddr, u32>;

/// How packets get to a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// On the same segment, as they are.
    Direct,
    /// In the tunnel.
    Tunnel,
    /// As they are, through a gateway that has to know the way.
    Routed,
    /// Not at all: no route is installed.
    Unreachable,
}

named!(Reachability {
    Direct => "Direct",
    Tunnel => "Tunnel",
    Routed => "Routed",
    Unreachable => "Unreachable",
});

/// The verdict on one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentVerdict {
    /// The next hop.
    pub next_hop: IpAddr,
    /// The node whose address it is, if it is one's.
    pub node: Option<String>,
    /// How packets get there.
    pub verdict: Reachability,
    /// Why, in words.
    pub reason: String,
}

/// What the kernel should hold, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// For the kernel.
    pub desired: Desired,
    /// The verdict on each next hop of a best route.
    pub verdicts: BTreeMap<IpAddr, SegmentVerdict>,
    /// Routes that are not installed although their next hop can be reached, with the reason.
    pub refused: BTreeMap<IpNetwork, String>,
    /// What is not as it should be, with what to do.
    pub problems: Vec<String>,
}

/// The next hops about which the kernel has to be asked.
pub fn next_hops(best: &[BestRoute]) -> BTreeSet<IpAddr> {
    best.iter().map(|route| route.next_hop).collect()
}

/// MTU of the pods' interfaces, in bytes: the underlay's, less the outer header wherever a tunnel may be used.
/// `None`: no underlay is known.
pub fn pod_mtu(snapshot: &Snapshot, this: &Node, underlays: &Underlays) -> Option<u32> {
    let tunnels = snapshot.configuration.encapsulation != Encapsulation::Never;
    let families = this.pod_cidrs.iter().map(IpNetwork::is_ipv4).collect::<BTreeSet<_>>();
    let of_family = |v4: bool| {
        let underlay = *underlays.get(&this.address(v4)?)?;
        Some(if tunnels { underlay.saturating_sub(overhead(v4)) } else { underlay })
    };
    families.into_iter().filter_map(of_family).min()
}

fn overhead(v4: bool) -> u32 {
    if v4 { IPIP_OVERHEAD } else { IP6TNL_OVERHEAD }
}

/// What the kernel of `node` should hold. `segments` is the kernel's word on each of [`next_hops`].
///
/// A node that isn't in the snapshot should hold nothing.
pub fn desired(
    snapshot: &Snapshot,
    node: &str,
    best: &[BestRoute],
    segments: &BTreeMap<IpAddr, Segment>,
    underlays: &Underlays,
) -> Planned {
    let Some(this) = snapshot.nodes.get(node) else { return Planned::default() };
    let mut planned = Planned::default();
    planned.desired.forwarding = true;
    for cidr in &this.pod_cidrs {
        // More specific host routes lead to the pods there are; the rest must not wander off to the default route.
        planned.desired.routes.insert(*cidr, Route::Blackhole);
    }
    if snapshot.configuration.encapsulation != Encapsulation::Never {
        planned.desired.tunnels = tunnels(snapshot, this, underlays, &mut planned.problems);
        planned.desired.allowed_tunnel_sources =
            snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    }
    planned.desired.nat_outgoing = nat_outgoing(snapshot, this, best);
    let presumed = presumed_nodes(snapshot, best);
    if snapshot.configuration.encapsulation != Encapsulation::Never {
        planned.desired.allowed_tunnel_sources.extend(&presumed);
    }
    let judge = Judge::new(snapshot, this, segments, planned.desired.tunnels, presumed);
    let mut hops = BTreeMap::new();
    for next_hop in next_hops(best) {
        let (verdict, hop) = judge.next_hop(next_hop);
        planned.verdicts.insert(next_hop, verdict);
        hops.extend(hop.map(|hop| (next_hop, hop)));
    }
    for route in best {
        let prefix = IpNetwork::from(route.prefix);
        let Some(hop) = hops.get(&route.next_hop) else { continue };
        match judge.rejection(prefix, hop) {
            Some(reason) => {
                planned.refused.insert(prefix, reason);
            }
            None => {
                planned.desired.routes.insert(prefix, Route::unicast([*hop]));
            }
        }
    }
    planned
}

/// What leaves the cluster under this node's address. Inside are the cluster's networks and its nodes, also those that
/// only BGP tells of: where reflectors carry the routes an agent doesn't know every node.
fn nat_outgoing(snapshot: &Snapshot, this: &Node, best: &[BestRoute]) -> Option<NatOutgoing> {
    if !snapshot.configuration.nat_outgoing || this.pod_cidrs.is_empty() {
        return None;
    }
    let addresses: BTreeSet<IpAddr> =
        snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let strangers: BTreeSet<IpAddr> = snapshot.peers.values().map(|peer| peer.address).collect();
    let of_a_node =
        |route: &&BestRoute| addresses.contains(&route.peer) && !strangers.contains(&route.next_hop);
    let announced: Vec<&BestRoute> = best.iter().filter(of_a_node).collect();
    let mut inside: Ranges = match &snapshot.configuration.cluster_cidrs {
        none if none.is_empty() => {
            let known = snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied());
            let learned = announced.iter().map(|route| IpNetwork::from(route.prefix));
            // A default route that a node passes on leads outside.
            known.chain(learned.filter(|prefix| prefix.prefix() > 0)).collect()
        }
        given => given.iter().copied().collect(),
    };
    for address in addresses.iter().copied().chain(announced.iter().map(|route| route.next_hop)) {
        inside.insert(address, address);
    }
    Some(NatOutgoing { pods: this.pod_cidrs.iter().copied().collect(), inside })
}

/// Next hops that are nodes of the cluster although no Node says so, where not all nodes are known: what a reflector
/// tells about the cluster's networks comes from nodes, unless it comes from a BGPPeer.
fn presumed_nodes(snapshot: &Snapshot, best: &[BestRoute]) -> BTreeSet<IpAddr> {
    if snapshot.all_nodes {
        return BTreeSet::new();
    }
    let nodes: BTreeSet<IpAddr> =
        snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let others: BTreeSet<IpAddr> = snapshot.peers.values().map(|peer| peer.address).collect();
    let cluster = &snapshot.configuration.cluster_cidrs;
    let ours = |prefix: IpNetwork| cluster.is_empty() || cluster.iter().any(|outer| within(outer, &prefix));
    let by_nodes = best.iter().filter(|route| nodes.contains(&route.peer) && ours(route.prefix.into()));
    by_nodes
        .map(|route| route.next_hop)
        .filter(|next_hop| !nodes.contains(next_hop) && !others.contains(next_hop))
        .collect()
}

/// Tunnel devices, one for each family that pods have anywhere. They stand whether or not this node sends through
/// them: others may judge otherwise, and their packets must be able to arrive.
fn tunnels(snapshot: &Snapshot, this: &Node, underlays: &Underlays, problems: &mut Vec<String>) -> Tunnels {
    let mut tunnels = Tunnels::default();
    for v4 in [true, false] {
        let pods = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs).any(|cidr| cidr.is_ipv4() == v4);
        let Some(local) = this.address(v4).filter(|_| pods) else { continue };
        let Some(underlay) = underlays.get(&local) else {
            problems.push(format!(
                "address {local} of Node {} is on no interface of this machine, so there is no tunnel: see that \
                 --node names this machine and that its InternalIP is right (ip address)",
                this.name
            ));
            continue;
        };
        let mtu = underlay.saturating_sub(overhead(v4));
        match local {
            IpAddr::V4(local) => tunnels.v4 = Some(TunnelDevice { local, mtu }),
            IpAddr::V6(local) => tunnels.v6 = Some(TunnelDevice { local, mtu }),
        }
    }
    tunnels
}

struct Judge<'a> {
    this: &'a Node,
    encapsulation: Encapsulation,
    segments: &'a BTreeMap<IpAddr, Segment>,
    tunnels: Tunnels,
    owners: BTreeMap<IpAddr, &'a Node>,
    /// Next hops that are nodes we know nothing else of.
    presumed: BTreeSet<IpAddr>,
}

impl<'a> Judge<'a> {
    fn new(
        snapshot: &'a Snapshot,
        this: &'a Node,
        segments: &'a BTreeMap<IpAddr, Segment>,
        tunnels: Tunnels,
        presumed: BTreeSet<IpAddr>,
    ) -> Self {
        let owned = |node: &'a Node| node.addresses.iter().map(move |address| (*address, node));
        let owners = snapshot.nodes.values().flat_map(owned).collect();
        Self {
            this,
            encapsulation: snapshot.configuration.encapsulation,
            segments,
            tunnels,
            owners,
            presumed,
        }
    }

    fn next_hop(&self, next_hop: IpAddr) -> (SegmentVerdict, Option<Hop>) {
        let owner = self.owners.get(&next_hop).copied();
        let (verdict, reason, hop) = self.way(next_hop, owner);
        let node = owner.map(|node| node.name.clone());
        (SegmentVerdict { next_hop, node, verdict, reason }, hop)
    }

    fn way(&self, next_hop: IpAddr, owner: Option<&Node>) -> (Reachability, String, Option<Hop>) {
        let unreachable = |reason: String| (Reachability::Unreachable, reason, None);
        let segment = match self.segments.get(&next_hop) {
            None => return unreachable("the kernel has not said yet where it is".into()),
            Some(Segment::Local) => return unreachable("it is an address of this node itself".into()),
            Some(Segment::Unreachable { error }) => {
                return unreachable(format!("the kernel has no way there: {error}"));
            }
            Some(segment) => segment,
        };
        let direct = |oif, reason| (Reachability::Direct, reason, Some(Hop::Direct { via: next_hop, oif }));
        if owner.is_none() && !self.presumed.contains(&next_hop) {
            return match segment {
                Segment::Routed { gateway, oif, name, .. } => {
                    routed(*gateway, *oif, name, "no node of the cluster")
                }
                Segment::Direct { oif, name, .. } => {
                    direct(*oif, format!("on the link {name}, without a gateway"))
                }
                _ => unreachable("no way".into()),
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
            _ => unreachable("no way".into()),
        }
    }

    fn tunnel(&self, remote: IpAddr, reason: String) -> (Reachability, String, Option<Hop>) {
        let local = match remote {
            IpAddr::V4(_) => self.tunnels.v4.map(|device| IpAddr::V4(device.local)),
            IpAddr::V6(_) => self.tunnels.v6.map(|device| IpAddr::V6(device.local)),
        };
        match local {
            Some(local) => (Reachability::Tunnel, reason, Some(Hop::Tunnel { remote, local })),
            None => {
                let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
                let reason =
                    format!("needs the tunnel ({reason}), but this node has no {family} address for it");
                (Reachability::Unreachable, reason, None)
            }
        }
    }

    /// Why a route must not be installed, whatever its next hop.
    fn rejection(&self, prefix: IpNetwork, hop: &Hop) -> Option<String> {
        if let Some(own) = self.this.pod_cidrs.iter().find(|own| within(own, &prefix)) {
            return Some(format!("{prefix} lies within this node's own pod CIDR {own}"));
        }
        let host = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        if let Some(node) = self.owners.get(&prefix.network()).filter(|_| host) {
            return Some(format!(
                "{prefix} is the address of Node {}, which the underlay leads to",
                node.name
            ));
        }
        if let Some(name) = not_to_be_routed(&prefix) {
            return Some(format!("{prefix} is {name}, which is never routed between nodes"));
        }
        match *hop {
            Hop::Tunnel { remote, .. } if prefix.contains(remote) => {
                Some(format!("{prefix} holds {remote}, the far end of the tunnel it would go through"))
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
    let reason = format!("{why}; through gateway {gateway} on {name}, which has to know the way");
    (Reachability::Routed, reason, Some(Hop::Direct { via: gateway, oif }))
}

fn within(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Networks that mean the machine or the link itself, or groups (RFC 6890, RFC 4291).
fn not_to_be_routed(prefix: &IpNetwork) -> Option<&'static str> {
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
