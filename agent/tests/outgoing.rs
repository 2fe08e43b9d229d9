//! Tests of NAT outgoing on a real kernel: the source addresses that receivers get, and the table as `nft` shows it. They
//! need root, `ip` and `nft`.
//!
//! There are a node with a pod, another node with a pod behind it, and a host outside.
#![allow(missing_docs)]

mod common;

use common::place::Place;
use common::*;
use heliograph_agent::dataplane::NatOutgoing;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// The namespaces around the test's own, which is the node.
struct Neighbors {
    pod: Place,
    /// Another node, with a pod's address on its loopback.
    peer: Place,
    /// A host outside.
    host: Place,
}

impl Neighbors {
    fn new() -> Self {
        let all = Self { pod: Place::new(), peer: Place::new(), host: Place::new() };
        for (number, name) in (1..).zip(["pod", "peer", "host"]) {
            let place = all.place(name);
            sh(&format!(
                "set -e
                 ip link add {name} type veth peer name eth0 netns {path}; ip link set {name} up
                 ip address add 10.{number}.0.1/24 dev {name}; ip -6 address add fd0{number}::1/64 dev {name} nodad",
                path = place.path
            ));
            place.sh(&format!(
                "set -e
                 ip link set eth0 up
                 ip address add 10.{number}.0.2/24 dev eth0; ip -6 address add fd0{number}::2/64 dev eth0 nodad
                 ip route add default via 10.{number}.0.1; ip -6 route add default via fd0{number}::1"
            ));
            sh(&once_local(&format!("fd0{number}::1")));
            place.sh(&once_local(&format!("fd0{number}::2")));
        }
        all.peer.sh("ip address add 10.20.0.2/32 dev lo && ip -6 address add fd20::2/128 dev lo nodad");
        all.peer.sh(&once_local("fd20::2"));
        sh("ip route add 10.20.0.0/24 via 10.2.0.2 && ip -6 route add fd20::/64 via fd02::2");
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        all
    }

    fn place(&self, name: &str) -> &Place {
        match name {
            "pod" => &self.pod,
            "peer" => &self.peer,
            "host" => &self.host,
            _ => panic!("there is no namespace {name}"),
        }
    }

    /// Opens a socket in a neighbor's namespace.
    fn socket(&self, neighbor: &str, address: IpAddr) -> UdpSocket {
        let socket = self.place(neighbor).within(move || UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Sends a packet to an address of a neighbor, and an answer back; returns the source address that the receiver got.
    fn source_address(&self, from: &str, to: &str, at: &str) -> String {
        let at = ip(at);
        let any = ip(if at.is_ipv4() { "0.0.0.0" } else { "::" });
        let (client, server) = (self.socket(from, any), self.socket(to, at));
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        let mut octets = [0; 9];
        let (_, source) =
            server.recv_from(&mut octets).unwrap_or_else(|error| panic!("{from} to {at}: {error}"));
        server.send_to(b"!", source).unwrap();
        let (_, from_server) =
            client.recv_from(&mut octets).unwrap_or_else(|error| panic!("{at} to {from}: {error}"));
        assert_eq!(from_server.ip(), at);
        source.ip().to_string()
    }
}

/// Returns a desired state that translates the pod's packets, except those to pods and nodes.
fn outgoing() -> Desired {
    let inside = ["10.1.0.0/24", "10.20.0.0/24", "10.2.0.2/32", "fd01::/64", "fd20::/64", "fd02::2/128"];
    let nat = NatOutgoing {
        pods: ["10.1.0.0/24", "fd01::/64"].into_iter().map(at).collect(),
        inside: inside.into_iter().map(at).collect(),
    };
    Desired { nat_outgoing: Some(nat), ..Desired::default() }
}

#[test]
fn packets_of_pods_are_translated_only_if_they_leave_the_cluster() {
    in_namespace(|| async {
        let neighbors = Neighbors::new();
        let mut kernel = Kernel::open();
        let source = |to: &str, at: &str| neighbors.source_address("pod", to, at);
        assert_eq!(source("host", "10.3.0.2"), "10.1.0.2", "before");
        kernel.apply_in_sync(&outgoing());
        assert_eq!(source("host", "10.3.0.2"), "10.3.0.1");
        assert_eq!(source("host", "fd03::2"), "fd03::1");
        for (at, address) in [
            ("10.20.0.2", "10.1.0.2"),
            ("fd20::2", "fd01::2"),
            ("10.2.0.2", "10.1.0.2"),
            ("fd02::2", "fd01::2"),
        ] {
            assert_eq!(source("peer", at), address, "to {at}");
        }
        // Packets of other sources and incoming packets are not translated.
        assert_eq!(neighbors.source_address("peer", "host", "10.3.0.2"), "10.2.0.2");
        assert_eq!(neighbors.source_address("host", "pod", "10.1.0.2"), "10.3.0.2");
        assert_eq!(neighbors.source_address("host", "pod", "fd01::2"), "fd03::2");

        kernel.apply_in_sync(&Desired::default());
        assert_eq!(sh("nft list tables"), "");
        assert_eq!(source("host", "fd03::2"), "fd01::2", "after");
    });
}

#[test]
fn nft_shows_the_intended_table_and_foreign_tables_stay_the_same() {
    in_namespace(|| async {
        // A service proxy's table has the same hook and priority.
        sh("nft -f - <<END
table ip kube-proxy {
    map services { type ipv4_addr : verdict; }
    chain masquerading { mark and 0x4000 != 0 masquerade fully-random; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
table inet other { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }; }
END");
        let others = || {
            sh(
                "nft -a list table ip kube-proxy; nft -a list table inet other; nft list tables | grep -v heliograph",
            )
        };
        let before = others();
        let mut kernel = Kernel::open();
        kernel.apply_in_sync(&outgoing());
        let listed = sh("nft list table inet heliograph");
        let wanted = "\
table inet heliograph {
\tset inside4 {
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = { 10.1.0.0/24, 10.2.0.2,
\t\t\t     10.20.0.0/24 }
\t}

\tset inside6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\telements = { fd01::/64,
\t\t\t     fd02::2,
\t\t\t     fd20::/64 }
\t}

\tset pods4 {
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = { 10.1.0.0/24 }
\t}

\tset pods6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\telements = { fd01::/64 }
\t}

\tchain nat-outgoing {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr @pods4 ip daddr != @inside4 counter packets 0 bytes 0 masquerade fully-random comment \"leaves the cluster\"
\t\tip6 saddr @pods6 ip6 daddr != @inside6 counter packets 0 bytes 0 masquerade fully-random comment \"leaves the cluster over IPv6\"
\t}
}
";
        assert_eq!(listed, wanted);
        assert_eq!(others(), before);
        // A table that nft writes with this content is accepted as intact.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, sh("nft -s list table inet heliograph")).unwrap();
        sh(&format!("nft delete table inet heliograph && nft -f {}", file.path().display()));
        Kernel::check_held(&outgoing(), "as nft writes it");

        for change in [
            "nft add element inet heliograph inside4 '{ 8.8.8.8 }'",
            "nft delete element inet heliograph pods6 '{ fd01::/64 }'",
            "nft flush chain inet heliograph nat-outgoing",
            "nft insert rule inet heliograph nat-outgoing ip daddr 8.8.8.8 accept",
        ] {
            sh(change);
            kernel.apply_in_sync(&outgoing());
            assert_eq!(sh("nft list table inet heliograph"), wanted, "after {change}");
        }
        kernel.apply_in_sync(&Desired::default());
        assert_eq!(others(), before);
    });
}
