//! Tests of the kernel module on a real kernel, each in its own network namespace. They need root, `ip` and `nft`.
#![allow(missing_docs)]

mod common;

use common::*;
use heliograph_agent::kernel::linux::Linux;
use heliograph_agent::kernel::{Desired, Held, IpFamily, Kernel, Route, Segment, preflight};
use heliograph_agent::reconcile::Reconciler;
use std::time::{Duration, Instant};

#[test]
fn routes_of_every_kind_are_added_replaced_and_deleted() {
    in_namespace(|| async {
        let oif = underlay();
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
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
                    apply_in_sync(&mut reconciler, &desired).await;
                    let actual = reconciler.kernel().dump().await.unwrap();
                    let expected =
                        desired.routes.into_iter().map(|(prefix, route)| (prefix, Held::Route(route)));
                    assert_eq!(actual.routes, expected.collect(), "from {before} to {after}");
                }
            }
        }
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        assert_eq!(sh("ip route show proto 104; ip -6 route show proto 104"), "");
    });
}

#[test]
fn iproute2_shows_the_intended_routes() {
    in_namespace(|| async {
        let oif = underlay();
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.3.0.0/24", Route::unicast([direct("192.0.2.2", oif), direct("192.0.2.3", oif)])),
        ]);
        apply_in_sync(&mut reconciler, &desired).await;
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
        apply_in_sync(&mut Reconciler::new(Linux::open().unwrap()), &desired).await;
        sh("ip route add blackhole 10.9.0.0/24 proto 104 metric 104");
        sh("ip route add blackhole 10.9.0.0/24 proto 104 metric 7");
        sh("ip route add 10.8.0.0/24 via 192.0.2.2 tos 0x10 proto 104 metric 104");
        sh("ip -6 route add blackhole fd09::/64 proto 104 metric 33");

        let mut monitor = Linux::open().unwrap().changes().unwrap();
        let mut after = Reconciler::new(Linux::open().unwrap());
        after.set_desired(desired.clone(), false);
        let summary = after.run(Instant::now()).await;
        assert!(summary.in_sync && summary.kept == 4, "{summary:?}");
        let hint = tokio::time::timeout(Duration::from_millis(50), monitor.next()).await;
        assert!(hint.is_err(), "correct routes are not written again: {hint:?}");

        after.set_desired(desired, true);
        let summary = after.run(Instant::now()).await;
        assert!(summary.in_sync && summary.kept == 0 && summary.routes == 2, "{summary:?}");
        assert_eq!(sh("ip route show proto 104 | wc -l; ip -6 route show proto 104 | wc -l"), "2\n0\n");
    });
}

#[test]
fn foreign_routes_are_never_touched() {
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
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let mut desired = routes(&[
            ("10.1.0.0/24", ours.clone()),
            ("10.2.0.0/24", ours.clone()),
            ("10.3.0.0/24", ours.clone()),
            ("10.5.0.0/24", ours.clone()),
            ("192.0.2.0/24", ours),
        ]);
        desired.routes.insert(at("fd02::/64"), Route::Blackhole);
        // In IPv6 a connected network has a higher metric, so this route would make its link unusable.
        desired.routes.insert(at("2001:db8::/64"), Route::Blackhole);
        for _ in 0..2 {
            let summary = apply(&mut reconciler, &desired).await;
            assert_eq!(summary.errors.len(), 5, "{:#?}", summary.errors);
            assert!(summary.errors.iter().all(|problem| problem.error.contains("foreign route")));
            assert_eq!(summary.routes, 3);
            assert_eq!(foreign(), before);
        }
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        assert_eq!(foreign(), before);
    });
}

