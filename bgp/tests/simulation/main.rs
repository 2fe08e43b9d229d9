//! Hundreds of speakers in virtual time, against what a reference model says they must know in the end.
//!
//! Each test prints its seed; `HELIOGRAPH_SIM_SEED=… cargo test -p heliograph-bgp --test simulation` replays it.

mod network;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use heliograph_bgp::report::SessionState;
use heliograph_bgp::wire::{Family, Prefix};
use heliograph_bgp::{Config, Filter, GracefulRestart, Neighbor, Network as Originated, Timers};
use network::Network;

const ASN: u32 = 64512;
/// Virtual time that convergence may take once the trouble is over.
const LIMIT: Duration = Duration::from_secs(400);

fn seed() -> u64 {
    let seed = match std::env::var("HELIOGRAPH_SIM_SEED") {
        Ok(seed) => seed.parse().expect("HELIOGRAPH_SIM_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("replay with HELIOGRAPH_SIM_SEED={seed}");
    seed
}

fn address(node: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0001 + u32::try_from(node).expect("few nodes")).into()
}

fn address6(node: usize) -> IpAddr {
    Ipv6Addr::from_bits((0xfd00_u128 << 112) + node as u128 + 1).into()
}

/// The pod CIDRs of a node, one a family.
fn prefixes(node: usize) -> [(Prefix, IpAddr); 2] {
    let v4 = Ipv4Addr::from_bits(0x6440_0000 + ((node as u32) << 8)).into();
    let v6 = Ipv6Addr::from_bits((0xfd01_u128 << 112) + ((node as u128) << 64)).into();
    [
        (Prefix::new(v4, 24).expect("a length that fits"), address(node)),
        (Prefix::new(v6, 64).expect("a length that fits"), address6(node)),
    ]
}

fn neighbor(node: usize, reflector_client: bool) -> Neighbor {
    Neighbor {
        address: address(node),
        port: 179,
        name: format!("node-{node}"),
        asn: ASN,
        reflector_client,
        local_address: None,
        passive: false,
        families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
        timers: Timers::default(),
        import: Filter::All,
        export: Filter::All,
    }
}

fn config(node: usize, neighbors: Vec<Neighbor>, originates: bool) -> Config {
    let IpAddr::V4(router_id) = address(node) else { unreachable!("node addresses are IPv4") };
    let network = |(prefix, next_hop)| Originated { prefix, next_hop: Some(next_hop) };
    Config {
        asn: ASN,
        router_id,
        cluster_id: None,
        graceful_restart: Some(GracefulRestart::default()),
        networks: if originates { prefixes(node).map(network).to_vec() } else { Vec::new() },
        neighbors,
    }
}

/// What `node` must know in the end: every other node's prefixes, straight to their owners.
fn reference(node: usize, owners: impl Iterator<Item = usize>) -> BTreeSet<(Prefix, IpAddr)> {
    owners.filter(|owner| *owner != node).flat_map(prefixes).collect()
}

fn known(network: &Network, node: usize) -> BTreeSet<(Prefix, IpAddr)> {
    network.speaker(node).best_routes().iter().map(|route| (route.prefix, route.next_hop)).collect()
}

/// Whether all of `nodes` know what `owners` announce, no more and no less, on sessions that all stand.
fn converged(network: &Network, nodes: usize, owners: std::ops::Range<usize>) -> Result<(), String> {
    for node in 0..nodes {
        let sessions = network.speaker(node).sessions(network.now);
        if let Some(down) = sessions.iter().find(|s| s.state != SessionState::Established) {
            return Err(format!("node {node}: session {} is {:?}: {}", down.name, down.state, down.reason));
        }
        if let Some(stale) = sessions.iter().find(|s| s.stale > 0) {
            return Err(format!("node {node}: {} stale routes of {}", stale.stale, stale.name));
        }
        let (known, wanted) = (known(network, node), reference(node, owners.clone()));
        if known != wanted {
            let missing = wanted.difference(&known).count();
            let surplus = known.difference(&wanted).count();
            return Err(format!("node {node}: {missing} routes missing, {surplus} too many"));
        }
        if !network.speaker(node).synced() {
            return Err(format!("node {node} still waits for End-of-RIB"));
        }
    }
    Ok(())
}

/// A minute in which connections break all the time.
fn chaos(network: &mut Network, resets: u32) {
    for _ in 0..resets {
        network.run_for(Duration::from_secs(60) / resets);
        network.reset_one();
    }
}

fn full_mesh(network: &mut Network, nodes: usize) {
    for node in 0..nodes {
        let others = (0..nodes).filter(|other| *other != node).map(|other| neighbor(other, false)).collect();
        network.add(address(node), config(node, others, true));
    }
}

/// Nodes 0 and 1 reflect for all others.
fn behind_reflectors(network: &mut Network, nodes: usize) {
    for node in 0..nodes {
        let neighbors = if node < 2 {
            (2..nodes).map(|client| neighbor(client, true)).chain([neighbor(1 - node, false)]).collect()
        } else {
            vec![neighbor(0, false), neighbor(1, false)]
        };
        network.add(address(node), config(node, neighbors, node >= 2));
    }
}

#[test]
fn two_hundred_speakers_in_full_mesh_converge() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    full_mesh(&mut network, 200);
    chaos(&mut network, 500);
    network.run_until(LIMIT, "full mesh of 200", |n| converged(n, 200, 0..200));
    println!("converged at {:?}", network.elapsed());
}

