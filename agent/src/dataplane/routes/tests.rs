use super::fake::{Content, Effect, Fake, Fault, Op};
use super::*;
use crate::dataplane::{Hop, Tunnel, run};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

fn at(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn direct(via: &str) -> Route {
    Route::unicast([Hop::Direct { via: via.parse().unwrap(), oif: 2 }])
}

fn tunnel(remote: &str) -> Route {
    let remote: IpAddr = remote.parse().unwrap();
    let local = "192.0.2.1".parse().unwrap();
    Route::unicast([Hop::Tunnel { tunnel: Tunnel::ipip(IpFamily::V4), remote, local }])
}

type Desired = BTreeMap<IpNetwork, Route>;

/// The desired routes of a node with a neighbor, a node behind the tunnel, and a blackhole for its own pods.
fn desired() -> Desired {
    [
        (at("10.1.0.0/24"), Route::Blackhole),
        (at("10.2.0.0/24"), direct("192.0.2.2")),
        (at("10.3.0.0/24"), tunnel("198.51.100.3")),
        (at("fd01::/64"), Route::Blackhole),
    ]
    .into()
}

fn devices(index: u32) -> Devices {
    [(Tunnel::ipip(IpFamily::V4), index)].into()
}

/// The plane, with the kernel and what it gets of other planes.
struct Bench {
    fake: Fake,
    routes: Routes<Fake>,
    present: Present,
    now: Instant,
}

impl Bench {
    /// Makes a plane for a kernel with the tunnel device, in which deleting is permitted.
    fn new() -> Self {
        let fake = Fake::default();
        fake.state().devices = devices(7);
        let present =
            Present { may_delete: true, guarded: true, tunnels: devices(7), tunnels_unknown: false };
        Self { routes: Routes::new(fake.clone()), fake, present, now: Instant::now() }
    }

    /// Makes a plane with desired routes, for a kernel with foreign routes and routes of an earlier run.
    fn inherited() -> Self {
        let mut bench = Self::new();
        {
            let mut state = bench.fake.state();
            for (prefix, metric, content) in [
                ("10.2.0.0/24", METRIC, Content::Altered),
                ("10.9.0.0/24", METRIC, Content::Route(direct("192.0.2.9"), devices(7))),
                ("10.2.0.0/24", 0, Content::Altered),
                ("fd09::/64", METRIC, Content::Altered),
                ("0.0.0.0/0", 0, Content::Foreign(4)),
                ("192.0.2.0/24", 0, Content::Foreign(2)),
                ("10.9.0.0/24", 200, Content::Foreign(4)),
                ("2001:db8::/64", 256, Content::Foreign(2)),
            ] {
                state.routes.insert((at(prefix), metric, 0), content);
            }
        }
        bench.want(&desired());
        bench
    }

    fn want(&mut self, desired: &Desired) {
        let before: Vec<IpNetwork> = self.routes.tracker.all_desired().map(|(prefix, _)| *prefix).collect();
        for prefix in before.into_iter().filter(|prefix| !desired.contains_key(prefix)) {
            self.routes.set(prefix, None);
        }
        for (prefix, route) in desired {
            self.routes.set(*prefix, Some(Arc::new(route.clone())));
        }
    }

    fn run(&mut self) -> PlaneReport {
        run(&mut [&mut self.routes], &mut self.present, self.now);
        self.routes.report(&self.present)
    }

    /// Runs until nothing is left to do now, at most 40 times, and at each time of a retry.
    fn settle(&mut self) -> PlaneReport {
        let mut report = self.run();
        for _ in 0..40 {
            let Some(due) = self.routes.next_retry() else { break };
            self.now = due.max(self.now);
            report = self.run();
        }
        report
    }

    /// Checks that the kernel contains the desired routes, and the foreign ones as they were.
    fn check_end(&self, desired: &Desired, foreign: &BTreeMap<fake::Key, u8>) {
        let state = self.fake.state();
        assert_eq!(state.own(), (desired.clone(), 0));
        assert_eq!(&state.foreign(), foreign);
    }
}

fn foreign_change(prefix: &str, metric: u32, protocol: u8, added: bool) -> Hint {
    let table = MAIN_TABLE;
    Hint::ForeignRoute(ForeignRoute { prefix: at(prefix), table, metric, tos: 0, protocol, added })
}

#[test]
fn an_inherited_kernel_gets_the_desired_routes() {
    let mut bench = Bench::inherited();
    let foreign = bench.fake.state().foreign();
    let report = bench.run();
    assert_eq!(
        report,
        PlaneReport {
            in_sync: true,
            actual: 4,
            desired: 4,
            changes: report.changes,
            ..PlaneReport::default()
        }
    );
    assert_eq!(report.changes, 7);
    bench.check_end(&desired(), &foreign);
    assert!(bench.routes.installed(&at("10.3.0.0/24")) && !bench.routes.installed(&at("10.9.0.0/24")));
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, false), (IpFamily::V6, false)]);

    bench.fake.state().requested.clear();
    assert!(bench.run().in_sync);
    for hint in [Hint::Everything, Hint::Periodic] {
        bench.routes.invalidate(&hint);
        assert!(bench.settle().in_sync);
    }
    assert_eq!(bench.fake.state().requested, [], "correct routes are not changed");
    bench.want(&Desired::new());
    assert!(bench.run().in_sync);
    bench.check_end(&Desired::new(), &foreign);
}

