use super::super::testing::{cluster, ip, node, peer};
use super::*;

const OWN: &str = "172.20.1.11";

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

#[test]
fn inside_are_pods_and_nodes_and_what_nodes_advertise_unless_the_networks_are_listed() {
    let mut snapshot = cluster([
        node("a", OWN, "10.244.1.0/24"),
        node("b", "172.20.1.12", "10.244.2.0/24"),
        node("c", "172.20.2.11", "10.244.3.0/24"),
    ]);
    let inside = Inside::of(&snapshot);
    let all = inside.with([network("10.244.9.0/24")].into_iter(), [ip("172.20.9.11")].into_iter());
    for address in ["10.244.1.9", "10.244.3.9", OWN, "172.20.2.11", "10.244.9.1", "172.20.9.11"] {
        assert!(all.contains(ip(address)), "{address}");
    }
    for address in ["10.244.4.1", "172.20.1.1", "192.0.2.1", "2001:db8::1"] {
        assert!(!all.contains(ip(address)), "{address}");
    }
    let lacks = |inside: &Inside, text: &str| inside.lacks(&network(text));
    assert!(lacks(&inside, "10.244.9.0/24") && lacks(&inside, "10.244.0.0/16"));
    for known in ["10.244.3.0/24", "10.244.3.128/25", "172.20.1.12/32", "0.0.0.0/0", "::/0"] {
        assert!(!lacks(&inside, known), "{known}");
    }
    snapshot.configuration_mut().cluster_cidrs = vec![network("10.244.0.0/16")];
    let listed = Inside::of(&snapshot);
    assert!(!lacks(&listed, "203.0.113.0/24"), "what nodes advertise does not count");
    let all = listed.with([].into_iter(), [].into_iter());
    assert!(all.contains(ip("10.244.200.1")) && all.contains(ip(OWN)) && !all.contains(ip("203.0.113.1")));
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
        ("10.244.3.0/24", "172.20.9.9", "172.20.9.9", "", false),
    ];
    for (to, next_hop, peer, cluster, is_node) in cases {
        snapshot.configuration_mut().cluster_cidrs = cluster.split_whitespace().map(network).collect();
        let inferred = |snapshot: &Snapshot| {
            let rule = OriginRule::of(snapshot);
            rule.is_from_node(ip(next_hop), ip(peer)) && rule.is_to_inferred_node(&network(to), ip(next_hop))
        };
        assert_eq!(inferred(&snapshot), is_node, "{to} via {next_hop} from {peer} in {cluster:?}");
        let whole = Snapshot { all_nodes: true, ..snapshot.clone() };
        assert!(!inferred(&whole), "if the snapshot contains all nodes, no other next hop is one");
    }
}