#[test]
fn changes_by_other_programs_are_noticed_and_reverted() {
    in_namespace(|| async {
        let oif = underlay();
        let kernel = Linux::open().unwrap();
        let mut changes = kernel.changes().unwrap();
        let mut reconciler = Reconciler::new(kernel);
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("fd01::/64", Route::unicast([direct("2001:db8::2", oif)])),
        ]);
        // Interfaces come up asynchronously.
        while tokio::time::timeout(Duration::from_millis(200), changes.next()).await.is_ok() {}
        apply_in_sync(&mut reconciler, &desired).await;
        let quiet = tokio::time::timeout(Duration::from_millis(50), changes.next()).await;
        assert!(quiet.is_err(), "own changes give no hint: {quiet:?}");
        let changes_by_others = [
            ("ip route del 10.1.0.0/24", false),
            ("ip route replace 10.2.0.0/24 via 192.0.2.9 proto 104 metric 104", false),
            ("ip route replace 10.2.0.0/24 via 192.0.2.2 proto 104 metric 104 mtu 1300", false),
            ("ip route replace 10.2.0.0/24 via 192.0.2.2 proto 104 metric 104 src 192.0.2.1", false),
            ("ip -6 route del fd01::/64", false),
            // The kernel deletes routes over a link that goes down, IPv4 ones without a notification.
            (
                "ip link set up0 down && ip link set up0 up && ip -6 addr replace 2001:db8::1/64 dev up0 nodad",
                true,
            ),
        ];
        for (command, underlay) in changes_by_others {
            sh(command);
            wait_for(&format!("{command} is reverted"), async || {
                let hint = tokio::time::timeout(Duration::from_millis(200), changes.next()).await;
                if let Ok(hint) = hint {
                    let hint = hint.expect("the subscription continues");
                    assert!(hint.own_objects || underlay, "{command}: {hint:?}");
                    reconciler.invalidate(hint.underlay);
                }
                let summary = reconciler.run(Instant::now()).await;
                summary.in_sync
                    && sh("ip route show proto 104 | wc -l; ip -6 route show proto 104 | wc -l") == "2\n1\n"
            })
            .await;
            let again = reconciler.kernel().dump().await.unwrap();
            let expected = desired.routes.iter().map(|(prefix, route)| (*prefix, Held::Route(route.clone())));
            assert_eq!(again.routes, expected.collect(), "after {command}");
        }
    });
}

