use super::super::testing::{cluster, ip, labelled, node, peer};
use super::*;
use crate::intent::{Operator, Peer, Requirement, Selector};
use heliograph_bgp::Family;
use heliograph_bgp::Ttl;

fn two_racks() -> Snapshot {
    cluster([
        node("a", "172.20.1.11", "10.244.1.0/24"),
        node("b", "172.20.1.12", "10.244.2.0/24"),
        node("c", "172.20.2.11", "10.244.3.0/24"),
    ])
}

fn selecting(key: &str) -> Selector {
    Selector { requirements: vec![Requirement { key: key.into(), operator: Operator::Exists }] }
}

fn reflected() -> Snapshot {
    let mut snapshot = two_racks();
    for (name, address) in [("rr1", "172.20.1.21"), ("rr2", "172.20.2.21")] {
        snapshot.insert(labelled(node(name, address, ""), "reflect", ""));
    }
    snapshot.configuration_mut().topology = Topology::Reflectors(selecting("reflect"));
    snapshot
}

fn roles(plan: &SpeakerPlan) -> Vec<(&str, NeighborRole, bool)> {
    let describe = |n| (n, plan.roles[&address_of(plan, n)], client(plan, n));
    plan.config.neighbors.iter().map(|n| describe(n.name.as_str())).collect()
}

fn address_of(plan: &SpeakerPlan, name: &str) -> IpAddr {
    plan.config.neighbors.iter().find(|n| n.name == name).unwrap().address
}

fn client(plan: &SpeakerPlan, name: &str) -> bool {
    plan.config.neighbors.iter().find(|n| n.name == name).unwrap().reflector_client
}

fn tor(address: &str, asn: u32, nodes: Selector) -> Peer {
    let default = if asn == 64512 { Filter::All } else { Filter::nothing() };
    let mut peer = Peer { nodes, ..peer(&format!("tor-{asn}"), address, asn) };
    peer.neighbor = peer.neighbor.port(1179).import(default.clone()).export(default).passive(true);
    peer
}

