use super::super::testing::{cluster, ip, node};
use super::*;

const OWN: &str = "172.20.1.11";

fn underlays() -> Underlays {
    [(ip(OWN), 1500), (ip("fd00::11"), 1400)].into()
}

fn two_racks() -> Snapshot {
    cluster([node("a", OWN, "10.244.1.0/24"), node("c", "172.20.2.11", "10.244.3.0/24")])
}

#[test]
fn there_are_tunnels_for_the_families_of_pods() {
    let mut snapshot = two_racks();
    snapshot.node_mut("a").addresses.push(ip("fd00::11"));
    let planned = |snapshot: &Snapshot| {
        let all = tunnels(snapshot, &snapshot.nodes["a"], &underlays(), &mut Vec::new());
        Tunnel::ALL.map(|tunnel| all.mtu(tunnel))
    };
    assert_eq!(planned(&snapshot), [Some(1480), None], "no IPv6 pods anywhere");
    snapshot.node_mut("c").pod_cidrs.push("fd00:10:244:3::/64".parse().unwrap());
    assert_eq!(planned(&snapshot), [Some(1480), Some(1360)]);
    snapshot.configuration_mut().encapsulation = Encapsulation::Never;
    assert_eq!(planned(&snapshot), [None; 2]);
}

#[test]
fn an_address_on_no_interface_is_a_problem() {
    let snapshot = two_racks();
    let mut problems = Vec::new();
    let planned = tunnels(&snapshot, &snapshot.nodes["a"], &Underlays::new(), &mut problems);
    assert!(planned.is_empty() && problems[0].contains("on no interface"), "{problems:?}");
}

#[test]
fn tunnelled_packets_are_accepted_from_nodes_and_only_with_tunnels() {
    let mut snapshot = two_racks();
    let tunnels = Tunnels::default();
    let inferred = || [ip("172.20.9.11")].into_iter();
    let sources = allowed_sources(&snapshot, &tunnels, inferred());
    assert_eq!(sources, Some([ip(OWN), ip("172.20.2.11"), ip("172.20.9.11")].into()));
    snapshot.configuration_mut().encapsulation = Encapsulation::Never;
    assert_eq!(allowed_sources(&snapshot, &tunnels, inferred()), None);
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
        let found = pod_mtu(&snapshot, &snapshot.nodes["a"], &underlays());
        assert_eq!(found, expected, "{encapsulation:?} {pods}");
    }
}
