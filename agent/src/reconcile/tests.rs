use super::*;
use crate::kernel::fake::{Effect, Fake, Fault, Op};
use crate::kernel::{Hop, NatOutgoing, Route, Stray, TunnelDevice, Tunnels};
use proptest::prelude::*;
use std::net::IpAddr;

fn at(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn direct(via: &str) -> Route {
    Route::unicast([Hop::Direct { via: via.parse().unwrap(), oif: 2 }])
}

fn tunnel(remote: &str) -> Route {
    Route::unicast([Hop::Tunnel { remote: remote.parse().unwrap(), local: "192.0.2.1".parse().unwrap() }])
}

/// The desired state of a node with a neighbor, a node behind the tunnel, and a blackhole for its own pods.
fn desired() -> Desired {
    Desired {
        routes: [
            (at("10.1.0.0/24"), Route::Blackhole),
            (at("10.2.0.0/24"), direct("192.0.2.2")),
            (at("10.3.0.0/24"), tunnel("198.51.100.3")),
        ]
        .into(),
        tunnels: Tunnels {
            v4: Some(TunnelDevice { local: "192.0.2.1".parse().unwrap(), mtu: 1480 }),
            v6: None,
        },
        allowed_tunnel_sources: ["192.0.2.2".parse().unwrap(), "198.51.100.3".parse().unwrap()].into(),
        nat_outgoing: None,
        forwarding: true,
    }
}

/// A kernel with foreign objects, and with objects of an earlier run.
fn inherited() -> Actual {
    let bound = Device { form: DeviceForm::Bound, mtu: 1480, up: true, filters_sources: false };
    Actual {
        routes: [
            (at("10.2.0.0/24"), Held::Altered("mtu 1400".to_owned())),
            (at("10.9.0.0/24"), Held::Route(direct("192.0.2.9"))),
        ]
        .into(),
        strays: [Stray { prefix: at("10.2.0.0/24"), metric: 0, tos: 0 }].into(),
        foreign: [
            (at("0.0.0.0/0"), Foreign { metric: 0, protocol: 4 }),
            (at("192.0.2.0/24"), Foreign { metric: 0, protocol: 2 }),
            (at("10.9.0.0/24"), Foreign { metric: 200, protocol: 4 }),
        ]
        .into(),
        tunnels: [(IpFamily::V4, bound), (IpFamily::V6, Device::ready(1480))].into(),
        table: TableState::Altered(guard_for(["203.0.113.1".parse().unwrap()].into())),
        forwarding: BTreeSet::new(),
    }
}

/// Returns rules that contain the guard only.
fn guard_for(sources: BTreeSet<IpAddr>) -> Rules {
    Rules { tunnel_sources: Some(sources), nat: None }
}

fn reconciler(fake: &Fake, desired: Desired, may_delete: bool) -> Reconciler<Fake> {
    let mut reconciler = Reconciler::new(fake.clone());
    reconciler.set_desired(desired, may_delete);
    reconciler
}

/// Runs at each time of a retry until there are no failures, at most 40 times.
async fn settle(reconciler: &mut Reconciler<Fake>, now: &mut Instant) -> Summary {
    let mut summary = reconciler.run(*now).await;
    for _ in 0..40 {
        let Some(due) = reconciler.next_retry() else { break };
        *now = due.max(*now);
        summary = reconciler.run(*now).await;
    }
    summary
}

/// Checks that the kernel contains the desired state and all foreign objects.
fn check_end(fake: &Fake, desired: &Desired, foreign: &BTreeMap<IpNetwork, Foreign>) {
    let state = fake.state();
    let routes: BTreeMap<IpNetwork, Held> =
        desired.routes.iter().map(|(prefix, route)| (*prefix, Held::Route(route.clone()))).collect();
    assert_eq!(state.actual.routes, routes);
    assert_eq!(state.actual.strays, BTreeSet::new());
    assert_eq!(&state.actual.foreign, foreign);
    let tunnels: Vec<IpFamily> = state.actual.tunnels.keys().copied().collect();
    let families = [desired.tunnels.v4.map(|_| IpFamily::V4), desired.tunnels.v6.map(|_| IpFamily::V6)];
    assert_eq!(tunnels, families.into_iter().flatten().collect::<Vec<_>>());
    let table = match desired.rules() {
        none if none == Rules::default() => TableState::Absent,
        rules => TableState::Intact(rules),
    };
    assert_eq!(state.actual.table, table);
}

#[tokio::test]
async fn an_inherited_kernel_gets_the_desired_state() {
    let fake = Fake::default();
    fake.state().actual = inherited();
    let foreign = fake.foreign();
    let mut reconciler = reconciler(&fake, desired(), true);
    let summary = reconciler.run(Instant::now()).await;
    assert_eq!(
        summary,
        Summary { in_sync: true, routes: 3, desired: 3, changes: summary.changes, ..Summary::default() }
    );
    assert!(summary.changes >= 3);
    check_end(&fake, &desired(), &foreign);
    assert!(reconciler.installed(&at("10.3.0.0/24")));
    assert!(!reconciler.installed(&at("10.9.0.0/24")));
    assert_eq!(fake.state().dumps, 1);

    fake.state().requested.clear();
    assert!(reconciler.run(Instant::now()).await.in_sync);
    reconciler.invalidate(true);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    assert_eq!(fake.state().requested, [], "correct objects are not changed");
}

#[tokio::test]
async fn purge_removes_everything_and_is_idempotent() {
    let fake = Fake::default();
    fake.state().actual = inherited();
    let foreign = fake.foreign();
    let mut reconciler = reconciler(&fake, Desired::default(), true);
    for _ in 0..2 {
        assert!(reconciler.run(Instant::now()).await.in_sync);
        check_end(&fake, &Desired::default(), &foreign);
        reconciler.invalidate(false);
    }
}

#[tokio::test]
async fn nothing_is_deleted_before_it_is_permitted() {
    let fake = Fake::default();
    fake.state().actual = inherited();
    fake.state().actual.table = TableState::Intact(guard_for(["203.0.113.1".parse().unwrap()].into()));
    let mut reconciler = reconciler(&fake, desired(), false);
    let summary = reconciler.run(Instant::now()).await;
    assert!(summary.in_sync, "{summary:?}");
    assert_eq!(summary.kept, 4, "a route, a stray, the other tunnel and a source");
    {
        let state = fake.state();
        assert!(state.actual.routes.contains_key(&at("10.9.0.0/24")));
        let rules = state.actual.table.rules().unwrap();
        assert_eq!(rules.tunnel_sources.as_ref().unwrap().len(), 3, "a node that isn't known yet may exist");
    }
    let foreign = fake.foreign();
    reconciler.set_desired(desired(), true);
    assert_eq!(reconciler.run(Instant::now()).await.kept, 0);
    check_end(&fake, &desired(), &foreign);
}

#[tokio::test]
async fn drift_is_repaired_after_the_next_dump() {
    let fake = Fake::default();
    let mut reconciler = reconciler(&fake, desired(), true);
    reconciler.run(Instant::now()).await;
    {
        let mut state = fake.state();
        state.actual.routes.remove(&at("10.1.0.0/24"));
        state.actual.routes.insert(at("10.2.0.0/24"), Held::Route(direct("192.0.2.77")));
        state.actual.tunnels.get_mut(&IpFamily::V4).unwrap().up = false;
        state.actual.table = TableState::Absent;
    }
    reconciler.invalidate(false);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    check_end(&fake, &desired(), &BTreeMap::new());
    assert!(fake.state().actual.tunnels[&IpFamily::V4].up);
}

#[tokio::test]
async fn foreign_routes_to_desired_prefixes_are_kept_and_reported() {
    let fake = Fake::default();
    let connected = Foreign { metric: 256, protocol: 2 };
    let same = Foreign { metric: METRIC, protocol: 4 };
    let before = Foreign { metric: 0, protocol: 4 };
    fake.state().actual.foreign =
        [(at("10.1.0.0/24"), connected), (at("10.2.0.0/24"), same), (at("10.3.0.0/24"), before)].into();
    let foreign = fake.foreign();
    let mut reconciler = reconciler(&fake, desired(), true);
    let summary = reconciler.run(Instant::now()).await;
    assert!(!summary.in_sync);
    assert_eq!(summary.errors.len(), 3, "{summary:?}");
    assert_eq!(
        summary.routes, 1,
        "only the less preferred one is installed, for the time when the foreign one is removed"
    );
    assert_eq!(fake.foreign(), foreign);
    assert_eq!(reconciler.next_retry(), None, "a retry is useless before something changes");

    fake.state().actual.foreign.clear();
    reconciler.invalidate(true);
    assert!(reconciler.run(Instant::now()).await.in_sync);
}

#[tokio::test]
async fn a_foreign_tunnel_device_is_kept_and_its_routes_wait() {
    let fake = Fake::default();
    let foreign =
        Device { form: DeviceForm::Foreign("veth".into()), mtu: 1500, up: true, filters_sources: false };
    fake.state().actual.tunnels.insert(IpFamily::V4, foreign.clone());
    let mut reconciler = reconciler(&fake, desired(), true);
    let summary = reconciler.run(Instant::now()).await;
    assert_eq!(summary.routes, 2);
    let causes: Vec<&str> = summary.errors.iter().map(|problem| problem.error.as_str()).collect();
    assert!(causes.iter().any(|cause| cause.contains("kind veth")), "{causes:?}");
    assert!(causes.iter().any(|cause| cause.contains("waits until the tunnel device")), "{causes:?}");
    reconciler.set_desired(Desired::default(), true);
    reconciler.run(Instant::now()).await;
    assert_eq!(fake.state().actual.tunnels[&IpFamily::V4], foreign);
}

#[tokio::test]
async fn no_tunnel_without_its_guard() {
    let fake = Fake::default();
    fake.state().faults.push(Fault { op: Op::PutTable, effect: Effect::Reject, times: u32::MAX });
    let mut reconciler = reconciler(&fake, desired(), true);
    let summary = reconciler.run(Instant::now()).await;
    assert_eq!(summary.routes, 2, "routes that need no tunnel are in place: {summary:?}");
    assert!(fake.state().actual.tunnels.is_empty());
    assert!(!fake.state().requested.iter().any(|change| matches!(change, Change::PutTunnel { .. })));
    assert!(summary.errors.iter().any(|problem| problem.error.contains("tunnelled packets")), "{summary:?}");
}

#[tokio::test]
async fn nat_changes_independently_of_the_guard_and_keeps_networks_until_deleting_is_permitted() {
    let fake = Fake::default();
    let nat = |inside: &[&str]| NatOutgoing {
        pods: [at("10.1.0.0/24")].into_iter().collect(),
        inside: inside.iter().map(|network| at(network)).collect(),
    };
    let with = |nat_outgoing| Desired { nat_outgoing, ..desired() };
    let mut reconciler = reconciler(&fake, with(Some(nat(&["10.1.0.0/24", "10.2.0.0/24"]))), true);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    reconciler.set_desired(with(Some(nat(&["10.1.0.0/24"]))), false);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    let held = fake.state().actual.table.rules().cloned().unwrap().nat.unwrap();
    assert!(held.inside.contains("10.2.0.7".parse().unwrap()), "{held:?}");
    for desired in [with(Some(nat(&["10.1.0.0/24"]))), with(None)] {
        reconciler.set_desired(desired.clone(), true);
        assert!(reconciler.run(Instant::now()).await.in_sync);
        check_end(&fake, &desired, &BTreeMap::new());
    }
    // The tunnels are deleted, NAT stays: the guard is removed after the tunnels.
    let mut without = with(Some(nat(&["10.1.0.0/24"])));
    without.tunnels = Tunnels::default();
    without.allowed_tunnel_sources.clear();
    without.routes.retain(|_, route| !route.needs_tunnel(IpFamily::V4));
    reconciler.set_desired(without.clone(), true);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    check_end(&fake, &without, &BTreeMap::new());
}

#[tokio::test]
async fn each_fault_is_recovered_from() {
    for op in Op::ALL {
        for effect in [Effect::Reject, Effect::LoseAnswer] {
            let fake = Fake::default();
            fake.state().actual = inherited();
            let foreign = fake.foreign();
            fake.state().faults.push(Fault { op, effect, times: 1 });
            let mut reconciler = reconciler(&fake, desired(), true);
            let mut now = Instant::now();
            let first = reconciler.run(now).await;
            let used = fake.state().faults[0].times == 0;
            assert_eq!(first.in_sync, !used, "{op:?} {effect:?}: {first:?}");
            let last = settle(&mut reconciler, &mut now).await;
            assert!(last.in_sync, "{op:?} {effect:?}: {last:?}");
            check_end(&fake, &desired(), &foreign);
            reconciler.set_desired(Desired::default(), true);
            assert!(settle(&mut reconciler, &mut now).await.in_sync, "{op:?} {effect:?}");
            check_end(&fake, &Desired::default(), &foreign);
            assert_eq!(fake.state().faults[0].times, 0, "{op:?} was never executed");
        }
    }
}

#[tokio::test]
async fn a_lasting_fault_blocks_only_its_dependents() {
    for op in Op::ALL {
        let fake = Fake::default();
        fake.state().actual = inherited();
        fake.state().faults.push(Fault { op, effect: Effect::Reject, times: u32::MAX });
        let mut reconciler = reconciler(&fake, desired(), true);
        let mut now = Instant::now();
        let summary = settle(&mut reconciler, &mut now).await;
        if op == Op::DeleteTable {
            assert!(summary.in_sync);
            continue;
        }
        assert!(!summary.in_sync && !summary.errors.is_empty(), "{op:?}: {summary:?}");
        let requested =
            fake.state().requested.iter().filter(|change| matches!(change, Change::AddRoute(..))).count();
        if op != Op::Dump {
            assert!(
                fake.state().actual.routes.contains_key(&at("10.1.0.0/24")) || op == Op::AddRoute,
                "{op:?}"
            );
            assert!(requested < 200, "{op:?} is retried without pause");
        }
        fake.state().faults.clear();
        assert!(settle(&mut reconciler, &mut now).await.in_sync, "{op:?}");
    }
}

#[tokio::test]
async fn failed_keys_back_off_independently() {
    let fake = Fake::default();
    fake.state().faults.push(Fault { op: Op::ReplaceRoute, effect: Effect::Reject, times: u32::MAX });
    fake.state().actual = inherited();
    let mut reconciler = reconciler(&fake, desired(), true);
    let mut now = Instant::now();
    reconciler.run(now).await;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let due = reconciler.next_retry().unwrap();
        waits.push((due - now).as_millis());
        let requested = fake.state().requested.len();
        reconciler.run(due - Duration::from_millis(1)).await;
        assert_eq!(fake.state().requested.len(), requested, "not before the retry time");
        now = due;
        reconciler.run(now).await;
        assert_eq!(fake.state().requested.len(), requested + 1, "only the failed change");
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
    reconciler.invalidate(true);
    let requested = fake.state().requested.len();
    reconciler.run(now).await;
    assert_eq!(
        fake.state().requested.len(),
        requested + 1,
        "after a change of the underlay the retry is immediate"
    );
}

#[tokio::test]
async fn similar_failures_are_one_entry() {
    let fake = Fake::default();
    fake.state().faults.push(Fault { op: Op::AddRoute, effect: Effect::Reject, times: u32::MAX });
    let mut desired = Desired::default();
    desired.routes.extend((0..=255).map(|n| (at(&format!("10.{n}.0.0/16")), Route::Blackhole)));
    let summary = reconciler(&fake, desired, true).run(Instant::now()).await;
    assert_eq!(summary.errors.len(), 1);
    assert!(summary.errors[0].what.ends_with("(and 255 more)"), "{summary:?}");
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["inSync"], false);
    assert_eq!(json["desired"], 256);
}

