use super::super::testing::{cluster, ip, labelled, node, peer};
use super::*;
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

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn best(routes: &[(&str, &str)]) -> Vec<BestRoute> {
    let route = |(to, via): &(&str, &str)| BestRoute::new(prefix(to).into(), ip(via), ip(via));
    routes.iter().map(route).collect()
}

fn direct() -> Segment {
    Segment::Direct { oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn routed() -> Segment {
    Segment::Routed { gateway: ip("172.20.1.1"), oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn underlays() -> Underlays {
    [(ip(OWN), 1500), (ip("fd00::11"), 1400)].into()
}

fn plan(snapshot: &Snapshot, routes: &[(&str, &str)], segments: &[(&str, Segment)]) -> ForwardingPlan {
    let segments = segments.iter().map(|(address, segment)| (ip(address), segment.clone())).collect();
    desired(snapshot, "a", &best(routes), &segments, &underlays())
}

fn to_b() -> Hop {
    Hop::Direct { via: ip("172.20.1.12"), oif: 2 }
}

fn tunnel_to(remote: &str) -> Hop {
    Hop::Tunnel { remote: ip(remote), local: ip(OWN) }
}

#[test]
fn next_hops_on_the_segment_are_direct_and_others_use_the_tunnel() {
    let planned = plan(
        &two_racks(Encapsulation::CrossSubnet),
        &[("10.244.2.0/24", "172.20.1.12"), ("10.244.3.0/24", "172.20.2.11")],
        &[("172.20.1.12", direct()), ("172.20.2.11", routed())],
    );
    let desired = planned.desired;
    assert_eq!(desired.routes[&prefix("10.244.1.0/24")], Route::Blackhole);
    assert_eq!(desired.routes[&prefix("10.244.2.0/24")], Route::unicast([to_b()]));
    assert_eq!(desired.routes[&prefix("10.244.3.0/24")], Route::unicast([tunnel_to("172.20.2.11")]));
    assert_eq!(desired.routes.len(), 3);
    assert_eq!(desired.tunnels.v4, Some(TunnelDevice { local: OWN.parse().unwrap(), mtu: 1480 }));
    assert_eq!(desired.tunnels.v6, None);
    assert_eq!(desired.allowed_tunnel_sources, [ip(OWN), ip("172.20.1.12"), ip("172.20.2.11")].into());
    assert!(desired.forwarding);
    let far = &planned.verdicts[&ip("172.20.2.11")];
    assert_eq!((far.node.as_deref(), far.reachability), (Some("c"), Reachability::Tunnel));
    assert!(far.reason.contains("172.20.1.1"), "{}", far.reason);
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
        for (name, label) in [("a", ours), ("b", its)] {
            let node = snapshot.remove(name).unwrap();
            let node = if label.is_empty() { node } else { labelled(node, SEGMENT_LABEL, label) };
            snapshot.insert(node);
        }
        let case = format!("{encapsulation:?} {ours:?} {its:?} {segment:?}");
        let planned = plan(&snapshot, &[("10.244.2.0/24", "172.20.1.12")], &[("172.20.1.12", segment)]);
        let got = &planned.verdicts[&ip("172.20.1.12")];
        assert_eq!(got.reachability, reachability, "{case}");
        assert!(got.reason.contains(text), "{case}: {}", got.reason);
        let route = planned.desired.routes.get(&prefix("10.244.2.0/24"));
        assert_eq!(route, hop.map(|hop| Route::unicast([hop])).as_ref(), "{case}");
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
                    let segments = [(ip(to), segment.clone())].into();
                    desired(&snapshot, from, &best(&[("10.9.0.0/16", to)]), &segments, &underlays).verdicts
                        [&ip(to)]
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
        let snapshot = two_racks(encapsulation);
        for (segment, via) in [(direct(), "172.20.1.254"), (routed(), "172.20.1.1")] {
            let planned = plan(&snapshot, &[("10.9.0.0/16", "172.20.1.254")], &[("172.20.1.254", segment)]);
            let hop = Hop::Direct { via: ip(via), oif: 2 };
            assert_eq!(planned.desired.routes[&prefix("10.9.0.0/16")], Route::unicast([hop]));
            assert_eq!(planned.verdicts[&ip("172.20.1.254")].node, None);
        }
    }
}

#[test]
fn harmful_routes_are_rejected_with_a_reason() {
    let cases = [
        ("10.244.1.0/24", "172.20.1.12", "own pod CIDR"),
        ("10.244.1.128/25", "172.20.1.12", "own pod CIDR"),
        ("10.244.1.7/32", "172.20.1.12", "own pod CIDR"),
        ("172.20.2.11/32", "172.20.1.12", "address of Node c"),
        ("172.20.1.11/32", "172.20.1.12", "address of Node a"),
        ("127.0.0.0/8", "172.20.1.12", "loopback"),
        ("169.254.1.1/32", "172.20.1.12", "link-local"),
        ("224.0.0.0/4", "172.20.1.12", "multicast"),
        ("fe80::/10", "172.20.1.12", "link-local"),
        ("172.20.0.0/16", "172.20.2.11", "remote end of the tunnel"),
        ("0.0.0.0/0", "172.20.2.11", "remote end of the tunnel"),
        ("fd00:9::/64", "172.20.2.11", "IPv4 tunnel"),
        ("fd00:9::/64", "172.20.1.12", "IPv4 next hop"),
    ];
    let snapshot = two_racks(Encapsulation::CrossSubnet);
    for (to, via, text) in cases {
        let planned = plan(&snapshot, &[(to, via)], &[("172.20.1.12", direct()), ("172.20.2.11", routed())]);
        let reason =
            planned.rejected.get(&prefix(to)).unwrap_or_else(|| panic!("{to} via {via} is not rejected"));
        assert!(reason.contains(text), "{to}: {reason}");
        assert_eq!(planned.desired.routes.len(), 1, "{to}: only the blackhole");
        assert_eq!(planned.desired.routes[&prefix("10.244.1.0/24")], Route::Blackhole);
    }
    for to in ["10.244.0.0/16", "0.0.0.0/0", "172.20.0.0/16"] {
        let planned = plan(&snapshot, &[(to, "172.20.1.12")], &[("172.20.1.12", direct())]);
        assert!(planned.rejected.is_empty(), "{to} {:?}", planned.rejected);
    }
}

#[test]
fn an_address_on_no_interface_is_a_problem_and_nothing_uses_the_tunnel() {
    let snapshot = two_racks(Encapsulation::CrossSubnet);
    let segments = [(ip("172.20.2.11"), routed())].into();
    let planned =
        desired(&snapshot, "a", &best(&[("10.244.3.0/24", "172.20.2.11")]), &segments, &Underlays::new());
    assert!(planned.problems[0].contains("on no interface"), "{:?}", planned.problems);
    assert_eq!(planned.verdicts[&ip("172.20.2.11")].reachability, Reachability::Unreachable);
    assert!(!planned.desired.routes.contains_key(&prefix("10.244.3.0/24")));
}

#[test]
fn the_desired_state_of_an_unknown_node_is_empty() {
    let snapshot = two_racks(Encapsulation::CrossSubnet);
    let planned =
        desired(&snapshot, "zz", &best(&[("10.9.0.0/16", "172.20.1.12")]), &BTreeMap::new(), &underlays());
    assert_eq!(planned, ForwardingPlan::default());
    assert!(planned.desired.is_empty());
}

#[test]
fn there_are_tunnels_for_the_families_of_pods() {
    let mut snapshot = two_racks(Encapsulation::CrossSubnet);
    snapshot.node_mut("a").addresses.push(ip("fd00::11"));
    let tunnels = |snapshot: &Snapshot| plan(snapshot, &[], &[]).desired.tunnels;
    assert_eq!(tunnels(&snapshot).v6, None, "no IPv6 pods anywhere");
    snapshot.node_mut("c").pod_cidrs.push(prefix("fd00:10:244:3::/64"));
    assert_eq!(tunnels(&snapshot).v6.map(|device| device.mtu), Some(1360));
    snapshot.configuration_mut().encapsulation = Encapsulation::Never;
    assert_eq!(tunnels(&snapshot), Tunnels::default());
    assert!(plan(&snapshot, &[], &[]).desired.allowed_tunnel_sources.is_empty());
}

#[test]
fn ipv6_uses_its_own_tunnel() {
    let snapshot = cluster([
        node("a", "172.20.1.11 fd00::11", "10.244.1.0/24 fd00:10:244:1::/64"),
        node("c", "172.20.2.11 fd01::11", "10.244.3.0/24 fd00:10:244:3::/64"),
    ]);
    let far = Segment::Routed { gateway: ip("fd00::1"), oif: 2, name: "eth1".into(), source: ip("fd00::11") };
    let planned = plan(&snapshot, &[("fd00:10:244:3::/64", "fd01::11")], &[("fd01::11", far)]);
    let hop = Hop::Tunnel { remote: ip("fd01::11"), local: ip("fd00::11") };
    assert_eq!(planned.desired.routes[&prefix("fd00:10:244:3::/64")], Route::unicast([hop]));
}

#[test]
fn the_mtu_of_pods_is_that_of_the_underlay_minus_the_overhead() {
    let cases = [
        (Encapsulation::CrossSubnet, "10.244.1.0/24", Some(1480)),
        (Encapsulation::Always, "10.244.1.0/24", Some(1480)),
        (Encapsulation::Never, "10.244.1.0/24", Some(1500)),
        (Encapsulation::CrossSubnet, "fd00:10:244:1::/64", Some(1360)),
        (Encapsulation::CrossSubnet, "10.244.1.0/24 fd00:10:244:1::/64", Some(1360)),
        (Encapsulation::Never, "10.244.1.0/24 fd00:10:244:1::/64", Some(1400)),
        (Encapsulation::Never, "", None),
    ];
    for (encapsulation, pods, expected) in cases {
        let mut snapshot = cluster([node("a", "172.20.1.11 fd00::11", pods)]);
        snapshot.configuration_mut().encapsulation = encapsulation;
        assert_eq!(
            pod_mtu(&snapshot, &snapshot.nodes["a"], &underlays()),
            expected,
            "{encapsulation:?} {pods}"
        );
    }
}

#[test]
fn only_packets_that_leave_the_cluster_are_translated() {
    let mut snapshot = two_racks(Encapsulation::CrossSubnet);
    let nat = |snapshot: &Snapshot, routes: &[(&str, &str)]| plan(snapshot, routes, &[]).desired.nat_outgoing;
    let inside = |nat: &NatOutgoing, address: &str| nat.inside.contains(ip(address));
    let found = nat(&snapshot, &[]).unwrap();
    assert!(found.pods.contains(ip("10.244.1.9")) && !found.pods.contains(ip("10.244.2.9")));
    for address in ["10.244.1.9", "10.244.3.9", OWN, "172.20.2.11"] {
        assert!(inside(&found, address), "{address}");
    }
    for address in ["10.244.4.1", "172.20.1.1", "192.0.2.1", "2001:db8::1"] {
        assert!(!inside(&found, address), "{address}");
    }

    // With reflectors some nodes are only learned by BGP; a default route is no network of the cluster.
    let mut learned = best(&[("10.244.9.0/24", "172.20.9.11"), ("0.0.0.0/0", "172.20.1.12")]);
    learned[0].peer = ip("172.20.1.12");
    let found =
        desired(&snapshot, "a", &learned, &BTreeMap::new(), &underlays()).desired.nat_outgoing.unwrap();
    assert!(inside(&found, "10.244.9.1") && inside(&found, "172.20.9.11") && !inside(&found, "192.0.2.1"));
    // The networks of a neighbor outside are outside, and so is the neighbor.
    learned[0].peer = ip("172.20.1.1");
    let found =
        desired(&snapshot, "a", &learned, &BTreeMap::new(), &underlays()).desired.nat_outgoing.unwrap();
    assert!(!inside(&found, "10.244.9.1") && !inside(&found, "172.20.9.11"));

    snapshot.configuration_mut().cluster_cidrs = vec![prefix("10.244.0.0/16")];
    let found = nat(&snapshot, &[("203.0.113.0/24", "172.20.1.12")]).unwrap();
    assert!(inside(&found, "10.244.200.1") && !inside(&found, "203.0.113.1"));

    snapshot.configuration_mut().nat_outgoing = false;
    assert_eq!(nat(&snapshot, &[]), None);
}

/// The snapshot contains only this node and the reflector. The cases are: prefix, next hop, peer, cluster CIDR, and whether
/// the next hop is a node.
#[test]
fn without_all_nodes_next_hops_of_cluster_networks_from_reflectors_are_nodes() {
    let mut snapshot = cluster([node("a", OWN, "10.244.1.0/24"), node("rr", "172.20.9.9", "")]);
    snapshot.all_nodes = false;
    snapshot.insert_peer("tor", peer("tor", "172.20.2.1", 64600));
    let cases = [
        ("10.244.3.0/24", "172.20.2.11", "172.20.9.9", "", true),
        ("10.244.3.0/24", "172.20.2.11", "172.20.9.9", "10.244.0.0/16", true),
        ("10.9.0.0/24", "172.20.2.11", "172.20.9.9", "10.244.0.0/16", false),
        ("10.9.0.0/24", "172.20.2.1", "172.20.9.9", "", false),
        ("10.244.3.0/24", "172.20.2.11", "172.20.2.1", "", false),
    ];
    for (to, next_hop, peer, cluster, is_node) in cases {
        snapshot.configuration_mut().cluster_cidrs = cluster.split_whitespace().map(prefix).collect();
        let best = [BestRoute::new(prefix(to).into(), ip(next_hop), ip(peer))];
        let segments = [(ip(next_hop), routed())].into();
        let planned = desired(&snapshot, "a", &best, &segments, &underlays());
        let reachability = planned.verdicts[&ip(next_hop)].reachability;
        let expected = if is_node { Reachability::Tunnel } else { Reachability::Routed };
        assert_eq!(reachability, expected, "{to} via {next_hop} from {peer} in {cluster:?}");
        let sources = &planned.desired.allowed_tunnel_sources;
        assert_eq!(sources.contains(&ip(next_hop)), is_node);
        // If the snapshot contains all nodes, no other next hop is one.
        let whole = Snapshot { all_nodes: true, ..snapshot.clone() };
        let planned = desired(&whole, "a", &best, &segments, &underlays());
        assert_eq!(planned.verdicts[&ip(next_hop)].reachability, Reachability::Routed);
    }
}
