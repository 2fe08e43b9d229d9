//! The difference between two configurations. It is determined where it costs nothing, and applied in small steps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Config, Neighbor, Network};
use crate::wire::Prefix;

/// The difference by which one configuration becomes another.
#[derive(Debug, Default)]
pub(crate) struct ConfigChange {
    /// The new configuration without its networks and neighbors, if it differs in the rest.
    pub rest: Option<Box<Config>>,
    /// Sessions with all neighbors start anew.
    pub new_identity: bool,
    pub removed_networks: Vec<Prefix>,
    /// The networks that are new or differ.
    pub networks: Vec<Network>,
    pub removed_neighbors: Vec<IpAddr>,
    /// The neighbors that are new or differ, or are affected by the rest.
    pub neighbors: Vec<Neighbor>,
}

/// A configuration as it is in force: in whatever form its parts are stored.
pub(crate) struct InForce<'a> {
    /// The configuration, whose networks and neighbors are ignored.
    pub rest: &'a Config,
    pub networks: BTreeMap<Prefix, &'a Network>,
    pub neighbors: BTreeMap<IpAddr, &'a Neighbor>,
}

impl<'a> From<&'a Config> for InForce<'a> {
    fn from(config: &'a Config) -> Self {
        // Of two networks with the same prefix the last one counts.
        let networks = config.networks.iter().map(|network| (network.prefix, network)).collect();
        let neighbors = config.neighbors.iter().map(|neighbor| (neighbor.address, neighbor)).collect();
        Self { rest: config, networks, neighbors }
    }
}

impl ConfigChange {
    /// Returns the change from the configuration in force to a valid one.
    pub(crate) fn between(before: &InForce<'_>, after: &Config) -> Self {
        let rest = after.without_lists();
        let new_identity = identity(before.rest) != identity(after);
        let affects_all = new_identity || before.rest.graceful_restart != after.graceful_restart;
        let InForce { networks, neighbors, .. } = InForce::from(after);
        let gone = before.networks.keys().filter(|prefix| !networks.contains_key(prefix));
        let removed_networks = gone.copied().collect();
        let gone = before.neighbors.keys().filter(|address| !neighbors.contains_key(address));
        let removed_neighbors = gone.copied().collect();
        let networks = networks
            .into_iter()
            .filter(|(prefix, network)| before.networks.get(prefix) != Some(network))
            .map(|(_, network)| network.clone())
            .collect();
        let differs =
            |neighbor: &&Neighbor| affects_all || before.neighbors.get(&neighbor.address) != Some(neighbor);
        Self {
            rest: (rest != before.rest.without_lists()).then(|| Box::new(rest)),
            new_identity,
            removed_networks,
            networks,
            removed_neighbors,
            neighbors: after.neighbors.iter().filter(differs).cloned().collect(),
        }
    }
}

impl Config {
    /// Returns the configuration without networks and neighbors, of which there may be thousands.
    pub(crate) fn without_lists(&self) -> Self {
        let Self { asn, router_id, cluster_id, graceful_restart, graceful_shutdown, ref ranges, .. } = *self;
        let (networks, neighbors, ranges) = (Vec::new(), Vec::new(), ranges.clone());
        Self { asn, router_id, cluster_id, graceful_restart, graceful_shutdown, networks, neighbors, ranges }
    }
}

/// Returns what all sessions depend on.
fn identity(config: &Config) -> (u32, Ipv4Addr, Ipv4Addr) {
    (config.asn, config.router_id, config.cluster_id.unwrap_or(config.router_id))
}
