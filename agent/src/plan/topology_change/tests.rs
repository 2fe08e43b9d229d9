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

/// The same with reflectors, as `node` gets to know it.
fn reflected(node: &str) -> Snapshot {
    let mut snapshot = mesh();
    let requirements = vec![Requirement { key: "reflect".into(), operator: Operator::Exists }];
    snapshot.configuration.topology = Topology::Reflectors(Selector { requirements });
    if node != "r" {
        snapshot.nodes.retain(|name, _| name == node || name == "r");
        snapshot.all_nodes = false;
    }
    snapshot
}

/// A node that follows one snapshot after the other, at seconds of a clock.
struct Follower {
    node: &'static str,
    topology_change: TopologyChange,
    start: Instant,
    present: Present,
    problems: Vec<String>,
}

impl Follower {
    fn new(node: &'static str, up: &[&str]) -> Self {
        let established = up.iter().map(|address| ip(address)).collect();
        let present = Present { established, paths: Vec::new() };
        Self {
            node,
            topology_change: TopologyChange::default(),
            start: Instant::now(),
            present,
            problems: Vec::new(),
        }
    }

    /// From now on a neighbour brings a prefix.
    fn hears(&mut self, prefix: &str, from: &str) {
        let prefix: ipnetwork::IpNetwork = prefix.parse().unwrap();
        self.present.paths.push((prefix.into(), Some(ip(from))));
    }

    /// The neighbours, with a `*` for clients, and the nodes that are known.
    fn at(&mut self, second: u64, snapshot: Snapshot) -> (Vec<String>, Vec<String>) {
        let snapshot = Arc::new(snapshot);
        let wanted = bgp_config(&snapshot, self.node, true);
        let now = self.start + Duration::from_secs(second);
        let (snapshot, speaking) =
            self.topology_change.follow(self.node, &snapshot, wanted, &self.present, now);
        speaking.config.validate().unwrap();
        self.problems = speaking.problems;
        let star = |neighbor: &Neighbor| if neighbor.reflector_client { "*" } else { "" };
        let name = |neighbor: &Neighbor| format!("{}{}", neighbor.name, star(neighbor));
        (speaking.config.neighbors.iter().map(name).collect(), snapshot.nodes.keys().cloned().collect())
    }
}

fn of(sessions: &[&str], nodes: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
    (owned(sessions), owned(nodes))
}

#[test]
fn a_mesh_stays_until_reflectors_have_taken_over() {
    let mut a = Follower::new("a", &[R]);
    assert_eq!(a.at(0, mesh()), of(&["b", "r"], &["a", "b", "r"]));
    // Its Node stays with its session: there may be a tunnel to it.
    for second in [100, 101, 109] {
        assert_eq!(a.at(second, reflected("a")), of(&["r", "b"], &["a", "b", "r"]), "{second}");
        assert!(a.topology_change.active());
    }
    assert_eq!(
        a.topology_change.next_look(a.start + Duration::from_secs(101)),
        Some(a.start + Duration::from_secs(110))
    );
    assert_eq!(a.at(110, reflected("a")), of(&["r"], &["a", "r"]));
    assert!(!a.topology_change.active() && a.topology_change.next_look(a.start).is_none());
}

#[test]
fn reflectors_reflect_until_a_mesh_has_taken_over() {
    let mut r = Follower::new("r", &[A, B]);
    assert_eq!(r.at(0, reflected("r")).0, ["a*", "b*"]);
    assert_eq!(r.at(1, mesh()).0, ["a*", "b*"]);
    assert_eq!(r.at(10, mesh()).0, ["a*", "b*"]);
    assert_eq!(r.at(11, mesh()).0, ["a", "b"]);

    let mut a = Follower::new("a", &[R]);
    assert_eq!(a.at(0, reflected("a")).0, ["r"]);
    assert_eq!(a.at(1, mesh()).0, ["b", "r"]);
    assert!(!a.topology_change.active(), "nothing leaves");
}