#[test]
fn nothing_is_deleted_before_it_is_permitted() {
    let mut bench = Bench::inherited();
    let foreign = bench.fake.state().foreign();
    bench.present.may_delete = false;
    let report = bench.run();
    assert!(report.in_sync, "{report:?}");
    assert_eq!((report.kept, report.actual), (3, 7), "two routes and a stray");
    bench.present.may_delete = true;
    assert_eq!(bench.run().kept, 0);
    bench.check_end(&desired(), &foreign);
}

#[test]
fn a_route_that_another_program_changed_is_read_alone() {
    let mut bench = Bench::new();
    bench.want(&desired());
    bench.run();
    bench.fake.state().dumps.clear();
    let keys = |prefix: &str, metric| (at(prefix), metric, 0);
    {
        let mut state = bench.fake.state();
        state.routes.remove(&keys("10.1.0.0/24", METRIC));
        state.routes.insert(keys("10.2.0.0/24", METRIC), Content::Altered);
        state.routes.insert(keys("10.3.0.0/24", 5), Content::Altered);
        state.routes.insert(keys("10.7.0.0/24", METRIC), Content::Altered);
    }
    for prefix in ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.7.0.0/24", "10.8.0.0/24"] {
        bench.routes.invalidate(&Hint::OwnRoute { prefix: at(prefix) });
    }
    assert!(!bench.routes.report(&bench.present).in_sync);
    assert!(bench.run().in_sync);
    bench.check_end(&desired(), &BTreeMap::new());
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, true)], "own routes of one family");
    bench.fake.state().routes.insert(keys("10.3.0.0/24", 5), Content::Altered);
    bench.routes.invalidate(&Hint::OwnRoute { prefix: at("10.3.0.0/24") });
    assert!(bench.run().in_sync);
    bench.check_end(&desired(), &BTreeMap::new());
}

#[test]
fn foreign_routes_to_desired_prefixes_are_kept_and_reported() {
    let mut bench = Bench::new();
    for (prefix, metric, protocol) in
        [("10.1.0.0/24", 256, 2), ("10.2.0.0/24", METRIC, 4), ("10.3.0.0/24", 0, 4)]
    {
        bench.fake.state().routes.insert((at(prefix), metric, 0), Content::Foreign(protocol));
    }
    let foreign = bench.fake.state().foreign();
    bench.want(&desired());
    let report = bench.run();
    assert!(!report.in_sync);
    assert_eq!(report.problems.len(), 3, "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.error.contains("foreign route")), "{report:?}");
    assert_eq!(
        report.actual, 2,
        "only the less preferred one is installed, for the time when the foreign one is removed"
    );
    assert_eq!(bench.fake.state().foreign(), foreign);
    assert_eq!(bench.routes.next_retry(), None, "a retry is useless before something changes");

    for (prefix, metric, protocol) in
        [("10.1.0.0/24", 256, 2), ("10.2.0.0/24", METRIC, 4), ("10.3.0.0/24", 0, 4)]
    {
        bench.fake.state().routes.remove(&(at(prefix), metric, 0));
        bench.routes.invalidate(&foreign_change(prefix, metric, protocol, false));
    }
    bench.fake.state().dumps.clear();
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, false)]);
    bench.check_end(&desired(), &BTreeMap::new());
}

