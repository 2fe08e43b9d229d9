//! Tests of the plane of routes, the underlay and the hints on a real kernel, each in its own network namespace. They need
//! root and `ip`.
#![allow(missing_docs)]

mod common;

use common::*;
use heliograph_agent::dataplane::routes::{Linux, Routes};
use heliograph_agent::dataplane::{Hop, Plane, PlaneReport, Present, Route, run};
use heliograph_agent::netlink::Hint;
use heliograph_agent::netlink::watch::{Own, Watch};
use heliograph_agent::underlay::{self, Segment, Underlay};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Desired = BTreeMap<IpNetwork, Arc<Route>>;

/// The plane, with what it gets of other planes.
struct Kernel {
    routes: Routes<Linux>,
    desired: BTreeSet<IpNetwork>,
    present: Present,
}

impl Kernel {
    fn open() -> Self {
        let present = Present { may_delete: true, ..Present::default() };
        Self { routes: Routes::new(Linux::open().unwrap()), desired: BTreeSet::new(), present }
    }

    fn want(&mut self, desired: &Desired) {
        let keys: BTreeSet<IpNetwork> = desired.keys().copied().collect();
        for prefix in self.desired.difference(&keys) {
            self.routes.set(*prefix, None);
        }
        for (prefix, route) in desired {
            self.routes.set(*prefix, Some(route.clone()));
        }
        self.desired = keys;
    }

    /// Makes all changes, and goes on with what has to be done at once.
    fn run(&mut self) -> PlaneReport {
        let now = Instant::now();
        loop {
            run(&mut [&mut self.routes], &mut self.present, now);
            if self.routes.next_retry().is_none_or(|due| due > now) {
                return self.routes.report(&self.present);
            }
        }
    }

    /// Reads the kernel again and applies `desired`.
    fn apply(&mut self, desired: &Desired) -> PlaneReport {
        self.want(desired);
        self.routes.invalidate(&Hint::Everything);
        self.run()
    }

    /// Calls [`Kernel::apply`], which must succeed.
    fn apply_in_sync(&mut self, desired: &Desired) {
        let report = self.apply(desired);
        assert!(
            report.in_sync,
            "{report:#?}\n{}",
            sh("ip -d route show proto 104; ip -d -6 route show proto 104")
        );
    }
}

fn direct(via: &str, oif: u32) -> Hop {
    Hop::Direct { via: ip(via), oif }
}

fn routes(list: &[(&str, Route)]) -> Desired {
    list.iter().map(|(prefix, route)| (at(prefix), Arc::new(route.clone()))).collect()
}

/// Checks with a new plane that the kernel contains exactly these routes, in the form in which they are written.
fn check_held(desired: &Desired, why: &str) {
    let mut after = Kernel::open();
    after.want(desired);
    after.present.may_delete = false;
    let report = after.run();
    assert!(report.in_sync && report.changes == 0 && report.kept == 0, "{why}: {report:#?}");
    assert_eq!(report.actual, desired.len(), "{why}");
}

#[test]
fn routes_of_every_kind_are_added_replaced_and_deleted() {
    in_namespace(|| async {
        let oif = underlay();
        let mut kernel = Kernel::open();
        let forms = [
            Route::Blackhole,
            Route::unicast([direct("192.0.2.2", oif)]),
            Route::unicast([direct("192.0.2.2", oif), direct("192.0.2.3", oif)]),
            Route::unicast([direct("2001:db8::9", oif)]),
            Route::unicast([direct("192.0.2.3", oif), direct("192.0.2.4", oif), direct("192.0.2.5", oif)]),
        ];
        let forms6 = [
            Route::Blackhole,
            Route::unicast([direct("2001:db8::2", oif)]),
            Route::unicast([direct("2001:db8::2", oif), direct("2001:db8::3", oif)]),
        ];
        // Every change from one form to another, in both families, is a replace that must leave exactly one route.
        for before in 0..forms.len() {
            for after in 0..forms.len() {
                for form in [before, after] {
                    let six = forms6[form % forms6.len()].clone();
                    let desired = routes(&[("10.1.0.0/24", forms[form].clone()), ("fd01::/64", six)]);
                    kernel.apply_in_sync(&desired);
                    check_held(&desired, &format!("from {before} to {after}"));
                }
            }
        }
        kernel.apply_in_sync(&Desired::new());
        assert_eq!(sh("ip route show proto 104; ip -6 route show proto 104"), "");
    });
}

