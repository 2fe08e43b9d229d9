use super::super::bgp_config;
use super::super::testing::{cluster, ip, labelled, node, peer};
use super::*;
use crate::intent::{Operator, Requirement, Selector, Topology};

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";
const R: &str = "192.0.2.9";

fn mesh() -> Snapshot {
    cluster([
        node("a", A, "10.244.1.0/24"),
        node("b", B, "10.244.2.0/24"),
        labelled(node("r", R, "10.244.9.0/24"), "reflect", ""),
    ])
}

/// The same cluster with reflectors, as the store of `node` returns it.
fn reflected(node: &str) -> Snapshot {
    let mut snapshot = mesh();
    let requirements = vec![Requirement { key: "reflect".into(), operator: Operator::Exists }];
    snapshot.configuration_mut().topology = Topology::Reflectors(Selector { requirements });
    if node != "r" {
        Arc::make_mut(&mut snapshot.nodes).retain(|name, _| [node, "r"].contains(&&**name));
        snapshot.all_nodes = false;
    }
    snapshot
}

/// A node that gets one snapshot after the other, at seconds of a clock.
struct TestNode {
    node: &'static str,
    topology_change: TopologyChange,
    start: Instant,
    state: SpeakerState,
    problems: Vec<String>,
}

impl TestNode {
    fn new(node: &'static str, up: &[&str]) -> Self {
        let established = up.iter().map(|address| ip(address)).collect();
        let state = SpeakerState { established, paths: Vec::new() };
        Self {
            node,
            topology_change: TopologyChange::default(),
            start: Instant::now(),
            state,
            problems: Vec::new(),
        }
    }

    /// Adds a path from a neighbor.
    fn receive(&mut self, prefix: &str, from: &str) {
        let prefix: ipnetwork::IpNetwork = prefix.parse().unwrap();
        self.state.paths.push((prefix.into(), Some(ip(from))));
    }

    /// Updates and returns the neighbors, with a `*` for clients, and the nodes of the snapshot.
    fn at(&mut self, second: u64, snapshot: Snapshot) -> (Vec<String>, Vec<String>) {
        let snapshot = Arc::new(snapshot);
        let plan = bgp_config(&snapshot, self.node, true);
        let now = self.start + Duration::from_secs(second);
        let (snapshot, plan) =
            self.topology_change.update(self.node, &snapshot, Arc::new(plan), &self.state, now);
        plan.config.validate().unwrap();
        self.problems = plan.problems.clone();
        let star = |neighbor: &Neighbor| if neighbor.reflector_client { "*" } else { "" };
        let name = |neighbor: &Neighbor| format!("{}{}", neighbor.name, star(neighbor));
        (
            plan.config.neighbors.iter().map(name).collect(),
            snapshot.nodes.keys().map(ToString::to_string).collect(),
        )
    }
}

fn of(sessions: &[&str], nodes: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
    (owned(sessions), owned(nodes))
}

#[test]
fn a_mesh_is_retained_until_reflectors_have_replaced_it() {
    let mut a = TestNode::new("a", &[R]);
    assert_eq!(a.at(0, mesh()), of(&["b", "r"], &["a", "b", "r"]));
    // The Node of b stays with its session: there may be a tunnel to it.
    for second in [100, 101, 109] {
        assert_eq!(a.at(second, reflected("a")), of(&["r", "b"], &["a", "b", "r"]), "{second}");
        assert!(a.topology_change.active());
    }
    assert_eq!(
        a.topology_change.next_check(a.start + Duration::from_secs(101)),
        Some(a.start + Duration::from_secs(110))
    );
    assert_eq!(a.at(110, reflected("a")), of(&["r"], &["a", "r"]));
    assert!(!a.topology_change.active() && a.topology_change.next_check(a.start).is_none());
}

#[test]
fn reflectors_reflect_until_a_mesh_has_replaced_them() {
    let mut r = TestNode::new("r", &[A, B]);
    assert_eq!(r.at(0, reflected("r")).0, ["a*", "b*"]);
    assert_eq!(r.at(1, mesh()).0, ["a*", "b*"]);
    assert_eq!(r.at(10, mesh()).0, ["a*", "b*"]);
    assert_eq!(r.at(11, mesh()).0, ["a", "b"]);

    let mut a = TestNode::new("a", &[R]);
    assert_eq!(a.at(0, reflected("a")).0, ["r"]);
    assert_eq!(a.at(1, mesh()).0, ["b", "r"]);
    assert!(!a.topology_change.active(), "no session is removed");
}