#[test]
fn old_sessions_stay_while_no_new_one_is_up() {
    let mut a = Follower::new("a", &[B]);
    a.at(0, mesh());
    for second in [1, 30, 60] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"]);
        assert_eq!(a.problems, [""; 0], "{second}");
    }
    for second in [61, 6000] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"]);
        let [problem] = &a.problems[..] else { panic!("{:?}", a.problems) };
        assert!(problem.contains("with b stay") && problem.contains("with r is up"), "{problem}");
        assert_eq!(a.topology_change.next_look(a.start + Duration::from_secs(second)), None, "sessions tell");
    }
    a.present.established.insert(ip(R));
    assert_eq!(a.at(6001, reflected("a")).0, ["r"]);
    assert_eq!(a.problems, [""; 0]);
}

#[test]
fn one_of_two_new_sessions_is_enough_in_the_end() {
    let two = |node| {
        let mut snapshot = reflected(node);
        let second = labelled(super::super::testing::node("s", "192.0.2.8", "10.244.8.0/24"), "reflect", "");
        snapshot.nodes.insert("s".into(), second);
        snapshot
    };
    let mut a = Follower::new("a", &[B, R]);
    a.at(0, mesh());
    assert_eq!(a.at(1, two("a")).0, ["r", "s", "b"]);
    assert_eq!(a.at(60, two("a")).0, ["r", "s", "b"]);
    assert_eq!(a.at(61, two("a")).0, ["r", "s"]);
}

#[test]
fn a_session_that_alone_brings_something_stays() {
    let mut a = Follower::new("a", &[B, R]);
    a.hears("10.244.2.0/24", B);
    a.hears("10.244.9.0/24", R);
    a.at(0, mesh());
    for second in [1, 11, 60, 61, 600] {
        assert_eq!(a.at(second, reflected("a")).0, ["r", "b"], "b has no session with its reflector");
    }
    assert!(a.problems[0].contains("by no other session"), "{:?}", a.problems);
    a.hears("10.244.2.0/24", R);
    assert_eq!(a.at(601, reflected("a")), of(&["r"], &["a", "r"]));
}

#[test]
fn without_any_new_session_the_old_ones_stay() {
    let mut nobody = reflected("a");
    nobody.nodes.remove("r");
    let mut a = Follower::new("a", &[B, R]);
    a.at(0, mesh());
    for second in [1, 11, 61, 600] {
        assert_eq!(a.at(second, nobody.clone()).0, ["b", "r"], "{second}");
    }
}

#[test]
fn a_change_of_mind_begins_anew() {
    let mut a = Follower::new("a", &[B, R]);
    a.at(0, mesh());
    a.at(1, reflected("a"));
    assert_eq!(a.at(5, mesh()).0, ["b", "r"]);
    assert!(!a.topology_change.active());
    assert_eq!(a.at(8, reflected("a")).0, ["r", "b"]);
    assert_eq!(a.at(17, reflected("a")).0, ["r", "b"]);
    assert_eq!(a.at(18, reflected("a")).0, ["r"]);
}

#[test]
fn what_is_gone_leaves_at_once() {
    let mut a = Follower::new("a", &[B, R]);
    a.at(0, mesh());
    let mut without_b = mesh();
    without_b.nodes.remove("b");
    assert_eq!(a.at(1, without_b.clone()), of(&["r"], &["a", "r"]), "a Node");

    let mut tor = without_b.clone();
    tor.peers.insert("tor".into(), peer("tor", "192.0.2.254", 64600));
    assert_eq!(a.at(2, tor).0, ["r", "tor"]);
    assert_eq!(a.at(3, without_b).0, ["r"], "a BGPPeer");

    let mut other_as = reflected("a");
    other_as.configuration.asn = 64999;
    a.at(4, mesh());
    assert_eq!(a.at(5, other_as).0, ["r"], "sessions of another AS");

    a.at(6, mesh());
    let mut without_us = mesh();
    without_us.nodes.remove("a");
    assert_eq!(a.at(7, without_us).0, [""; 0], "everything, without our own Node");
}