/// The kernel sends one notification: that of the foreign route.
#[test]
fn a_route_that_a_foreign_one_replaced_is_restored_when_that_is_gone() {
    let mut bench = Bench::inherited();
    bench.run();
    let foreign = bench.fake.state().foreign();
    let key = (at("10.2.0.0/24"), METRIC, 0);
    bench.fake.state().routes.insert(key, Content::Foreign(4));
    bench.routes.invalidate(&foreign_change("10.2.0.0/24", METRIC, 4, true));
    let report = bench.run();
    assert!(!report.in_sync && !bench.routes.installed(&at("10.2.0.0/24")), "{report:?}");
    bench.fake.state().routes.remove(&key);
    bench.routes.invalidate(&foreign_change("10.2.0.0/24", METRIC, 4, false));
    assert!(bench.settle().in_sync);
    bench.check_end(&desired(), &foreign);
}

#[test]
fn foreign_routes_to_other_prefixes_cost_nothing() {
    let mut bench = Bench::inherited();
    bench.run();
    bench.fake.state().dumps.clear();
    for added in [true, false, true] {
        bench.routes.invalidate(&foreign_change("203.0.113.0/24", 0, 4, added));
        assert!(bench.run().in_sync);
    }
    let other_table = Hint::ForeignRoute(ForeignRoute {
        prefix: at("10.1.0.0/24"),
        table: 99,
        metric: 0,
        tos: 0,
        protocol: 4,
        added: true,
    });
    bench.routes.invalidate(&other_table);
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.state().dumps, []);

    // The kernel still has it, as another route with the same key exists.
    bench.routes.invalidate(&foreign_change("203.0.113.0/24", 0, 4, false));
    bench.fake.state().routes.insert((at("203.0.113.0/24"), 0, 0), Content::Foreign(4));
    bench.routes.set(at("203.0.113.0/24"), Some(Arc::new(Route::Blackhole)));
    assert_eq!(bench.run().problems.len(), 1);
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, false)], "it was doubtful");
    bench.routes.set(at("203.0.113.0/24"), None);
    assert!(bench.run().in_sync, "no conflict without a desired route");
}

#[test]
fn a_foreign_route_that_appears_forbids_ours_without_a_reading() {
    let mut bench = Bench::new();
    bench.run();
    bench.fake.state().dumps.clear();
    bench.routes.invalidate(&foreign_change("10.2.0.0/24", METRIC, 4, true));
    bench.fake.state().routes.insert((at("10.2.0.0/24"), METRIC, 0), Content::Foreign(4));
    bench.want(&desired());
    let report = bench.run();
    assert_eq!((report.actual, report.problems.len(), report.failures), (3, 1, 0), "{report:?}");
    assert_eq!(bench.fake.state().dumps, []);
}

#[test]
fn a_foreign_route_without_a_hint_is_found_by_the_rejection() {
    let mut bench = Bench::new();
    bench.run();
    bench.fake.state().routes.insert((at("10.2.0.0/24"), METRIC, 0), Content::Foreign(4));
    bench.want(&desired());
    let report = bench.run();
    assert!(
        report.problems.iter().any(|problem| problem.remedy.contains("has Heliograph's metric")),
        "{report:?}"
    );
    let report = bench.settle();
    assert!(report.problems.iter().any(|problem| problem.error.contains("foreign route")), "{report:?}");
    assert_eq!(bench.fake.state().foreign().len(), 1);
}

#[test]
fn routes_wait_for_their_tunnel_and_go_with_it() {
    let mut bench = Bench::new();
    bench.want(&desired());
    bench.present.tunnels.clear();
    bench.fake.state().devices.clear();
    let report = bench.run();
    assert_eq!(report.actual, 3);
    let causes: Vec<&str> = report.problems.iter().map(|problem| problem.error.as_str()).collect();
    assert_eq!(causes, ["waits until the tunnel device heliograph4 exists"]);
    assert_eq!(bench.routes.next_retry(), None, "it waits for another plane");
    for index in [7, 8] {
        bench.fake.state().delete_devices();
        bench.fake.state().devices = devices(index);
        bench.present.tunnels = devices(index);
        assert!(bench.run().in_sync);
        bench.check_end(&desired(), &BTreeMap::new());
    }
    bench.present.tunnels_unknown = true;
    bench.present.tunnels.clear();
    assert!(bench.run().in_sync, "the devices are where they were");
    bench.present.tunnels_unknown = false;
    bench.fake.state().delete_devices();
    let report = bench.run();
    assert_eq!(report.actual, 3, "{report:?}");
}