#[test]
fn old_sessions_are_retained_while_no_new_one_is_established() {
    let mut a = TestNode::new("a", &[B]);
    a.at(0, mesh());
    for second in [1, 30, 60] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"]);
        assert_eq!(a.problems, [""; 0], "{second}");
    }
    for second in [61, 6000] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"]);
        let [problem] = &a.problems[..] else { panic!("{:?}", a.problems) };
        assert!(
            problem.contains("with b are retained") && problem.contains("with r is established"),
            "{problem}"
        );
        assert_eq!(
            a.topology_change.next_check(a.start + Duration::from_secs(second)),
            None,
            "only events cause checks"
        );
    }
    a.state.established.insert(ip(R));
    assert_eq!(a.at(6001, reflected("a")).0, ["r"]);
    assert_eq!(a.problems, [""; 0]);
}

#[test]
fn one_of_two_new_sessions_is_enough_after_the_timeout() {
    let two = |node| {
        let mut snapshot = reflected(node);
        let second = labelled(super::super::testing::node("s", "192.0.2.8", "10.244.8.0/24"), "reflect", "");
        snapshot.insert(second);
        snapshot
    };
    let mut a = TestNode::new("a", &[B, R]);
    a.at(0, mesh());
    assert_eq!(a.at(1, two("a")).0, ["r", "s", "b"]);
    assert_eq!(a.at(60, two("a")).0, ["r", "s", "b"]);
    assert_eq!(a.at(61, two("a")).0, ["r", "s"]);
}

#[test]
fn a_session_that_is_the_only_source_of_a_prefix_is_retained() {
    let mut a = TestNode::new("a", &[B, R]);
    a.receive("10.244.2.0/24", B);
    a.receive("10.244.9.0/24", R);
    a.at(0, mesh());
    for second in [1, 11, 60, 61, 600] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"], "b has no session with its reflector");
    }
    assert!(a.problems[0].contains("by no other session"), "{:?}", a.problems);
    a.receive("10.244.2.0/24", R);
    assert_eq!(a.at(601, reflected("a")), of(&["r"], &["a", "r"]));
}

#[test]
fn without_any_new_session_the_old_ones_are_retained() {
    let mut nobody = reflected("a");
    nobody.remove("r");
    let mut a = TestNode::new("a", &[B, R]);
    a.at(0, mesh());
    for second in [1, 11, 61, 600] {
        assert_eq!(a.at(second, nobody.clone()).0, ["b", "r"], "{second}");
    }
}

#[test]
fn a_reverted_change_starts_again() {
    let mut a = TestNode::new("a", &[B, R]);
    a.at(0, mesh());
    a.at(1, reflected("a"));
    assert_eq!(a.at(5, mesh()).0, ["b", "r"]);
    assert!(!a.topology_change.active());
    assert_eq!(a.at(8, reflected("a")).0, ["r", "b"]);
    assert_eq!(a.at(17, reflected("a")).0, ["r", "b"]);
    assert_eq!(a.at(18, reflected("a")).0, ["r"]);
}

#[test]
fn deleted_neighbors_are_removed_at_once() {
    let mut a = TestNode::new("a", &[B, R]);
    a.at(0, mesh());
    let mut without_b = mesh();
    without_b.remove("b");
    assert_eq!(a.at(1, without_b.clone()), of(&["r"], &["a", "r"]), "a Node");

    let mut tor = without_b.clone();
    tor.insert_peer("tor", peer("tor", "192.0.2.254", 64600));
    assert_eq!(a.at(2, tor).0, ["r", "tor"]);
    assert_eq!(a.at(3, without_b).0, ["r"], "a BGPPeer");

    let mut other_as = reflected("a");
    other_as.configuration_mut().asn = 64999;
    a.at(4, mesh());
    assert_eq!(a.at(5, other_as).0, ["r"], "sessions of another AS");

    a.at(6, mesh());
    let mut without_us = mesh();
    without_us.remove("a");
    assert_eq!(a.at(7, without_us).0, [""; 0], "everything, without our own Node");
}
