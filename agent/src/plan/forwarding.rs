//! The desired state of a node's kernel: the best routes, joined with the segment of each next hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::report::BestRoute;
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

use crate::intent::{Encapsulation, Node, Snapshot};
use crate::kernel::desired::{
    Desired, Hop, IP6TNL_OVERHEAD, IPIP_OVERHEAD, NatOutgoing, Route, Segment, TunnelDevice, Tunnels,
};
use crate::kernel::ranges::Ranges;
use crate::names::named;

/// The MTU in bytes of the interface of each of this node's own addresses.
pub type Underlays = BTreeMap<IpAddr, u32>;

/// The way in which packets reach a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The desired state of the kernel, with reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardingPlan {
    /// The desired state.
    pub desired: Desired,
    /// The segment verdict on each next hop of a best route.
    pub verdicts: BTreeMap<IpAddr, SegmentVerdict>,
    /// The routes that are not installed although their next hop is reachable, with the reason.
    pub rejected: BTreeMap<IpNetwork, String>,
    /// The problems, each with a remedy.
    pub problems: Vec<String>,
}

/// Returns the next hops whose segments are needed.
pub fn next_hops(best: &[BestRoute]) -> BTreeSet<IpAddr> {
    best.iter().map(|route| route.next_hop).collect()
}

/// Returns the MTU of the pods' interfaces, in bytes: the underlay's, minus the outer header if a tunnel may be used.
/// `None`: no underlay is known.
pub fn pod_mtu(snapshot: &Snapshot, this: &Node, underlays: &Underlays) -> Option<u32> {
    let tunnels = snapshot.configuration.encapsulation != Encapsulation::Never;
    let families = this.pod_cidrs.iter().map(IpFamily::of_network).collect::<BTreeSet<_>>();
    let of_family = |family| {
        let underlay = *underlays.get(&this.address(family)?)?;
        Some(if tunnels { underlay.saturating_sub(overhead(family)) } else { underlay })
    };
    families.into_iter().filter_map(of_family).min()
}

/// Returns the length of the outer header of a family in bytes.
fn overhead(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => IPIP_OVERHEAD,
        IpFamily::V6 => IP6TNL_OVERHEAD,
    }
}

/// Returns the desired state of the kernel of `node`. `segments` contains the segment of each of [`next_hops`].
///
/// For a node that isn't in the snapshot it is empty.
pub fn desired(
    snapshot: &Snapshot,
    node: &str,
    best: &[BestRoute],
    segments: &BTreeMap<IpAddr, Segment>,
    underlays: &Underlays,
) -> ForwardingPlan {
    let Some(this) = snapshot.nodes.get(node) else { return ForwardingPlan::default() };
    let mut plan = ForwardingPlan::default();
    plan.desired.forwarding = true;
    for cidr in &this.pod_cidrs {
        // Host routes to the pods are more specific; packets to other addresses must not follow the default route.
        plan.desired.routes.insert(*cidr, Route::Blackhole);
    }
    if snapshot.configuration.encapsulation != Encapsulation::Never {
        plan.desired.tunnels = tunnels(snapshot, this, underlays, &mut plan.problems);
        plan.desired.allowed_tunnel_sources =
            snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    }
    plan.desired.nat_outgoing = nat_outgoing(snapshot, this, best);
    let inferred = inferred_nodes(snapshot, best);
    if snapshot.configuration.encapsulation != Encapsulation::Never {
        plan.desired.allowed_tunnel_sources.extend(&inferred);
    }
    let resolver = Resolver::new(snapshot, this, segments, plan.desired.tunnels, inferred);
    let mut hops = BTreeMap::new();
    for next_hop in next_hops(best) {
        let (verdict, hop) = resolver.next_hop(next_hop);
        plan.verdicts.insert(next_hop, verdict);
        hops.extend(hop.map(|hop| (next_hop, hop)));
    }
    for route in best {
        let prefix = IpNetwork::from(route.prefix);
        let Some(hop) = hops.get(&route.next_hop) else { continue };
        match resolver.rejection(prefix, hop) {
            Some(reason) => {
                plan.rejected.insert(prefix, reason);
            }
            None => {
                plan.desired.routes.insert(prefix, Route::unicast([*hop]));
            }
        }
    }
    plan
}