#[test]
fn a_link_event_reads_own_routes_only_if_they_use_it() {
    let mut bench = Bench::new();
    bench.want(&desired());
    bench.run();
    bench.fake.state().dumps.clear();
    bench.routes.invalidate(&Hint::Link { index: 99, ours: false });
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.state().dumps, []);
    bench.fake.state().routes.remove(&(at("10.2.0.0/24"), METRIC, 0));
    bench.routes.invalidate(&Hint::Link { index: 2, ours: false });
    assert!(bench.run().in_sync);
    bench.check_end(&desired(), &BTreeMap::new());
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, true), (IpFamily::V6, true)]);
}

#[test]
fn after_a_link_event_conflicts_are_read_again() {
    let mut bench = Bench::new();
    bench.fake.state().routes.insert((at("10.1.0.0/24"), 0, 0), Content::Foreign(4));
    bench.run();
    bench.routes.invalidate(&Hint::Link { index: 99, ours: false });
    bench.fake.state().dumps.clear();
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.state().dumps, [], "nothing conflicts yet");
    bench.want(&desired());
    assert_eq!(bench.run().problems.len(), 1);
    assert_eq!(bench.fake.state().dumps, [(IpFamily::V4, false)]);
    // The kernel deleted it without a notification.
    bench.fake.state().routes.remove(&(at("10.1.0.0/24"), 0, 0));
    bench.routes.invalidate(&Hint::Link { index: 99, ours: false });
    assert!(bench.run().in_sync);
    assert_eq!(bench.fake.state().dumps.len(), 3, "both families");
}

#[test]
fn each_fault_is_recovered_from() {
    for op in Op::ALL {
        for effect in [Effect::Reject, Effect::LoseAnswer] {
            let mut bench = Bench::inherited();
            let foreign = bench.fake.state().foreign();
            bench.fake.state().faults.push(Fault { op, effect, times: 1 });
            let first = bench.run();
            let repeated = op == Op::Part && effect == Effect::Reject;
            assert_eq!(first.in_sync, repeated, "{op:?} {effect:?}: {first:?}");
            let last = bench.settle();
            assert!(last.in_sync, "{op:?} {effect:?}: {last:?}");
            bench.check_end(&desired(), &foreign);
            bench.want(&Desired::new());
            assert!(bench.settle().in_sync, "{op:?} {effect:?}");
            bench.check_end(&Desired::new(), &foreign);
            assert_eq!(bench.fake.state().faults[0].times, 0, "{op:?} was never executed");
        }
    }
}

#[test]
fn a_lasting_fault_leaves_the_rest_working() {
    for op in Op::ALL {
        let mut bench = Bench::inherited();
        bench.fake.state().faults.push(Fault { op, effect: Effect::Reject, times: u32::MAX });
        let report = bench.settle();
        assert!(!report.in_sync && !report.problems.is_empty(), "{op:?}: {report:?}");
        assert!(bench.fake.state().requested.len() < 200, "{op:?} is retried without pause");
        let reads = !matches!(op, Op::Dump | Op::Part);
        assert_eq!(bench.fake.state().own().0.len() >= 2, reads && op != Op::Add, "{op:?}");
        bench.fake.state().faults.clear();
        assert!(bench.settle().in_sync, "{op:?}");
    }
}

