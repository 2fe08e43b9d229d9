use super::fake::{Effect, Elements, Fake, FakePorts, Fault, Op, Table, World};
use super::tunnels::{Device, DeviceForm};
use super::*;
use crate::netlink::nftables::{Chain, ElementKey, Field, Set};
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const TUNNEL4: Tunnel = Tunnel::ipip(IpFamily::V4);
const TUNNEL6: Tunnel = Tunnel::ipip(IpFamily::V6);

fn at(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn direct(via: &str) -> Route {
    Route::unicast([Hop::Direct { via: ip(via), oif: 2 }])
}

fn tunnel(remote: &str) -> Route {
    Route::unicast([Hop::Tunnel { tunnel: TUNNEL4, remote: ip(remote), local: ip("192.0.2.1") }])
}

/// The desired state of all planes.
#[derive(Debug, Clone, Default)]
struct Desired {
    routes: BTreeMap<IpNetwork, Route>,
    mtu: Option<u32>,
    sources: Option<BTreeSet<IpAddr>>,
    nat: Option<NatOutgoing>,
    forwards: bool,
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
        mtu: Some(1480),
        sources: Some([ip("192.0.2.2"), ip("198.51.100.3")].into()),
        nat: Some(nat(&["10.1.0.0/24", "10.2.0.0/24"])),
        forwards: true,
    }
}

fn nat(inside: &[&str]) -> NatOutgoing {
    NatOutgoing {
        pods: [at("10.1.0.0/24")].into_iter().collect(),
        inside: inside.iter().map(|network| at(network)).collect(),
    }
}

fn set_desired(dataplane: &mut Dataplane<FakePorts>, desired: &Desired, may_delete: bool) {
    dataplane.routes.set_all(&desired.routes);
    dataplane.tunnels.set(TUNNEL4, desired.mtu);
    dataplane.set_guard(desired.sources.clone());
    dataplane.set_nat(desired.nat.clone());
    dataplane.sysctls.set(IpFamily::V4, desired.forwards);
    dataplane.permit_deleting(may_delete);
}

fn node_set(family: IpFamily, addresses: &[&str]) -> (Arc<Set>, Elements) {
    let (name, field) =
        if family == IpFamily::V4 { ("nodes4", Field::IPV4) } else { ("nodes6", Field::IPV6) };
    let elements = addresses.iter().map(|address| (nftables::address_key(ip(address)), None)).collect();
    (Arc::new(Set::of(name, field)), elements)
}

/// A kernel with foreign objects, and with objects of an earlier run, some of which others changed.
fn inherited() -> World {
    let device = |index, form| Device { index, form, mtu: 1480, up: true, filters_sources: false };
    let base = crate::netlink::nftables::Base { kind: "filter", hook: 1, priority: -300 };
    let chain = |name: &str, base| Arc::new(Chain { name: name.into(), base, rules: Vec::new() });
    let sets = [node_set(IpFamily::V4, &["203.0.113.1"]), node_set(IpFamily::V6, &[])];
    World {
        table: Some(Table {
            flags: 0,
            sets: sets.into_iter().map(|set| (set.0.name.clone(), set)).collect(),
            chains: [
                (guard::CHAIN.into(), (chain(guard::CHAIN, Some(base)), Vec::new())),
                ("more".into(), (chain("more", None), Vec::new())),
            ]
            .into(),
        }),
        devices: [(TUNNEL4, device(7, DeviceForm::Bound)), (TUNNEL6, device(8, DeviceForm::External))].into(),
        routes: [(at("10.2.0.0/24"), direct("192.0.2.77")), (at("10.9.0.0/24"), direct("192.0.2.9"))].into(),
        ..World::default()
    }
}

/// Runs at each time of a retry until there are no failures, at most 60 times.
fn settle(dataplane: &mut Dataplane<FakePorts>, now: &mut Instant) -> Summary {
    dataplane.run(*now);
    for _ in 0..60 {
        let Some(due) = dataplane.next_retry() else { break };
        *now = due.max(*now);
        dataplane.run(*now);
    }
    dataplane.report()
}

fn elements(table: &Table, set: &str) -> Vec<ElementKey> {
    table.sets.get(set).map(|(_, elements)| elements.keys().cloned().collect()).unwrap_or_default()
}

