use super::*;
use crate::dataplane::fake::{Fake, Op};
use crate::dataplane::guard::Guard;
use crate::dataplane::nat::{Nat, NatOutgoing};
use crate::netlink::nftables::{Element, Operation};

fn ip(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn at(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn nat(inside: &[&str]) -> NatOutgoing {
    NatOutgoing {
        pods: [at("10.1.0.0/24")].into_iter().collect(),
        inside: inside.iter().map(|network| at(network)).collect(),
    }
}

struct Bench {
    fake: Fake,
    plane: Nftables<Fake>,
    guard: Guard,
    nat: Nat,
    present: Present,
}

impl Bench {
    fn new() -> Self {
        let fake = Fake::default();
        let plane = fake.nftables();
        let present = Present { may_delete: true, ..Present::default() };
        Self { fake, plane, guard: Guard::default(), nat: Nat::default(), present }
    }

    fn guard(&mut self, sources: &[u8]) {
        self.guard.set(Some(sources.iter().map(|n| ip(*n)).collect()), &mut self.plane.objects());
    }

    fn nat(&mut self, inside: &[&str]) {
        self.nat.set(Some(nat(inside)), &mut self.plane.objects());
    }

    fn run(&mut self) -> PlaneReport {
        crate::dataplane::run(&mut [&mut self.plane], &mut self.present, Instant::now());
        self.plane.report(&self.present)
    }

    /// Returns the operations since the last call.
    fn operations(&self) -> Vec<Operation> {
        self.fake.world().transactions.drain(..).flat_map(|transaction| transaction.operations).collect()
    }
}

fn element(key: ElementKey) -> Vec<Element> {
    vec![Element { key, value: None }]
}

#[test]
fn one_node_more_is_one_element_more() {
    let mut bench = Bench::new();
    bench.guard(&[1, 2]);
    bench.nat(&["10.1.0.0/24", "10.2.0.0/24"]);
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.world().transactions.len(), 1, "one transaction for all features");
    bench.operations();
    bench.guard(&[1, 2, 3]);
    bench.nat(&["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]);
    assert!(bench.run().in_sync);
    let nodes = Arc::new(Set::of("nodes4", Field::IPV4));
    let inside = Arc::new(Set::of_ranges("inside4", Field::IPV4));
    let expected = [
        Operation::AddElements(inside.clone(), element(range_of(&at("10.3.0.0/24")))),
        Operation::AddElements(nodes.clone(), element(address_key(ip(3)))),
    ];
    assert_eq!(bench.operations(), expected);
    bench.guard(&[1, 3]);
    assert!(bench.run().in_sync);
    assert_eq!(bench.operations(), [Operation::DeleteElements(nodes, element(address_key(ip(2))))]);
}

#[test]
fn the_table_is_read_only_after_changes_by_others() {
    let mut bench = Bench::new();
    bench.guard(&[1]);
    bench.run();
    bench.guard(&[1, 2]);
    bench.run();
    assert_eq!(bench.fake.world().reads, 1);
    bench.plane.invalidate(&Hint::Periodic);
    bench.run();
    assert_eq!(bench.fake.world().reads, 1, "the generation shows that nothing changed");
    // Another program changed its own table.
    bench.fake.world().generation += 1;
    let generation = bench.fake.world().generation;
    bench.plane.invalidate(&Hint::Nftables { generation: Some(generation), ours: false });
    bench.plane.invalidate(&Hint::Periodic);
    bench.run();
    assert_eq!(bench.fake.world().reads, 1);
    // A notification was missed.
    bench.fake.world().generation += 1;
    bench.plane.invalidate(&Hint::Periodic);
    bench.run();
    assert_eq!(bench.fake.world().reads, 2);
    bench.plane.invalidate(&Hint::Nftables { generation: Some(generation + 2), ours: true });
    bench.run();
    assert_eq!(bench.fake.world().reads, 3);
    assert!(bench.plane.report(&bench.present).in_sync);
}

#[test]
fn a_changed_chain_is_the_only_thing_written_again() {
    let mut bench = Bench::new();
    bench.guard(&[1]);
    bench.nat(&["10.1.0.0/24"]);
    bench.run();
    bench.operations();
    bench.fake.world().table.as_mut().unwrap().chains.get_mut("nat-outgoing").unwrap().1.pop();
    bench.plane.invalidate(&Hint::Everything);
    assert!(bench.run().in_sync);
    let names: Vec<String> = bench.operations().iter().map(|operation| format!("{operation:?}")).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|name| name.contains("nat-outgoing")), "{names:?}");
}

#[test]
fn a_restarted_agent_keeps_an_intact_table() {
    let mut bench = Bench::new();
    bench.guard(&[1]);
    bench.run();
    bench.operations();
    // The table is read before the guard is desired.
    bench.plane = bench.fake.nftables();
    bench.guard = Guard::default();
    bench.present.may_delete = false;
    assert!(bench.run().in_sync);
    bench.guard(&[1]);
    assert!(bench.run().in_sync);
    assert_eq!(bench.operations(), []);
}

#[test]
fn ranges_that_are_kept_give_way_to_those_that_contain_them() {
    let mut bench = Bench::new();
    bench.nat(&["10.1.0.0/24", "10.4.0.0/16"]);
    bench.run();
    bench.present.may_delete = false;
    bench.nat(&["10.1.0.0/16", "10.4.7.0/24"]);
    let report = bench.run();
    assert!(report.in_sync, "{report:?}");
    let inside = |bench: &Bench| -> Vec<ElementKey> {
        bench.fake.world().table.as_ref().unwrap().sets["inside4"].1.keys().cloned().collect()
    };
    assert_eq!(inside(&bench), [range_of(&at("10.1.0.0/16")), range_of(&at("10.4.0.0/16"))]);
    bench.present.may_delete = true;
    assert!(bench.run().in_sync);
    assert_eq!(inside(&bench), [range_of(&at("10.1.0.0/16")), range_of(&at("10.4.7.0/24"))]);
}

#[test]
fn without_any_feature_there_is_no_table() {
    let mut bench = Bench::new();
    bench.guard(&[1]);
    bench.nat(&[]);
    bench.run();
    bench.nat.set(None, &mut bench.plane.objects());
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.world().table.as_ref().unwrap().sets.len(), 2, "the guard's");
    bench.present.tunnels.insert(crate::dataplane::Tunnel::ipip(IpFamily::V4), 7);
    bench.guard.set(None, &mut bench.plane.objects());
    let report = bench.run();
    assert!(
        report.problems[0].error.contains("waits until the tunnel device heliograph4 is deleted"),
        "{report:?}"
    );
    bench.present.tunnels.clear();
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.world().table, None);
    let requested = bench.fake.world().requested.iter().filter(|op| **op == Op::Commit).count();
    bench.run();
    assert_eq!(bench.fake.world().requested.len(), requested, "nothing is left to delete");
}
