//! Changes of the configuration while the network runs: only what differs is affected.

use heliograph_bgp::Prefix;
use heliograph_bgp::report::SessionState;
use heliograph_bgp::speaker::Event;
use heliograph_bgp::{Filter, Neighbor, PrefixRange};
use std::time::Duration;

use crate::cluster::{address, converge, mesh, originate, prefix};
use crate::network::{Network, Seed};

const SECOND: Duration = Duration::from_secs(1);

/// A converged mesh of three nodes, without recorded events.
fn running() -> (Seed, Network) {
    let seed = Seed::new(11);
    let mut network = Network::new(seed.0);
    mesh(&mut network, 3);
    (0..3).for_each(|node| network.start(node, false));
    converge(&mut network, 0, 60 * SECOND);
    (0..3).for_each(|node| drop(network.events(node)));
    (seed, network)
}

/// The sessions that changed their state, by the neighbor's number.
fn touched(network: &mut Network, node: usize) -> Vec<usize> {
    let events = network.events(node);
    let mut touched: Vec<_> = (0..network.len())
        .filter(|n| {
            events.iter().any(|event| matches!(event, Event::SessionUp { address: a, .. } | Event::SessionDown { address: a, .. } if *a == address(*n)))
        })
        .collect();
    touched.sort_unstable();
    touched
}

fn change_neighbor(network: &mut Network, change: impl Fn(&mut Neighbor)) {
    let mut config = network.config(0).clone();
    change(config.neighbors.iter_mut().find(|n| n.address == address(1)).expect("node 1 is a neighbor"));
    network.set_config(0, config);
    network.run_for(SECOND);
}

#[test]
fn the_same_configuration_changes_nothing() {
    let (_seed, mut network) = running();
    let config = network.config(0).clone();
    network.set_config(0, config);
    network.run_for(SECOND);
    assert_eq!(touched(&mut network, 0), [0usize; 0]);
}

#[test]
fn networks_change_without_a_reset() {
    let (_seed, mut network) = running();
    let networks = vec![originate(prefix(500)), originate(prefix(501))];
    network.set_config(0, network.config(0).clone().networks(networks));
    network.run_for(SECOND);
    converge(&mut network, 0, SECOND);
    assert_eq!(touched(&mut network, 1), [0usize; 0]);
}

#[test]
fn filters_change_without_a_reset() {
    let (_seed, mut network) = running();
    change_neighbor(&mut network, |neighbor| {
        neighbor.import = Filter::nothing();
        neighbor.export = Filter::nothing();
        neighbor.name = "renamed".into();
        neighbor.passive = true;
    });
    let routes = |network: &Network, node| -> Vec<Prefix> {
        network.speaker(node).best_routes().iter().map(|route| route.prefix).collect()
    };
    assert_eq!(routes(&network, 0), [prefix(2)]);
    assert_eq!(routes(&network, 1), [prefix(2)]);
    let all = PrefixRange::new("10.0.0.0/8".parse().unwrap(), 24);
    change_neighbor(&mut network, |neighbor| {
        neighbor.import = Filter::Only(vec![all]);
        neighbor.export = Filter::All;
    });
    converge(&mut network, 0, SECOND);
    assert_eq!(touched(&mut network, 0), [0usize; 0]);
    let report = &network.speaker(0).sessions(network.now)[0];
    assert_eq!((report.name.as_str(), report.established_count, report.received), ("renamed", 1, 1));
}

#[test]
fn another_hold_time_resets_that_session_only() {
    let (_seed, mut network) = running();
    change_neighbor(&mut network, |neighbor| neighbor.timers.hold = 60 * SECOND);
    assert_eq!(touched(&mut network, 0), [1]);
    assert_eq!(touched(&mut network, 1), [0]);
    let report = &network.speaker(1).sessions(network.now)[0];
    let (error, _) = report.last_error.as_ref().expect("an error");
    assert!(error.to_string().contains("Cease / Other Configuration Change"), "{error}");
    converge(&mut network, 0, 10 * SECOND);
}

#[test]
fn another_identity_resets_all() {
    let (_seed, mut network) = running();
    let router_id = address(200);
    network.set_config(0, network.config(0).clone().router_id(router_id));
    network.run_for(SECOND);
    assert_eq!(touched(&mut network, 0), [1, 2]);
    converge(&mut network, 0, 10 * SECOND);
    assert_eq!(network.speaker(1).sessions(network.now)[0].router_id, Some(router_id));
}

#[test]
fn a_removed_neighbor_receives_a_cease_and_is_forgotten() {
    let (_seed, mut network) = running();
    let mut config = network.config(0).clone();
    config.neighbors.retain(|neighbor| neighbor.address != address(1));
    network.set_config(0, config);
    assert!(!network.speaker(0).best_routes().iter().any(|route| route.prefix == prefix(1)), "at once");
    network.run_for(SECOND);
    assert_eq!(network.speaker(0).sessions(network.now).len(), 1);
    let report = &network.speaker(1).sessions(network.now)[0];
    assert!(
        report.last_error.as_ref().is_some_and(|(error, _)| error.to_string().contains("Peer De-configured")),
        "{report:?}"
    );
    assert!(!network.speaker(1).best_routes().iter().any(|route| route.prefix == prefix(0)));
    // The removed node keeps trying, is refused, and is accepted once it is configured again.
    network.run_for(60 * SECOND);
    assert_ne!(network.speaker(1).sessions(network.now)[0].state, SessionState::Established);
    let mut config = network.config(0).clone();
    config.neighbors.push(crate::cluster::neighbor(1, crate::cluster::ASN));
    network.set_config(0, config);
    converge(&mut network, 0, 10 * SECOND);
}

#[test]
fn an_invalid_configuration_is_rejected_as_a_whole() {
    let now = std::time::Instant::now();
    let good = crate::cluster::config(0, crate::cluster::ASN);
    let mut speaker = heliograph_bgp::Speaker::new(good.clone(), false, now, 1).expect("valid");
    let neighbors = vec![crate::cluster::neighbor(1, 0)];
    assert!(speaker.set_config(now, good.neighbors(neighbors)).is_err());
    assert!(speaker.sessions(now).is_empty());
}
