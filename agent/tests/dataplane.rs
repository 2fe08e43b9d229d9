//! Tests of the nftables plane on a real kernel, each in its own network namespace. They need root, `ip` and `nft`.
#![allow(missing_docs)]

mod common;

use common::*;
use heliograph_agent::dataplane::guard::Guard;
use heliograph_agent::dataplane::nat::{Nat, NatOutgoing};
use heliograph_agent::dataplane::nftables::Nftables;
use heliograph_agent::dataplane::sysctls::{Files, Sysctls};
use heliograph_agent::dataplane::tunnels::{Links, Tunnels};
use heliograph_agent::dataplane::{
    self, Held, Phase, Plane, PlaneReport, Present, Problems, Tracker, Tunnel,
};
use heliograph_agent::netlink::Hint;
use heliograph_agent::netlink::nftables::expression::{Compare, Ct, Header, Meta, ct_state};
use heliograph_agent::netlink::nftables::{
    Base, Chain, Data, Element, ElementKey, Expression, Field, Operation, Register, Rule, Set, Socket,
    Transaction, Value, Verdict,
};
use heliograph_agent::netlink::watch::{Own, Watch};
use heliograph_cni::IpFamily;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The nftables plane with its features.
struct Table {
    plane: Nftables<Socket>,
    guard: Guard,
    nat: Nat,
    present: Present,
}

impl Table {
    fn new() -> Self {
        let plane = Nftables::new(Socket::open().unwrap());
        let present = Present { may_delete: true, ..Present::default() };
        Self { plane, guard: Guard::default(), nat: Nat::default(), present }
    }

    /// Sets the guard for nodes of both families, and NAT outgoing for their pods.
    fn set_nodes(&mut self, count: u32) {
        let nodes: BTreeSet<IpAddr> = (0..count).map(node).collect();
        let six = nodes.iter().map(|node| match node {
            IpAddr::V4(node) => IpAddr::V6(node.to_ipv6_compatible()),
            node => *node,
        });
        let inside = (0..count).map(|n| at(&format!("10.{}.{}.0/24", 100 + n / 256, n % 256)));
        let nat = NatOutgoing {
            pods: [at("10.1.0.0/24"), at("fd01::/64")].into_iter().collect(),
            inside: inside.chain(nodes.iter().map(|node| (*node).into())).collect(),
        };
        self.nat.set(Some(nat), &mut self.plane.objects());
        let sources = nodes.iter().copied().chain(six).collect();
        self.guard.set(Some(sources), &mut self.plane.objects());
    }

    fn clear(&mut self) {
        self.nat.set(None, &mut self.plane.objects());
        self.guard.set(None, &mut self.plane.objects());
    }

    fn run(&mut self) -> PlaneReport {
        dataplane::run(&mut [&mut self.plane], &mut self.present, Instant::now());
        self.plane.report(&self.present)
    }

    fn run_in_sync(&mut self) {
        let report = self.run();
        assert!(report.in_sync, "{report:#?}\n{}", sh("nft list ruleset"));
    }
}

fn node(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xac10_0001 + n).into()
}

fn listed() -> String {
    sh("nft list table inet heliograph")
}

