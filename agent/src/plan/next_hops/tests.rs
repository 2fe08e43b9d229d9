use super::super::testing::{cluster, ip, labelled, node};
use super::super::tunnels::{Underlays, tunnels};
use super::*;
use crate::dataplane::Tunnel;
use crate::intent::SEGMENT_LABEL;

const OWN: &str = "172.20.1.11";

fn two_racks(encapsulation: Encapsulation) -> Snapshot {
    let mut snapshot = cluster([
        node("a", OWN, "10.244.1.0/24"),
        node("b", "172.20.1.12", "10.244.2.0/24"),
        node("c", "172.20.2.11", "10.244.3.0/24"),
    ]);
    snapshot.configuration_mut().encapsulation = encapsulation;
    snapshot
}

fn direct() -> Segment {
    Segment::Direct { oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn routed() -> Segment {
    Segment::Routed { gateway: ip("172.20.1.1"), oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn resolver(snapshot: &Snapshot, this: &str, underlays: &Underlays) -> Resolver {
    let this = &snapshot.nodes[this];
    let tunnels = tunnels(snapshot, this, underlays, &mut Vec::new());
    Resolver::new(snapshot, this, tunnels)
}

/// Resolves a next hop on node a.
fn resolve(snapshot: &Snapshot, next_hop: &str, segment: &Segment) -> (SegmentVerdict, Option<Hop>) {
    let underlays = [(ip(OWN), 1500), (ip("fd00::11"), 1400)].into();
    resolver(snapshot, "a", &underlays).resolve(ip(next_hop), Some(segment), false)
}

fn to_b() -> Hop {
    Hop::Direct { via: ip("172.20.1.12"), oif: 2 }
}

fn tunnel_to(remote: &str) -> Hop {
    Hop::Tunnel { tunnel: Tunnel::ipip(IpFamily::V4), remote: ip(remote), local: ip(OWN) }
}

#[test]
fn verdicts_follow_encapsulation_labels_and_the_kernel() {
    use Encapsulation::{Always, CrossSubnet, Never};
    use Reachability::{Direct, Routed, Tunnel, Unreachable};
    let no_route = || Segment::Unreachable { error: "Network is unreachable".into() };
    let gateway = Some(Hop::Direct { via: ip("172.20.1.1"), oif: 2 });
    let tunnel = || Some(tunnel_to("172.20.1.12"));
    // Encapsulation, segment label here and there, segment; then reachability, hop, text in the reason.
    let cases = [
        (CrossSubnet, "", "", direct(), Direct, Some(to_b()), "without a gateway"),
        (CrossSubnet, "", "", routed(), Tunnel, tunnel(), "behind gateway"),
        (CrossSubnet, "x", "", direct(), Direct, Some(to_b()), "without a gateway"),
        (CrossSubnet, "", "x", routed(), Tunnel, tunnel(), "behind gateway"),
        (CrossSubnet, "x", "x", direct(), Direct, Some(to_b()), "both nodes"),
        (CrossSubnet, "x", "x", routed(), Direct, Some(to_b()), "both nodes"),
        (CrossSubnet, "x", "y", direct(), Tunnel, tunnel(), "x here, y there"),
        (CrossSubnet, "x", "y", routed(), Tunnel, tunnel(), "x here, y there"),
        (CrossSubnet, "", "", no_route(), Unreachable, None, "Network is unreachable"),
        (CrossSubnet, "x", "y", no_route(), Unreachable, None, "Network is unreachable"),
        (CrossSubnet, "", "", Segment::Local, Unreachable, None, "itself"),
        (Always, "", "", direct(), Tunnel, tunnel(), "Always"),
        (Always, "x", "x", routed(), Tunnel, tunnel(), "Always"),
        (Always, "", "", no_route(), Unreachable, None, "no route"),
        (Never, "", "", direct(), Direct, Some(to_b()), "without a gateway"),
        (Never, "", "", routed(), Routed, gateway, "Never"),
        (Never, "x", "y", direct(), Direct, Some(to_b()), "without a gateway"),
        (Never, "x", "x", routed(), Direct, Some(to_b()), "both nodes"),
    ];
    for (encapsulation, ours, its, segment, reachability, hop, text) in cases {
        let mut snapshot = two_racks(encapsulation);
        for (name, label) in [("a", ours), ("b", its)].into_iter().filter(|(_, label)| !label.is_empty()) {
            let node = snapshot.remove(name).unwrap();
            snapshot.insert(labelled(node, SEGMENT_LABEL, label));
        }
        let case = format!("{encapsulation:?} {ours:?} {its:?} {segment:?}");
        let (verdict, found) = resolve(&snapshot, "172.20.1.12", &segment);
        assert_eq!((verdict.reachability, verdict.node.as_deref()), (reachability, Some("b")), "{case}");
        assert!(verdict.reason.contains(text), "{case}: {}", verdict.reason);
        assert_eq!(found, hop, "{case}");
    }
}

#[test]
fn both_ends_have_the_same_verdict_if_their_kernels_agree() {
    for (ours, its) in [("", ""), ("x", "x"), ("x", "y"), ("x", "")] {
        for segment in [direct(), routed()] {
            for encapsulation in [Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always] {
                let mut snapshot = two_racks(encapsulation);
                for (name, label) in [("a", ours), ("b", its)] {
                    let node = snapshot.remove(name).unwrap();
                    snapshot.insert(labelled(node, SEGMENT_LABEL, label));
                }
                let underlays = [(ip(OWN), 1500), (ip("172.20.1.12"), 1500)].into();
                let view = |from: &str, to: &str| {
                    resolver(&snapshot, from, &underlays)
                        .resolve(ip(to), Some(&segment), false)
                        .0
                        .reachability
                };
                assert_eq!(view("a", "172.20.1.12"), view("b", OWN));
            }
        }
    }
}

#[test]
fn there_is_no_tunnel_to_a_router_outside_the_cluster() {
    for encapsulation in [Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always] {
        for (segment, via) in [(direct(), "172.20.1.254"), (routed(), "172.20.1.1")] {
            let (verdict, hop) = resolve(&two_racks(encapsulation), "172.20.1.254", &segment);
            assert_eq!((verdict.node, hop), (None, Some(Hop::Direct { via: ip(via), oif: 2 })));
        }
    }
}

#[test]
fn harmful_routes_are_rejected_with_a_reason() {
    let cases = [
        ("10.244.1.0/24", to_b(), "own pod CIDR"),
        ("10.244.1.128/25", to_b(), "own pod CIDR"),
        ("10.244.1.7/32", to_b(), "own pod CIDR"),
        ("172.20.2.11/32", to_b(), "address of Node c"),
        ("172.20.1.11/32", to_b(), "address of Node a"),
        ("127.0.0.0/8", to_b(), "loopback"),
        ("169.254.1.1/32", to_b(), "link-local"),
        ("224.0.0.0/4", to_b(), "multicast"),
        ("fe80::/10", to_b(), "link-local"),
        ("172.20.0.0/16", tunnel_to("172.20.2.11"), "remote end of the tunnel"),
        ("0.0.0.0/0", tunnel_to("172.20.2.11"), "remote end of the tunnel"),
        ("fd00:9::/64", tunnel_to("172.20.2.11"), "IPv4 tunnel"),
        ("fd00:9::/64", to_b(), "IPv4 next hop"),
    ];
    let resolver = resolver(&two_racks(Encapsulation::CrossSubnet), "a", &[(ip(OWN), 1500)].into());
    for (to, hop, text) in cases {
        let reason = resolver.rejection(&to.parse().unwrap(), &hop);
        assert!(reason.as_ref().is_some_and(|reason| reason.contains(text)), "{to}: {reason:?}");
    }
    for to in ["10.244.0.0/16", "0.0.0.0/0", "172.20.0.0/16"] {
        assert_eq!(resolver.rejection(&to.parse().unwrap(), &to_b()), None, "{to}");
    }
}

#[test]
fn ipv6_uses_its_own_tunnel() {
    let snapshot = cluster([
        node("a", "172.20.1.11 fd00::11", "10.244.1.0/24 fd00:10:244:1::/64"),
        node("c", "172.20.2.11 fd01::11", "10.244.3.0/24 fd00:10:244:3::/64"),
    ]);
    let far = Segment::Routed { gateway: ip("fd00::1"), oif: 2, name: "eth1".into(), source: ip("fd00::11") };
    let tunnel = Tunnel::ipip(IpFamily::V6);
    let hop = Hop::Tunnel { tunnel, remote: ip("fd01::11"), local: ip("fd00::11") };
    assert_eq!(resolve(&snapshot, "fd01::11", &far).1, Some(hop));
}

#[test]
fn only_the_addresses_of_changed_nodes_are_resolved_again() {
    let snapshot = two_racks(Encapsulation::CrossSubnet);
    let underlays: Underlays = [(ip(OWN), 1500)].into();
    let before = resolver(&snapshot, "a", &underlays);
    let mut moved = snapshot.clone();
    moved.node_mut("c").addresses = vec![ip("172.20.2.99")];
    let after = resolver(&moved, "a", &underlays);
    assert_eq!(after.changed_owners(&before), Some([ip("172.20.2.11"), ip("172.20.2.99")].into()));
    assert_eq!(after.changed_owners(&after), Some([].into()));
    moved.configuration_mut().encapsulation = Encapsulation::Always;
    assert_eq!(resolver(&moved, "a", &underlays).changed_owners(&after), None);
    assert_eq!(resolver(&snapshot, "a", &Underlays::new()).changed_owners(&before), None, "no tunnel");
}