/// Checks that the kernel contains the desired state, and nothing else of Heliograph.
fn check_end(fake: &Fake, desired: &Desired) {
    let world = fake.world();
    assert_eq!(world.routes, desired.routes);
    let devices: Vec<(Tunnel, u32, &DeviceForm, bool)> = world
        .devices
        .iter()
        .map(|(tunnel, d)| (*tunnel, d.mtu, &d.form, d.up && !d.filters_sources))
        .collect();
    let wanted: Vec<_> = desired.mtu.iter().map(|mtu| (TUNNEL4, *mtu, &DeviceForm::External, true)).collect();
    assert_eq!(devices, wanted);
    assert_eq!(world.guarded(), desired.sources.is_some());
    let Some(table) = &world.table else {
        assert!(desired.sources.is_none() && desired.nat.is_none());
        return;
    };
    let mut chains = Vec::new();
    chains.extend(desired.nat.iter().map(|_| nat::CHAIN));
    chains.extend(desired.sources.iter().map(|_| guard::CHAIN));
    assert_eq!(table.chains.keys().map(|name| &**name).collect::<Vec<_>>(), chains);
    let nodes: Vec<ElementKey> =
        desired.sources.iter().flatten().filter(|a| a.is_ipv4()).map(|a| nftables::address_key(*a)).collect();
    assert_eq!(elements(table, "nodes4"), nodes);
    let inside: Vec<ElementKey> =
        desired.nat.iter().flat_map(|nat| nat.inside.iter()).map(nftables::range_of).collect();
    assert_eq!(elements(table, "inside4"), inside);
}

#[test]
fn the_desired_state_is_made_and_removed() {
    for inherits in [false, true] {
        let fake = Fake::default();
        if inherits {
            *fake.world() = inherited();
        }
        let mut dataplane = fake.dataplane();
        let mut now = Instant::now();
        set_desired(&mut dataplane, &desired(), true);
        dataplane.run(now);
        let summary = dataplane.report();
        assert!(summary.in_sync, "{summary:?}");
        assert_eq!((summary.routes, summary.desired, summary.kept), (3, 3, 0));
        check_end(&fake, &desired());
        assert!(fake.world().forwarding.contains(&IpFamily::V4));
        let requested = fake.world().requested.len();
        for hint in [Hint::Periodic, Hint::Everything] {
            dataplane.invalidate(&hint);
            dataplane.run(now);
            assert!(dataplane.report().in_sync);
        }
        assert_eq!(fake.world().requested.len(), requested, "nothing is written again");
        set_desired(&mut dataplane, &Desired::default(), false);
        dataplane.run(now);
        let summary = dataplane.report();
        assert!(summary.in_sync && summary.kept == 3 + 1 + 1, "routes, a tunnel and the table: {summary:?}");
        check_end(&fake, &desired());
        set_desired(&mut dataplane, &Desired::default(), true);
        let summary = settle(&mut dataplane, &mut now);
        assert!(summary.in_sync, "{summary:?}");
        check_end(&fake, &Desired::default());
        let mut removals = fake.world().requested[requested..].to_vec();
        removals.dedup();
        assert_eq!(removals, [Op::DeleteRoute, Op::RemoveTunnel, Op::Commit], "routes first, the guard last");
        assert!(fake.world().forwarding.contains(&IpFamily::V4), "other programs may need it");
    }
}

#[test]
fn nothing_is_deleted_before_it_is_permitted() {
    let fake = Fake::default();
    *fake.world() = inherited();
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), false);
    let now = Instant::now();
    dataplane.run(now);
    let summary = dataplane.report();
    assert!(summary.in_sync, "{summary:?}");
    assert_eq!(summary.kept, 3, "a route, the other tunnel and a source");
    assert_eq!(
        elements(fake.world().table.as_ref().unwrap(), "nodes4").len(),
        3,
        "a node that isn't known yet may exist"
    );
    set_desired(&mut dataplane, &desired(), true);
    dataplane.run(now);
    assert_eq!(dataplane.report().kept, 0);
    check_end(&fake, &desired());
}

#[test]
fn no_tunnel_without_its_guard() {
    let fake = Fake::default();
    fake.world().faults.push(Fault { op: Op::Commit, effect: Effect::Reject, after: 0, times: u32::MAX });
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), true);
    dataplane.run(Instant::now());
    let summary = dataplane.report();
    assert_eq!(summary.routes, 2, "routes that need no tunnel are in place: {summary:?}");
    assert!(fake.world().devices.is_empty());
    let causes: Vec<&str> = summary.errors.iter().map(|problem| problem.error.as_str()).collect();
    assert!(causes.iter().any(|cause| cause.contains("tunnelled packets")), "{causes:?}");
    assert!(
        causes.iter().any(|cause| cause.contains("waits until the tunnel device heliograph4 exists")),
        "{causes:?}"
    );
    assert!(
        summary.errors.iter().any(|problem| problem.remedy.contains("modprobe nf_tables")),
        "{summary:?}"
    );
}

