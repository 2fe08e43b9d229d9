//! Clusters to simulate, and what their speakers must come to know: worked out from who is there, not from messages.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use heliograph_bgp::report::{BestRoute, SessionState};
use heliograph_bgp::wire::{Family, Prefix};
use heliograph_bgp::{Config, Filter, Neighbor, Network as Originated, Timers};

use crate::network::{Network, NodeId};

pub const ASN: u32 = 64512;

/// The n-th node's address, which is its router id too.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(192, 0, 2, 1)) + n as u32)
}

/// The n-th node's own prefix.
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

/// The n-th node without neighbours.
pub fn config(n: usize, asn: u32) -> Config {
    Config::new(asn, address(n)).networks([originate(prefix(n))])
}

/// Everyone with everyone.
pub fn mesh(network: &mut Network, count: usize) {
    for n in 0..count {
        let neighbors = (0..count).filter(|other| *other != n).map(|other| neighbor(other, ASN));
        network.add(address(n), config(n, ASN).neighbors(neighbors));
    }
}

/// The first `reflectors` nodes are reflectors, in a mesh among themselves; everyone else is the client of each.
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

/// What `node` must have learned: of every running other node each network, with that node's own address as next hop.
pub fn expected(network: &Network, node: NodeId, reflectors: usize) -> Vec<BestRoute> {
    let others = (0..network.len()).filter(|other| *other != node && network.is_up(*other));
    let mut routes: Vec<_> = others
        .flat_map(|other| {
            let next_hop: IpAddr = network.address(other).into();
            // Sessions are direct, but between two clients, where of two equal paths that of the lower peer address wins.
            let direct = reflectors == 0 || node < reflectors || other < reflectors;
            let peer = if direct { next_hop } else { address(0).into() };
            let networks = &network.config(other).networks;
            networks.iter().map(move |originated| BestRoute::new(originated.prefix, next_hop, peer))
        })
        .collect();
    routes.sort();
    routes
}

/// Why the network has not converged; `None` where it has.
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

/// Lets time pass until the network has converged; gives how long it took.
pub fn converge(network: &mut Network, reflectors: usize, within: Duration) -> Duration {
    let start = network.now;
    while let Some(reason) = unconverged(network, reflectors) {
        assert!(network.now - start < within, "not converged after {within:?}: {reason}");
        network.run_for(Duration::from_millis(500));
    }
    network.now - start
}
