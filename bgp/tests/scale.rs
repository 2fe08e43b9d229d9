//! Five thousand speakers behind two reflectors. A program of its own, so that its peak memory can be measured.
//!
//! All are complete speakers with all their sessions. Each holds the routes of all nodes that originate, from both
//! reflectors: their number grows with the product. So in the default test one speaker in twenty originates a route, and
//! all do where memory permits.
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

/// Starts `clients` and two reflectors within two seconds and lets them converge; one in `sparse` originates a prefix. Every
/// table is compared with its expected content.
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

/// Returns the nodes with missing paths, by their number alone: quick.
fn unfinished(network: &Network) -> Option<String> {
    let all: usize = (0..network.len()).map(|node| network.config(node).networks.len()).sum();
    (REFLECTORS..network.len()).find_map(|node| {
        let own = network.config(node).networks.len();
        // Reflectors of one cluster do not pass on routes that the other reflected; they exchange their own.
        let wanted = REFLECTORS * (all - own) - REFLECTORS;
        let accepted: usize = network.speaker(node).sessions(network.now).iter().map(|s| s.accepted).sum();
        (accepted < wanted).then(|| format!("node {node} has {accepted} of {wanted} paths"))
    })
}

/// Returns the peak memory of this process, in all and per speaker.
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