#[test]
fn the_table_is_written_corrected_and_deleted_and_foreign_tables_are_not_changed() {
    in_namespace(|| async {
        sh("nft add table inet other && nft add chain inet other c '{ type filter hook input priority 0; }'");
        sh(
            "nft add rule inet other c counter && nft add set inet other s '{ type ipv4_addr; flags interval; }'",
        );
        let other = sh("nft -s list table inet other");
        let mut table = Table::new();
        table.set_nodes(2);
        table.run_in_sync();
        let wanted = listed();
        for part in [
            "172.16.0.1, 172.16.0.2",
            "hook input priority raw",
            "10.100.0.0/24",
            "ip saddr @pods4 ip daddr != @inside4 counter packets 0 bytes 0 masquerade fully-random comment \"leaves the cluster\"",
            "ip6 saddr @nodes6 counter packets 0 bytes 0 accept comment \"tunnelled by a node over IPv6\"",
            "counter packets 0 bytes 0 drop comment \"tunnelled by a stranger\"",
        ] {
            assert!(wanted.contains(part), "{part} is missing in {wanted}");
        }
        let handles = || sh("nft -a list table inet heliograph");
        let before = handles();
        table.plane.invalidate(&Hint::Everything);
        table.run_in_sync();
        assert_eq!(handles(), before, "nothing is written again");
        // A new agent accepts it, and so it does with a table that nft wrote.
        let mut again = Table::new();
        again.set_nodes(2);
        again.run_in_sync();
        assert_eq!(handles(), before);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, sh("nft -s list table inet heliograph")).unwrap();
        sh(&format!("nft delete table inet heliograph && nft -f {}", file.path().display()));
        let before = handles();
        again.plane.invalidate(&Hint::Everything);
        again.run_in_sync();
        assert_eq!(handles(), before, "as nft wrote it");

        for change in [
            "nft delete element inet heliograph nodes4 '{ 172.16.0.2 }'",
            "nft flush chain inet heliograph tunnels",
            "nft add element inet heliograph nodes4 '{ 203.0.113.7 }'",
            "nft chain inet heliograph tunnels '{ policy drop; }'",
            "nft add chain inet heliograph more",
            "nft add set inet heliograph more '{ type ipv4_addr; }'",
            "nft add set inet heliograph more '{ type ipv4_addr; }' && nft add chain inet heliograph more && \
             nft add rule inet heliograph more ip saddr @more accept",
            "nft add table inet heliograph '{ flags dormant; }'",
            "nft insert rule inet heliograph tunnels ip saddr @nodes4 accept",
            "nft replace rule inet heliograph tunnels handle \
             $(nft -a list chain inet heliograph tunnels | sed -n 's/.*stranger.*handle //p') counter accept",
            "nft add rule inet heliograph tunnels accept",
            "nft add element inet heliograph inside4 '{ 8.8.8.8 }'",
            "nft add element inet heliograph inside4 '{ 9.9.9.1-9.9.9.6 }'",
            "nft delete element inet heliograph pods6 '{ fd01::/64 }'",
            "nft flush chain inet heliograph nat-outgoing",
            "nft insert rule inet heliograph nat-outgoing ip daddr 8.8.8.8 accept",
            "nft delete table inet heliograph",
            "nft flush set inet heliograph nodes6",
            "nft delete chain inet heliograph tunnels && nft delete set inet heliograph nodes4 && \
             nft add set inet heliograph nodes4 '{ type ipv4_addr; flags interval; }'",
        ] {
            sh(change);
            table.plane.invalidate(&Hint::Everything);
            table.run_in_sync();
            assert_eq!(sorted(&listed()), sorted(&wanted), "after {change}");
        }
        table.clear();
        table.run_in_sync();
        assert_eq!(sh("nft list tables").trim(), "table inet other");
        assert_eq!(sh("nft -s list table inet other"), other);
    });
}

/// Returns the lines in order: sets and chains that were written again are listed later.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn one_node_more_is_one_element_more_and_counters_survive() {
    in_namespace(|| async {
        underlay();
        sh("ip address add 10.1.0.1/32 dev lo");
        let mut table = Table::new();
        table.set_nodes(1000);
        table.run_in_sync();
        // A packet of a pod that leaves the cluster.
        let pod = UdpSocket::bind("10.1.0.1:0").unwrap();
        pod.send_to(b"?", "192.0.2.77:9").unwrap();
        let counted =
            || sh("nft list chain inet heliograph nat-outgoing").contains("counter packets 1 bytes 29 ");
        wait_for("the packet is counted", async || counted()).await;
        for (change, count, limit) in [("one node more", 1001, 400), ("one node less", 1000, 400)] {
            let before = table.plane.port().sent();
            table.set_nodes(count);
            table.run_in_sync();
            let octets = table.plane.port().sent() - before;
            println!("{change}: {octets} octets written to nf_tables");
            assert!(octets < limit, "{change}: {octets} octets");
            assert!(counted(), "{}", sh("nft list chain inet heliograph nat-outgoing"));
        }
        table.plane.invalidate(&Hint::Everything);
        table.run_in_sync();
        assert!(counted());
    });
}

#[test]
fn many_nodes_and_the_ends_of_the_address_space_are_read_back_unchanged() {
    in_namespace(|| async {
        let mut table = Table::new();
        table.set_nodes(5000);
        let inside = ["0.0.0.0/8", "240.0.0.0/4", "10.0.0.0/25", "10.0.0.128/25", "::/16", "ff00::/8"];
        let nat = NatOutgoing {
            pods: [at("0.0.0.0/0"), at("::/0")].into_iter().collect(),
            inside: inside.into_iter().map(at).collect(),
        };
        table.nat.set(Some(nat), &mut table.plane.objects());
        table.run_in_sync();
        table.plane.invalidate(&Hint::Everything);
        let before = table.plane.port().sent();
        table.run_in_sync();
        assert!(table.plane.port().sent() - before < 2000, "nothing is written again");
    });
}