#[test]
fn iproute2_shows_the_intended_routes() {
    in_namespace(|| async {
        let oif = underlay();
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.3.0.0/24", Route::unicast([direct("192.0.2.2", oif), direct("192.0.2.3", oif)])),
        ]);
        Kernel::open().apply_in_sync(&desired);
        let shown = sh("ip route show proto 104");
        assert!(shown.contains("blackhole 10.1.0.0/24 metric 104"), "{shown}");
        assert!(shown.contains("10.2.0.0/24 via 192.0.2.2 dev up0 metric 104"), "{shown}");
        assert!(shown.contains("nexthop via 192.0.2.3 dev up0 weight 1"), "{shown}");
        // A pod's host route, which the plugin adds, is preferred to the blackhole of the node's prefix.
        sh("ip route add 10.1.0.7/32 dev up0 proto 105");
        let route = sh("ip route get 10.1.0.7");
        assert!(route.contains("dev up0"), "{route}");
    });
}

#[test]
fn a_restart_keeps_correct_routes_and_deletes_the_rest_when_permitted() {
    in_namespace(|| async {
        let oif = underlay();
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
        ]);
        Kernel::open().apply_in_sync(&desired);
        sh("ip route add blackhole 10.9.0.0/24 proto 104 metric 104");
        sh("ip route add blackhole 10.9.0.0/24 proto 104 metric 7");
        sh("ip route add 10.8.0.0/24 via 192.0.2.2 tos 0x10 proto 104 metric 104");
        sh("ip -6 route add blackhole fd09::/64 proto 104 metric 33");

        let mut after = Kernel::open();
        after.want(&desired);
        after.present.may_delete = false;
        let report = after.run();
        assert!(report.in_sync && report.kept == 4, "{report:?}");
        assert_eq!(report.changes, 0, "correct routes are not written again");

        after.present.may_delete = true;
        let report = after.run();
        assert!(report.in_sync && report.kept == 0 && report.actual == 2, "{report:?}");
        assert_eq!(sh("ip route show proto 104 | wc -l; ip -6 route show proto 104 | wc -l"), "2\n0\n");
    });
}

#[test]
fn foreign_routes_are_never_changed() {
    in_namespace(|| async {
        let oif = underlay();
        let ours = Route::unicast([direct("192.0.2.2", oif)]);
        for route in [
            "10.1.0.0/24 via 192.0.2.9 proto static",
            "10.2.0.0/24 via 192.0.2.9 proto static metric 104",
            "10.3.0.0/24 via 192.0.2.9 proto static metric 300",
            "10.4.0.0/24 via 192.0.2.9 proto 105",
            "10.6.0.0/24 via 192.0.2.9 proto 104 table 99",
        ] {
            sh(&format!("ip route add {route}"));
        }
        sh("ip -6 route add fd02::/64 via 2001:db8::9 proto static metric 104");
        let foreign =
            || sh("for f in 4 6; do ip -$f route show table all | grep -v 'proto 104 metric 104'; done");
        let before = foreign();
        let mut kernel = Kernel::open();
        let desired = routes(&[
            ("10.1.0.0/24", ours.clone()),
            ("10.2.0.0/24", ours.clone()),
            ("10.3.0.0/24", ours.clone()),
            ("10.5.0.0/24", ours.clone()),
            ("192.0.2.0/24", ours),
            ("fd02::/64", Route::Blackhole),
            // In IPv6 a connected network has a higher metric, so this route would make its link unusable.
            ("2001:db8::/64", Route::Blackhole),
        ]);
        for _ in 0..2 {
            let report = kernel.apply(&desired);
            assert_eq!(report.problems.len(), 5, "{:#?}", report.problems);
            assert!(report.problems.iter().all(|problem| problem.error.contains("foreign route")));
            assert_eq!((report.actual, report.failures), (3, 0));
            assert_eq!(foreign(), before);
        }
        kernel.apply_in_sync(&Desired::new());
        assert_eq!(foreign(), before);
    });
}

/// Receives hints for some time, or until `enough` returns true for one.
async fn hints(watch: &mut Watch, time: Duration, mut enough: impl FnMut(&Hint) -> bool) -> Vec<Hint> {
    let deadline = tokio::time::Instant::now() + time;
    let mut all = Vec::new();
    loop {
        let before = all.len();
        match tokio::time::timeout_at(deadline, watch.next(&mut all)).await {
            Ok(result) => result.unwrap(),
            Err(_) => return all,
        }
        if all[before..].iter().any(&mut enough) {
            return all;
        }
    }
}

