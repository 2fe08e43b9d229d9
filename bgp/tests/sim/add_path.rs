//! Several paths to a prefix through a reflector (RFC 7911).

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use heliograph_bgp::{AddPath, Network as Originated};

use crate::cluster::{address, prefix, reflected};
use crate::network::{Network, NodeId, Seed};

const SECOND: Duration = Duration::from_secs(1);
/// The prefix that clients 1, 2 and 3 all advertise, each with its own next hop.
const SHARED: usize = 900;

/// A reflector and `count - 1` clients, with up to three paths per prefix; clients from 4 on only receive.
fn cluster(network: &mut Network, count: usize) {
    let mut plain = Network::new(0);
    reflected(&mut plain, count, 1);
    for node in 0..count {
        let mut config = plain.config(node).clone();
        let add_path = AddPath::default().receive(true).send(NonZeroU8::new(3).filter(|_| node == 0));
        config.neighbors.iter_mut().for_each(|neighbor| neighbor.add_path = add_path);
        network.add(address(node), config);
        if (1..=3).contains(&node) {
            share(network, node, true);
        }
    }
}

/// Lets a client advertise or withdraw the shared prefix.
fn share(network: &mut Network, node: NodeId, announced: bool) {
    let mut networks = vec![Originated::new(prefix(node))];
    if announced {
        networks.push(Originated::new(prefix(SHARED)));
    }
    network.set_config(node, network.config(node).clone().networks(networks));
}

/// Returns the next hops of a node's paths to the shared prefix, without its own, each once.
fn hops(network: &Network, node: NodeId) -> Vec<IpAddr> {
    let paths = network.speaker(node).paths().into_iter();
    let learned = paths.filter(|path| path.prefix == prefix(SHARED) && path.peer.is_some());
    let mut hops: Vec<IpAddr> = learned.filter_map(|path| path.next_hop).collect();
    hops.sort();
    let mut once = hops.clone();
    once.dedup();
    assert_eq!(once, hops, "node {node} has a path twice");
    hops
}

fn of(nodes: &[NodeId], but: NodeId) -> Vec<IpAddr> {
    nodes.iter().filter(|node| **node != but).map(|node| address(*node).into()).collect()
}

/// Runs the network until all nodes have exactly the paths of `sharing`, without their own.
fn settle(network: &mut Network, sharing: &[NodeId], within: Duration) {
    let until = network.now + within;
    let settled = |network: &Network| {
        (0..network.len())
            .filter(|node| network.is_up(*node))
            .all(|node| hops(network, node) == of(sharing, node))
    };
    while !settled(network) {
        let learned: Vec<_> = (0..network.len()).map(|node| hops(network, node)).collect();
        assert!(network.now < until, "not all have {sharing:?}: {learned:?}");
        network.run_for(SECOND / 10);
    }
}

#[test]
fn clients_learn_all_paths_and_lose_just_those_withdrawn() {
    for default in 0..30 {
        let seed = Seed::new(default);
        let mut network = Network::new(seed.0);
        cluster(&mut network, 6);
        (0..6).for_each(|node| network.start(node, false));
        settle(&mut network, &[1, 2, 3], 60 * SECOND);
        // First the best path, then another one.
        share(&mut network, 1, false);
        settle(&mut network, &[2, 3], SECOND);
        share(&mut network, 1, true);
        share(&mut network, 3, false);
        settle(&mut network, &[1, 2], SECOND);
        share(&mut network, 3, true);
        settle(&mut network, &[1, 2, 3], SECOND);
        // A connection is lost (RFC 4724): the paths are kept, and are the same in the end.
        network.reset_random();
        settle(&mut network, &[1, 2, 3], 20 * SECOND);
        let stale = |network: &Network| {
            let speakers = (0..6).map(|node| network.speaker(node));
            speakers.flat_map(|speaker| speaker.sessions(network.now)).any(|session| session.stale > 0)
        };
        network.run_for(20 * SECOND);
        assert!(!stale(&network));
        settle(&mut network, &[1, 2, 3], SECOND);
    }
}

/// The reflector restarts: clients keep all paths until it has sent them again. A path that is no longer advertised is
/// removed by its identifier, and no other path with it.
#[test]
fn a_restarting_reflector_loses_no_path() {
    for default in 0..30 {
        let seed = Seed::new(default);
        let mut network = Network::new(seed.0);
        cluster(&mut network, 6);
        (0..6).for_each(|node| network.start(node, false));
        settle(&mut network, &[1, 2, 3], 60 * SECOND);
        network.kill(0);
        network.run_for(SECOND);
        share(&mut network, 2, false);
        network.start(0, true);
        let until = network.now + 20 * SECOND;
        while network.step(until) {
            for node in [4, 5] {
                let learned = hops_with_stale(&network, node);
                let kept = of(&[1, 3], 0).iter().all(|hop| learned.contains(hop));
                assert!(kept, "node {node} has {learned:?} alone");
            }
        }
        network.now = until;
        settle(&mut network, &[1, 3], SECOND);
    }
}

/// Returns the same as [`hops`], but with duplicates: a path may be there as it was kept, and as it was sent again.
fn hops_with_stale(network: &Network, node: NodeId) -> Vec<IpAddr> {
    let paths = network.speaker(node).paths().into_iter();
    paths.filter(|path| path.prefix == prefix(SHARED)).filter_map(|path| path.next_hop).collect()
}

/// Path Identifiers are negotiated: a change needs a new session (RFC 7911 §4).
#[test]
fn add_path_changes_with_a_new_session() {
    let seed = Seed::new(1);
    let mut network = Network::new(seed.0);
    reflected(&mut network, 6, 1);
    (1..=3).for_each(|node| share(&mut network, node, true));
    (0..6).for_each(|node| network.start(node, false));
    converge_shared(&mut network, 1);
    let mut config = network.config(0).clone();
    for neighbor in &mut config.neighbors {
        neighbor.add_path.send = NonZeroU8::new(2);
    }
    network.set_config(0, config);
    converge_shared(&mut network, 1);
    for node in 1..6 {
        let mut config = network.config(node).clone();
        config.neighbors[0].add_path.receive = true;
        network.set_config(node, config);
    }
    converge_shared(&mut network, 2);
    let session = network.speaker(5).sessions(network.now).remove(0);
    assert!(session.path_ids.receive.contains(heliograph_bgp::Family::Ipv4Unicast));
}

/// Runs the network until nodes 4 and 5 have that many paths.
fn converge_shared(network: &mut Network, count: usize) {
    let until = network.now + 60 * SECOND;
    // Messages in flight arrive first.
    network.run_for(10 * SECOND);
    while [4, 5].iter().any(|node| hops(network, *node).len() != count) {
        assert!(network.now < until, "not {count}: {:?}", hops(network, 4));
        network.run_for(SECOND);
    }
}