#[test]
fn ranges_that_overlap_replace_each_other_in_one_transaction() {
    in_namespace(|| async {
        let mut table = Table::new();
        let steps: [&[&str]; 7] = [
            &["10.1.0.0/24", "10.1.1.0/24"],
            &["10.1.0.0/16"],
            &["10.1.7.0/24", "10.1.8.0/24", "10.1.9.0/25"],
            &["10.1.7.0/24", "10.1.9.0/24"],
            &["0.0.0.0/0"],
            &["128.0.0.0/1", "10.1.8.0/21"],
            &["10.1.0.0/20"],
        ];
        for inside in steps {
            let nat = NatOutgoing {
                pods: [at("10.1.0.0/24")].into_iter().collect(),
                inside: inside.iter().map(|network| at(network)).collect(),
            };
            table.nat.set(Some(nat), &mut table.plane.objects());
            table.run_in_sync();
            let before = listed();
            table.plane.invalidate(&Hint::Everything);
            table.run_in_sync();
            assert_eq!(listed(), before, "what was read is what was written");
            inside.iter().for_each(|network| assert!(before.contains(network), "{network}: {before}"));
        }
    });
}

/// Subscribes to the changes of others.
fn watch(table: &mut Table) -> Watch {
    Watch::open(Own { routes: 0, tables: vec![table.plane.port().port()] }).unwrap()
}

/// Waits until the subscription has hints, and passes them on.
async fn notice(watch: &mut Watch, table: &mut Table) -> Vec<Hint> {
    let mut hints = Vec::new();
    let noticed = tokio::time::timeout(Duration::from_secs(20), watch.next(&mut hints)).await;
    noticed.expect("a notification").unwrap();
    hints.iter().for_each(|hint| table.plane.invalidate(hint));
    hints
}

#[test]
fn changes_by_others_are_noticed_and_flush_ruleset_is_repaired() {
    in_namespace(|| async {
        let mut table = Table::new();
        let mut watch = watch(&mut table);
        table.set_nodes(3);
        table.run_in_sync();
        let wanted = listed();
        let ours = |hint: &Hint| matches!(hint, Hint::Nftables { ours: true, .. });
        assert!(!notice(&mut watch, &mut table).await.iter().any(ours), "own changes");
        let handles = sh("nft -a list table inet heliograph");
        sh("nft add table ip other && nft add chain ip other c");
        assert!(!notice(&mut watch, &mut table).await.iter().any(ours), "changes of other tables");
        let before = table.plane.port().sent();
        table.plane.invalidate(&Hint::Periodic);
        table.run_in_sync();
        assert!(table.plane.port().sent() - before < 100, "no more than the generation is read");
        assert_eq!(sh("nft -a list table inet heliograph"), handles);
        for change in ["nft flush ruleset", "nft delete element inet heliograph nodes4 '{ 172.16.0.2 }'"] {
            sh(change);
            wait_for(&format!("{change} is noticed"), async || {
                notice(&mut watch, &mut table).await.iter().any(ours)
            })
            .await;
            table.run_in_sync();
            assert_eq!(listed(), wanted, "after {change}");
        }
    });
}

/// An eleventh plane, as a service proxy would be: services are elements of a map from address, protocol and port to the
/// address and port of a pod; a verdict map selects chains; an interval concatenation lists networks with ports.
struct Services {
    socket: Socket,
    tracker: Tracker<ElementKey, Value>,
    written: bool,
}

impl Services {
    fn services() -> Arc<Set> {
        Arc::new(Set {
            name: "services".into(),
            key: vec![Field::IPV4, Field::PROTOCOL, Field::PORT],
            intervals: false,
            data: Some(Data::Fields(vec![Field::IPV4, Field::PORT])),
        })
    }

    fn by_state() -> Arc<Set> {
        Arc::new(Set {
            name: "by-state".into(),
            key: vec![Field::MARK],
            intervals: false,
            data: Some(Data::Verdict),
        })
    }

    fn networks() -> Arc<Set> {
        Arc::new(Set {
            name: "networks".into(),
            key: vec![Field::IPV4, Field::PORT],
            intervals: true,
            data: Some(Data::Verdict),
        })
    }

