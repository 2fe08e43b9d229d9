//! Tests of forwarding on a fake kernel: verdicts, rejected routes, tunnels, sets, restarts and failed look-ups.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::dataplane::Hop;
use crate::dataplane::fake::{Fake, FakePorts};
use crate::intent::{Encapsulation, SEGMENT_LABEL};
use crate::netlink::hint::ForeignRoute;
use crate::netlink::{Cause, KernelError};
use crate::plan::testing::{cluster, ip, labelled, node, peer};
use crate::underlay::{Interface, Segment};

const OWN: &str = "172.20.1.11";
const B: &str = "172.20.1.12";
const C: &str = "172.20.2.11";

/// The underlay of a test: the look-up of a next hop without an entry fails.
#[derive(Clone, Default)]
struct TestUnderlay(Rc<RefCell<BTreeMap<IpAddr, Segment>>>);

impl TestUnderlay {
    fn set(&self, next_hop: &str, segment: Segment) {
        self.0.borrow_mut().insert(ip(next_hop), segment);
    }
}

impl Questions for TestUnderlay {
    fn segments(&mut self, next_hops: &[IpAddr]) -> Vec<KernelResult<Segment>> {
        let segments = self.0.borrow();
        let failed =
            |next_hop: &IpAddr| KernelError::from_cause(format!("look up {next_hop}"), Cause::NoAnswer);
        let look = |next_hop: &IpAddr| segments.get(next_hop).cloned().ok_or_else(|| failed(next_hop));
        next_hops.iter().map(look).collect()
    }

    fn interface(&mut self, address: IpAddr) -> KernelResult<Interface> {
        match address == ip(OWN) {
            true => Ok(Interface { index: 2, name: "eth1".into(), mtu: 1500 }),
            false => Err(KernelError::from_cause(format!("find {address}"), Cause::NoAnswer)),
        }
    }
}