#[test]
fn in_a_mesh_all_nodes_are_neighbors() {
    let snapshot = two_racks();
    let plan = bgp_config(&snapshot, "a", true);
    assert_eq!(roles(&plan), [("b", NeighborRole::Mesh, false), ("c", NeighborRole::Mesh, false)]);
    assert_eq!(plan.problems, [""; 0]);
    let config = plan.config;
    config.validate().unwrap();
    assert_eq!(config.router_id, "172.20.1.11".parse::<Ipv4Addr>().unwrap());
    let network = Network::new("10.244.1.0/24".parse::<ipnetwork::IpNetwork>().unwrap().into())
        .next_hop(ip("172.20.1.11"));
    assert_eq!(config.networks, [network]);
    assert_eq!(config.neighbors[0].local_address, Some(ip("172.20.1.11")));
    assert_eq!(config.neighbors[0].families, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
}

#[test]
fn every_pair_agrees_on_addresses_roles_and_port() {
    let mut snapshot = reflected();
    for (name, addresses) in
        [("six", "fd00::6"), ("dual", "172.20.1.30 fd00::30"), ("laud", "fd00::31 172.20.1.31")]
    {
        snapshot.insert(node(name, addresses, ""));
    }
    for mesh in [true, false] {
        if mesh {
            snapshot.configuration_mut().topology = Topology::FullMesh;
        }
        let all: BTreeMap<_, _> =
            snapshot.nodes.keys().map(|name| (name.clone(), bgp_config(&snapshot, name, true))).collect();
        for (name, plan) in &all {
            plan.config.validate().unwrap();
            for neighbor in &plan.config.neighbors {
                let other = &all[neighbor.name.as_str()];
                let back = other.config.neighbors.iter().find(|n| *n.name == **name);
                let back = back.unwrap_or_else(|| panic!("{} is no neighbor of {name}", neighbor.name));
                assert_eq!(back.local_address, Some(neighbor.address));
                assert_eq!(neighbor.local_address, Some(back.address));
                let pair = (plan.roles[&neighbor.address], other.roles[&back.address]);
                use NeighborRole::*;
                assert!(matches!(pair, (Mesh, Mesh) | (Client, Reflector) | (Reflector, Client)), "{pair:?}");
            }
        }
    }
}

#[test]
fn with_reflectors_only_these_are_neighbors() {
    let snapshot = reflected();
    let node = bgp_config(&snapshot, "a", true);
    assert_eq!(
        roles(&node),
        [("rr1", NeighborRole::Reflector, false), ("rr2", NeighborRole::Reflector, false)]
    );
    let reflector = bgp_config(&snapshot, "rr1", false);
    use NeighborRole::{Client, Mesh};
    assert_eq!(
        roles(&reflector),
        [("a", Client, true), ("b", Client, true), ("c", Client, true), ("rr2", Mesh, false)]
    );
    assert!(
        reflector.config.networks.is_empty() && reflector.problems.is_empty(),
        "{:?}",
        reflector.problems
    );
}

#[test]
fn a_reflector_that_forwards_originates_and_a_stand_alone_one_does_not() {
    let mut snapshot = reflected();
    snapshot.node_mut("rr1").pod_cidrs = vec!["10.244.9.0/24".parse().unwrap()];
    assert_eq!(bgp_config(&snapshot, "rr1", true).config.networks.len(), 1);
    assert_eq!(bgp_config(&snapshot, "rr1", false).config.networks.len(), 0);
}

#[test]
fn peers_are_for_the_nodes_they_select() {
    let mut snapshot = two_racks();
    let first = snapshot.remove("a").unwrap();
    snapshot.insert(labelled(first, "rack", "1"));
    snapshot.insert_peer("tor", tor("172.20.1.1", 64600, selecting("rack")));
    snapshot.insert_peer("all", tor("172.20.9.1", 64512, Selector::default()));
    let plan = bgp_config(&snapshot, "a", true);
    assert_eq!(plan.roles[&ip("172.20.1.1")], NeighborRole::External);
    assert_eq!(plan.roles[&ip("172.20.9.1")], NeighborRole::Internal);
    let external = plan.config.neighbors.iter().find(|n| n.asn == 64600).unwrap();
    assert_eq!((external.port, external.passive, external.local_address), (1179, true, None));
    assert_eq!(external.export, Filter::nothing());
    assert!(!bgp_config(&snapshot, "b", true).roles.contains_key(&ip("172.20.1.1")));
}

#[test]
fn the_neighbor_is_that_of_the_peer_with_a_local_address() {
    for (source, local_address) in [
        (SourceAddress::Kernel, None),
        (SourceAddress::Node, Some(ip("172.20.1.11"))),
        (SourceAddress::Address(ip("172.20.1.99")), Some(ip("172.20.1.99"))),
    ] {
        let mut tor = peer("tor", "172.20.1.1", 64600);
        tor.source = source;
        tor.neighbor = tor.neighbor.local_asn(64700).ttl(Ttl::Security(1));
        let expected = tor.neighbor.clone().local_address(local_address);
        let mut snapshot = two_racks();
        snapshot.insert_peer("tor", tor);
        let plan = bgp_config(&snapshot, "a", true);
        plan.config.validate().unwrap();
        assert_eq!(plan.config.neighbors.iter().find(|n| n.name == "tor"), Some(&expected));
    }
}

#[test]
fn a_peer_whose_source_the_node_lacks_is_left_out_and_reported() {
    let mut snapshot = two_racks();
    let tor = Peer { source: SourceAddress::Node, ..peer("tor", "2001:db8::1", 64600) };
    snapshot.insert_peer("tor", tor);
    let plan = bgp_config(&snapshot, "a", true);
    assert!(!plan.roles.contains_key(&ip("2001:db8::1")));
    assert!(plan.problems[0].contains("BGPPeer tor"), "{:?}", plan.problems);
}

#[test]
fn a_dual_stack_node_originates_each_family_with_its_own_next_hop() {
    let snapshot = cluster([node("a", "172.20.1.11 fd00::11", "10.244.1.0/24 fd00:10:244:1::/64")]);
    let next_hops: Vec<_> = bgp_config(&snapshot, "a", true)
        .config
        .networks
        .iter()
        .map(|network| network.next_hop.unwrap())
        .collect();
    assert_eq!(next_hops, [ip("172.20.1.11"), ip("fd00::11")]);
}

#[test]
fn missing_fields_are_reported() {
    let with = |nodes: Vec<Node>| bgp_config(&cluster(nodes), "a", true);
    let cases = [
        (with(vec![]), "not in the intent"),
        (with(vec![node("a", "", "10.244.1.0/24")]), "no InternalIP"),
        (with(vec![node("a", "172.20.1.11", "")]), "no pod CIDR"),
        (with(vec![node("a", "172.20.1.11", "fd00::/64")]), "not advertised"),
        (
            with(vec![node("a", "172.20.1.11", "10.0.0.0/24"), node("b", "fd00::1", "")]),
            "no session with Node b",
        ),
        (with(vec![node("a", "172.20.1.11", "10.0.0.0/24"), node("b", "", "")]), "no session with Node b"),
    ];
    for (plan, expected) in cases {
        assert!(plan.problems.iter().any(|p| p.contains(expected)), "{expected}: {:?}", plan.problems);
        plan.config.validate().unwrap();
    }
    let mut snapshot = two_racks();
    snapshot.configuration_mut().topology = Topology::Reflectors(selecting("nobody"));
    let plan = bgp_config(&snapshot, "a", true);
    assert!(plan.problems[0].contains("no node is a reflector"), "{:?}", plan.problems);
}

#[test]
fn router_ids_without_ipv4_are_stable_and_differ() {
    let snapshot = cluster([node("a", "fd00::1", ""), node("b", "fd00::2", "")]);
    let of = |name| bgp_config(&snapshot, name, true).config.router_id;
    assert_ne!(of("a"), of("b"));
    assert_eq!(of("a"), Ipv4Addr::from_bits(0xe40c_292c), "FNV-1a of \"a\"");
}