    fn chains() -> [Arc<Chain>; 3] {
        let [first, second, third] = [0, 1, 2].map(Register);
        let destination = [
            Expression::payload(Header::Network, 16, 4, first),
            Expression::meta(Meta::Protocol, second),
            Expression::payload(Header::Transport, 2, 2, third),
        ];
        let ipv4 = [Expression::meta(Meta::Family, first), Expression::compare(first, Compare::Equal, &[2])];
        let new = [
            Expression::ct(Ct::State, first),
            Expression::bitwise(first, &(ct_state::NEW | ct_state::RELATED).to_ne_bytes(), &[0; 4]),
            Expression::compare(first, Compare::NotEqual, &[0; 4]),
        ];
        let mark = [Expression::load(&7_u32.to_ne_bytes(), first), Expression::set_ct(Ct::Mark, first)];
        let translate = Rule::new(
            "to a pod",
            &[
                &ipv4,
                &destination,
                &[
                    Expression::map(first, "services", first),
                    Expression::counter(),
                    Expression::dnat(2, first, Some(second)),
                ],
            ],
        );
        let rules = vec![
            Rule::new("new connections", &[&new, &mark]),
            Rule::new(
                "by mark",
                &[&[Expression::ct(Ct::Mark, first), Expression::verdict_map(first, "by-state")]],
            ),
        ];
        let random = Rule::new(
            "at random",
            &[&[Expression::random(2, first), Expression::compare(first, Compare::Less, &[0, 0, 0, 3])]],
        );
        let by_network = Rule::new(
            "by network",
            &[
                &ipv4,
                &[
                    Expression::payload(Header::Network, 16, 4, first),
                    Expression::payload(Header::Transport, 2, 2, second),
                    Expression::verdict_map(first, "networks"),
                ],
            ],
        );
        let base = Base { kind: "nat", hook: 3, priority: -100 };
        let chain = |name: &str, base, rules| Arc::new(Chain { name: name.into(), base, rules });
        [
            chain("services", None, vec![random, by_network, translate]),
            chain("ignored", None, vec![Rule::new("", &[&[Expression::verdict(Verdict::Return)]])]),
            chain("output", Some(base), rules),
        ]
    }

    fn skeleton() -> Vec<Operation> {
        let [services, ignored, output] = Self::chains();
        let verdict = |key: ElementKey, verdict| Element { key, value: Some(Value::Verdict(verdict)) };
        let jump = verdict(ElementKey::of(&[&7_u32.to_ne_bytes()]), Verdict::Jump("services".into()));
        let goto = verdict(
            ElementKey::range(&[&[198, 51, 100, 0], &[0, 0]], &[&[198, 51, 100, 255], &[3, 255]]),
            Verdict::Goto("ignored".into()),
        );
        vec![
            Operation::AddTable,
            Operation::AddSet(Self::services()),
            Operation::AddSet(Self::by_state()),
            Operation::AddSet(Self::networks()),
            Operation::AddChain(services.clone()),
            Operation::AddChain(ignored.clone()),
            Operation::AddElements(Self::by_state(), vec![jump]),
            Operation::AddElements(Self::networks(), vec![goto]),
            Operation::AddRules(ignored),
            Operation::AddRules(services),
            Operation::AddChain(output.clone()),
            Operation::AddRules(output),
        ]
    }
}