#[test]
fn the_kernels_error_is_returned_for_each_route_with_a_remedy() {
    in_namespace(|| async {
        let oif = underlay();
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let desired = routes(&[
            ("10.1.0.0/24", Route::Blackhole),
            ("10.2.0.0/24", Route::unicast([direct("198.51.100.1", oif)])),
            ("10.3.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.4.0.0/24", Route::unicast([direct("192.0.2.2", 4711)])),
        ]);
        let summary = apply(&mut reconciler, &desired).await;
        assert_eq!(summary.routes, 2, "{summary:#?}");
        let [gateway] = summary.errors.as_slice() else {
            panic!("two similar errors are one entry: {summary:#?}")
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
fn the_segment_is_that_of_the_kernels_routes() {
    in_namespace(|| async {
        let oif = underlay();
        sh("ip route add default via 192.0.2.254 && ip route add unreachable 203.0.113.0/24");
        sh("ip route add blackhole 203.0.114.0/24; ip -6 route add blackhole 2001:db8:2::/64");
        sh("ip route add 198.51.100.77/32 dev up0 src 192.0.2.1");
        sh("ip -6 route add default via 2001:db8::fe dev up0");
        let kernel = Linux::open().unwrap();
        let direct_by = |source: &str| Segment::Direct { oif, name: "up0".into(), source: ip(source) };
        let routed_by = |gateway: &str, source: &str| Segment::Routed {
            gateway: ip(gateway),
            oif,
            name: "up0".into(),
            source: ip(source),
        };
        let segment = async |address: &str| kernel.segment(ip(address)).await.unwrap();
        assert_eq!(segment("192.0.2.77").await, direct_by("192.0.2.1"));
        assert_eq!(
            segment("198.51.100.77").await,
            direct_by("192.0.2.1"),
            "a host route has the same result"
        );
        assert_eq!(segment("198.51.100.1").await, routed_by("192.0.2.254", "192.0.2.1"));
        assert_eq!(segment("192.0.2.1").await, Segment::Local);
        assert!(matches!(segment("203.0.113.5").await, Segment::Unreachable { .. }));
        assert!(matches!(segment("203.0.114.5").await, Segment::Unreachable { .. }));
        assert!(matches!(segment("2001:db8:2::5").await, Segment::Unreachable { .. }));
        assert_eq!(segment("2001:db8::77").await, direct_by("2001:db8::1"));
        assert_eq!(segment("2001:db8:1::1").await, routed_by("2001:db8::fe", "2001:db8::1"));
        assert_eq!(segment("2001:db8::1").await, Segment::Local);

        // Heliograph's routes to networks of next hops must be ignored.
        let mut reconciler = Reconciler::new(kernel.clone());
        let mut desired = Desired::default();
        for prefix in ["198.51.0.0/16", "192.0.2.64/26", "203.0.113.0/28", "2001:db8:1::/64", "198.18.0.0/15"]
        {
            let via = if prefix.contains(':') { "2001:db8::5" } else { "192.0.2.5" };
            desired.routes.insert(at(prefix), Route::unicast([direct(via, oif)]));
        }
        desired.routes.insert(at("192.0.2.160/27"), Route::Blackhole);
        desired.routes.insert(at("2001:db8::a0/123"), Route::Blackhole);
        apply_in_sync(&mut reconciler, &desired).await;
        assert_eq!(segment("192.0.2.77").await, direct_by("192.0.2.1"));
        assert_eq!(segment("192.0.2.161").await, direct_by("192.0.2.1"));
        assert_eq!(segment("2001:db8::a1").await, direct_by("2001:db8::1"));
        assert_eq!(segment("198.51.100.1").await, routed_by("192.0.2.254", "192.0.2.1"));
        assert!(matches!(segment("203.0.113.5").await, Segment::Unreachable { .. }));
        assert_eq!(segment("2001:db8:1::1").await, routed_by("2001:db8::fe", "2001:db8::1"));
        sh("ip route del default");
        assert!(
            matches!(segment("198.18.0.1").await, Segment::Unreachable { .. }),
            "only a route of Heliograph leads there"
        );

        let found = kernel.underlay(ip("192.0.2.1")).await.unwrap();
        assert_eq!((found.oif, found.name.as_str(), found.mtu), (oif, "up0", 1500));
        let unknown = kernel.underlay(ip("192.0.2.2")).await.unwrap_err();
        assert!(unknown.to_string().contains("InternalIP"), "{unknown}");
    });
}

#[test]
fn changes_of_the_underlay_give_hints_and_those_of_pods_do_not() {
    in_namespace(|| async {
        underlay();
        let kernel = Linux::open().unwrap();
        let mut changes = kernel.changes().unwrap();
        // Interfaces come up asynchronously.
        while tokio::time::timeout(Duration::from_millis(200), changes.next()).await.is_ok() {}
        sh("ip link add hg0123456789ab type veth peer name hgba9876543210 && ip link set hg0123456789ab up");
        sh("ip route add 10.1.0.9/32 dev hg0123456789ab proto 105");
        let hint = tokio::time::timeout(Duration::from_millis(200), changes.next()).await;
        assert!(hint.is_err(), "{hint:?}");
        for command in [
            "ip route add 198.51.100.0/24 via 192.0.2.9",
            "ip address add 192.0.2.99/24 dev up0",
            "ip link set up0 mtu 1400",
            "ip rule add from 10.0.0.0/8 table 99",
            "ip link set up1 down",
        ] {
            sh(command);
            let hint = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
            assert!(hint.is_ok_and(|hint| hint.is_some_and(|hint| hint.underlay)), "{command}");
        }
    });
}

#[test]
fn the_guard_is_written_if_it_differs_and_foreign_tables_are_not_changed() {
    in_namespace(|| async {
        sh("nft add table inet other && nft add chain inet other c '{ type filter hook input priority 0; }'");
        sh("nft add rule inet other c counter");
        let other = sh("nft -s list table inet other");
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let sources = [ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::2")].into();
        let mut desired = Desired { allowed_tunnel_sources: sources, ..Desired::default() };
        let handle = || sh("nft -a list table inet heliograph | head -1");
        apply_in_sync(&mut reconciler, &desired).await;
        let first = handle();
        apply_in_sync(&mut reconciler, &desired).await;
        assert_eq!(handle(), first, "not written again");
        let listed = sh("nft list table inet heliograph");
        for part in ["192.0.2.1, 192.0.2.2", "2001:db8::2", "hook input priority raw", "drop"] {
            assert!(listed.contains(part), "{part} is missing in {listed}");
        }

        for change in [
            "nft delete element inet heliograph nodes4 '{ 192.0.2.2 }'",
            "nft flush chain inet heliograph tunnels",
            "nft add element inet heliograph nodes4 '{ 203.0.113.7 }'",
            "nft chain inet heliograph tunnels '{ policy drop; }'",
            "nft add chain inet heliograph more",
            "nft add set inet heliograph more '{ type ipv4_addr; }'",
            "nft add table inet heliograph '{ flags dormant; }'",
            "nft insert rule inet heliograph tunnels ip saddr @nodes4 accept",
            "nft replace rule inet heliograph tunnels handle \
             $(nft -a list chain inet heliograph tunnels | sed -n 's/.*stranger.*handle //p') counter accept",
            "nft add rule inet heliograph tunnels accept",
            "nft delete table inet heliograph",
        ] {
            sh(change);
            apply_in_sync(&mut reconciler, &desired).await;
            // Except for the handle, which is a new one.
            assert_eq!(sh("nft list table inet heliograph"), listed, "after {change}");
        }
        desired.allowed_tunnel_sources.remove(&ip("192.0.2.1"));
        apply_in_sync(&mut reconciler, &desired).await;
        assert!(!sh("nft list table inet heliograph").contains("192.0.2.1"));
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        assert_eq!(sh("nft list tables").trim(), "table inet other");
        assert_eq!(sh("nft -s list table inet other"), other);
    });
}

#[test]
fn forwarding_is_turned_on_for_the_families_of_routes() {
    in_namespace(|| async {
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let mut desired = routes(&[("10.1.0.0/24", Route::Blackhole)]);
        desired.forwarding = true;
        let state = || sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
        apply_in_sync(&mut reconciler, &desired).await;
        assert_eq!(state(), "1\n0\n");
        desired.routes.insert(at("fd01::/64"), Route::Blackhole);
        apply_in_sync(&mut reconciler, &desired).await;
        assert_eq!(state(), "1\n1\n");
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        assert_eq!(state(), "1\n1\n", "other programs may need it");
    });
}

#[test]
fn without_the_tunnel_device_everything_else_works_and_the_error_has_a_remedy() {
    in_namespace(|| async {
        let oif = underlay();
        // A foreign device of that name has the same effect as a missing module, and works on every kernel.
        sh("ip link add heliograph4 type veth peer name other4");
        let mut reconciler = Reconciler::new(Linux::open().unwrap());
        let desired = routes(&[
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.3.0.0/24", Route::unicast([tunnel("198.51.100.3")])),
        ]);
        let desired = with_tunnel4(desired, "192.0.2.1", &["198.51.100.3"]);
        let summary = apply(&mut reconciler, &desired).await;
        assert_eq!(summary.routes, 1, "{summary:#?}");
        assert!(
            summary.errors.iter().any(|problem| problem.remedy.contains("rename or remove it")),
            "{summary:#?}"
        );
        apply_in_sync(&mut reconciler, &Desired::default()).await;
        assert!(sh("ip link show heliograph4").contains("heliograph4"), "a foreign device is not deleted");
        assert_eq!(sh("nft list tables"), "");
        sh("ip link del heliograph4");

        let probe =
            std::process::Command::new("ip").args("link add probe4 type ipip external".split(' ')).output();
        if probe.unwrap().status.success() {
            return; // This kernel has ipip, and tests/tunnel.rs tests it.
        }
        let summary = apply(&mut reconciler, &desired).await;
        let missing = summary.errors.iter().find(|problem| problem.what.contains("heliograph4")).unwrap();
        assert!(missing.remedy.contains("modprobe ipip"), "{missing:?}");
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    in_namespace(|| async {
        preflight().unwrap();
        // SAFETY: capset takes a header and two data blocks, all of which live through the call; it only takes
        // capabilities from this thread, which ends with the test.
        let dropped = unsafe {
            let header = [0x2008_0522_u32, 0];
            let none = [0_u32; 6];
            nix::libc::syscall(nix::libc::SYS_capset, header.as_ptr(), none.as_ptr())
        };
        assert_eq!(dropped, 0);
        let error = preflight().unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("root"), "{error}");
        let kernel = Linux::open().unwrap();
        let change = heliograph_agent::kernel::Change::AddRoute(at("10.1.0.0/24"), Route::Blackhole);
        let rejected = kernel.apply(&[change]).await.pop().unwrap().unwrap_err();
        assert!(rejected.remedy.contains("NET_ADMIN"), "{rejected}");
    });
}

#[test]
fn each_of_a_thousand_changes_gets_its_own_result() {
    in_namespace(|| async {
        let oif = underlay();
        let kernel = Linux::open().unwrap();
        let changes: Vec<_> = (0..1000_u32)
            .map(|n| {
                let via = if n % 7 == 3 { "198.51.100.1" } else { "192.0.2.2" };
                let prefix = at(&format!("10.{}.{}.0/24", n / 256, n % 256));
                heliograph_agent::kernel::Change::AddRoute(prefix, Route::unicast([direct(via, oif)]))
            })
            .collect();
        let results = kernel.apply(&changes).await;
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), n % 7 == 3, "{n}: {result:?}");
        }
        let held = kernel.dump().await.unwrap();
        assert_eq!(held.routes.len(), results.iter().filter(|result| result.is_ok()).count());
        assert!(!held.tunnels.contains_key(&IpFamily::V4));
    });
}

/// A measurement: `cargo test -p heliograph-agent --test kernel -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_programming() {
    in_namespace(|| async {
        let oif = underlay();
        for count in [10_000_u32, 100_000] {
            let mut desired = Desired::default();
            for n in 0..count {
                let prefix = at(&format!("{}.{}.{}.0/24", 11 + n / 65536, (n / 256) % 256, n % 256));
                desired.routes.insert(prefix, Route::unicast([direct("192.0.2.2", oif)]));
            }
            let mut reconciler = Reconciler::new(Linux::open().unwrap());
            for (what, desired) in
                [("add", &desired), ("look, nothing to do", &desired), ("delete", &Desired::default())]
            {
                let start = Instant::now();
                apply_in_sync(&mut reconciler, desired).await;
                let spent = start.elapsed();
                let rate = f64::from(count) / spent.as_secs_f64() / 1e6;
                println!("{count} routes, {what}: {:.1} ms, {rate:.2} M/s", spent.as_secs_f64() * 1e3);
            }
        }
    });
}
