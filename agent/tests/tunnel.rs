//! Tests of the tunnels on a real kernel with ipip. If the machine's kernel has none, the lab runs this file with `--ignored`
//! in User-mode Linux. They need root, `ip`, `nft` and `ping`.
//!
//! Two nodes in network namespaces, on two segments with a router between them.
#![allow(missing_docs)]

mod common;

use common::place::Place;
use common::*;
use heliograph_agent::dataplane::{Hop, Route, Tunnel};
use heliograph_agent::netlink::Hint;
use heliograph_agent::netlink::watch::Watch;
use heliograph_agent::underlay::{self, Segment, Underlay};
use heliograph_cni::IpFamily;
use std::process::Command;
use std::time::Duration;

/// Node a (192.0.2.1) and node b (198.51.100.3) with a pod each (10.1.0.7, 10.3.0.7), and the router between them.
struct Racks {
    a: Place,
    router: Place,
    b: Place,
}

fn racks() -> Racks {
    let racks = Racks { a: Place::new(), router: Place::new(), b: Place::new() };
    for (node, end, gateway, address, net6) in [
        (&racks.a, "ra", "192.0.2.254", "192.0.2.1", "2001:db8:a"),
        (&racks.b, "rb", "198.51.100.254", "198.51.100.3", "2001:db8:b"),
    ] {
        racks.router.sh(&format!("ip link add {end} type veth peer name up0 netns {}", node.path));
        racks.router.sh(&format!("ip address add {gateway}/24 dev {end} && ip link set {end} up"));
        racks.router.sh(&format!("ip address add {net6}::fe/64 dev {end} nodad"));
        node.sh(&format!("ip address add {address}/24 dev up0 && ip link set up0 up"));
        node.sh(&format!("ip address add {net6}::1/64 dev up0 nodad"));
        node.sh(&format!("ip route add default via {gateway} && ip -6 route add default via {net6}::fe"));
    }
    racks.a.sh("ip address add 10.1.0.7/32 dev lo && ip address add fd01::7/128 dev lo");
    racks.b.sh("ip address add 10.3.0.7/32 dev lo && ip address add fd03::7/128 dev lo");
    racks
        .router
        .sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    // The router's counters are the proof: tunnelled packets, and no bare packets of pods.
    racks.router.sh("nft -f - <<END
table inet seen {
  chain passing {
    type filter hook forward priority 0;
    meta l4proto { 4, 41 } counter comment \"tunnelled\"
    ip daddr 10.3.0.0/16 counter comment \"bare\"
    ip6 daddr fd00::/8 counter comment \"bare\"
  }
}
END");
    racks
}

impl Racks {
    /// Returns the numbers of forwarded packets: tunnelled ones, and bare ones of pods.
    fn seen(&self) -> (u64, u64) {
        let count = |name: &str| {
            let listed = self.router.sh("nft list table inet seen");
            let rules = listed.lines().filter(|line| line.contains(&format!("comment \"{name}\"")));
            rules.map(packets).sum()
        };
        (count("tunnelled"), count("bare"))
    }
}

fn over(remote: &str, local: &str) -> Route {
    Route::unicast([tunnel_from(local, remote)])
}

fn node_a() -> Desired {
    let to_b =
        routes(&[("10.1.0.0/24", Route::Blackhole), ("10.3.0.0/24", over("198.51.100.3", "192.0.2.1"))]);
    with_tunnel4(to_b, &["192.0.2.1", "198.51.100.3"])
}

fn node_b() -> Desired {
    let to_a =
        routes(&[("10.3.0.0/24", Route::Blackhole), ("10.1.0.0/24", over("192.0.2.1", "198.51.100.3"))]);
    with_tunnel4(to_a, &["192.0.2.1", "198.51.100.3"])
}

/// Returns the number of packets that a rule of the node's guard counted.
fn counted(node: &Place, comment: &str) -> u64 {
    let listed = node.sh("nft list table inet heliograph");
    listed.lines().filter(|line| line.contains(&format!("comment \"{comment}\""))).map(packets).sum()
}

/// Returns the packet count in a rule as `nft` prints it.
fn packets(rule: &str) -> u64 {
    let after = rule.split("packets ").nth(1).expect("a rule with a counter");
    after.split(' ').next().unwrap().parse().unwrap()
}

/// Fails with a clear message if the kernel has no ipip.
fn need_ipip() {
    Place::new().within(|| {
        let made = Command::new("ip").args("link add probe4 type ipip external".split(' ')).output().unwrap();
        let error = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(
            made.status.success(),
            "this kernel has no ipip ({}): run these tests in the lab",
            error.trim()
        );
    });
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn pods_reach_each_other_through_the_tunnel_and_other_hosts_do_not() {
    need_ipip();
    let racks = racks();
    // If new devices get a strict filter, packets from a node's own address must still be accepted.
    racks.b.sh("echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter");
    racks.a.apply_in_sync(&node_a());
    racks.b.apply_in_sync(&node_b());

    assert!(racks.a.pings("-I 10.1.0.7 10.3.0.7"), "pod to pod");
    let (tunnelled, bare) = racks.seen();
    assert!(tunnelled >= 6 && bare == 0, "{tunnelled} tunnelled, {bare} bare");
    assert!(racks.b.pings("-I 10.3.0.7 10.1.0.7"), "and the other way");
    assert!(racks.a.pings("-I 192.0.2.1 10.3.0.7"), "node to pod");
    assert!(racks.a.pings("-M do -s 1452 -I 10.1.0.7 10.3.0.7"), "a packet of the device's MTU");
    assert!(!racks.a.can("ping -n -c 1 -W 1 -M do -s 1453 -I 10.1.0.7 10.3.0.7"), "one octet more");
    assert!(counted(&racks.b, "tunnelled by a node") > 0);
    assert_eq!(counted(&racks.b, "tunnelled by a stranger"), 0);

    // The router is no node. Packets that it sends through its own tunnel are dropped before decapsulation.
    racks.router.sh("ip link add s0 type ipip external && ip link set s0 up");
    racks
        .router
        .sh("ip route add 10.3.0.0/24 encap ip id 0 dst 198.51.100.3 src 198.51.100.254 ttl 64 dev s0");
    assert!(!racks.router.can("ping -n -c 2 -i 0.2 -W 2 -I 198.51.100.254 10.3.0.7"));
    assert_eq!(counted(&racks.b, "tunnelled by a stranger"), 2);
    // The same packets are accepted when it is a node.
    let mut grown = node_b();
    grown.allowed_tunnel_sources.insert(ip("198.51.100.254"));
    racks.b.apply_in_sync(&grown);
    assert!(racks.router.pings("-I 198.51.100.254 10.3.0.7"));
    assert_eq!(counted(&racks.b, "tunnelled by a stranger"), 2, "one node more does not reset the counters");
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn a_restart_keeps_the_device_and_its_routes() {
    need_ipip();
    let racks = racks();
    let device = || racks.a.sh("ip -d -o link show heliograph4");
    racks.a.apply_in_sync(&node_a());
    let first = racks.a.sh("ip -o link show heliograph4 | cut -d: -f1");
    assert!(device().contains("ipip external") && device().contains("mtu 1480"), "{}", device());
    let same = || racks.a.sh("ip -o link show heliograph4 | cut -d: -f1") == first;
    racks.a.apply_in_sync(&node_a());
    assert!(same(), "kept");
    let mut smaller = node_a();
    smaller.tunnels.insert(Tunnel::ipip(IpFamily::V4), 1380);
    racks.a.apply_in_sync(&smaller);
    assert!(same() && device().contains("mtu 1380"), "adjusted, not created again");
    racks.a.sh("ip link set heliograph4 down");
    racks.a.apply_in_sync(&node_a());
    assert!(same() && device().contains("UP") && device().contains("mtu 1480"), "{}", device());
    assert_eq!(racks.a.sh("ip route show proto 104 | wc -l"), "2\n", "its routes are restored");

    // A device of the same name and kind that is bound to one remote end can't be made external: it is created again.
    racks
        .a
        .sh("ip link del heliograph4 && ip link add heliograph4 type ipip local 192.0.2.1 remote 192.0.2.9");
    racks.a.apply_in_sync(&node_a());
    assert!(device().contains("ipip external"), "{}", device());
    // Another program deletes it.
    racks.a.sh("ip link del heliograph4");
    racks.a.apply_in_sync(&node_a());

    let tunl0 = racks.a.can("ip link show tunl0");
    for _ in 0..2 {
        racks.a.apply_in_sync(&Desired::default());
        assert!(!racks.a.can("ip link show heliograph4"));
        assert_eq!(racks.a.sh("ip route show proto 104; nft list tables"), "");
        assert_eq!(racks.a.can("ip link show tunl0"), tunl0, "the module's own device is foreign");
    }
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn routes_of_every_kind_are_replaced_by_each_other() {
    need_ipip();
    let racks = racks();
    let oif = racks.a.within(|| index("up0"));
    let direct = Hop::Direct { via: ip("192.0.2.9"), oif };
    let forms = [
        Route::Blackhole,
        Route::unicast([direct]),
        over("198.51.100.3", "192.0.2.1"),
        over("198.51.100.4", "192.0.2.1"),
        Route::unicast([tunnel("198.51.100.3"), tunnel("198.51.100.4")]),
        Route::unicast([tunnel("198.51.100.3"), direct]),
    ];
    racks.a.within(move || {
        let mut kernel = Kernel::open();
        let desired =
            |form: &Route| with_tunnel4(routes(&[("10.3.0.0/24", form.clone())]), &["198.51.100.3"]);
        for before in &forms {
            for after in &forms {
                for form in [before, after] {
                    kernel.apply_in_sync(&desired(form));
                    Kernel::check_held(&desired(form), "a form replaced by another");
                }
            }
        }
        // Changes of an encapsulated route by other programs are noticed and reverted.
        let desired = desired(&over("198.51.100.3", "192.0.2.1"));
        kernel.apply_in_sync(&desired);
        for change in ["dst 198.51.100.9 src 192.0.2.1 ttl 64", "dst 198.51.100.3 src 192.0.2.1 ttl 9"] {
            sh(&format!(
                "ip route replace 10.3.0.0/24 metric 104 proto 104 encap ip id 0 {change} dev heliograph4"
            ));
            let changes = kernel.apply(&desired).changes;
            assert!(changes > 0, "{change}");
            Kernel::check_held(&desired, change);
        }
    });
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn multipath_through_two_tunnels_reaches_both_nodes() {
    need_ipip();
    let racks = racks();
    // Node b has two addresses, like two nodes that advertise the same prefix.
    racks.b.sh("ip address add 198.51.100.4/24 dev up0");
    let mut a = node_a();
    a.routes.insert(at("10.3.0.0/24"), Route::unicast([tunnel("198.51.100.3"), tunnel("198.51.100.4")]));
    a.allowed_tunnel_sources.insert(ip("198.51.100.4"));
    racks.a.apply_in_sync(&a);
    racks.b.apply_in_sync(&node_b());
    racks.a.sh("echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy");
    racks
        .router
        .sh("nft add table ip paths && nft add chain ip paths c '{ type filter hook forward priority 0; }'");
    for remote in ["198.51.100.3", "198.51.100.4"] {
        racks.router.sh(&format!("nft add rule ip paths c meta l4proto 4 ip daddr {remote} counter"));
    }
    // By layer 4 hash, many flows use both paths. TCP connections to closed ports are enough.
    let knock =
        "for p in $(seq 1001 1040); do timeout 5 bash -c \"</dev/tcp/10.3.0.7/$p\" 2>/dev/null; done; true";
    racks.a.sh(knock);
    let listed = racks.router.sh("nft list table ip paths");
    let counts: Vec<u64> = listed.lines().filter(|line| line.contains("packets ")).map(packets).collect();
    assert!(counts.len() == 2 && counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn another_external_device_is_named_in_the_error() {
    need_ipip();
    let racks = racks();
    racks.a.sh("ip link add theirs type ipip external");
    let summary = racks.a.apply(&node_a());
    let problem = summary.errors.iter().find(|problem| problem.what.contains("heliograph4")).unwrap();
    assert!(problem.remedy.contains("find the other"), "{problem:?}");
    assert_eq!(summary.routes, 1, "the blackhole is in place");
    racks.a.sh("ip link del theirs");
    racks.a.apply_in_sync(&node_a());
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn a_route_through_the_tunnel_is_ignored_in_segment_look_ups() {
    need_ipip();
    let racks = racks();
    let mut desired = node_a();
    desired.routes.insert(at("198.51.100.0/24"), over("198.51.100.3", "192.0.2.1"));
    racks.a.apply_in_sync(&desired);
    let segment = racks.a.within(|| {
        let mut underlay = Underlay::new(underlay::Linux::open().unwrap());
        underlay.add_next_hop(ip("198.51.100.3"));
        underlay.look_up();
        underlay.segment(ip("198.51.100.3")).cloned().unwrap()
    });
    assert!(
        matches!(segment, Segment::Routed { gateway, .. } if gateway == ip("192.0.2.254")),
        "{segment:?}"
    );
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn the_ipv6_tunnel_transports_both_families() {
    need_ipip();
    let racks = racks();
    let node = |own4: &str, own6: &str, far4: &str, far6: &str, local: &str, remote: &str| {
        let mut desired = routes(&[
            (own4, Route::Blackhole),
            (own6, Route::Blackhole),
            (far4, over(remote, local)),
            (far6, over(remote, local)),
        ]);
        desired.tunnels.insert(Tunnel::ipip(IpFamily::V6), 1460);
        desired.allowed_tunnel_sources = [ip(local), ip(remote)].into();
        desired
    };
    let a = node("10.1.0.0/24", "fd01::/64", "10.3.0.0/24", "fd03::/64", "2001:db8:a::1", "2001:db8:b::1");
    let b = node("10.3.0.0/24", "fd03::/64", "10.1.0.0/24", "fd01::/64", "2001:db8:b::1", "2001:db8:a::1");
    for place in [&racks.a, &racks.b] {
        place.sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter");
    }
    racks.a.apply_in_sync(&a);
    racks.b.apply_in_sync(&b);
    assert!(racks.a.pings("-I fd01::7 fd03::7"), "IPv6 in IPv6");
    assert!(racks.a.pings("-I 10.1.0.7 10.3.0.7"), "IPv4 in IPv6");
    let (tunnelled, bare) = racks.seen();
    assert!(tunnelled >= 12 && bare == 0, "{tunnelled} tunnelled, {bare} bare");
    let device = racks.a.sh("ip -d -o link show heliograph6");
    assert!(device.contains("external"), "{device}");
    racks.a.apply_in_sync(&Desired::default());
    assert!(!racks.a.can("ip link show heliograph6"));
}

#[test]
#[ignore = "needs ipip: run by the lab in UML"]
fn a_deleted_tunnel_is_restored_with_its_routes_in_one_run() {
    need_ipip();
    in_namespace(|| async {
        underlay();
        let mut kernel = Kernel::open();
        let mut watch = Watch::open(kernel.dataplane.ports()).unwrap();
        kernel.apply_in_sync(&node_a());
        sh("ip link del heliograph4");
        let mut hints = Vec::new();
        let is_ours = |hint: &Hint| matches!(hint, Hint::Link { ours: true, .. });
        // The creation of the device gives a hint, too.
        while sh("ip -o link show").contains("heliograph4") || !hints.iter().any(is_ours) {
            tokio::time::timeout(Duration::from_secs(20), watch.next(&mut hints)).await.unwrap().unwrap();
        }
        hints.iter().for_each(|hint| kernel.dataplane.invalidate(hint));
        let summary = kernel.run();
        assert!(summary.in_sync && summary.routes == 2, "{summary:#?}");
    });
}
