//! The tunnels of a node, their guard, and the MTU of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heliograph_cni::IpFamily;

use crate::dataplane::Tunnel;
use crate::intent::{Encapsulation, Node, Snapshot};

/// The MTU in bytes of the interface of each of this node's own addresses.
pub type Underlays = BTreeMap<IpAddr, u32>;

/// The desired tunnel devices, at most one per family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels(BTreeMap<Tunnel, TunnelEnd>);

/// This node's end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// This node's address on the underlay, the source of the outer header.
    pub local: IpAddr,
    /// The MTU of the device in bytes: the underlay's minus the outer header.
    pub mtu: u32,
}

impl Tunnels {
    /// Returns the tunnel to addresses of a family, with this node's own address.
    pub fn to(&self, family: IpFamily) -> Option<(Tunnel, IpAddr)> {
        self.0.iter().find(|(tunnel, _)| tunnel.family == family).map(|(tunnel, end)| (*tunnel, end.local))
    }

    /// Returns the MTU of a device in bytes. `None`: it is not desired.
    pub fn mtu(&self, tunnel: Tunnel) -> Option<u32> {
        self.0.get(&tunnel).map(|end| end.mtu)
    }

    /// Returns whether there is no tunnel.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the MTU of the pods' interfaces, in bytes: the underlay's, minus the outer header if a tunnel may be used.
/// `None`: no underlay is known.
pub fn pod_mtu(snapshot: &Snapshot, this: &Node, underlays: &Underlays) -> Option<u32> {
    let tunnels = snapshot.configuration.encapsulation != Encapsulation::Never;
    let families = this.pod_cidrs.iter().map(IpFamily::of_network).collect::<BTreeSet<_>>();
    let of_family = |family| {
        let underlay = *underlays.get(&this.address(family)?)?;
        Some(if tunnels { underlay.saturating_sub(Tunnel::ipip(family).overhead()) } else { underlay })
    };
    families.into_iter().filter_map(of_family).min()
}

/// Returns the tunnel devices, one for each family of pod CIDRs in the cluster. They exist even if this node sends nothing
/// through them: the verdicts of other nodes may differ, and their packets must be accepted.
pub fn tunnels(
    snapshot: &Snapshot,
    this: &Node,
    underlays: &Underlays,
    problems: &mut Vec<String>,
) -> Tunnels {
    let mut tunnels = Tunnels::default();
    if snapshot.configuration.encapsulation == Encapsulation::Never {
        return tunnels;
    }
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
        let tunnel = Tunnel::ipip(family);
        tunnels.0.insert(tunnel, TunnelEnd { local, mtu: underlay.saturating_sub(tunnel.overhead()) });
    }
    tunnels
}

/// Returns the addresses from which tunnelled packets are accepted: those of nodes, also of `inferred` ones. `None`: there
/// are no tunnels.
pub fn allowed_sources(
    snapshot: &Snapshot,
    tunnels: &Tunnels,
    inferred: impl Iterator<Item = IpAddr>,
) -> Option<BTreeSet<IpAddr>> {
    if snapshot.configuration.encapsulation == Encapsulation::Never {
        return None;
    }
    let nodes = snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let sources: BTreeSet<IpAddr> = nodes.chain(inferred).collect();
    (!tunnels.is_empty() || !sources.is_empty()).then_some(sources)
}

#[cfg(test)]
mod tests;