/// Interfaces come up asynchronously: waits until there are no more hints.
async fn quiet(watch: &mut Watch) {
    while !hints(watch, Duration::from_millis(200), |_| false).await.is_empty() {}
}

#[test]
fn changes_by_other_programs_are_noticed_and_reverted() {
    in_namespace(|| async {
        let oif = underlay();
        let mut kernel = Kernel::open();
        let own = Own { routes: kernel.routes.port().port(), tables: Vec::new() };
        let mut watch = Watch::open(own).unwrap();
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("fd01::/64", Route::unicast([direct("2001:db8::2", oif)])),
        ]);
        quiet(&mut watch).await;
        kernel.apply_in_sync(&desired);
        let none = hints(&mut watch, Duration::from_millis(50), |_| false).await;
        assert_eq!(none, [], "own changes give no hint");
        for command in [
            "ip route del 10.1.0.0/24",
            "ip route replace 10.2.0.0/24 via 192.0.2.9 proto 104 metric 104",
            "ip route replace 10.2.0.0/24 via 192.0.2.2 proto 104 metric 104 mtu 1300",
            "ip route replace 10.2.0.0/24 via 192.0.2.2 proto 104 metric 104 src 192.0.2.1",
            "ip -6 route del fd01::/64",
            "ip route add 10.2.0.0/24 via 192.0.2.9 proto 104 metric 7",
            "ip -6 route append fd01::/64 via 2001:db8::9 proto 104 metric 104",
            // The kernel deletes routes over a link that goes down, IPv4 ones without a notification.
            "ip link set up0 down && ip link set up0 up && ip -6 addr replace 2001:db8::1/64 dev up0 nodad",
        ] {
            sh(command);
            wait_for(&format!("{command} is reverted"), async || {
                for hint in hints(&mut watch, Duration::from_millis(100), |_| true).await {
                    kernel.routes.invalidate(&hint);
                }
                let report = kernel.run();
                report.in_sync
                    && sh("ip route show proto 104 | wc -l; ip -6 route show proto 104 | wc -l") == "2\n1\n"
            })
            .await;
            check_held(&desired, command);
            quiet(&mut watch).await;
        }
    });
}

#[test]
fn a_conflict_comes_and_goes_by_its_notification() {
    in_namespace(|| async {
        let oif = underlay();
        let mut kernel = Kernel::open();
        let mut watch = Watch::open(Own { routes: kernel.routes.port().port(), tables: vec![] }).unwrap();
        quiet(&mut watch).await;
        let desired = routes(&[("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)]))]);
        kernel.apply_in_sync(&desired);
        for (command, problems) in [
            ("ip route add 10.2.0.0/24 via 192.0.2.9 proto static", 1),
            ("ip route append 10.2.0.0/24 via 192.0.2.8 proto static", 1),
            ("ip route del 10.2.0.0/24 via 192.0.2.8", 1),
            ("ip route del 10.2.0.0/24 via 192.0.2.9", 0),
            ("ip address add 10.2.0.1/24 dev up0", 1),
            ("ip address del 10.2.0.1/24 dev up0", 0),
        ] {
            sh(command);
            wait_for(command, async || {
                for hint in hints(&mut watch, Duration::from_millis(100), |_| true).await {
                    kernel.routes.invalidate(&hint);
                }
                kernel.run().problems.len() == problems
            })
            .await;
        }
    });
}

#[test]
fn the_kernels_error_is_returned_for_each_route_with_a_remedy() {
    in_namespace(|| async {
        let oif = underlay();
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("198.51.100.1", oif)])),
            ("10.3.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.4.0.0/24", Route::unicast([direct("192.0.2.2", 4711)])),
        ]);
        let report = Kernel::open().apply(&desired);
        assert_eq!(report.actual, 2, "{report:#?}");
        let [gateway] = report.problems.as_slice() else {
            panic!("two similar errors are one entry: {report:#?}")
        };
        assert!(
            gateway.what.contains("10.2.0.0/24") && gateway.what.ends_with("(and 1 more)"),
            "{gateway:?}"
        );
        assert!(gateway.error.contains("invalid gateway"), "the kernel's explanation: {gateway:?}");
        assert!(gateway.remedy.contains("next hop is on a link"), "{gateway:?}");
    });
}

