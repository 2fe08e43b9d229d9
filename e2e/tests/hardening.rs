//! Packets from strangers are dropped, and nothing that is not ours is changed.

mod common;

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use common::{LATER, SOON, ours_in_kernel};
use heliograph_e2e::lab::Lab;
use heliograph_e2e::netns::NetNs;
use heliograph_e2e::probe::{checksum, ping};
use heliograph_e2e::sniff::Sniffer;
use heliograph_e2e::uml::with_ipip;
use heliograph_e2e::wait::wait_until;
use socket2::{Domain, Protocol, Socket, Type};

fn ready() -> Result<Lab> {
    let lab = Lab::named("two-racks")?.up()?;
    lab.wait_ready()?;
    Ok(lab)
}

/// An echo request in an IP header, as the inside of a tunnel packet.
fn inner_packet(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x13, 0x37, 0, 1];
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(icmp);
    packet
}

/// Sends protocol 4 (IPIP, RFC 2003): the kernel puts the outer header around.
fn send_ipip(from: &NetNs, node: Ipv4Addr, inner: &[u8]) -> Result<()> {
    let socket = from.enter(|| Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4)))?))?;
    socket.send_to(inner, &std::net::SocketAddr::from((node, 0)).into()).context("cannot send protocol 4")?;
    Ok(())
}

#[test]
fn a_strangers_tunnel_is_dropped() {
    with_ipip("a_strangers_tunnel_is_dropped", || {
        let lab = ready()?;
        let (pod, other) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        let std::net::IpAddr::V4(to) = pod.address else { anyhow::bail!("an IPv4 pod was wanted") };
        let node: Ipv4Addr = "172.20.1.11".parse()?;
        let seen = Sniffer::start(&pod.netns)?;
        let arrived = |from: Ipv4Addr| seen.traffic(from.into(), to.into()).plain;

        // The same packet from a node is let in: so it is well made, and the path is what makes the difference.
        let (known, stranger) = (Ipv4Addr::new(10, 244, 3, 200), Ipv4Addr::new(10, 244, 3, 201));
        wait_until(SOON, "a tunnel packet from a node arrives in the pod", || {
            send_ipip(&lab.node("rack2-a").namespaces().net, node, &inner_packet(known, to))?;
            ensure!(arrived(known) > 0);
            Ok(())
        })?;
        let router = &lab.node("router").namespaces().net;
        for _ in 0..10 {
            send_ipip(router, node, &inner_packet(stranger, to))?;
        }
        // A packet that was sent after them and arrives proves that they would have arrived, too.
        let before = arrived(known);
        wait_until(SOON, "another tunnel packet from a node", || {
            send_ipip(&lab.node("rack2-a").namespaces().net, node, &inner_packet(known, to))?;
            ensure!(arrived(known) > before);
            Ok(())
        })?;
        ensure!(arrived(stranger) == 0, "{} packets of a stranger came through", arrived(stranger));
        ping(&other.netns, pod.address, SOON)
    });
}

#[test]
fn what_is_not_ours_is_not_touched() {
    with_ipip("what_is_not_ours_is_not_touched", || {
        let lab = ready()?;
        let node = lab.node("rack1-a");
        for line in [
            "ip route add 192.0.2.0/24 via 172.20.1.1",
            "ip route add blackhole 198.51.100.0/24 proto 99",
            // Even a pod network's prefix is not ours when its protocol is another's.
            "ip route add 10.244.3.0/24 via 172.20.1.1 metric 4000 proto static",
            "ip link add foreign type bridge",
            "nft add table inet foreign",
        ] {
            node.run(line.split(' '))?;
        }
        let foreign = || -> Result<String> {
            let routes = node.run(["ip", "route", "show"])?;
            let kept: Vec<_> =
                routes.lines().filter(|l| !l.contains("proto 104") && !l.contains("proto 105")).collect();
            let tables = node.run(["nft", "list", "table", "inet", "foreign"])?;
            Ok(format!("{}\n{}{tables}", kept.join("\n"), node.run(["ip", "-o", "link", "show", "foreign"])?))
        };
        let before = foreign()?;
        node.restart()?;
        lab.wait_ready()?;
        ensure!(foreign()? == before, "changed by a restart:\n{before}\n{}", foreign()?);
        node.stop(nix::sys::signal::Signal::SIGTERM)?;
        node.run(["heliograph", "cleanup"])?;
        ensure!(ours_in_kernel(node)?.is_empty());
        ensure!(foreign()? == before, "changed by cleanup:\n{before}\n{}", foreign()?);
        Ok(())
    });
}

#[test]
fn a_route_somebody_deleted_comes_back() {
    with_ipip("a_route_somebody_deleted_comes_back", || {
        let lab = ready()?;
        let node = lab.node("rack1-a");
        for _ in 0..3 {
            node.run(["ip", "route", "flush", "proto", "104"])?;
            for cidr in ["10.244.2.0/24", "10.244.3.0/24"] {
                common::wait_for_route(node, cidr, true)?;
            }
        }
        wait_until(LATER, "the kernel in sync", || {
            ensure!(node.status()?["kernel"]["inSync"] == true);
            Ok(())
        })
    });
}
