//! The same two racks with two route reflectors and no mesh.

mod common;

use anyhow::{Context, Result, ensure};
use common::{SOON, all_as_it_should_be, two_pods_each};
use heliograph_e2e::lab::Lab;
use heliograph_e2e::probe::PingStream;
use heliograph_e2e::uml::with_ipip;
use nix::sys::signal::Signal;

fn ready() -> Result<Lab> {
    let lab = Lab::named("reflectors")?.up()?;
    lab.wait_ready()?;
    Ok(lab)
}

#[test]
fn every_pod_reaches_every_other_through_reflectors() {
    with_ipip("every_pod_reaches_every_other_through_reflectors", || {
        let lab = ready()?;
        for node in lab.with_role("node") {
            let status = node.status()?;
            let sessions = status["sessions"].as_array().context("no sessions")?;
            ensure!(sessions.len() == 2, "{}: only the reflectors are peers: {sessions:?}", node.name());
        }
        let pods = two_pods_each(&lab)?;
        all_as_it_should_be(&lab, &pods)
    });
}

#[test]
fn one_reflector_is_enough() {
    with_ipip("one_reflector_is_enough", || {
        let lab = ready()?;
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        let stream = PingStream::start(&a.netns, b.address)?;
        lab.node("rr1").stop(Signal::SIGKILL)?;
        // Beyond the hold time of 9 s: the routes of the dead reflector are gone by then.
        stream.wait_for(1500)?;
        lab.node("rr1").start()?;
        lab.wait_ready()?;
        common::wait_for_status(lab.node("rr1"), "all clients are back", |status| {
            let sessions = status["sessions"].as_array().context("no sessions")?;
            ensure!(sessions.iter().all(|s| s["state"] == "Established"));
            Ok(())
        })?;
        let lost = stream.stop()?;
        ensure!(lost.lost.is_empty(), "{lost:?}");
        heliograph_e2e::probe::ping(&b.netns, a.address, SOON)
    });
}