fn direct() -> Segment {
    Segment::Direct { oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn routed() -> Segment {
    Segment::Routed { gateway: ip("172.20.1.1"), oif: 2, name: "eth1".into(), source: ip(OWN) }
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// A node with a kernel, which a restart does not change.
struct TestNode {
    fake: Fake,
    underlay: TestUnderlay,
    forwarder: Forwarder<FakePorts, TestUnderlay>,
    snapshot: Snapshot,
    now: Instant,
}

impl TestNode {
    /// Makes node a of two racks: b is on its segment, c behind a router.
    fn new() -> Self {
        let snapshot = cluster([
            node("a", OWN, "10.244.1.0/24"),
            node("b", B, "10.244.2.0/24"),
            node("c", C, "10.244.3.0/24"),
        ]);
        Self::with(snapshot)
    }

    fn with(snapshot: Snapshot) -> Self {
        let (fake, underlay) = (Fake::default(), TestUnderlay::default());
        underlay.set(B, direct());
        underlay.set(C, routed());
        let forwarder = Self::start(&fake, &underlay);
        Self { fake, underlay, forwarder, snapshot, now: Instant::now() }
    }

    fn start(fake: &Fake, underlay: &TestUnderlay) -> Forwarder<FakePorts, TestUnderlay> {
        Forwarder::new("a".into(), fake.dataplane(), Underlay::new(underlay.clone()))
    }

    /// Replaces the process by a new one.
    fn restart(&mut self) {
        self.forwarder = Self::start(&self.fake, &self.underlay);
    }

    fn learn(&mut self, changes: &[(&str, Option<(&str, &str)>)], synced: bool) {
        let change = |(to, route): &(&str, Option<(&str, &str)>)| RouteChange {
            prefix: network(to),
            route: route.map(|(next_hop, peer)| (ip(next_hop), ip(peer))),
        };
        self.forwarder.apply(changes.iter().map(change), synced);
    }

    /// Runs until nothing is due; returns Heliograph's routes in the kernel.
    fn run(&mut self, in_sync: bool) -> Vec<String> {
        self.forwarder.set_intent(Intent { snapshot: Arc::new(self.snapshot.clone()), in_sync });
        loop {
            self.forwarder.run(self.now);
            match self.forwarder.next_retry() {
                Some(due) if due <= self.now => {}
                _ => break,
            }
        }
        self.fake.world().routes.keys().map(ToString::to_string).collect()
    }

    /// Returns the desired route to a prefix.
    fn desired(&self, prefix: &str) -> Option<Route> {
        self.forwarder.dataplane.routes.desired(&network(prefix)).map(|route| Route::clone(route))
    }

    fn verdict(&mut self, next_hop: &str) -> Reachability {
        let verdicts = self.forwarder.state().next_hops;
        let found = verdicts.iter().find(|verdict| verdict.next_hop == ip(next_hop));
        found.expect("a verdict").reachability
    }

    /// Returns whether a set of the nftables table has an element.
    fn in_set(&self, set: &str, address: &str) -> bool {
        let IpAddr::V4(address) = ip(address) else { panic!("an IPv4 address") };
        let world = self.fake.world();
        let table = world.table.as_ref().expect("a table");
        let (_, elements) = &table.sets[set];
        elements.keys().any(|key| format!("{key:?}").contains(&format!("{:?}", address.octets())))
    }
}

const TO_B: (&str, Option<(&str, &str)>) = ("10.244.2.0/24", Some((B, B)));
const TO_C: (&str, Option<(&str, &str)>) = ("10.244.3.0/24", Some((C, C)));

#[test]
fn routes_are_joined_with_the_segments_of_their_next_hops() {
    let mut this = TestNode::new();
    this.learn(&[TO_B, TO_C], true);
    assert_eq!(this.run(true), ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
    assert_eq!(this.desired("10.244.1.0/24"), Some(Route::Blackhole));
    assert_eq!(this.desired("10.244.2.0/24"), Some(Route::unicast([Hop::Direct { via: ip(B), oif: 2 }])));
    let tunnel = Tunnel::ipip(IpFamily::V4);
    let to_c = Hop::Tunnel { tunnel, remote: ip(C), local: ip(OWN) };
    assert_eq!(this.desired("10.244.3.0/24"), Some(Route::unicast([to_c])));
    let state = this.forwarder.state();
    assert!(state.kernel.in_sync && state.problems.is_empty(), "{state:?}");
    assert_eq!(state.own_routes, [network("10.244.1.0/24")]);
    let counts = [(Reachability::Direct, 1), (Reachability::Tunnel, 1)];
    let counts = counts.map(|(reachability, count)| ((IpFamily::V4, RouteUse::By(reachability)), count));
    assert_eq!(state.route_counts, counts.into());
    assert_eq!(this.fake.world().devices.len(), 1);
    assert!(this.in_set("nodes4", C));
}

#[test]
fn a_restart_keeps_routes_until_peers_have_sent_all() {
    let mut this = TestNode::new();
    assert!(!this.forwarder.has_routes(this.now).unwrap());
    this.learn(&[TO_B], true);
    assert_eq!(this.run(true), ["10.244.1.0/24", "10.244.2.0/24"]);

    this.restart();
    assert!(this.forwarder.has_routes(this.now).unwrap());
    assert_eq!(this.run(true), ["10.244.1.0/24", "10.244.2.0/24"]);
    this.learn(&[], true);
    assert_eq!(this.run(true), ["10.244.1.0/24"], "now the route is withdrawn");
}

#[test]
fn a_removed_node_is_purged_but_not_by_the_last_good_intent() {
    let mut this = TestNode::new();
    this.learn(&[TO_B, TO_C], true);
    this.run(true);
    this.snapshot.remove("a");
    assert_eq!(this.run(false).len(), 3, "the last good intent is no reason to purge");
    assert_eq!(this.run(true), [""; 0]);
    assert!(this.fake.world().devices.is_empty());
    assert!(this.fake.world().table.is_none());

    this.snapshot.insert(node("a", OWN, "10.244.1.0/24"));
    assert_eq!(this.run(true).len(), 3);
}

#[test]
fn a_failed_look_up_deletes_no_route() {
    let mut this = TestNode::new();
    this.learn(&[TO_B], true);
    this.run(true);
    this.underlay.0.borrow_mut().clear();
    this.forwarder.hint(&Hint::Everything);
    assert_eq!(this.run(true).len(), 2);
    assert_eq!(this.forwarder.state().problems.len(), 1);

    this.underlay.set(B, Segment::Unreachable { error: "Network is unreachable".into() });
    assert_eq!(this.run(true), ["10.244.1.0/24"], "looked up again, with success");
    assert!(this.forwarder.state().problems.is_empty());
}

#[test]
fn a_changed_segment_is_applied_after_a_hint_about_it() {
    let mut this = TestNode::new();
    this.learn(&[TO_B], true);
    this.run(true);
    this.underlay.set(B, routed());
    this.run(true);
    assert_eq!(this.verdict(B), Reachability::Direct, "there was no hint");
    let hint = |prefix: &str| {
        let prefix = network(prefix);
        Hint::ForeignRoute(ForeignRoute { prefix, table: 254, metric: 0, tos: 0, protocol: 3, added: true })
    };
    this.forwarder.hint(&hint("198.51.100.0/24"));
    this.run(true);
    assert_eq!(this.verdict(B), Reachability::Direct, "the hint is about another network");
    this.forwarder.hint(&hint("172.20.1.0/24"));
    this.run(true);
    assert_eq!(this.verdict(B), Reachability::Tunnel);
    assert!(this.forwarder.in_kernel(&network(TO_B.0)).installed);
}

#[test]
fn next_hops_that_are_inferred_to_be_nodes_use_the_tunnel_and_are_accepted() {
    let mut snapshot = cluster([node("a", OWN, "10.244.1.0/24"), node("rr", B, "")]);
    snapshot.all_nodes = false;
    snapshot.insert_peer("tor", peer("tor", "172.20.2.1", 64600));
    let mut this = TestNode::with(snapshot);
    this.learn(&[("10.244.3.0/24", Some((C, B)))], true);
    this.run(true);
    assert_eq!(this.verdict(C), Reachability::Tunnel);
    assert!(this.in_set("nodes4", C) && this.in_set("inside4", C));
    // The same route of a router outside is no reason to take its next hop for a node.
    this.learn(&[("10.244.3.0/24", Some((C, "172.20.2.1")))], true);
    this.run(true);
    assert_eq!(this.verdict(C), Reachability::Routed);
    assert!(!this.in_set("nodes4", C) && !this.in_set("inside4", C));
}

#[test]
fn a_route_to_an_address_that_becomes_that_of_a_node_is_rejected() {
    let mut this = TestNode::new();
    this.learn(&[("172.20.2.77/32", Some((B, B)))], true);
    assert_eq!(this.run(true), ["10.244.1.0/24", "172.20.2.77/32"]);
    this.snapshot.insert(node("d", "172.20.2.77", "10.244.4.0/24"));
    assert_eq!(this.run(true), ["10.244.1.0/24"]);
    let state = this.forwarder.in_kernel(&network("172.20.2.77/32"));
    assert!(state.reason.is_some_and(|reason| reason.contains("address of Node d")));
    assert_eq!(this.forwarder.state().route_counts, [((IpFamily::V4, RouteUse::Rejected), 1)].into());
    this.snapshot.remove("d");
    assert_eq!(this.run(true).len(), 2);
}

mod incremental {
    use super::*;
    use proptest::prelude::*;

    /// One change of routes, intent or underlay.
    #[derive(Clone, Debug)]
    enum Step {
        Route(usize, Option<(usize, usize)>),
        Segment(usize, u8),
        Node(usize, u8),
        AllNodes(bool),
        OwnNode(bool),
        Encapsulation(u8),
        ClusterCidrs(bool),
    }

    const PREFIXES: [&str; 8] = [
        "10.244.2.0/24",
        "10.244.3.0/24",
        "10.244.9.0/24",
        "10.244.1.64/26",
        "0.0.0.0/0",
        "172.20.1.12/32",
        "172.20.0.0/16",
        "fd00:9::/64",
    ];
    const ADDRESSES: [&str; 5] = [B, C, "172.20.9.9", "172.20.2.1", "172.20.1.254"];

    fn step() -> impl Strategy<Value = Step> {
        let route = proptest::option::of((0..ADDRESSES.len(), 0..ADDRESSES.len()));
        prop_oneof![
            6 => (0..PREFIXES.len(), route).prop_map(|(prefix, route)| Step::Route(prefix, route)),
            2 => (0..ADDRESSES.len(), 0..3_u8).prop_map(|(address, kind)| Step::Segment(address, kind)),
            2 => (0..ADDRESSES.len(), 0..4_u8).prop_map(|(address, form)| Step::Node(address, form)),
            1 => any::<bool>().prop_map(Step::AllNodes),
            1 => any::<bool>().prop_map(Step::OwnNode),
            1 => (0..3_u8).prop_map(Step::Encapsulation),
            1 => any::<bool>().prop_map(Step::ClusterCidrs),
        ]
    }

    fn segment(kind: u8) -> Segment {
        match kind {
            0 => direct(),
            1 => routed(),
            _ => Segment::Unreachable { error: "Network is unreachable".into() },
        }
    }

    impl TestNode {
        fn take(&mut self, step: &Step) {
            match step {
                Step::Route(prefix, route) => {
                    let route = route.map(|(next_hop, peer)| (ADDRESSES[next_hop], ADDRESSES[peer]));
                    self.learn(&[(PREFIXES[*prefix], route)], true);
                }
                Step::Segment(address, kind) => {
                    self.underlay.set(ADDRESSES[*address], segment(*kind));
                    self.forwarder.hint(&Hint::Everything);
                }
                Step::Node(address, form) => {
                    let name = format!("n{address}");
                    let pods = format!("10.244.{}.0/24", 2 + address);
                    self.snapshot.remove(&name);
                    match form {
                        0 => {}
                        1 => self.snapshot.insert(node(&name, ADDRESSES[*address], &pods)),
                        2 => self.snapshot.insert(node(&name, ADDRESSES[*address], "")),
                        _ => {
                            let node = node(&name, ADDRESSES[*address], &pods);
                            self.snapshot.insert(labelled(node, SEGMENT_LABEL, "x"));
                        }
                    }
                }
                Step::AllNodes(all) => self.snapshot.all_nodes = *all,
                Step::OwnNode(false) => drop(self.snapshot.remove("a")),
                Step::OwnNode(true) => self.snapshot.insert(own_node()),
                Step::Encapsulation(kind) => {
                    let all = [Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always];
                    self.snapshot.configuration_mut().encapsulation = all[usize::from(*kind)];
                }
                Step::ClusterCidrs(given) => {
                    let cidrs = given.then(|| network("10.244.0.0/16")).into_iter().collect();
                    self.snapshot.configuration_mut().cluster_cidrs = cidrs;
                }
            }
        }

        /// Returns all that is desired, and the state.
        fn outcome(&mut self) -> String {
            let routes: Vec<_> =
                PREFIXES.iter().chain(&["10.244.1.0/24"]).map(|prefix| self.desired(prefix)).collect();
            let ForwardingState { next_hops, route_counts, problems, .. } = self.forwarder.state();
            let world = self.fake.world();
            let sets = world.table.as_ref().map(|table| {
                let sets = table.sets.iter();
                sets.map(|(name, (_, elements))| format!("{name} {:?}", elements.keys())).collect::<Vec<_>>()
            });
            let reasons: Vec<_> =
                PREFIXES.iter().map(|prefix| self.forwarder.in_kernel(&network(prefix)).reason).collect();
            format!("{routes:?} {next_hops:?} {route_counts:?} {problems:?} {sets:?} {reasons:?}")
        }
    }

    fn own_node() -> crate::intent::Node {
        labelled(node("a", OWN, "10.244.1.0/24"), SEGMENT_LABEL, "x")
    }

    fn start() -> TestNode {
        let mut snapshot = cluster([own_node(), node("n0", B, "")]);
        snapshot.insert_peer("tor", peer("tor", "172.20.2.1", 64600));
        let mut this = TestNode::with(snapshot);
        this.learn(&[], true);
        for address in ADDRESSES {
            this.underlay.set(address, direct());
        }
        this
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// Working out only what moved gives the same as working out everything.
        #[test]
        fn changes_in_any_portions_and_all_at_once_have_the_same_result(
            steps in proptest::collection::vec((step(), any::<bool>()), 1..40),
        ) {
            let mut one_by_one = start();
            for (step, run) in &steps {
                one_by_one.take(step);
                if *run {
                    one_by_one.run(true);
                }
            }
            one_by_one.run(true);
            let mut at_once = start();
            steps.iter().for_each(|(step, _)| at_once.take(step));
            at_once.run(true);
            prop_assert_eq!(one_by_one.outcome(), at_once.outcome());
        }
    }
}