#[test]
fn a_feature_that_the_kernel_rejects_does_not_block_the_others() {
    let fake = Fake::default();
    fake.world().faults.push(Fault { op: Op::CommitNat, effect: Effect::Reject, after: 0, times: u32::MAX });
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), true);
    let mut now = Instant::now();
    dataplane.run(now);
    let summary = dataplane.report();
    assert!(!summary.in_sync && fake.world().guarded() && summary.routes == 3, "{summary:?}");
    assert_eq!(summary.errors.len(), 1, "{summary:?}");
    assert!(summary.errors[0].what.contains("NAT outgoing"), "{summary:?}");
    fake.world().faults.clear();
    assert!(settle(&mut dataplane, &mut now).in_sync);
    check_end(&fake, &desired());
}

#[test]
fn a_foreign_tunnel_device_is_kept_and_its_routes_wait() {
    let fake = Fake::default();
    let foreign = Device {
        index: 9,
        form: DeviceForm::Foreign("veth".into()),
        mtu: 1500,
        up: true,
        filters_sources: false,
    };
    fake.world().devices.insert(TUNNEL4, foreign.clone());
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), true);
    dataplane.run(Instant::now());
    let summary = dataplane.report();
    assert_eq!(summary.routes, 2);
    let causes: Vec<&str> = summary.errors.iter().map(|problem| problem.error.as_str()).collect();
    assert!(causes.iter().any(|cause| cause.contains("kind veth")), "{causes:?}");
    assert!(causes.iter().any(|cause| cause.contains("waits until the tunnel device")), "{causes:?}");
    assert_eq!(dataplane.next_retry(), None, "a retry is useless before something changes");
    set_desired(&mut dataplane, &Desired::default(), true);
    dataplane.run(Instant::now());
    assert!(dataplane.report().in_sync);
    assert_eq!(fake.world().devices[&TUNNEL4], foreign);
}

#[test]
fn routes_deleted_with_their_tunnel_are_restored_in_the_same_run() {
    let fake = Fake::default();
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), true);
    let now = Instant::now();
    dataplane.run(now);
    fake.world().devices.get_mut(&TUNNEL4).unwrap().form = DeviceForm::Bound;
    dataplane.invalidate(&Hint::Link { index: 101, ours: true });
    dataplane.run(now);
    assert!(dataplane.report().in_sync);
    check_end(&fake, &desired());
}

