//! Graceful restart (RFC 4724): a speaker is killed and comes back, and no node loses a route.

use std::time::Duration;

use heliograph_bgp::GracefulRestart;
use heliograph_bgp::report::BestRoute;
use heliograph_bgp::speaker::Event;

use crate::cluster::{address, converge, expected, mesh, originate, prefix, reflected};
use crate::network::{Network, NodeId, Seed};

const SECOND: Duration = Duration::from_secs(1);

fn running(seed: u64, count: usize) -> Network {
    let mut network = Network::new(seed);
    mesh(&mut network, count);
    for node in 0..count {
        network.start(node, false);
    }
    converge(&mut network, 0, 60 * SECOND);
    network
}

fn has(network: &Network, node: NodeId, of: NodeId) -> bool {
    let wanted = BestRoute::new(prefix(of), address(of).into(), address(of).into());
    network.speaker(node).best_routes().contains(&wanted)
}

/// Runs the network; no node may lose the routes of node 0 at any moment.
fn run_without_loss(network: &mut Network, time: Duration) {
    let until = network.now + time;
    while network.step(until) {
        for node in 1..network.len() {
            assert!(
                has(network, node, 0),
                "node {node} lost the route {:?} before the end",
                until - network.now
            );
        }
    }
    network.now = until;
}

fn stale(network: &Network, node: NodeId) -> usize {
    let sessions = network.speaker(node).sessions(network.now);
    sessions.iter().find(|s| s.address == address(0)).expect("node 0 is a neighbor").stale
}

#[test]
fn a_killed_speaker_comes_back_and_no_route_is_lost() {
    for default in 0..200 {
        let seed = Seed::new(default);
        let mut network = running(seed.0, 5);
        network.kill(0);
        // Often back just when its neighbors try to connect themselves.
        let away = Duration::from_millis(network.rng.u64(700..1_100));
        run_without_loss(&mut network, away);
        network.start(0, true);
        assert!(!network.speaker(0).synced());
        run_without_loss(&mut network, 20 * SECOND);
        assert!(network.speaker(0).synced());
        assert!((1..5).all(|node| stale(&network, node) == 0), "our End-of-RIB was sent");
        converge(&mut network, 0, SECOND);
    }
}

#[test]
fn many_may_restart_at_once() {
    for default in 0..50 {
        let seed = Seed::new(default);
        let mut network = running(seed.0, 5);
        for node in 0..5 {
            network.kill(node);
        }
        network.run_for(SECOND);
        for node in 0..5 {
            network.start(node, true);
        }
        converge(&mut network, 0, 20 * SECOND);
        assert!((0..5).all(|node| network.speaker(node).synced()), "none waits for the others for ever");
    }
}

/// Both reflectors fail at once. When they are back, neither may send End-of-RIB before it has received all routes, or
/// clients would remove the routes that they kept.
#[test]
fn restarting_reflectors_lose_no_route_of_their_clients() {
    for default in 0..20 {
        let seed = Seed::new(default);
        let mut network = Network::new(seed.0);
        reflected(&mut network, 10, 2);
        (0..10).for_each(|node| network.start(node, false));
        converge(&mut network, 2, 60 * SECOND);
        let prefixes =
            |routes: Vec<BestRoute>| routes.into_iter().map(|route| (route.prefix, route.next_hop));
        let all: Vec<Vec<_>> = (0..10).map(|node| prefixes(expected(&network, node, 2)).collect()).collect();
        network.kill(0);
        network.kill(1);
        network.run_for(2 * SECOND);
        network.start(0, true);
        network.start(1, true);
        let until = network.now + 30 * SECOND;
        while network.step(until) {
            for (client, all) in all.iter().enumerate().skip(2) {
                let learned: Vec<_> = prefixes(network.speaker(client).best_routes()).collect();
                let lost = all.iter().find(|(prefix, _)| !learned.iter().any(|(p, _)| p == prefix));
                // The reflectors originate networks of their own, which may be lost and advertised again.
                assert!(lost.is_none(), "client {client} lost {lost:?}");
            }
        }
        converge(&mut network, 2, 20 * SECOND);
    }
}

/// Routes that are not advertised again are removed at End-of-RIB, and not before.
#[test]
fn routes_not_advertised_again_are_removed_at_end_of_rib() {
    let seed = Seed::new(3);
    let mut network = running(seed.0, 4);
    network.kill(0);
    network.run_for(SECOND);
    let networks = vec![originate(prefix(77))];
    network.set_config(0, network.config(0).clone().networks(networks));
    network.start(0, true);
    network.run_for(10 * SECOND);
    assert!((1..4).all(|node| !has(&network, node, 0)));
    converge(&mut network, 0, SECOND);
}

/// A peer of the restarted speaker never connects, so the speaker defers its own End-of-RIB for the longest time.
#[test]
fn without_end_of_rib_stale_routes_are_kept_for_a_limited_time() {
    let seed = Seed::new(4);
    let mut network = running(seed.0, 4);
    let restart = Some(GracefulRestart::default().selection_deferral(30 * SECOND));
    let config = network
        .config(0)
        .clone()
        .networks([])
        .neighbors(
            (1..4)
                .map(|n| crate::cluster::neighbor(n, crate::cluster::ASN))
                .chain([crate::cluster::neighbor(50, crate::cluster::ASN)]),
        )
        .graceful_restart(restart);
    network.kill(0);
    network.set_config(0, config);
    network.start(0, true);
    run_without_loss(&mut network, 25 * SECOND);
    assert_eq!(stale(&network, 1), 1);
    assert!(!network.speaker(0).synced());
    network.run_for(6 * SECOND);
    assert!(network.speaker(0).synced(), "the selection deferral has run out");
    assert!((1..4).all(|node| !has(&network, node, 0)));
}

#[test]
fn the_routes_of_an_absent_node_are_removed_after_its_restart_time() {
    let seed = Seed::new(5);
    let mut network = running(seed.0, 4);
    network.kill(0);
    run_without_loss(&mut network, 115 * SECOND);
    network.run_for(10 * SECOND);
    assert!((1..4).all(|node| !has(&network, node, 0)));
}

/// A node that rebooted clears the F bit: routes that it does not advertise are removed at once.
#[test]
fn a_rebooted_node_does_not_keep_its_routes() {
    let seed = Seed::new(6);
    let mut network = running(seed.0, 4);
    network.kill(0);
    network.run_for(SECOND);
    network.start(0, false);
    let mut seen_down = false;
    let until = network.now + 20 * SECOND;
    while network.step(until) {
        seen_down |= !has(&network, 1, 0);
    }
    assert!(seen_down);
    converge(&mut network, 0, 20 * SECOND);
}

#[test]
fn the_routes_of_an_isolated_node_are_removed_after_the_hold_time() {
    let seed = Seed::new(7);
    let mut network = running(seed.0, 4);
    network.events(1);
    for other in 1..4 {
        network.cut(0, other, true);
    }
    network.run_for(19 * SECOND); // 30 s of hold time, less the time since the last KEEPALIVE
    assert!((1..4).all(|node| has(&network, node, 0)));
    network.run_for(12 * SECOND);
    assert!((1..4).all(|node| !has(&network, node, 0)));
    let events = network.events(1);
    let down = events.iter().find_map(|event| match event {
        Event::SessionDown { address: a, reason, .. } if *a == address(0) => Some(reason),
        _ => None,
    });
    assert!(down.is_some_and(|reason| reason.to_string().contains("hold timer expired")), "{events:?}");
    for other in 1..4 {
        network.cut(0, other, false);
    }
    converge(&mut network, 0, 30 * SECOND);
}