#[test]
fn each_of_thousands_of_changes_gets_its_own_result() {
    in_namespace(|| async {
        let oif = underlay();
        let mut desired = Desired::new();
        for n in 0..10_000_u32 {
            let via = if n % 7 == 3 { "198.51.100.1" } else { "192.0.2.2" };
            let prefix = at(&format!("10.{}.{}.0/24", n / 256, n % 256));
            desired.insert(prefix, Arc::new(Route::unicast([direct(via, oif)])));
        }
        let mut kernel = Kernel::open();
        kernel.want(&desired);
        let report = kernel.run();
        let wrong = (0..10_000).filter(|n| n % 7 == 3).count();
        assert_eq!((report.actual, report.failures), (10_000 - wrong, wrong as u64));
        for (n, prefix) in desired.keys().enumerate() {
            assert_eq!(kernel.routes.installed(prefix), n % 7 != 3, "{prefix}");
        }
        assert_eq!(sh("ip route show proto 104 | wc -l").trim(), report.actual.to_string());
    });
}

#[test]
fn the_segment_is_that_of_the_kernels_routes() {
    in_namespace(|| async {
        let oif = underlay();
        sh("ip route add default via 192.0.2.254 && ip route add unreachable 203.0.113.0/24");
        sh("ip route add blackhole 203.0.114.0/24; ip -6 route add blackhole 2001:db8:2::/64");
        sh("ip route add 198.51.100.77/32 dev up0 src 192.0.2.1");
        sh("ip -6 route add default via 2001:db8::fe dev up0");
        let mut asked = Underlay::new(underlay::Linux::open().unwrap());
        let direct_by = |source: &str| Segment::Direct { oif, name: "up0".into(), source: ip(source) };
        let routed_by = |gateway: &str, source: &str| Segment::Routed {
            gateway: ip(gateway),
            oif,
            name: "up0".into(),
            source: ip(source),
        };
        let mut segment = |address: &str| {
            asked.add_next_hop(ip(address));
            asked.invalidate(&Hint::Everything);
            asked.look_up();
            assert!(asked.problems().is_empty());
            asked.segment(ip(address)).unwrap().clone()
        };
        assert_eq!(segment("192.0.2.77"), direct_by("192.0.2.1"));
        assert_eq!(segment("198.51.100.77"), direct_by("192.0.2.1"), "a host route has the same result");
        assert_eq!(segment("198.51.100.1"), routed_by("192.0.2.254", "192.0.2.1"));
        assert_eq!(segment("192.0.2.1"), Segment::Local);
        for unreachable in ["203.0.113.5", "203.0.114.5", "2001:db8:2::5"] {
            assert!(matches!(segment(unreachable), Segment::Unreachable { .. }), "{unreachable}");
        }
        assert_eq!(segment("2001:db8::77"), direct_by("2001:db8::1"));
        assert_eq!(segment("2001:db8:1::1"), routed_by("2001:db8::fe", "2001:db8::1"));
        assert_eq!(segment("2001:db8::1"), Segment::Local);

        // Heliograph's routes to networks of next hops must be ignored.
        let mut desired = Desired::new();
        for prefix in ["198.51.0.0/16", "192.0.2.64/26", "203.0.113.0/28", "2001:db8:1::/64", "198.18.0.0/15"]
        {
            let via = if prefix.contains(':') { "2001:db8::5" } else { "192.0.2.5" };
            desired.insert(at(prefix), Arc::new(Route::unicast([direct(via, oif)])));
        }
        for prefix in ["192.0.2.160/27", "2001:db8::a0/123"] {
            desired.insert(at(prefix), Arc::new(Route::Blackhole));
        }
        Kernel::open().apply_in_sync(&desired);
        assert_eq!(segment("192.0.2.77"), direct_by("192.0.2.1"));
        assert_eq!(segment("192.0.2.161"), direct_by("192.0.2.1"));
        assert_eq!(segment("2001:db8::a1"), direct_by("2001:db8::1"));
        assert_eq!(segment("198.51.100.1"), routed_by("192.0.2.254", "192.0.2.1"));
        assert!(matches!(segment("203.0.113.5"), Segment::Unreachable { .. }));
        assert_eq!(segment("2001:db8:1::1"), routed_by("2001:db8::fe", "2001:db8::1"));
        sh("ip route del default");
        assert!(
            matches!(segment("198.18.0.1"), Segment::Unreachable { .. }),
            "only a route of Heliograph leads there"
        );
    });
}