/// For each operation, and each of its executions: it fails once, in both ways, while everything is made and removed.
#[test]
fn each_fault_is_recovered_from_at_each_place() {
    for op in Op::ALL {
        for effect in [Effect::Reject, Effect::LoseAnswer] {
            for after in 0.. {
                let fake = Fake::default();
                *fake.world() = inherited();
                fake.world().devices.get_mut(&TUNNEL6).unwrap().up = false;
                fake.world().faults.push(Fault { op, effect, after, times: 1 });
                let context = format!("{op:?} {effect:?} after {after}");
                let mut dataplane = fake.dataplane();
                set_desired(&mut dataplane, &desired(), true);
                let mut now = Instant::now();
                let last = settle(&mut dataplane, &mut now);
                assert!(last.in_sync, "{context}: {last:?}");
                check_end(&fake, &desired());
                fake.world().devices.get_mut(&TUNNEL4).unwrap().up = false;
                for hint in [Hint::Everything, Hint::Periodic] {
                    dataplane.invalidate(&hint);
                    let last = settle(&mut dataplane, &mut now);
                    assert!(last.in_sync, "{context}: {last:?}");
                    check_end(&fake, &desired());
                }
                set_desired(&mut dataplane, &Desired::default(), true);
                let last = settle(&mut dataplane, &mut now);
                assert!(last.in_sync, "{context}: {last:?}");
                check_end(&fake, &Desired::default());
                if fake.world().faults[0].times > 0 {
                    assert!(after > 0, "{op:?} was never executed");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_lasting_fault_blocks_only_its_dependents() {
    for op in Op::ALL {
        let fake = Fake::default();
        *fake.world() = inherited();
        fake.world().faults.push(Fault { op, effect: Effect::Reject, after: 0, times: u32::MAX });
        let mut dataplane = fake.dataplane();
        set_desired(&mut dataplane, &desired(), true);
        let mut now = Instant::now();
        let summary = settle(&mut dataplane, &mut now);
        if !matches!(op, Op::ReadRoutes | Op::PutRoute) {
            assert!(fake.world().routes.contains_key(&at("10.1.0.0/24")), "{op:?}");
        }
        if !matches!(op, Op::ReadTable | Op::Commit) {
            assert!(fake.world().guarded(), "{op:?}");
        }
        assert!(fake.world().requested.len() < 300, "{op:?} is retried without pause");
        let harmless = matches!(op, Op::Generation | Op::AdjustTunnel);
        assert_eq!(summary.in_sync, harmless, "{op:?}: {summary:?}");
        assert_eq!(summary.errors.is_empty(), harmless, "{op:?}: {summary:?}");
        fake.world().faults.clear();
        assert!(settle(&mut dataplane, &mut now).in_sync, "{op:?}");
        check_end(&fake, &desired());
    }
}

#[test]
fn waiting_changes_have_no_retry_time() {
    let fake = Fake::default();
    fake.world().faults.push(Fault {
        op: Op::CreateTunnel,
        effect: Effect::Reject,
        after: 0,
        times: u32::MAX,
    });
    let mut dataplane = fake.dataplane();
    set_desired(&mut dataplane, &desired(), true);
    let mut now = Instant::now();
    dataplane.run(now);
    fake.world().faults.push(Fault { op: Op::Commit, effect: Effect::Reject, after: 0, times: u32::MAX });
    fake.world().table = None;
    dataplane.invalidate(&Hint::Nftables { generation: Some(9), ours: true });
    for _ in 0..20 {
        now = dataplane.next_retry().unwrap();
        dataplane.run(now);
        assert!(dataplane.next_retry().unwrap() > now, "otherwise the caller would run again and again");
    }
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let route = prop_oneof![Just(Route::Blackhole), Just(direct("192.0.2.2")), Just(tunnel("198.51.100.3"))];
    let prefix = (0..6u8).prop_map(|n| at(&format!("10.{n}.0.0/24")));
    let sources = proptest::collection::btree_set((1..6u8).prop_map(|n| IpAddr::from([192, 0, 2, n])), 0..4);
    let inside = proptest::collection::vec((0..4u8, 22..=24u8), 0..4);
    (
        proptest::collection::btree_map(prefix, route, 0..5),
        sources,
        any::<bool>(),
        proptest::option::of(inside),
    )
        .prop_map(|(mut routes, sources, tunnels, inside)| {
            if !tunnels {
                routes.retain(|_, route| route.tunnels().next().is_none());
            }
            let networks = |inside: Vec<(u8, u8)>| NatOutgoing {
                pods: [at("10.1.0.0/24")].into_iter().collect(),
                inside: inside
                    .iter()
                    .map(|(n, prefix)| IpNetwork::new([10, 0, *n, 0].into(), *prefix).unwrap())
                    .collect(),
            };
            Desired {
                routes,
                mtu: tunnels.then_some(1480),
                sources: tunnels.then_some(sources),
                nat: inside.map(networks),
                forwards: true,
            }
        })
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let effect = prop_oneof![Just(Effect::Reject), Just(Effect::LoseAnswer)];
    (proptest::sample::select(Op::ALL.to_vec()), effect, 0..4u32, 1..4u32)
        .prop_map(|(op, effect, after, times)| Fault { op, effect, after, times })
}

/// A change by another program.
fn meddle(fake: &Fake, action: u8) {
    let mut world = fake.world();
    world.generation += 1;
    match action {
        0 => world.table = None,
        1 => drop(world.routes.pop_first()),
        2 => drop(world.devices.get_mut(&TUNNEL4).map(|device| device.up = false)),
        other => {
            let Some(table) = &mut world.table else { return };
            match other {
                3 => table.chains.values_mut().for_each(|(_, rules)| rules.clear()),
                4 => table.sets.values_mut().for_each(|(_, elements)| drop(elements.pop_first())),
                5 => drop(table.chains.insert(
                    "more".into(),
                    (Arc::new(Chain { name: "more".into(), base: None, rules: Vec::new() }), Vec::new()),
                )),
                6 => table.flags = 1,
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// For any sequence of desired states, faults and changes by other programs: without faults, the kernel gets the last
    /// desired state. The fake checks that there is never a tunnel without a guard.
    #[test]
    fn without_faults_the_kernel_gets_the_desired_state(
        steps in proptest::collection::vec((any_desired(), any::<bool>(), 0..9u8), 1..6),
        faults in proptest::collection::vec(any_fault(), 0..6),
        last in any_desired(),
    ) {
        let fake = Fake::default();
        *fake.world() = inherited();
        fake.world().faults = faults;
        let mut now = Instant::now();
        let mut dataplane = fake.dataplane();
        for (desired, may_delete, action) in steps {
            set_desired(&mut dataplane, &desired, may_delete);
            dataplane.run(now);
            now += Duration::from_millis(150);
            meddle(&fake, action);
            dataplane.invalidate(&Hint::Everything);
        }
        fake.world().faults.clear();
        set_desired(&mut dataplane, &last, true);
        let summary = settle(&mut dataplane, &mut now);
        prop_assert!(summary.in_sync, "{:?}", summary);
        check_end(&fake, &last);
    }
}
