//! Long-lived graceful restart (RFC 9494): a node stays away for longer than its restart time, and its routes are the last
//! resort until it is back or the long-lived stale time is over.

use std::time::Duration;

use heliograph_bgp::Prefix;
use heliograph_bgp::report::PathReport;
use heliograph_bgp::{Config, GracefulRestart};

use crate::cluster::{address, originate, prefix, reflected};
use crate::network::{Network, NodeId, Seed};

const SECOND: Duration = Duration::from_secs(1);
/// The prefix that nodes 1 and 2 both advertise; 1 is preferred, by its lower router id.
const SHARED: usize = 50;
/// The node without support for RFC 9494.
const UNAWARE: NodeId = 4;

/// A reflector with four clients; routes are kept for 20 s and then for 300 s.
fn cluster(seed: u64) -> Network {
    let mut network = Network::new(seed);
    reflected(&mut network, 5, 1);
    for node in 0..5 {
        let mut config: Config = network.config(node).clone();
        let long_lived = (node != UNAWARE).then_some(300 * SECOND);
        let restart = GracefulRestart::default().restart_time(20 * SECOND).long_lived(long_lived);
        config.graceful_restart = Some(restart);
        if node == 1 || node == 2 {
            config.networks.push(originate(prefix(SHARED)));
        }
        network.set_config(node, config);
        network.start(node, false);
    }
    network.run_for(30 * SECOND);
    assert_eq!(next_hop(&network, 3, prefix(SHARED)), Some(1));
    network
}

/// Returns the node by which `node` reaches a prefix.
fn next_hop(network: &Network, node: NodeId, prefix: Prefix) -> Option<NodeId> {
    let route = network.speaker(node).best_routes().into_iter().find(|route| route.prefix == prefix)?;
    (0..network.len()).find(|node| route.next_hop == address(*node))
}

fn path(network: &Network, node: NodeId, prefix: Prefix) -> PathReport {
    let paths = network.speaker(node).paths().into_iter();
    paths.into_iter().find(|path| path.prefix == prefix).expect("a path")
}

/// Runs the network; no node may lose the prefixes that node 1, or nodes 1 and 2, advertise.
fn run_without_loss(network: &mut Network, time: Duration) {
    let until = network.now + time;
    while network.step(until) {
        for node in [0, 3, UNAWARE] {
            assert_eq!(next_hop(network, node, prefix(1)), Some(1), "node {node}");
            assert!(next_hop(network, node, prefix(SHARED)).is_some(), "node {node}");
        }
    }
    network.now = until;
}

#[test]
fn long_lived_stale_routes_are_the_last_resort() {
    for default in 0..20 {
        let seed = Seed::new(default);
        let mut network = cluster(seed.0);
        network.kill(1);
        run_without_loss(&mut network, 18 * SECOND);
        assert_eq!(next_hop(&network, 3, prefix(SHARED)), Some(1), "merely stale");
        run_without_loss(&mut network, 200 * SECOND);
        for node in [0, 2, 3, UNAWARE] {
            let kept = path(&network, node, prefix(1));
            assert!(kept.best);
            let aware = node != UNAWARE;
            assert!(!aware || kept.reason.to_string().contains("long-lived stale"), "{kept:?}");
            assert_eq!(kept.local_pref, if aware { 100 } else { 0 }, "RFC 9494 §4.6");
        }
        for node in [0, 3, UNAWARE] {
            assert_eq!(next_hop(&network, node, prefix(SHARED)), Some(2), "anything else is better");
        }
        network.start(1, true);
        run_without_loss(&mut network, 20 * SECOND);
        for node in [0, 3, UNAWARE] {
            assert_eq!(next_hop(&network, node, prefix(SHARED)), Some(1));
            assert!(!path(&network, node, prefix(1)).reason.to_string().contains("long-lived"));
            assert_eq!(path(&network, node, prefix(1)).local_pref, 100);
        }
        assert!(network.speaker(0).sessions(network.now).iter().all(|session| session.stale == 0));
    }
}

#[test]
fn stale_routes_are_removed_after_the_long_lived_stale_time() {
    let seed = Seed::new(30);
    let mut network = cluster(seed.0);
    network.kill(1);
    run_without_loss(&mut network, 315 * SECOND);
    network.run_for(10 * SECOND);
    for node in [0, 2, 3, UNAWARE] {
        assert_eq!(next_hop(&network, node, prefix(1)), None, "node {node}");
    }
    network.start(1, false);
    converge_on_shared(&mut network);
}

/// A node that restarts again and again before its End-of-RIB is given up in time.
#[test]
fn repeated_restarts_keep_no_route_for_ever() {
    let seed = Seed::new(31);
    let mut network = cluster(seed.0);
    // Node 1 waits for a neighbor that never connects, so it never sends its End-of-RIB.
    let mut config = network.config(1).clone();
    config.networks.clear();
    config.neighbors.push(crate::cluster::neighbor(60, crate::cluster::ASN));
    network.kill(1);
    network.set_config(1, config);
    let mut given_up = None;
    for second in 0..400 {
        match second % 20 {
            10 => network.start(1, true),
            0 if second > 0 => network.kill(1),
            _ => {}
        }
        network.run_for(SECOND);
        if next_hop(&network, 3, prefix(1)).is_none() {
            given_up.get_or_insert(second);
        }
    }
    let given_up = given_up.expect("given up");
    assert!((300..=341).contains(&given_up), "after {given_up} s");
}

fn converge_on_shared(network: &mut Network) {
    network.run_for(30 * SECOND);
    assert_eq!(next_hop(network, 3, prefix(SHARED)), Some(1));
    assert_eq!(next_hop(network, 3, prefix(1)), Some(1));
}

/// Random faults while all nodes keep routes for long: the network converges on the routes that exist.
#[test]
fn small_networks_converge_with_long_lived_restart() {
    for default in 0..100 {
        let seed = Seed::new(400 + default);
        let build = |network: &mut Network| {
            reflected(network, 6, 2);
            for node in 0..6 {
                let mut config = network.config(node).clone();
                let long_lived = Some(60 * SECOND);
                let restart = GracefulRestart::default().long_lived(long_lived);
                config.graceful_restart = Some(restart);
                network.set_config(node, config);
            }
        };
        crate::survive(seed.0, build, 2, 60 * SECOND);
    }
    let mut network = cluster(Seed::new(32).0);
    network.kill(1);
    network.run_for(60 * SECOND);
    network.start(1, true);
    converge_on_shared(&mut network);
}
