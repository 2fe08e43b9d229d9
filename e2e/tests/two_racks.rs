//! The main thing: pods of two racks reach each other, IPIP only where a router is between them, no NAT anywhere.

mod common;

use anyhow::{Result, ensure};
use common::{SOON, all_as_it_should_be, two_pods_each};
use heliograph_e2e::demo::pod_mtu;
use heliograph_e2e::lab::Lab;
use heliograph_e2e::pods::CniError;
use heliograph_e2e::probe::ping;
use heliograph_e2e::sniff::Sniffer;
use heliograph_e2e::transfer::transfer;
use heliograph_e2e::uml::with_ipip;

fn ready() -> Result<Lab> {
    let lab = Lab::named("two-racks")?.up()?;
    lab.wait_ready()?;
    Ok(lab)
}

#[test]
fn every_pod_reaches_every_other() {
    with_ipip("every_pod_reaches_every_other", || {
        let lab = ready()?;
        let pods = two_pods_each(&lab)?;
        all_as_it_should_be(&lab, &pods)
    });
}

#[test]
fn bulk_transfer_in_full_size_packets() {
    with_ipip("bulk_transfer_in_full_size_packets", || {
        let lab = ready()?;
        let (from, to) = (lab.add_pod("rack1-a", "sender")?, lab.add_pod("rack2-b", "receiver")?);
        ping(&from.netns, to.address, SOON)?;
        // The underlay's 1500 less the 20 of the outer header.
        ensure!(pod_mtu(&lab, &from)? == 1480);
        let sniffer = Sniffer::start(&lab.node("router").namespaces().net)?;
        let done = transfer(&lab, &sniffer, &from, &to, 100_000_000)?;
        ensure!(done.traffic.plain == 0 && done.traffic.tunnelled > 0, "{done:?}");
        ensure!(done.traffic.largest == 1480, "{done:?}");
        ensure!(done.traffic.fragments == 0 && done.fragments == 0, "{done:?}");
        Ok(())
    });
}

#[test]
fn pods_come_and_go() {
    with_ipip("pods_come_and_go", || {
        let lab = ready()?;
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack1-a", "b")?);
        ensure!(a.address != b.address);
        ping(&a.netns, b.address, SOON)?;
        lab.check_pod(&a)?;
        lab.node("rack1-a").run(["ip", "-n", "cni-b", "route", "flush", "default"])?;
        let error = lab.check_pod(&b).expect_err("the pod has lost its default route");
        ensure!(error.is::<CniError>(), "{error:#}");
        lab.delete_pod(a)?;
        lab.delete_pod(b)?;
        let left = lab.node("rack1-a").ip("route show proto 105")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}