/// Returns NAT outgoing. Inside are the cluster's networks and its nodes, also those that are only learned by BGP: with
/// reflectors an agent doesn't get all Nodes from the store.
fn nat_outgoing(snapshot: &Snapshot, this: &Node, best: &[BestRoute]) -> Option<NatOutgoing> {
    if !snapshot.configuration.nat_outgoing || this.pod_cidrs.is_empty() {
        return None;
    }
    let addresses: BTreeSet<IpAddr> =
        snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let outside: BTreeSet<IpAddr> = snapshot.peers.values().map(|peer| peer.neighbor.address).collect();
    let from_node =
        |route: &&BestRoute| addresses.contains(&route.peer) && !outside.contains(&route.next_hop);
    let learned_from_nodes: Vec<&BestRoute> = best.iter().filter(from_node).collect();
    let mut inside: Ranges = match &snapshot.configuration.cluster_cidrs {
        none if none.is_empty() => {
            let known = snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied());
            let learned = learned_from_nodes.iter().map(|route| IpNetwork::from(route.prefix));
            // A default route that a node advertises leads outside the cluster.
            known.chain(learned.filter(|prefix| prefix.prefix() > 0)).collect()
        }
        given => given.iter().copied().collect(),
    };
    for address in addresses.iter().copied().chain(learned_from_nodes.iter().map(|route| route.next_hop)) {
        inside.insert(address, address);
    }
    Some(NatOutgoing { pods: this.pod_cidrs.iter().copied().collect(), inside })
}

/// Returns the next hops that are inferred to be nodes of the cluster, if the snapshot doesn't contain all nodes: a route
/// to the cluster's networks from a node or reflector comes from a node, unless its next hop is a BGPPeer.
fn inferred_nodes(snapshot: &Snapshot, best: &[BestRoute]) -> BTreeSet<IpAddr> {
    if snapshot.all_nodes {
        return BTreeSet::new();
    }
    let nodes: BTreeSet<IpAddr> =
        snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let others: BTreeSet<IpAddr> = snapshot.peers.values().map(|peer| peer.neighbor.address).collect();
    let cluster = &snapshot.configuration.cluster_cidrs;
    let in_cluster =
        |prefix: IpNetwork| cluster.is_empty() || cluster.iter().any(|outer| within(outer, &prefix));
    let by_nodes = best.iter().filter(|route| nodes.contains(&route.peer) && in_cluster(route.prefix.into()));
    by_nodes
        .map(|route| route.next_hop)
        .filter(|next_hop| !nodes.contains(next_hop) && !others.contains(next_hop))
        .collect()
}

/// Returns the tunnel devices, one for each family of pod CIDRs in the cluster. They exist even if this node sends nothing
/// through them: the verdicts of other nodes may differ, and their packets must be accepted.
fn tunnels(snapshot: &Snapshot, this: &Node, underlays: &Underlays, problems: &mut Vec<String>) -> Tunnels {
    let mut tunnels = Tunnels::default();
    for family in IpFamily::ALL {
        let mut pod_cidrs = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs);
        let pods = pod_cidrs.any(|cidr| IpFamily::of_network(cidr) == family);
        let Some(local) = this.address(family).filter(|_| pods) else { continue };
        let Some(underlay) = underlays.get(&local) else {
            problems.push(format!(
                "address {local} of Node {} is on no interface of this machine, so there is no tunnel: check that \
                 --node names this machine and that its InternalIP is right (ip address)",
                this.name
            ));
            continue;
        };
        let mtu = underlay.saturating_sub(overhead(family));
        match local {
            IpAddr::V4(local) => tunnels.v4 = Some(TunnelDevice { local, mtu }),
            IpAddr::V6(local) => tunnels.v6 = Some(TunnelDevice { local, mtu }),
        }
    }
    tunnels
}