#[test]
fn failed_routes_back_off_and_are_retried_at_once_when_the_underlay_changes() {
    let mut bench = Bench::inherited();
    bench.fake.state().faults.push(Fault { op: Op::Replace, effect: Effect::Reject, times: u32::MAX });
    bench.run();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let due = bench.routes.next_retry().unwrap();
        waits.push((due - bench.now).as_millis());
        let requested = bench.fake.state().requested.len();
        bench.now = due - Duration::from_millis(1);
        bench.run();
        assert_eq!(bench.fake.state().requested.len(), requested, "not before the retry time");
        bench.now = due;
        bench.run();
        assert_eq!(bench.fake.state().requested.len(), requested + 1, "only the failed change");
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
    for hint in
        [Hint::Link { index: 5, ours: false }, foreign_change("203.0.113.0/24", 0, 4, true), Hint::Rule]
    {
        let requested = bench.fake.state().requested.len();
        bench.routes.invalidate(&hint);
        bench.run();
        assert_eq!(bench.fake.state().requested.len(), requested + 1, "{hint:?}");
    }
}

#[test]
fn similar_failures_are_one_problem() {
    let mut bench = Bench::new();
    bench.fake.state().faults.push(Fault { op: Op::Add, effect: Effect::Reject, times: u32::MAX });
    bench.want(&(0..=255).map(|n| (at(&format!("10.{n}.0.0/16")), Route::Blackhole)).collect());
    let report = bench.run();
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].what.ends_with("(and 255 more)"), "{report:?}");
}

fn many(count: usize) -> Desired {
    let v4 = |n: usize| at(&format!("{}.{}.{}.0/24", 11 + n / 65536, (n / 256) % 256, n % 256));
    let v6 = |n: usize| at(&format!("fd01:{:x}:{:x}::/64", n / 65536, n % 65536));
    (0..count).flat_map(|n| [(v4(n), Route::Blackhole), (v6(n), Route::Blackhole)]).collect()
}

#[test]
fn a_large_reading_is_cut_into_pieces_between_which_changes_are_made() {
    let mut bench = Bench::new();
    let mut desired = many(PIECE);
    bench.fake.state().part = 500;
    bench.want(&desired);
    assert!(bench.run().in_sync);
    bench.fake.state().dumps.clear();
    // Routes that change without a hint, in both halves.
    for prefix in ["11.0.1.0/24", "11.63.255.0/24", "fd01:0:1::/64", "fd01:0:3fff::/64"] {
        bench.fake.state().routes.remove(&(at(prefix), METRIC, 0));
    }
    bench.routes.invalidate(&Hint::Periodic);
    let mut runs = 0;
    while bench.fake.state().own().0.len() != desired.len() || bench.routes.next_retry().is_some() {
        assert!(runs < 10, "it ends");
        // Changes of both families during the reading.
        let n = 200 + runs;
        for prefix in [format!("11.0.{n}.0/24"), format!("fd01:0:{n:x}::/64")] {
            desired.insert(at(&prefix), direct("192.0.2.2"));
        }
        desired.remove(&at(&format!("11.1.{n}.0/24")));
        bench.want(&desired);
        bench.run();
        runs += 1;
    }
    assert!(runs >= 2, "there were pauses");
    let report = bench.settle();
    assert!(report.in_sync, "{report:?}");
    assert_eq!(report.failures, 0);
    bench.check_end(&desired, &BTreeMap::new());
}

#[test]
fn an_overrun_during_a_reading_begins_it_anew() {
    let mut bench = Bench::new();
    let desired = many(PIECE);
    bench.fake.state().part = 500;
    bench.want(&desired);
    bench.run();
    bench.routes.invalidate(&Hint::Periodic);
    bench.run();
    assert!(bench.routes.next_retry().is_some(), "it paused");
    bench.fake.state().routes.remove(&(at("11.0.1.0/24"), METRIC, 0));
    bench.routes.invalidate(&Hint::Everything);
    assert!(bench.settle().in_sync);
    bench.check_end(&desired, &BTreeMap::new());
}

fn any_route() -> impl Strategy<Value = Route> {
    let both = Route::unicast([
        Hop::Direct { via: "192.0.2.2".parse().unwrap(), oif: 2 },
        tunnel("198.51.100.3").hops()[0],
    ]);
    prop_oneof![Just(Route::Blackhole), Just(direct("192.0.2.2")), Just(tunnel("198.51.100.3")), Just(both)]
}

fn any_prefix() -> impl Strategy<Value = IpNetwork> {
    (0..12_u8, any::<bool>()).prop_map(|(n, v4)| match v4 {
        true => at(&format!("10.{n}.0.0/24")),
        false => at(&format!("fd0{n:x}::/64")),
    })
}