#[test]
fn the_interface_of_an_address_is_found() {
    in_namespace(|| async {
        let oif = underlay();
        let mut asked = Underlay::new(underlay::Linux::open().unwrap());
        asked.set_addresses(&[ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]);
        let changed = asked.look_up();
        assert_eq!(changed.addresses, [ip("192.0.2.1"), ip("2001:db8::1")]);
        let found = asked.interface(ip("192.0.2.1")).unwrap();
        assert_eq!((found.index, found.name.as_str(), found.mtu), (oif, "up0", 1500));
        let [unknown] = asked.problems() else { panic!("{:?}", asked.problems()) };
        assert!(unknown.to_string().contains("InternalIP"), "{unknown}");
    });
}

#[test]
fn changes_of_the_underlay_give_hints_and_those_of_pods_do_not() {
    in_namespace(|| async {
        let oif = underlay();
        let mut watch = Watch::open(Own::default()).unwrap();
        quiet(&mut watch).await;
        sh("ip link add hg0123456789ab type veth peer name hgba9876543210 && ip link set hg0123456789ab up");
        sh("ip route add 10.1.0.9/32 dev hg0123456789ab proto 105");
        let none = hints(&mut watch, Duration::from_millis(200), |_| false).await;
        assert_eq!(none, []);
        let link = |index| move |hint: &Hint| matches!(hint, Hint::Link { index: of, .. } if *of == index);
        let up1 = index("up1");
        let foreign = |added| move |hint: &Hint| matches!(hint, Hint::ForeignRoute(route) if route.prefix == at("198.51.100.0/24") && route.added == added);
        let cases: [(&str, Expected); 7] = [
            ("ip route add 198.51.100.0/24 via 192.0.2.9", Box::new(foreign(true))),
            ("ip route del 198.51.100.0/24 via 192.0.2.9", Box::new(foreign(false))),
            (
                "ip address add 192.0.2.99/24 dev up0",
                Box::new(move |hint| *hint == Hint::Address { index: oif, address: ip("192.0.2.99") }),
            ),
            ("ip link set up0 mtu 1400", Box::new(link(oif))),
            ("ip rule add from 10.0.0.0/8 table 99", Box::new(|hint| *hint == Hint::Rule)),
            ("ip link set up1 down", Box::new(link(up1))),
            (
                "nft add table inet heliograph",
                Box::new(|hint| matches!(hint, Hint::Nftables { generation: Some(_), ours: true })),
            ),
        ];
        for (command, expected) in cases {
            sh(command);
            let found = hints(&mut watch, Duration::from_secs(5), &expected).await;
            assert!(found.iter().any(&expected), "{command}: {found:?}");
        }
    });
}

/// Returns whether a hint is the expected one.
type Expected = Box<dyn Fn(&Hint) -> bool>;

/// Returns the resident memory of this process in octets.
fn memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Returns the CPU time of this thread so far, and how much of it was spent in the kernel.
fn cpu() -> (Duration, Duration) {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let time = |time: TimeVal| Duration::from_micros(time.num_microseconds().cast_unsigned());
    let system = time(usage.system_time());
    (time(usage.user_time()) + system, system)
}

