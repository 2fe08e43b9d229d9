//! BFD between nodes: a cable that carries nothing any more, and restarts that must not look like one.
//!
//! The hold time is 90 s, longer than any of these tests waits: only BFD can be the cause.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{SOON, routes_to, wait_for_route};
use heliograph_e2e::lab::{Lab, Node};
use heliograph_e2e::probe::PingStream;
use heliograph_e2e::uml::with_ipip;
use heliograph_e2e::wait::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

const OTHERS: [&str; 3] = ["rack1-b", "rack2-a", "rack2-b"];

/// The mesh with BFD. Generous intervals: several kernels share a processor here.
fn watched() -> Result<Lab> {
    let bfd = "asNumber: 64512\n  timers: {holdSeconds: 90, connectRetrySeconds: 1}\n  \
               bfd: {receiveInterval: 300, transmitInterval: 300, detectMultiplier: 5}";
    let lab = Lab::named("two-racks")?.replace("intent/bgp.yaml", "asNumber: 64512", bfd)?.up()?;
    lab.wait_ready()?;
    for node in ["rack1-a"].iter().chain(&OTHERS) {
        wait_for_bfd(lab.node(node), 3)?;
    }
    Ok(lab)
}

fn sessions(node: Node<'_>) -> Result<Vec<Value>> {
    Ok(node.status()?["sessions"].as_array().cloned().unwrap_or_default())
}

fn wait_for_bfd(node: Node<'_>, up: usize) -> Result<()> {
    wait_until(SOON, &format!("{}: {up} BFD sessions up", node.name()), || {
        let sessions = sessions(node)?;
        let found = sessions.iter().filter(|session| session["bfd"]["state"] == "Up").count();
        ensure!(found == up, "{sessions:#?}");
        Ok(())
    })
}

/// Returns how many times a session was established, and how many times its BFD failed.
#[derive(Debug, PartialEq, Eq)]
struct History {
    established: u64,
    failures: u64,
}

impl History {
    /// Of the session of `node` with `peer`.
    fn of(node: Node<'_>, peer: &str) -> Result<Self> {
        let sessions = sessions(node)?;
        let session = sessions.iter().find(|session| session["name"] == peer);
        let session = session.with_context(|| format!("{} has no session with {peer}", node.name()))?;
        let count = |value: &Value| value.as_u64().with_context(|| format!("{value} is no count: {session}"));
        Ok(Self {
            established: count(&session["establishedCount"])?,
            failures: count(&session["bfd"]["failureCount"])?,
        })
    }

    /// With a session more: at a start of all at once there may have been several already.
    fn and_once_more(self) -> Self {
        Self { established: self.established + 1, ..self }
    }
}

#[test]
fn a_cable_that_carries_nothing_is_noticed_long_before_the_hold_time() {
    with_ipip("a_cable_that_carries_nothing_is_noticed_long_before_the_hold_time", || {
        let lab = watched()?;
        let before: Vec<_> =
            OTHERS.iter().map(|other| History::of(lab.node(other), "rack1-a")).collect::<Result<_>>()?;
        // Its port is in no bridge any more: packets vanish, and no link goes down.
        lab.node("router").run(["ip", "link", "set", "eth1", "nomaster"])?;
        for (other, before) in OTHERS.iter().zip(before) {
            wait_until(Duration::from_secs(45), &format!("{other}: no route to rack1-a's pods"), || {
                let routes = routes_to(lab.node(other), "10.244.1.0/24")?;
                ensure!(routes.is_empty(), "{routes:?}");
                Ok(())
            })?;
            let sessions = sessions(lab.node(other))?;
            let error = sessions.iter().find(|session| session["name"] == "rack1-a").map(|s| &s["lastError"]);
            let error = error.and_then(Value::as_str).unwrap_or_default();
            ensure!(error.contains("BFD"), "{error}");
            let now = History::of(lab.node(other), "rack1-a")?;
            ensure!(now == History { failures: before.failures + 1, ..before }, "{now:?}");
        }
        wait_for_route(lab.node("rack1-b"), "10.244.3.0/24", true)?;
        lab.node("router").run(["ip", "link", "set", "eth1", "master", "rack1"])?;
        for other in OTHERS {
            wait_for_route(lab.node(other), "10.244.1.0/24", true)?;
            wait_for_bfd(lab.node(other), 3)?;
        }
        Ok(())
    });
}

#[test]
fn with_bfd_a_killed_agent_costs_no_packet() {
    with_ipip("with_bfd_a_killed_agent_costs_no_packet", || {
        let lab = watched()?;
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        let before = History::of(lab.node("rack1-a"), "rack2-a")?;
        let stream = PingStream::start(&a.netns, b.address)?;
        stream.wait_for(100)?;
        lab.node("rack2-a").restart()?;
        lab.wait_ready()?;
        wait_for_bfd(lab.node("rack1-a"), 3)?;
        stream.wait_for(300)?;
        let lost = stream.stop()?;
        ensure!(lost.sent >= 400 && lost.lost.is_empty(), "{lost:?}");
        let now = History::of(lab.node("rack1-a"), "rack2-a")?;
        let expected = before.established + 1;
        ensure!(
            now.established == expected,
            "one restart, one new session: {expected} expected, {now:?} found"
        );
        Ok(())
    });
}

#[test]
fn bfd_of_a_stopped_agent_is_admin_down_and_no_failure() {
    with_ipip("bfd_of_a_stopped_agent_is_admin_down_and_no_failure", || {
        let lab = watched()?;
        let others = ["rack1-a", "rack1-b", "rack2-b"];
        let history = |other| History::of(lab.node(other), "rack2-a");
        let before = others.map(history).into_iter().collect::<Result<Vec<_>>>()?;
        lab.node("rack2-a").stop(Signal::SIGTERM)?;
        for (other, before) in others.into_iter().zip(&before) {
            let node = lab.node(other);
            wait_until(SOON, &format!("{other}: the session with rack2-a is down"), || {
                let sessions = sessions(node)?;
                let session = sessions.iter().find(|session| session["name"] == "rack2-a");
                ensure!(session.is_some_and(|s| s["state"] != "Established" && s["bfd"]["state"] != "Up"));
                Ok(())
            })?;
            let now = history(other)?;
            ensure!(now == *before, "{other}: {before:?}, now {now:?}");
            ensure!(!routes_to(node, "10.244.3.0/24")?.is_empty(), "{other} dropped the routes of a restart");
        }
        lab.node("rack2-a").start()?;
        lab.wait_ready()?;
        for (other, before) in others.into_iter().zip(before) {
            wait_for_bfd(lab.node(other), 3)?;
            let (now, expected) = (history(other)?, before.and_once_more());
            ensure!(now == expected, "{other}: {expected:?} expected, {now:?} found");
        }
        Ok(())
    });
}
