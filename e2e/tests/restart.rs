//! Agents and nodes that go and come back, and one that leaves for good.

mod common;

use anyhow::{Result, ensure};
use common::{LATER, SOON, ours_in_kernel, routes_to, wait_for_route};
use heliograph_e2e::lab::Lab;
use heliograph_e2e::probe::{PingStream, ping};
use heliograph_e2e::uml::with_ipip;
use heliograph_e2e::wait::wait_until;
use nix::sys::signal::Signal;

/// The mesh with a hold time of 3 s.
fn impatient() -> Result<Lab> {
    let timers = "asNumber: 64512\n  timers: {holdSeconds: 3, keepaliveSeconds: 1, connectRetrySeconds: 1}";
    let lab = Lab::named("two-racks")?.replace("intent/bgp.yaml", "asNumber: 64512", timers)?.up()?;
    lab.wait_ready()?;
    Ok(lab)
}

#[test]
fn a_killed_agent_costs_no_packet() {
    with_ipip("a_killed_agent_costs_no_packet", || {
        let lab = Lab::named("two-racks")?.up()?;
        lab.wait_ready()?;
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        let stream = PingStream::start(&a.netns, b.address)?;
        stream.wait_for(100)?;
        for node in ["rack1-a", "rack2-a"] {
            lab.node(node).restart()?;
            lab.wait_ready()?;
            stream.wait_for(300)?;
        }
        let lost = stream.stop()?;
        ensure!(lost.sent >= 700 && lost.lost.is_empty(), "{lost:?}");
        Ok(())
    });
}

#[test]
fn a_stopped_agent_leaves_its_routes() {
    with_ipip("a_stopped_agent_leaves_its_routes", || {
        let lab = Lab::named("two-racks")?.up()?;
        lab.wait_ready()?;
        let node = lab.node("rack1-a");
        node.stop(Signal::SIGTERM)?;
        for cidr in ["10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24"] {
            ensure!(!routes_to(node, cidr)?.is_empty(), "{cidr} is gone");
        }
        // And `cleanup` is how they go.
        node.run(["heliograph", "cleanup"])?;
        let left = ours_in_kernel(node)?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

#[test]
fn a_node_cut_off_and_back() {
    with_ipip("a_node_cut_off_and_back", || {
        let lab = impatient()?;
        let others = ["rack1-b", "rack2-a", "rack2-b"];
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        ping(&a.netns, b.address, SOON)?;
        // The router's side of the cable: the node itself sees its link go too, the others only silence.
        lab.node("router").run(["ip", "link", "set", "eth1", "down"])?;
        for other in others {
            wait_for_route(lab.node(other), "10.244.1.0/24", false)?;
        }
        // Those that were not cut off go on as before.
        for other in others.iter().filter(|o| **o != "rack2-a") {
            wait_for_route(lab.node(other), "10.244.3.0/24", true)?;
        }
        lab.node("router").run(["ip", "link", "set", "eth1", "up"])?;
        for other in others {
            wait_for_route(lab.node(other), "10.244.1.0/24", true)?;
        }
        ping(&a.netns, b.address, LATER)
    });
}

#[test]
fn a_silent_node_is_given_up_after_the_hold_time() {
    with_ipip("a_silent_node_is_given_up_after_the_hold_time", || {
        let lab = impatient()?;
        // Nothing of BGP leaves the node any more, not even its kernel's acknowledgements. Nobody sees a link go, and
        // no peer is notified that a connection has ended.
        let drop_bgp = "table inet silence { chain c { type filter hook output priority 0; tcp dport 179 drop; \
                        tcp sport 179 drop; }; }";
        let node = lab.node("rack1-a");
        node.run(["nft", drop_bgp])?;
        for other in ["rack1-b", "rack2-a", "rack2-b"] {
            wait_for_route(lab.node(other), "10.244.1.0/24", false)?;
        }
        node.run(["nft", "delete", "table", "inet", "silence"])?;
        for other in ["rack1-b", "rack2-a", "rack2-b"] {
            wait_for_route(lab.node(other), "10.244.1.0/24", true)?;
        }
        Ok(())
    });
}

#[test]
fn a_removed_node_leaves_nothing_behind() {
    with_ipip("a_removed_node_leaves_nothing_behind", || {
        let lab = impatient()?;
        let nodes = std::fs::read_to_string(lab.private("intent").join("nodes.yaml"))?;
        let all: Vec<_> = nodes.split("---\n").collect();
        let kept: Vec<_> =
            all.iter().copied().filter(|document| !document.contains("name: rack2-b")).collect();
        ensure!(kept.len() + 1 == all.len(), "one document is of rack2-b");
        lab.write("intent", "nodes.yaml", &kept.join("---\n"))?;

        for other in ["rack1-a", "rack1-b", "rack2-a"] {
            let node = lab.node(other);
            wait_until(LATER, &format!("{other}: nothing of the removed node"), || {
                let mut found = node.run(["ip", "route", "show", "table", "all"])?;
                found += &node.run(["nft", "list", "table", "inet", "heliograph"])?;
                let of_it: Vec<_> =
                    found.lines().filter(|l| l.contains("10.244.4.") || l.contains("172.20.2.12")).collect();
                ensure!(of_it.is_empty(), "{of_it:?}");
                Ok(())
            })?;
            // Its neighbors are none the worse for it.
            wait_for_route(node, if other == "rack1-a" { "10.244.2.0/24" } else { "10.244.1.0/24" }, true)?;
        }
        let removed = lab.node("rack2-b");
        wait_until(LATER, "rack2-b: nothing of ours", || {
            let left = ours_in_kernel(removed)?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    });
}