/// The resolution of next hops.
struct Resolver<'a> {
    this: &'a Node,
    encapsulation: Encapsulation,
    segments: &'a BTreeMap<IpAddr, Segment>,
    tunnels: Tunnels,
    /// The nodes by address.
    owners: BTreeMap<IpAddr, &'a Node>,
    /// The next hops that are nodes without a Node in the snapshot.
    inferred: BTreeSet<IpAddr>,
}

impl<'a> Resolver<'a> {
    fn new(
        snapshot: &'a Snapshot,
        this: &'a Node,
        segments: &'a BTreeMap<IpAddr, Segment>,
        tunnels: Tunnels,
        inferred: BTreeSet<IpAddr>,
    ) -> Self {
        let owned = |node: &'a Arc<Node>| node.addresses.iter().map(move |address| (*address, &**node));
        let owners = snapshot.nodes.values().flat_map(owned).collect();
        Self {
            this,
            encapsulation: snapshot.configuration.encapsulation,
            segments,
            tunnels,
            owners,
            inferred,
        }
    }

    /// Returns the verdict on a next hop, and the hop to install.
    fn next_hop(&self, next_hop: IpAddr) -> (SegmentVerdict, Option<Hop>) {
        let owner = self.owners.get(&next_hop).copied();
        let (reachability, reason, hop) = self.resolve(next_hop, owner);
        let node = owner.map(|node| node.name.to_string());
        (SegmentVerdict { next_hop, node, reachability, reason }, hop)
    }

    fn resolve(&self, next_hop: IpAddr, owner: Option<&Node>) -> (Reachability, String, Option<Hop>) {
        let unreachable = |reason: String| (Reachability::Unreachable, reason, None);
        let segment = match self.segments.get(&next_hop) {
            None => return unreachable("its segment has not been looked up yet".into()),
            Some(Segment::Local) => return unreachable("it is an address of this node itself".into()),
            Some(Segment::Unreachable { error }) => {
                return unreachable(format!("the kernel has no route to it: {error}"));
            }
            Some(segment) => segment,
        };
        let direct = |oif, reason| (Reachability::Direct, reason, Some(Hop::Direct { via: next_hop, oif }));
        if owner.is_none() && !self.inferred.contains(&next_hop) {
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
        let local = match remote {
            IpAddr::V4(_) => self.tunnels.v4.map(|device| IpAddr::V4(device.local)),
            IpAddr::V6(_) => self.tunnels.v6.map(|device| IpAddr::V6(device.local)),
        };
        match local {
            Some(local) => (Reachability::Tunnel, reason, Some(Hop::Tunnel { remote, local })),
            None => {
                let family = IpFamily::of(remote);
                let reason =
                    format!("needs the tunnel ({reason}), but this node has no {family} address for it");
                (Reachability::Unreachable, reason, None)
            }
        }
    }

    /// Returns the reason for which a route must not be installed, if there is one.
    fn rejection(&self, prefix: IpNetwork, hop: &Hop) -> Option<String> {
        if let Some(own) = self.this.pod_cidrs.iter().find(|own| within(own, &prefix)) {
            return Some(format!("{prefix} is in this node's own pod CIDR {own}"));
        }
        let host = prefix.prefix() == IpFamily::of_network(&prefix).bits();
        if let Some(node) = self.owners.get(&prefix.network()).filter(|_| host) {
            return Some(format!(
                "{prefix} is the address of Node {}, which is reached by the underlay",
                node.name
            ));
        }
        if let Some(name) = special_network(&prefix) {
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

/// Returns whether a network contains another.
fn within(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    IpFamily::of_network(outer) == IpFamily::of_network(inner)
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
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
