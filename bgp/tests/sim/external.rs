//! Several ASes: paths, loops and next hops across them.

use std::time::Duration;

use crate::cluster::{address, config, neighbor, prefix};
use crate::network::{Network, Seed};

/// A ring with one speaker per AS, each with two neighbors.
fn ring(network: &mut Network, count: usize) {
    for n in 0..count {
        let sides = [(n + 1) % count, (n + count - 1) % count];
        let neighbors = sides.into_iter().map(|side| neighbor(side, asn(side)));
        network.add(address(n), config(n, asn(n)).neighbors(neighbors));
    }
}

/// AS numbers above 65535 need the 4-octet capability.
fn asn(n: usize) -> u32 {
    65_530 + n as u32
}

/// Returns the length of the shortest way around the ring over open links, and its first hop.
fn shortest(count: usize, from: usize, to: usize, up: impl Fn(usize, usize) -> bool) -> Option<usize> {
    let walk = |step: usize| {
        let mut at = from;
        let mut hops = 0;
        while at != to {
            let next = (at + step) % count;
            if !up(at, next) {
                return None;
            }
            (at, hops) = (next, hops + 1);
        }
        Some(hops)
    };
    walk(1).into_iter().chain(walk(count - 1)).min()
}

/// Returns whether every speaker has, to every other, a path of the shortest length, with the neighbor as next hop.
fn check(network: &Network, up: impl Fn(usize, usize) -> bool) {
    let count = network.len();
    for from in 0..count {
        let paths = network.speaker(from).paths();
        for to in (0..count).filter(|to| *to != from) {
            let best = paths.iter().find(|path| path.best && path.prefix == prefix(to));
            let hops = best.map(|path| path.as_path.split_whitespace().count());
            assert_eq!(hops, shortest(count, from, to, &up), "from {from} to {to}: {best:?}");
            assert!(best.is_none_or(|path| path.next_hop == path.peer), "RFC 4271 §5.1.3: {best:?}");
        }
    }
}

#[test]
fn a_ring_of_ases_takes_the_shortest_way_and_the_other_when_it_breaks() {
    for default in 0..20 {
        let seed = Seed::new(default);
        let mut network = Network::new(seed.0);
        ring(&mut network, 7);
        (0..7).for_each(|node| network.start(node, false));
        network.run_for(Duration::from_secs(20));
        check(&network, |_, _| true);
        network.cut(0, 1, true);
        network.run_for(Duration::from_secs(40));
        check(&network, |a, b| (a.min(b), a.max(b)) != (0, 1));
        network.cut(0, 1, false);
        network.run_for(Duration::from_secs(20));
        check(&network, |_, _| true);
    }
}
