//! Clusters to simulate, and the routes that their speakers must learn: derived from the running nodes, not from messages.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use heliograph_bgp::report::{BestRoute, SessionState};
use heliograph_bgp::{Config, Filter, Neighbor, Network as Originated, Timers};
use heliograph_bgp::{Family, Prefix};

use crate::network::{Network, NodeId};

pub const ASN: u32 = 64512;

/// Returns the n-th node's address, which is its router id too.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(192, 0, 2, 1)) + n as u32)
}

/// Returns the n-th node's own prefix.
pub fn prefix(n: usize) -> Prefix {
    Prefix::new(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((n as u32) << 8)).into(), 24)
        .expect("24 is a length")
}

pub fn originate(prefix: Prefix) -> Originated {
    Originated::new(prefix)
}

pub fn neighbor(n: usize, asn: u32) -> Neighbor {
    Neighbor::new(address(n).into(), asn)
        .name(format!("node {n}"))
        .families([Family::Ipv4Unicast])
        .timers(Timers::default().hold(Duration::from_secs(30)).connect_retry(Duration::from_secs(3)))
        .import(Filter::All)
        .export(Filter::All)
}

/// Returns the configuration of the n-th node, without neighbors.
pub fn config(n: usize, asn: u32) -> Config {
    Config::new(asn, address(n)).networks([originate(prefix(n))])
}

/// Adds a full mesh.
pub fn mesh(network: &mut Network, count: usize) {
    for n in 0..count {
        let neighbors = (0..count).filter(|other| *other != n).map(|other| neighbor(other, ASN));
        network.add(address(n), config(n, ASN).neighbors(neighbors));
    }
}

/// Adds a cluster with reflectors: the first `reflectors` nodes, in a mesh among themselves; every other node is a client of
/// each.
pub fn reflected(network: &mut Network, count: usize, reflectors: usize) {
    for n in 0..count {
        let peers = if n < reflectors { 0..count } else { 0..reflectors };
        let client = |other: usize| n < reflectors && other >= reflectors;
        let neighbors = peers
            .filter(|other| *other != n)
            .map(|other| neighbor(other, ASN).reflector_client(client(other)));
        network.add(address(n), config(n, ASN).neighbors(neighbors));
    }
}

/// Returns the routes that `node` must have learned: each network of every other running node, with that node's address as
/// next hop.
pub fn expected(network: &Network, node: NodeId, reflectors: usize) -> Vec<BestRoute> {
    let others = (0..network.len()).filter(|other| *other != node && network.is_up(*other));
    let mut routes: Vec<_> = others
        .flat_map(|other| {
            let next_hop: IpAddr = network.address(other).into();
            // Sessions are direct, except between two clients: of two equal paths, that of the lower peer address wins.
            let direct = reflectors == 0 || node < reflectors || other < reflectors;
            let peer = if direct { next_hop } else { address(0).into() };
            let networks = &network.config(other).networks;
            networks.iter().map(move |originated| BestRoute::new(originated.prefix, next_hop, peer))
        })
        .collect();
    routes.sort();
    routes
}

/// Returns the reason why the network has not converged; `None` if it has.
pub fn unconverged(network: &Network, reflectors: usize) -> Option<String> {
    (0..network.len()).filter(|node| network.is_up(*node)).find_map(|node| {
        let speaker = network.speaker(node);
        let learned = speaker.best_routes();
        let expected = expected(network, node, reflectors);
        if learned != expected {
            let missing = expected.iter().find(|route| !learned.contains(route));
            let surplus = learned.iter().find(|route| !expected.contains(route));
            return Some(format!("node {node}: missing {missing:?}, should not have {surplus:?}"));
        }
        let sessions = speaker.sessions(network.now);
        let down = sessions.iter().find(|s| s.state != SessionState::Established || s.stale > 0);
        down.map(|s| format!("node {node}: session with {}: {:?} {:?}", s.address, s.state, s.last_error))
    })
}

/// Runs the network until it has converged. Returns how long that took.
pub fn converge(network: &mut Network, reflectors: usize, within: Duration) -> Duration {
    let start = network.now;
    while let Some(reason) = unconverged(network, reflectors) {
        assert!(network.now - start < within, "not converged after {within:?}: {reason}");
        network.run_for(Duration::from_millis(500));
    }
    network.now - start
}
