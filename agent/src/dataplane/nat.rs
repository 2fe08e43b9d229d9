//! NAT outgoing: it masquerades packets of this node's pods to addresses that are neither in the cluster's networks nor of a
//! node. It runs after routing and after a service proxy has translated a service's address to a pod's.

use super::networks::Networks;
use super::nftables::{
    Feature, Objects, Removal, address_field, destination_of, of_family, range_of, source_of,
};
use crate::netlink::nftables::{Base, Chain, Expression, Register, Rule, Set};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

/// The name of the chain.
pub const CHAIN: &str = "nat-outgoing";

/// NAT outgoing among the features of the table.
pub const FEATURE: Feature = Feature {
    name: "NAT outgoing",
    sets: &["pods4", "pods6", "inside4", "inside6"],
    chains: &[CHAIN],
    // The networks of a node that isn't known yet are inside.
    kept_sets: &["inside4", "inside6"],
    removal: Removal::AtOnce,
};

/// The desired NAT outgoing: packets that leave the cluster get the node's address as source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatOutgoing {
    /// The pod CIDRs of this node: the sources that are translated.
    pub pods: Networks,
    /// The cluster's networks and nodes: the destinations to which nothing is translated.
    pub inside: Networks,
}

/// The desired state of the feature.
#[derive(Debug, Default)]
pub struct Nat {
    desired: Option<NatOutgoing>,
}

impl Nat {
    /// Sets NAT outgoing; `None`: off.
    pub fn set(&mut self, desired: Option<NatOutgoing>, objects: &mut Objects<'_>) {
        if self.desired.is_some() != desired.is_some() {
            for family in IpFamily::ALL {
                for name in [pods(family), inside(family)] {
                    let set = Set::of_ranges(name, address_field(family));
                    objects.set(name, desired.is_some().then_some(set));
                }
            }
            objects.chain(CHAIN, desired.is_some().then(chain));
        }
        let before = self.desired.take().unwrap_or_default();
        let none = NatOutgoing::default();
        let after = desired.as_ref().unwrap_or(&none);
        update(objects, pods, &before.pods, &after.pods);
        update(objects, inside, &before.inside, &after.inside);
        self.desired = desired;
    }
}

fn pods(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "pods4",
        IpFamily::V6 => "pods6",
    }
}

fn inside(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "inside4",
        IpFamily::V6 => "inside6",
    }
}

/// Sets the elements that differ.
fn update(
    objects: &mut Objects<'_>,
    name: fn(IpFamily) -> &'static str,
    before: &Networks,
    after: &Networks,
) {
    let mut put = |network: &IpNetwork, value| {
        objects.element(name(IpFamily::of_network(network)), range_of(network), value);
    };
    after.iter().filter(|network| !before.has(network)).for_each(|network| put(network, Some(None)));
    before.iter().filter(|network| !after.has(network)).for_each(|network| put(network, None));
}

fn chain() -> Chain {
    // The priority named `srcnat`.
    let base = Base { kind: "nat", hook: 4, priority: 100 };
    Chain { name: CHAIN.into(), base: Some(base), rules: IpFamily::ALL.map(rule).into() }
}

fn rule(family: IpFamily) -> Rule {
    let comment = match family {
        IpFamily::V4 => "leaves the cluster",
        IpFamily::V6 => "leaves the cluster over IPv6",
    };
    let steps = [
        source_of(family),
        Expression::lookup(true, Register::FIRST, pods(family)),
        destination_of(family),
        Expression::lookup(false, Register::FIRST, inside(family)),
        Expression::counter(),
        Expression::masquerade(),
    ];
    Rule::new(comment, &[&of_family(family), &steps])
}
