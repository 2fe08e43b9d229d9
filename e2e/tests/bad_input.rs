//! Invalid input is rejected with a helpful message, and nothing that runs is affected.

mod common;

use anyhow::{Context, Result, anyhow, bail, ensure};
use common::{LATER, wait_for_status};
use heliograph_e2e::lab::{Lab, Node};
use heliograph_e2e::probe::PingStream;
use heliograph_e2e::uml::{as_root, with_ipip};
use heliograph_e2e::wait::wait_until;

/// A bad document, and what the rejection has to name.
struct Bad {
    what: &'static str,
    document: &'static str,
    line: u64,
    field: &'static str,
}

const BAD: [Bad; 5] = [
    Bad {
        what: "an unknown field",
        document: "apiVersion: heliograph.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: x}\nspec:\n  \
                   peerAddress: 172.20.1.99\n  peerASN: 64600\n  peerPassword: y\n",
        line: 7,
        field: "peerPassword",
    },
    Bad {
        what: "a bad CIDR",
        document: "apiVersion: v1\nkind: Node\nmetadata: {name: bad}\nspec:\n  podCIDRs: [10.244.300.0/24]\n\
                   status: {addresses: [{type: InternalIP, address: 172.20.1.99}]}\n",
        line: 5,
        field: "spec.podCIDRs[0]",
    },
    Bad {
        what: "ASN 0",
        document: "apiVersion: heliograph.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: x}\nspec:\n  \
                   peerAddress: 172.20.1.99\n  peerASN: 0\n",
        line: 6,
        field: "spec.peerASN",
    },
    Bad {
        what: "overlapping pod CIDRs",
        document: "apiVersion: v1\nkind: Node\nmetadata: {name: bad}\nspec:\n  podCIDRs: [10.244.1.128/25]\n\
                   status: {addresses: [{type: InternalIP, address: 172.20.1.99}]}\n",
        line: 5,
        field: "spec.podCIDRs[0]",
    },
    Bad {
        what: "a duplicate peer",
        document: "apiVersion: heliograph.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: x}\nspec:\n  \
                   peerAddress: 172.20.1.99\n  peerASN: 64600\n---\napiVersion: heliograph.io/v1alpha1\n\
                   kind: BGPPeer\nmetadata: {name: y}\nspec:\n  peerAddress: 172.20.1.99\n  peerASN: 64600\n",
        line: 12,
        field: "spec.peerAddress",
    },
];

#[test]
fn bad_documents_are_refused_and_the_last_good_ones_stay() {
    with_ipip("bad_documents_are_refused_and_the_last_good_ones_stay", || {
        let lab = Lab::named("two-racks")?.up()?;
        lab.wait_ready()?;
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack2-a", "b")?);
        let stream = PingStream::start(&a.netns, b.address)?;
        let node = lab.node("rack1-a");
        for bad in BAD {
            lab.write("intent", "zz-bad.yaml", bad.document)?;
            wait_for_status(node, bad.what, |status| rejection(status, &bad))?;
            let status = node.status()?;
            let sessions = status["sessions"].as_array().context("no sessions")?;
            ensure!(sessions.iter().all(|s| s["state"] == "Established"), "{}: {status}", bad.what);
            // For people too, not only for programs.
            let shown = node.run(["heliograph", "status"])?;
            ensure!(shown.contains("zz-bad.yaml"), "{}: {shown}", bad.what);
            lab.remove("intent", "zz-bad.yaml")?;
            wait_for_status(node, "in sync again", |status| {
                ensure!(status["intent"]["inSync"] == true);
                Ok(())
            })?;
        }
        let lost = stream.stop()?;
        ensure!(lost.lost.is_empty(), "{lost:?}");
        Ok(())
    });
}

fn rejection(status: &serde_json::Value, bad: &Bad) -> Result<()> {
    let intent = &status["intent"];
    ensure!(intent["inSync"] == false, "still in sync");
    let rejections = intent["rejections"].as_array().context("no rejections")?;
    let text = |r: &serde_json::Value, key: &str| r[key].as_str().unwrap_or_default().to_owned();
    let fits = rejections.iter().any(|r| {
        text(r, "file").ends_with("zz-bad.yaml")
            && r["line"] == bad.line
            && text(r, "field").contains(bad.field)
            && !text(r, "problem").is_empty()
            && !text(r, "remedy").is_empty()
    });
    if fits { Ok(()) } else { Err(anyhow!("none names line {} and {}: {rejections:?}", bad.line, bad.field)) }
}

/// A lab whose agents are not started by themselves.
fn idle() -> Result<Lab> {
    let sleep = ["sleep", "infinity"].map(String::from).to_vec();
    Lab::named("two-racks")?.with(|t| t.nodes.values_mut().for_each(|n| n.cmd = sleep.clone())).up()
}

/// Runs an agent that is to fail or to complain, and waits until all of `wanted` was output.
fn complains(node: Node<'_>, words: &[&str], wanted: &[&str]) -> Result<()> {
    let mut agent = node.spawn(words)?;
    let output = wait_until(LATER, &format!("`{}` prints {wanted:?}", words.join(" ")), || {
        let mut output = node.log();
        // An agent that keeps running reports it in its status instead.
        if let Ok(status) = node.status() {
            output += &format!("{}{}", status["problems"], status["kernel"]["errors"]);
        }
        match wanted.iter().find(|part| !output.to_lowercase().contains(&part.to_lowercase())) {
            None => Ok(()),
            Some(missing) => bail!("no `{missing}` in: {output}"),
        }
    });
    let _ = agent.kill();
    let _ = agent.wait();
    output
}

const AGENT: [&str; 4] = ["heliograph", "agent", "--node", "rack1-a"];

#[test]
fn an_agent_without_root_prints_the_remedy() {
    as_root(|| {
        let lab = idle()?;
        let node = lab.node("rack1-a");
        // A folder it may write in: what it cannot do is not meant to be files.
        node.run([
            "sh",
            "-c",
            "mkdir -p /run/heliograph /etc/cni/net.d; chmod -R 777 /run/heliograph /etc/cni",
        ])?;
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
        complains(node, &[&nobody[..], &AGENT[..]].concat(), &["NET_ADMIN"])
    });
}

#[test]
fn an_agent_whose_port_is_taken_prints_the_remedy() {
    with_ipip("an_agent_whose_port_is_taken_prints_the_remedy", || {
        let lab = idle()?;
        let node = lab.node("rack1-a");
        let _taken = node.enter(|| Ok(std::net::TcpListener::bind("[::]:179")?))?;
        complains(node, &AGENT, &["179", "listenPort"])
    });
}

/// Only where the kernel has no ipip can its absence be seen; elsewhere the tunnel device's name is taken by
/// something else, which the agent must not touch and must name.
#[test]
fn an_agent_without_ipip_prints_the_remedy() {
    as_root(|| {
        let lab = idle()?;
        let node = lab.node("rack1-a");
        if heliograph_e2e::uml::has_ipip()? {
            node.run(["ip", "link", "add", "heliograph4", "type", "bridge"])?;
            complains(node, &AGENT, &["heliograph4"])
        } else {
            complains(node, &AGENT, &["ipip", "modprobe"])
        }
    });
}
