//! The guard of the tunnels: it drops tunnelled packets that don't come from a node. Without it every node would be an open
//! decapsulator (CVE-2020-10136). It hooks into `input`, which the kernel runs before the tunnel gets the packet. It filters
//! only packets to this node: forwarded packets of foreign tunnels are not affected.

use super::nftables::{Feature, Objects, Removal, address_field, address_key, of_family, source_of};
use super::tunnel::Tunnel;
use crate::netlink::nftables::expression::{Compare, Meta};
use crate::netlink::nftables::{Base, Chain, Expression, Register, Rule, Set, Verdict};
use heliograph_cni::IpFamily;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The name of the chain.
pub const CHAIN: &str = "tunnels";

/// The guard among the features of the table.
pub const FEATURE: Feature = Feature {
    name: "the guard of the tunnels",
    sets: &["nodes4", "nodes6"],
    chains: &[CHAIN],
    // A node that isn't known yet may exist.
    kept_sets: &["nodes4", "nodes6"],
    removal: Removal::AfterTunnels,
};

/// Returns the name of the set of nodes of a family.
fn set_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "nodes4",
        IpFamily::V6 => "nodes6",
    }
}

/// The desired guard.
#[derive(Debug, Default)]
pub struct Guard {
    sources: Option<BTreeSet<IpAddr>>,
}

impl Guard {
    /// Sets the only addresses from which tunnelled packets are accepted; `None`: no guard.
    pub fn set(&mut self, sources: Option<BTreeSet<IpAddr>>, objects: &mut Objects<'_>) {
        let none = BTreeSet::new();
        let (before, after) = (self.sources.as_ref().unwrap_or(&none), sources.as_ref().unwrap_or(&none));
        if self.sources.is_some() != sources.is_some() {
            for family in IpFamily::ALL {
                let set = Set::of(set_name(family), address_field(family));
                objects.set(set_name(family), sources.is_some().then_some(set));
            }
            objects.chain(CHAIN, sources.is_some().then(chain));
        }
        for address in after.difference(before) {
            objects.element(set_name(IpFamily::of(*address)), address_key(*address), Some(None));
        }
        for address in before.difference(after) {
            objects.element(set_name(IpFamily::of(*address)), address_key(*address), None);
        }
        self.sources = sources;
    }
}

fn chain() -> Chain {
    // The priority named `raw`: before connection tracking, so that dropped packets leave no state.
    let base = Base { kind: "filter", hook: 1, priority: -300 };
    Chain { name: CHAIN.into(), base: Some(base), rules: rules() }
}

fn rules() -> Vec<Rule> {
    let not_of = |protocol: &u8| {
        [
            Expression::meta(Meta::Protocol, Register::FIRST),
            Expression::compare(Register::FIRST, Compare::NotEqual, &[*protocol]),
        ]
    };
    let not_tunnelled =
        |family| -> Vec<Expression> { Tunnel::ipip(family).protocols().iter().flat_map(not_of).collect() };
    let from_node = |family| [source_of(family), Expression::lookup(true, Register::FIRST, set_name(family))];
    let accept = [Expression::verdict(Verdict::Accept)];
    let counted = |verdict| [Expression::counter(), Expression::verdict(verdict)];
    let [v4, v6] = IpFamily::ALL.map(of_family);
    vec![
        Rule::new("not tunnelled", &[&v4, &not_tunnelled(IpFamily::V4), &accept]),
        Rule::new("not tunnelled over IPv6", &[&v6, &not_tunnelled(IpFamily::V6), &accept]),
        Rule::new("tunnelled by a node", &[&v4, &from_node(IpFamily::V4), &counted(Verdict::Accept)]),
        Rule::new(
            "tunnelled by a node over IPv6",
            &[&v6, &from_node(IpFamily::V6), &counted(Verdict::Accept)],
        ),
        Rule::new("tunnelled by a stranger", &[&counted(Verdict::Drop)]),
    ]
}