#[test]
fn two_hundred_speakers_behind_two_reflectors_converge() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    behind_reflectors(&mut network, 202);
    chaos(&mut network, 200);
    network.run_until(LIMIT, "200 behind two reflectors", |n| converged(n, 202, 2..202));
    println!("converged at {:?}", network.elapsed());
}

/// RFC 4724: while a speaker is away and comes back, nobody loses a route, neither its peers nor, once it has
/// gathered all, the speaker itself.
#[test]
fn a_killed_speaker_that_comes_back_costs_no_route() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    full_mesh(&mut network, 10);
    network.run_until(LIMIT, "full mesh of 10", |n| converged(n, 10, 0..10));
    let others: Vec<_> = (1..10).map(|other| neighbor(other, false)).collect();
    network.kill(0);
    for step in 0..400 {
        if step == 20 {
            network.start_speaker(0, config(0, others.clone(), true), true);
        }
        network.run_for(Duration::from_millis(100));
        for node in 1..10 {
            assert_eq!(known(&network, node), reference(node, 0..10), "node {node}, step {step}");
        }
        if step >= 20 && network.speaker(0).synced() {
            assert_eq!(known(&network, 0), reference(0, 0..10), "the restarted one, step {step}");
        }
    }
    network.run_until(LIMIT, "after the restart", |n| converged(n, 10, 0..10));
}

/// A reflector that restarts must not end its feed before it has gathered its own, or clients drop what they kept.
#[test]
fn a_killed_reflector_that_comes_back_costs_no_route() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    behind_reflectors(&mut network, 12);
    network.run_until(LIMIT, "10 behind two reflectors", |n| converged(n, 12, 2..12));
    network.kill(1);
    network.kill(0);
    for step in 0..600 {
        if step == 20 {
            for (reflector, other) in [(0, 1), (1, 0)] {
                let clients = (2..12).map(|client| neighbor(client, true));
                let neighbors = clients.chain([neighbor(other, false)]).collect();
                network.start_speaker(reflector, config(reflector, neighbors, false), true);
            }
        }
        network.run_for(Duration::from_millis(100));
        for node in 2..12 {
            assert_eq!(known(&network, node), reference(node, 2..12), "node {node}, step {step}");
        }
    }
    network.run_until(LIMIT, "after the restart", |n| converged(n, 12, 2..12));
}

/// A speaker that does not come back: its routes are gone when its restart time is over, and not before.
#[test]
fn routes_of_a_dead_speaker_go_with_its_restart_time() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    full_mesh(&mut network, 3);
    network.run_until(LIMIT, "full mesh of 3", |n| converged(n, 3, 0..3));
    network.kill(0);
    network.run_for(Duration::from_secs(115));
    assert_eq!(known(&network, 1), reference(1, 0..3));
    network.run_for(Duration::from_secs(10));
    assert_eq!(known(&network, 1), reference(1, 1..3));
}

/// Taking a neighbour out of the configuration takes its routes out, at once and on both sides.
#[test]
fn a_removed_neighbour_leaves_nothing() {
    let mut network = Network::new(seed(), Duration::from_millis(50));
    full_mesh(&mut network, 3);
    network.run_until(LIMIT, "full mesh of 3", |n| converged(n, 3, 0..3));
    network.set_config(1, config(1, vec![neighbor(2, false)], true));
    assert_eq!(known(&network, 1), reference(1, 1..3));
    network.run_for(Duration::from_secs(1));
    assert_eq!(known(&network, 0), [2].into_iter().flat_map(prefixes).collect());
    let session = network.speaker(0).sessions(network.now).swap_remove(0);
    assert!(
        session.reason.contains("Peer De-configured") || session.reason.contains("refused"),
        "{}",
        session.reason
    );
}