fn any_route() -> impl Strategy<Value = Route> {
    prop_oneof![
        Just(Route::Blackhole),
        Just(direct("192.0.2.2")),
        Just(tunnel("198.51.100.3")),
        Just(Route::unicast([
            Hop::Direct { via: "192.0.2.2".parse().unwrap(), oif: 2 },
            Hop::Tunnel { remote: "198.51.100.3".parse().unwrap(), local: "192.0.2.1".parse().unwrap() },
        ])),
    ]
}

fn any_prefix() -> impl Strategy<Value = IpNetwork> {
    (0..12u8).prop_map(|n| at(&format!("10.{n}.0.0/24")))
}

fn any_desired() -> impl Strategy<Value = Desired> {
    (proptest::collection::btree_map(any_prefix(), any_route(), 0..8), any::<bool>()).prop_map(
        |(routes, tunnels)| {
            let mut desired = self::desired();
            desired.routes = routes;
            if !tunnels {
                desired.routes.retain(|_, route| !route.needs_tunnel(IpFamily::V4));
                desired.tunnels = Tunnels::default();
                desired.allowed_tunnel_sources.clear();
            }
            desired
        },
    )
}

fn any_foreign_changes() -> impl Strategy<Value = Vec<(IpNetwork, Option<Route>)>> {
    proptest::collection::vec((any_prefix(), proptest::option::of(any_route())), 0..6)
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let effect = prop_oneof![Just(Effect::Reject), Just(Effect::LoseAnswer)];
    (proptest::sample::select(Op::ALL.to_vec()), effect, 1..5u32).prop_map(|(op, effect, times)| Fault {
        op,
        effect,
        times,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// For any sequence of desired states, faults and changes by other programs: without faults, the kernel gets the last
    /// desired state and keeps the foreign routes.
    #[test]
    fn without_faults_the_kernel_gets_the_desired_state(
        steps in proptest::collection::vec((any_desired(), any::<bool>(), any_foreign_changes()), 1..5),
        faults in proptest::collection::vec(any_fault(), 0..6),
        last in any_desired(),
        foreign in proptest::collection::btree_map(any_prefix(), 200..300u32, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::default();
            fake.state().actual = inherited();
            let others = foreign.into_iter().map(|(prefix, metric)| (prefix, Foreign { metric, protocol: 4 }));
            fake.state().actual.foreign.extend(others);
            let foreign = fake.foreign();
            fake.state().faults = faults;
            let mut now = Instant::now();
            let mut reconciler = Reconciler::new(fake.clone());
            for (desired, may_delete, foreign_changes) in steps {
                reconciler.set_desired(desired, may_delete);
                reconciler.run(now).await;
                now += Duration::from_millis(150);
                for (prefix, route) in foreign_changes {
                    let routes = &mut fake.state().actual.routes;
                    match route {
                        Some(route) => routes.insert(prefix, Held::Route(route)),
                        None => routes.remove(&prefix),
                    };
                }
                reconciler.invalidate(false);
            }
            fake.state().faults.clear();
            reconciler.set_desired(last.clone(), true);
            let summary = settle(&mut reconciler, &mut now).await;
            assert!(summary.in_sync, "{summary:?}");
            check_end(&fake, &last, &foreign);
        });
    }
}

#[tokio::test]
async fn routes_deleted_with_their_tunnel_are_restored_in_the_same_run() {
    let fake = Fake::default();
    let mut reconciler = reconciler(&fake, desired(), true);
    reconciler.run(Instant::now()).await;
    fake.state().actual.tunnels.get_mut(&IpFamily::V4).unwrap().form = DeviceForm::Bound;
    reconciler.invalidate(false);
    assert!(reconciler.run(Instant::now()).await.in_sync);
    check_end(&fake, &desired(), &BTreeMap::new());
}

#[tokio::test]
async fn waiting_changes_have_no_retry_time() {
    let fake = Fake::default();
    let tunnel = Fault { op: Op::PutTunnel, effect: Effect::Reject, times: u32::MAX };
    let guard = Fault { op: Op::PutTable, effect: Effect::Reject, times: u32::MAX };
    fake.state().faults.push(tunnel);
    let mut reconciler = reconciler(&fake, desired(), true);
    let mut now = Instant::now();
    reconciler.run(now).await;
    fake.state().faults.push(guard);
    fake.state().actual.table = TableState::Absent;
    for _ in 0..20 {
        now = reconciler.next_retry().unwrap();
        reconciler.run(now).await;
        assert!(reconciler.next_retry().unwrap() > now, "otherwise the caller would run again and again");
    }
}
