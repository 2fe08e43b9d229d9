//! Whole networks of speakers, without sockets or clocks.
#![allow(clippy::disallowed_methods, reason = "a test needs an origin of time, and measures itself")]

mod add_path;
mod change;
mod cluster;
mod external;
mod life;
mod long_lived;
mod model;
mod network;
mod restart;
mod switch;

use std::time::{Duration, Instant};

use cluster::{converge, mesh, originate, prefix, reflected};
use network::{Network, Seed};

const MINUTE: Duration = Duration::from_secs(60);

/// Starts all nodes at about the same time.
fn start_all(network: &mut Network) {
    for node in 0..network.len() {
        network.start(node, false);
        let pause = Duration::from_micros(network.rng.u64(..5_000));
        network.run_for(pause);
    }
}

/// Injects faults for some time: connections reset, pairs cut off, nodes killed and restarted, networks added and removed.
fn chaos(network: &mut Network, time: Duration, untouchable: usize) {
    let until = network.now + time;
    let mut cuts = Vec::new();
    let mut dead = Vec::new();
    let mut extra = 0;
    while network.now < until {
        let nodes = network.len();
        let node = network.rng.usize(..nodes);
        match network.rng.u32(..100) {
            0..60 => (0..=nodes / 20).for_each(|_| network.reset_random()),
            60..75 => {
                let other = network.rng.usize(..nodes);
                network.cut(node, other, true);
                cuts.push((node, other));
            }
            75..80 if node >= untouchable && network.is_up(node) => {
                network.kill(node);
                dead.push(node);
            }
            80..85 => {
                if let Some(node) = dead.pop() {
                    let restarting = network.rng.bool();
                    network.start(node, restarting);
                }
            }
            _ => {
                let mut config = network.config(node).clone();
                if config.networks.len() > 1 {
                    config.networks.pop();
                } else {
                    extra += 1;
                    config.networks.push(originate(prefix(1000 + extra)));
                }
                network.set_config(node, config);
            }
        }
        let pause = Duration::from_millis(network.rng.u64(..400));
        network.run_for(pause);
    }
    for (a, b) in cuts {
        network.cut(a, b, false);
    }
    for node in dead {
        network.start(node, true);
    }
}

/// Starts a network, injects faults and lets it converge; prints how long that took.
fn survive(seed: u64, build: impl Fn(&mut Network), reflectors: usize, suffering: Duration) {
    let began = Instant::now();
    let mut network = Network::new(seed);
    build(&mut network);
    start_all(&mut network);
    let first = converge(&mut network, reflectors, 2 * MINUTE);
    chaos(&mut network, suffering, reflectors);
    // The longest delay of any recovery: a hold time, then an idle hold time, in both directions.
    let second = converge(&mut network, reflectors, 8 * MINUTE);
    println!(
        "{} speakers: converged in {first:?}, after {suffering:?} of faults in {second:?} (simulated); {} arrivals, \
         {:?} in reality",
        network.len(),
        network.delivered,
        began.elapsed()
    );
}

#[test]
fn two_hundred_speakers_in_full_mesh() {
    let seed = Seed::new(1);
    survive(seed.0, |network| mesh(network, 200), 0, MINUTE);
}

#[test]
fn two_hundred_speakers_behind_two_reflectors() {
    let seed = Seed::new(2);
    survive(seed.0, |network| reflected(network, 202, 2), 2, MINUTE);
}

/// Small networks are quick, so many are tested: rare orders of events are found here.
#[test]
fn small_networks_from_many_seeds() {
    for default in 0..300 {
        let seed = Seed::new(100 + default);
        survive(seed.0, |network| mesh(network, 4), 0, MINUTE);
        survive(seed.0, |network| reflected(network, 6, 2), 2, MINUTE);
    }
}