/// A measurement: `cargo test --release -p heliograph-agent --test dataplane_routes -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_programming() {
    in_namespace(|| async {
        let oif = underlay();
        const COUNT: u32 = 100_000;
        for family in IpFamily::ALL {
            let prefix = |n: u32| match family {
                IpFamily::V4 => at(&format!("{}.{}.{}.0/24", 11 + n / 65536, (n / 256) % 256, n % 256)),
                IpFamily::V6 => at(&format!("fd01:{:x}:{:x}::/64", n / 65536, n % 65536)),
            };
            let vias = |first: u32| -> Vec<Arc<Route>> {
                let via = |n: u32| match family {
                    IpFamily::V4 => format!("192.0.2.{}", first + n),
                    IpFamily::V6 => format!("2001:db8::{:x}", first + n),
                };
                (0..100).map(|n| Arc::new(Route::unicast([direct(&via(n), oif)]))).collect()
            };
            let (first, second) = (vias(2), vias(102));
            let mut kernel = Kernel::open();
            kernel.run();
            let prefixes: Vec<IpNetwork> = (0..COUNT).map(prefix).collect();
            let step = |kernel: &mut Kernel, what: &str, route: &dyn Fn(usize) -> Option<Arc<Route>>| {
                let (start, busy, before) = (Instant::now(), cpu(), memory());
                for (n, prefix) in prefixes.iter().enumerate() {
                    kernel.routes.set(*prefix, route(n));
                    if n % 2000 == 1999 {
                        run(&mut [&mut kernel.routes], &mut kernel.present, Instant::now());
                    }
                }
                let report = kernel.run();
                assert!(report.in_sync, "{report:?}");
                let (spent, (all, kernel)) = (start.elapsed(), cpu());
                println!(
                    "{family} {what}: {:.0} ms, {:.0} ms CPU, {:.0} of them in the kernel, {:.0} k/s, memory {:+.1} MB ({:+.0} octets a route)",
                    spent.as_secs_f64() * 1e3,
                    (all - busy.0).as_secs_f64() * 1e3,
                    (kernel - busy.1).as_secs_f64() * 1e3,
                    f64::from(COUNT) / spent.as_secs_f64() / 1e3,
                    (memory() as f64 - before as f64) / 1e6,
                    (memory() as f64 - before as f64) / f64::from(COUNT),
                );
            };
            step(&mut kernel, "add", &|n| Some(first[n % 100].clone()));
            step(&mut kernel, "change", &|n| Some(second[n % 100].clone()));
            for hint in [Hint::Periodic, Hint::OwnRoute { prefix: prefix(7) }, Hint::Everything] {
                let (start, mut longest, mut pieces) = (Instant::now(), Duration::ZERO, 0);
                kernel.routes.invalidate(&hint);
                loop {
                    let piece = Instant::now();
                    run(&mut [&mut kernel.routes], &mut kernel.present, piece);
                    longest = longest.max(piece.elapsed());
                    pieces += 1;
                    if kernel.routes.next_retry().is_none() {
                        break;
                    }
                }
                println!(
                    "{family} {hint:?}: {:.0} ms in {pieces} pieces, longest {:.1} ms",
                    start.elapsed().as_secs_f64() * 1e3,
                    longest.as_secs_f64() * 1e3
                );
            }
            let before = memory();
            let mut again = Kernel::open();
            again.present.may_delete = false;
            again.run();
            println!(
                "{family} a restart: {} routes read, {:+.1} MB",
                again.routes.actual_count(),
                (memory() - before) as f64 / 1e6
            );
            drop(again);
            step(&mut kernel, "withdraw", &|_| None);
        }
    });
}

/// A measurement of foreign routes that change: microseconds of CPU for each event.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_foreign_routes() {
    in_namespace(|| async {
        let oif = underlay();
        let mut kernel = Kernel::open();
        let mut watch = Watch::open(Own { routes: kernel.routes.port().port(), tables: vec![] }).unwrap();
        let mut desired = Desired::new();
        for n in 0..10_000_u32 {
            let prefix = at(&format!("10.{}.{}.0/24", n / 256, n % 256));
            desired.insert(prefix, Arc::new(Route::unicast([direct("192.0.2.2", oif)])));
        }
        quiet(&mut watch).await;
        kernel.apply_in_sync(&desired);
        let mut asked = Underlay::new(underlay::Linux::open().unwrap());
        asked.add_next_hop(ip("192.0.2.2"));
        asked.look_up();
        let commands: String = (0..1000)
            .map(|n| format!("route add 172.16.{}.{}/32 via 192.0.2.9\n", n / 250, n % 250))
            .collect();
        std::fs::write("/tmp/heliograph-foreign", commands).unwrap();
        sh("ip -batch /tmp/heliograph-foreign");
        let busy = cpu();
        let (mut seen, mut all) = (0, Vec::new());
        while seen < 1000 {
            watch.next(&mut all).await.unwrap();
            for hint in all.drain(..) {
                seen += 1;
                kernel.routes.invalidate(&hint);
                asked.invalidate(&hint);
                asked.look_up();
                run(&mut [&mut kernel.routes], &mut kernel.present, Instant::now());
                kernel.routes.report(&kernel.present);
            }
        }
        println!("{:.1} µs an event", (cpu().0 - busy.0).as_secs_f64() * 1e6 / f64::from(seen));
    });
}
