//! Time and memory of a million routes. Run with
//! `cargo test --release -p heliograph-bgp scale -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const ROUTES: u32 = 1_000_000;
const PER_SET: u32 = 8;

#[test]
#[ignore = "a measurement, not a check"]
fn a_million_routes_to_ten_clients() {
    let mut rib = rib_with(&[PeerKind::Client; 11]);
    let start = memory();
    let clock = Instant::now();
    for n in (0..ROUTES).step_by(PER_SET as usize) {
        let prefixes = (n..n + PER_SET).map(|n| Prefix::V4(Ipv4Addr::from_bits((n << 8) + (1 << 24)), 24));
        let reach = Reach {
            family: V4,
            next_hop: next_hop("10.0.0.1"),
            prefixes: prefixes.map(Nlri::from).collect(),
        };
        let attributes = Attributes {
            as_path: sequence(&[64700, 64800 + n % 1000, 1_000_000 + n]),
            communities: vec![n, n + 1].into(),
            ..attributes(PeerKind::Client)
        };
        rib.update(id(1), Update { attributes: Some(attributes), reach: vec![reach], ..Update::default() });
    }
    let received = clock.elapsed();
    let held = memory();
    let mut octets = 0;
    for n in 2..=11 {
        while rib.pending(id(n)) {
            octets += rib.pack(id(n), 65536, &mut BytesMut::new());
        }
    }
    let packed = clock.elapsed() - received;
    for n in 2..=11 {
        assert_eq!(rib.counts(id(n)).advertised, ROUTES as usize);
    }
    let settled = memory();
    let lost = Instant::now();
    rib.peer_down(id(1), &[]);
    let (lost, pending) = (lost.elapsed(), memory());
    let megabytes = |octets: usize| octets.saturating_sub(start) >> 20;
    println!(
        "{ROUTES} routes, {PER_SET} for each set of attributes: received in {received:?}, {} MB",
        megabytes(held)
    );
    println!("to 10 clients: {packed:?}, {} MB sent, {} MB held", octets >> 20, megabytes(settled));
    println!("all lost: {lost:?}, {} MB while the withdrawals are pending", megabytes(pending));
}

/// The memory of an agent's tables: routes of one peer that one subscriber reads.
#[test]
#[ignore = "a measurement, not a check"]
fn a_hundred_thousand_routes_to_a_subscriber() {
    const ROUTES: u32 = 100_000;
    for per_set in [1, 8, 1000] {
        let start = memory();
        let mut rib = rib_with(&[PeerKind::Client]);
        for n in (0..ROUTES).step_by(per_set) {
            let prefixes =
                (n..n + per_set as u32).map(|n| Prefix::V4(Ipv4Addr::from_bits((n << 8) + (1 << 24)), 24));
            let reach = Reach {
                family: V4,
                next_hop: next_hop("10.0.0.1"),
                prefixes: prefixes.map(Nlri::from).collect(),
            };
            let attributes = Attributes { med: Some(n), ..attributes(PeerKind::Client) };
            let update = Update { attributes: Some(attributes), reach: vec![reach], ..Update::default() };
            rib.update(id(1), update);
        }
        let held = memory().saturating_sub(start);
        let subscriber = rib.subscribe();
        let mut count = 0;
        while let (changes, true) = rib.best_changes(subscriber, 1000) {
            count += changes.len();
        }
        let read = memory().saturating_sub(start);
        let each = |octets: usize| octets / ROUTES as usize;
        println!(
            "{per_set} routes a set: {} octets each, {} with a subscriber ({count})",
            each(held),
            each(read)
        );
        std::mem::forget(rib);
    }
}

/// Returns the resident octets on Linux, and 0 elsewhere.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
