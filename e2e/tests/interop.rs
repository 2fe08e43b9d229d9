//! Real peers: BIRD 2 and FRR, as Debian has them.

mod common;

use anyhow::{Context, ensure};
use common::{LATER, SOON, routes_to, wait_for_route, wait_for_status};
use heliograph_e2e::lab::Lab;
use heliograph_e2e::probe::ping;
use heliograph_e2e::uml::with_ipip;
use heliograph_e2e::wait::wait_until;

#[test]
fn bird_learns_and_teaches() {
    with_ipip("bird_learns_and_teaches", || {
        let lab = Lab::named("interop")?.up()?;
        let (bird, a, b) = (lab.node("bird"), lab.node("node-a"), lab.node("node-b"));
        // It learns both nodes' pods: from the one over eBGP, from the other over iBGP.
        for (protocol, cidr, next_hop) in
            [("node_a", "10.244.1.0/24", "172.20.5.11"), ("node_b", "10.244.2.0/24", "172.20.5.12")]
        {
            wait_until(LATER, &format!("BIRD has {cidr}"), || {
                let birdc =
                    ["birdc", "-s", "/run/bird/bird.ctl", "show", "route", "all", "protocol", protocol];
                let shown = bird.run(birdc)?;
                ensure!(shown.contains(cidr) && shown.contains(next_hop), "{shown}");
                Ok(())
            })?;
        }
        // We learn what is allowed, and nothing longer.
        wait_for_route(a, "10.9.1.0/24", true)?;
        wait_for_route(b, "10.8.1.0/24", true)?;
        wait_for_status(a, "both of BIRD's networks received, one let in", |status| {
            let sessions = status["sessions"].as_array().context("no sessions")?;
            let session = sessions.iter().find(|s| s["name"] == "bird-ebgp").context("none with BIRD")?;
            ensure!(session["received"] == 2 && session["accepted"] == 1);
            Ok(())
        })?;
        ensure!(routes_to(a, "10.9.200.0/25")?.is_empty(), "longer than the import list allows");

        // And it carries packets, both ways.
        let pod = lab.add_pod("node-a", "a")?;
        ping(&pod.netns, "10.9.1.1".parse()?, SOON)?;
        ping(&bird.namespaces().net, pod.address, SOON)
    });
}

#[test]
fn frr_learns_and_teaches() {
    with_ipip("frr_learns_and_teaches", || {
        let lab = Lab::named("interop")?.up()?;
        let (frr, b) = (lab.node("frr"), lab.node("node-b"));
        wait_until(LATER, "FRR has 10.244.2.0/24", || {
            let shown = frr.json(["vtysh", "-d", "bgpd", "-c", "show bgp ipv4 unicast json"])?;
            let route = &shown["routes"]["10.244.2.0/24"][0];
            ensure!(route["valid"] == true && route["path"] == "64512", "{shown}");
            ensure!(route["nexthops"][0]["ip"] == "172.20.5.12", "{shown}");
            Ok(())
        })?;
        wait_for_route(b, "10.9.2.0/24", true)?;
        let pod = lab.add_pod("node-b", "b")?;
        // bgpd runs without zebra and installs nothing, so the way back is laid by hand.
        frr.run(["ip", "route", "add", "10.244.2.0/24", "via", "172.20.5.12"])?;
        ping(&pod.netns, "10.9.2.1".parse()?, SOON)
    });
}