impl Plane for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn invalidate(&mut self, hint: &Hint) {
        if matches!(hint, Hint::Everything) {
            self.tracker.forget();
        }
    }

    fn read(&mut self, _: &mut Present, now: Instant) {
        self.tracker.wake(now);
        if !self.tracker.needs_read(now) {
            return;
        }
        match self.socket.read() {
            Ok(dumped) => {
                self.tracker.begin_read();
                self.written = dumped.is_some();
                let map = dumped.iter().flat_map(|table| &table.sets).find(|set| set.name == "services");
                for element in map.map(|map| Self::services().decode(&map.elements).0).unwrap_or_default() {
                    self.tracker.observe(element.key, element.value.map_or(Held::Altered, Held::Value));
                }
                self.tracker.end_read();
            }
            Err(error) => self.tracker.fail_read(error, now),
        }
    }

    fn apply(&mut self, phase: Phase, _: &mut Present, now: Instant) -> bool {
        let mut operations = if self.written { Vec::new() } else { Self::skeleton() };
        let mut keys = Vec::new();
        for (key, change) in self.tracker.pending(phase, None) {
            let element = |value: &Value| vec![Element { key: key.clone(), value: Some(value.clone()) }];
            operations
                .extend(change.held.map(|held| Operation::DeleteElements(Self::services(), element(held))));
            operations
                .extend(change.desired.map(|value| Operation::AddElements(Self::services(), element(value))));
            keys.push(key.clone());
        }
        if operations.is_empty() {
            return false;
        }
        match self.socket.commit("write services", &Transaction { operations }) {
            Ok(()) => {
                self.written = true;
                keys.iter().for_each(|key| self.tracker.confirm(key));
            }
            Err(failure) => {
                println!("operation {:?}: {}", failure.operation, failure.error);
                keys.iter().for_each(|key| self.tracker.fail(key, failure.error.clone(), now));
            }
        }
        true
    }

    fn next_retry(&self) -> Option<Instant> {
        self.tracker.next_retry()
    }

    fn report(&self, present: &Present) -> PlaneReport {
        self.tracker.report(present.may_delete, Problems::default(), |key, _| format!("{key:?}"), |_, _| None)
    }
}

#[test]
fn an_eleventh_plane_finds_the_language_whole() {
    in_namespace(|| async {
        underlay();
        sh("ip route add 10.96.0.0/16 via 192.0.2.9");
        let backends = ["192.0.2.1:0", "127.0.0.1:0"].map(|address| UdpSocket::bind(address).unwrap());
        backends.iter().for_each(|backend| backend.set_read_timeout(Some(Duration::from_secs(10))).unwrap());
        let service = |port: u16| ElementKey::of(&[&[10, 96, 0, 1], &[17], &port.to_be_bytes()]);
        let pod = |backend: &UdpSocket| match backend.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => {
                Value::of(&[&address.ip().octets(), &address.port().to_be_bytes()])
            }
            _ => unreachable!("an IPv4 socket"),
        };
        let mut plane =
            Services { socket: Socket::open().unwrap(), tracker: Tracker::default(), written: false };
        let mut present = Present { may_delete: true, ..Present::default() };
        let mut run = |plane: &mut Services| {
            dataplane::run(&mut [plane], &mut present, Instant::now());
            let report = plane.report(&present);
            assert!(report.in_sync, "{report:#?}");
        };
        let arrives = |port: u16, backend: &UdpSocket| {
            let client = UdpSocket::bind("192.0.2.1:0").unwrap();
            client.send_to(b"?", ("10.96.0.1", port)).unwrap();
            backend
                .recv_from(&mut [0; 9])
                .unwrap_or_else(|error| panic!("{port}: {error}\n{}", sh("nft list ruleset")));
        };
        (1..200).for_each(|port| plane.tracker.set(service(port), Some(pod(&backends[0]))));
        run(&mut plane);
        arrives(53, &backends[0]);
        // One element is replaced; the counters stay.
        plane.tracker.set(service(53), Some(pod(&backends[1])));
        plane.tracker.set(service(54), None);
        let before = plane.socket.sent();
        run(&mut plane);
        println!("one service changed, one removed: {} octets", plane.socket.sent() - before);
        let shown = listed();
        for part in [
            "ct state related,new ct mark set",
            "ct mark set 0x00000007",
            "ct mark vmap @by-state",
            "ip daddr . th dport vmap @networks",
            "198.51.100.0/24 . 0-1023 : goto ignored",
            "jump services",
            "counter packets 1",
            "dnat ip to ip daddr . meta l4proto . th dport map @services",
        ] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
        arrives(53, &backends[1]);
        // What was read back is what was written.
        let dumped = plane.socket.read().unwrap().unwrap();
        for chain in Services::chains() {
            let held = dumped.chains.iter().find(|held| held.name == chain.name).unwrap();
            assert!(chain.is(held), "{}: {shown}", chain.name);
        }
        for set in [Services::services(), Services::by_state(), Services::networks()] {
            let held = dumped.sets.iter().find(|held| *held.name == *set.name).unwrap();
            assert!(set.is(&held.attributes), "{}", set.name);
            let (elements, unknown) = set.decode(&held.elements);
            assert!(!unknown && !elements.is_empty(), "{}", set.name);
        }
        plane.invalidate(&Hint::Everything);
        let before = plane.socket.sent();
        run(&mut plane);
        assert!(plane.socket.sent() - before < 1000, "nothing is written again");
    });
}

