//! Five thousand speakers behind two reflectors. A program of its own, so that its peak of memory is its own.
//!
//! All are whole speakers with all their sessions. Each keeps the routes of all that announce, from both reflectors: that
//! grows with the product, so with the other tests one speaker in twenty announces, and all do where memory allows.
#![allow(clippy::disallowed_methods, reason = "a test needs an origin of time, and measures itself")]

#[path = "sim/cluster.rs"]
#[allow(dead_code, reason = "the other simulations use the rest")]
mod cluster;
#[path = "sim/network.rs"]
#[allow(dead_code, reason = "the other simulations use the rest")]
mod network;

use std::time::{Duration, Instant};

use cluster::{address, reflected, unconverged};
use network::{Network, Seed};

const REFLECTORS: usize = 2;

/// Starts `clients` and two reflectors within two seconds and lets them converge; one in `sparse` announces a prefix.
/// Every table is compared with what it must hold.
fn converge(clients: usize, sparse: usize) {
    let seed = Seed::new(1);
    let began = Instant::now();
    let mut network = Network::new(seed.0);
    network.scale();
    let count = clients + REFLECTORS;
    reflected(&mut network, count, REFLECTORS);
    for node in 0..count {
        let cluster_id = (node < REFLECTORS).then(|| address(0));
        let mut config = network.config(node).clone().cluster_id(cluster_id);
        config.networks.retain(|_| node < REFLECTORS || node % sparse == 0);
        network.set_config(node, config);
    }
    let start = network.now;
    for node in 0..count {
        network.start(node, false);
        let pause = Duration::from_micros(network.rng.u64(..2 * 2_000_000 / count as u64));
        network.run_for(pause);
    }
    while let Some(reason) = unfinished(&network) {
        assert!(network.now - start < Duration::from_secs(60), "not converged: {reason}");
        network.run_for(Duration::from_millis(100));
    }
    let took = network.now - start;
    let wrong = unconverged(&network, REFLECTORS);
    assert_eq!(wrong, None);
    let announced: usize = (0..count).map(|node| network.config(node).networks.len()).sum();
    println!(
        "{clients} clients of {REFLECTORS} reflectors, {announced} prefixes: converged after {took:?} (simulated), {:?} \
         (real); {} arrivals, peak memory {}",
        began.elapsed(),
        network.delivered,
        peak(count)
    );
}

/// Whom something is missing, by numbers alone: quick.
fn unfinished(network: &Network) -> Option<String> {
    let all: usize = (0..network.len()).map(|node| network.config(node).networks.len()).sum();
    (REFLECTORS..network.len()).find_map(|node| {
        let own = network.config(node).networks.len();
        // The reflectors of one cluster do not tell on what the other reflected; their own they tell each other.
        let wanted = REFLECTORS * (all - own) - REFLECTORS;
        let accepted: usize = network.speaker(node).sessions(network.now).iter().map(|s| s.accepted).sum();
        (accepted < wanted).then(|| format!("node {node} has {accepted} of {wanted} paths"))
    })
}

/// The most memory that this process had, in all and for each speaker.
fn peak(speakers: usize) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.map_or("unknown".into(), |k| format!("{} MiB, {} KiB a speaker", k / 1024, k / speakers))
}

#[test]
fn five_thousand_speakers_behind_two_reflectors() {
    converge(5000, 20);
}

/// 25 million routes, 50 million paths.
#[test]
#[ignore = "takes many GB of memory and minutes: make scale"]
fn five_thousand_speakers_that_all_announce() {
    converge(5000, 1);
}