fn any_desired() -> impl Strategy<Value = Desired> {
    proptest::collection::btree_map(any_prefix(), any_route(), 0..8)
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let effect = prop_oneof![Just(Effect::Reject), Just(Effect::LoseAnswer)];
    (proptest::sample::select(Op::ALL.to_vec()), effect, 1..5_u32).prop_map(|(op, effect, times)| Fault {
        op,
        effect,
        times,
    })
}

/// Something that happens between two runs.
#[derive(Debug, Clone)]
enum Event {
    /// Other desired routes, and whether deleting is permitted.
    Want(Desired, bool),
    /// Another program changes or deletes a route of Heliograph, and the hint comes or is lost.
    Own(IpNetwork, Option<Route>, bool),
    /// A foreign route appears or disappears, and the hint comes.
    Foreign(IpNetwork, bool),
    /// The tunnel device is created again.
    Device(u32),
    /// A hint without a change.
    Hint(Hint),
}

fn any_event() -> impl Strategy<Value = Event> {
    let hint = proptest::sample::select(vec![
        Hint::Everything,
        Hint::Periodic,
        Hint::Rule,
        Hint::Link { index: 2, ours: false },
        Hint::Link { index: 50, ours: false },
    ]);
    prop_oneof![
        3 => (any_desired(), any::<bool>()).prop_map(|(desired, may_delete)| Event::Want(desired, may_delete)),
        3 => (any_prefix(), proptest::option::of(any_route()), any::<bool>()).prop_map(|(a, b, c)| Event::Own(a, b, c)),
        2 => (any_prefix(), any::<bool>()).prop_map(|(prefix, added)| Event::Foreign(prefix, added)),
        1 => (7..20_u32).prop_map(Event::Device),
        2 => hint.prop_map(Event::Hint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// For any sequence of desired routes, faults and changes by other programs: without faults, the kernel gets the last
    /// desired routes and keeps the foreign ones.
    #[test]
    fn without_faults_the_kernel_gets_the_desired_routes(
        events in proptest::collection::vec((any_event(), any::<bool>()), 1..12),
        faults in proptest::collection::vec(any_fault(), 0..6),
        last in any_desired(),
        part in 0..4_usize,
    ) {
        let mut bench = Bench::inherited();
        bench.fake.state().faults = faults;
        bench.fake.state().part = part;
        let mut lost = false;
        for (event, runs) in events {
            match event {
                Event::Want(desired, may_delete) => {
                    bench.present.may_delete = may_delete;
                    bench.want(&desired);
                }
                Event::Own(prefix, route, hinted) => {
                    let key = (prefix, METRIC, 0);
                    let present = bench.fake.state().devices.clone();
                    match route {
                        Some(route) => bench.fake.state().routes.insert(key, Content::Route(route, present)),
                        None => bench.fake.state().routes.remove(&key),
                    };
                    lost |= !hinted;
                    if hinted {
                        bench.routes.invalidate(&Hint::OwnRoute { prefix });
                    }
                }
                Event::Foreign(prefix, added) => {
                    let key = (prefix, 200, 0);
                    match added {
                        true => bench.fake.state().routes.insert(key, Content::Foreign(4)),
                        false => bench.fake.state().routes.remove(&key),
                    };
                    bench.routes.invalidate(&foreign_change(&prefix.to_string(), 200, 4, added));
                }
                Event::Device(index) => {
                    // The kernel gives a new device a new index; the same one would be noticed by its hint.
                    lost |= bench.present.tunnels == devices(index);
                    bench.fake.state().delete_devices();
                    bench.fake.state().devices = devices(index);
                    bench.present.tunnels = devices(index);
                }
                Event::Hint(hint) => bench.routes.invalidate(&hint),
            }
            if runs {
                bench.run();
                bench.now += Duration::from_millis(150);
            }
        }
        bench.fake.state().faults.clear();
        bench.present.may_delete = true;
        bench.want(&last);
        if lost {
            bench.routes.invalidate(&Hint::Periodic);
        }
        let foreign = bench.fake.state().foreign();
        let report = bench.settle();
        prop_assert!(report.in_sync, "{report:?}");
        bench.check_end(&last, &foreign);
    }
}