#[test]
fn the_rejected_operation_is_named() {
    in_namespace(|| async {
        let mut socket = Socket::open().unwrap();
        let set = Arc::new(Set::of("missing", Field::IPV4));
        let element = Element { key: ElementKey::of(&[&[192, 0, 2, 1]]), value: None };
        let operations = vec![
            Operation::AddTable,
            Operation::AddSet(Arc::new(Set::of("a", Field::IPV4))),
            Operation::AddElements(set, vec![element]),
        ];
        let failure = socket.commit("write", &Transaction { operations }).unwrap_err();
        assert_eq!(failure.operation, Some(2), "{failure:?}");
        assert_eq!(sh("nft list ruleset"), "", "all or nothing");
    });
}

#[test]
fn without_the_tunnel_device_the_error_has_a_remedy_and_a_foreign_device_is_kept() {
    in_namespace(|| async {
        let tunnel = Tunnel::ipip(IpFamily::V4);
        sh("ip link add heliograph4 type veth peer name other4");
        let mut plane = Tunnels::new(Links::open().unwrap());
        let mut present = Present { may_delete: true, guarded: true, ..Present::default() };
        let mut run = |plane: &mut Tunnels<Links>, mtu| {
            plane.set(tunnel, mtu);
            plane.invalidate(&Hint::Periodic);
            dataplane::run(&mut [plane], &mut present, Instant::now());
            assert!(present.tunnels.is_empty());
            plane.report(&present)
        };
        let report = run(&mut plane, Some(1480));
        assert!(report.problems[0].error.contains("heliograph4 is of kind veth"), "{report:?}");
        assert!(report.problems[0].remedy.contains("rename or remove it"), "{report:?}");
        assert!(run(&mut plane, None).in_sync);
        assert!(sh("ip link show heliograph4").contains("heliograph4"), "a foreign device is not deleted");
        sh("ip link del heliograph4");
        let probe =
            std::process::Command::new("ip").args("link add probe4 type ipip external".split(' ')).output();
        if probe.unwrap().status.success() {
            return; // This kernel has ipip, and tests/tunnel.rs tests it.
        }
        let report = run(&mut plane, Some(1480));
        assert!(
            report.problems[0].what.contains("set up tunnel device heliograph4 with MTU 1480"),
            "{report:?}"
        );
        assert!(report.problems[0].remedy.contains("modprobe ipip"), "{report:?}");
    });
}

#[test]
fn forwarding_is_turned_on_and_stays_on() {
    in_namespace(|| async {
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        let state = || sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
        let mut plane = Sysctls::new(Files);
        let mut present = Present { may_delete: true, ..Present::default() };
        for (family, forwards, expected) in
            [(IpFamily::V4, true, "1\n0\n"), (IpFamily::V6, true, "1\n1\n"), (IpFamily::V4, false, "1\n1\n")]
        {
            plane.set(family, forwards);
            dataplane::run(&mut [&mut plane], &mut present, Instant::now());
            assert!(plane.report(&present).in_sync);
            assert_eq!(state(), expected, "other programs may need it");
        }
        sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        plane.invalidate(&Hint::Periodic);
        dataplane::run(&mut [&mut plane], &mut present, Instant::now());
        assert_eq!(state(), "1\n1\n");
    });
}

/// A measurement: `cargo test -p heliograph-agent --test dataplane -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_flush_ruleset() {
    in_namespace(|| async {
        for nodes in [10, 1000, 5000] {
            let mut table = Table::new();
            let mut watch = watch(&mut table);
            table.set_nodes(nodes);
            table.run_in_sync();
            let mut times = Vec::new();
            for _ in 0..21 {
                // A thread of this one is in the same namespace.
                let flush = std::thread::spawn(|| {
                    let mut other = Socket::open().unwrap();
                    let transaction = Transaction { operations: vec![Operation::DeleteTable] };
                    let start = Instant::now();
                    other.commit("flush", &transaction).unwrap();
                    start
                });
                while !notice(&mut watch, &mut table)
                    .await
                    .iter()
                    .any(|hint| matches!(hint, Hint::Nftables { ours: true, .. }))
                {}
                table.run_in_sync();
                times.push(flush.join().unwrap().elapsed());
            }
            times.sort();
            println!("{nodes} nodes: open for {:?} in the middle, {:?} at most", times[10], times[20]);
        }
    });
}
