//! The lab itself, without our agent: what it builds, what it sees, and that it leaves nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use heliograph_e2e::jail::NodePlan;
use heliograph_e2e::lab::{Lab, binary};
use heliograph_e2e::netns::NetNs;
use heliograph_e2e::pods::Pod;
use heliograph_e2e::probe::{PingStream, ping};
use heliograph_e2e::sniff::Sniffer;
use heliograph_e2e::survey::{Way, survey};
use heliograph_e2e::transfer::transfer;
use heliograph_e2e::uml::{as_root, with_ipip};
use heliograph_e2e::wait::wait_until;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

/// `two-racks` with something harmless in place of the agents.
fn without_agents() -> Result<Lab> {
    let sleep = ["sleep", "infinity"].map(String::from).to_vec();
    Lab::named("two-racks")?.with(|t| t.nodes.values_mut().for_each(|n| n.cmd = sleep.clone())).up()
}

#[test]
fn nodes_reach_each_other_across_the_router() {
    as_root(|| {
        // Two at a time: names and addresses are the same, and they do not meet.
        let (lab, other) = (without_agents()?, without_agents()?);
        for lab in [&lab, &other] {
            for address in ["172.20.1.12", "172.20.2.11", "172.20.1.1"] {
                ping(&lab.node("rack1-a").namespaces().net, address.parse()?, SOON)?;
            }
        }
        other.node("rack2-a").run(["ip", "link", "set", "eth1", "down"])?;
        ping(&lab.node("rack1-a").namespaces().net, "172.20.2.11".parse()?, SOON)?;
        ensure!(lab.node("rack1-a").run(["hostname"])?.trim() == "rack1-a");
        Ok(())
    });
}

#[test]
fn files_of_a_node_are_its_own() {
    as_root(|| {
        let lab = without_agents()?;
        let (a, b) = (lab.node("rack1-a"), lab.node("rack1-b"));
        for path in ["/etc/cni/net.d", "/opt/cni/bin", "/run/heliograph"] {
            a.run(["sh", "-c", &format!("mkdir -p {path} && echo mine > {path}/x")])?;
            ensure!(!b.output(["test", "-e", &format!("{path}/x")])?.status.success(), "{path} is shared");
            ensure!(!std::path::Path::new(path).join("x").exists(), "{path} is the machine's");
        }
        // The topology binds the intent read-only; the test changes it from outside, live, and for all nodes.
        ensure!(!a.output(["sh", "-c", "echo x > /etc/heliograph/x.yaml"])?.status.success());
        lab.write("intent", "x.yaml", "new")?;
        ensure!(b.run(["cat", "/etc/heliograph/x.yaml"])? == "new");
        Ok(())
    });
}

#[test]
fn daemons_are_stopped_and_started() {
    as_root(|| {
        let lab = without_agents()?;
        let node = lab.node("rack1-a");
        ensure!(node.ended()?.is_none());
        node.restart()?;
        node.stop(Signal::SIGTERM)?;
        node.start()?;
        // 1 is the node's init; the daemon is the only other process beside `ps`'s relatives.
        ensure!(node.run(["cat", "/proc/1/comm"])?.trim() == "heliograph-lab");
        let failing = node.run(["sh", "-c", "echo whoops >&2; exit 4"]).expect_err("it fails").to_string();
        ensure!(failing.contains("whoops") && failing.contains('4'), "{failing}");
        Ok(())
    });
}

#[test]
fn nothing_survives_the_end_of_the_lab() {
    as_root(|| {
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_heliograph-lab"))
            .args(["jail", "run", "--", "sh", "-c", "sleep 3456 & setsid sleep 3456 & wait"])
            .stdin(Stdio::piped())
            .spawn()?;
        // Seen from outside, both the shell's child and the one that left its session.
        let running = || -> Result<usize> {
            let all = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path().join("cmdline"));
            Ok(all.filter(|file| std::fs::read(file).is_ok_and(|line| line == b"sleep\x003456\x00")).count())
        };
        wait_until(SOON, "two processes in the jail", || match running()? {
            2 => Ok(()),
            n => Err(anyhow!("{n} are there")),
        })?;
        // The end of whoever holds the pipe, whatever the reason: a `kill -9` closes it just so.
        drop(keeper.stdin.take());
        keeper.wait()?;
        wait_until(SOON, "the end of all processes in the jail", || match running()? {
            0 => Ok(()),
            n => Err(anyhow!("{n} are still there")),
        })
    });
}

/// A pod wired by hand the way the shim does it.
fn hand_made_pod(lab: &Lab, node: &str, address: &str) -> Result<Pod> {
    let id = address.replace('.', "-");
    let script = format!(
        "set -e; ip netns add cni-{id}
         ip link add hg{id} type veth peer name eth0 netns cni-{id} mtu 1480
         ip link set hg{id} mtu 1480 up
         ip -n cni-{id} address add {address}/32 dev eth0
         ip -n cni-{id} link set lo up
         ip -n cni-{id} link set eth0 up
         ip route add {address} dev hg{id}
         host=$(ip -j link show hg{id} | sed 's/.*\"address\":\"\\([^\"]*\\)\".*/\\1/')
         pod=$(ip -j -n cni-{id} link show eth0 | sed 's/.*\"address\":\"\\([^\"]*\\)\".*/\\1/')
         ip -n cni-{id} neigh add 169.254.1.1 lladdr $host dev eth0 nud permanent
         ip neigh add {address} lladdr $pod dev hg{id} nud permanent
         ip -n cni-{id} route add default via 169.254.1.1 dev eth0 onlink"
    );
    let node = lab.node(node);
    node.run(["sh", "-c", &script])?;
    Ok(Pod {
        node: node.name().into(),
        id: id.clone(),
        address: address.parse()?,
        mac: String::new(),
        netns: NetNs::open(&node.path(&format!("/run/netns/cni-{id}")))?,
        result: serde_json::Value::Null,
    })
}

const NODES: [(&str, &str, &str); 4] = [
    ("rack1-a", "172.20.1.11", "10.244.1"),
    ("rack1-b", "172.20.1.12", "10.244.2"),
    ("rack2-a", "172.20.2.11", "10.244.3"),
    ("rack2-b", "172.20.2.12", "10.244.4"),
];

/// The routes an agent would install.
fn hand_made_routes(lab: &Lab) -> Result<()> {
    for (node, own, _) in NODES {
        let node = lab.node(node);
        node.run(["ip", "link", "add", "heliograph4", "type", "ipip", "external"])?;
        node.run(["ip", "link", "set", "heliograph4", "up"])?;
        for (peer, address, cidr) in NODES.iter().filter(|(peer, ..)| *peer != node.name()) {
            let route = if lab.node(peer).label("rack") == node.label("rack") {
                format!("ip route add {cidr}.0/24 via {address}")
            } else {
                let encap = format!("encap ip id 0 dst {address} src {own} ttl 64");
                format!("ip route add {cidr}.0/24 {encap} dev heliograph4 src {own} mtu 1480")
            };
            node.run(route.split(' '))?;
        }
    }
    Ok(())
}

#[test]
fn the_sniffer_distinguishes_ipip_from_direct() {
    with_ipip("the_sniffer_distinguishes_ipip_from_direct", || {
        let lab = without_agents()?;
        hand_made_routes(&lab)?;
        let mut pods = Vec::new();
        for (node, _, cidr) in NODES {
            for last in [2, 3] {
                pods.push(hand_made_pod(&lab, node, &format!("{cidr}.{last}"))?);
            }
        }
        let sniffer = Sniffer::start(&lab.node("router").namespaces().net)?;
        let found = survey(&lab, &pods, &sniffer, SOON, &|_, _| {})?;
        ensure!(found.faults(&lab, &pods).is_empty(), "{:#?}", found.faults(&lab, &pods));
        ensure!((found.count(Way::Direct), found.count(Way::Tunnel)) == (24, 32));

        let done = transfer(&lab, &sniffer, &pods[0], &pods[4], 10_000_000)?;
        println!("10 MB in {:?}: {:?}", done.took, done.traffic);
        ensure!(
            done.traffic.largest == 1480 && done.fragments == 0 && done.traffic.fragments == 0,
            "{done:?}"
        );

        // And the opposite: the check must be able to fail.
        let (stream_from, to): (&Pod, IpAddr) = (&pods[0], pods[4].address);
        let stream = PingStream::start(&stream_from.netns, to)?;
        lab.node("router").run(["ip", "link", "set", "eth3", "down"])?;
        stream.wait_for(20)?;
        let lost = stream.stop()?;
        ensure!(!lost.lost.is_empty(), "the stream lost nothing on a cut line: {lost:?}");
        let found = survey(&lab, &pods, &sniffer, Duration::from_secs(3), &|_, _| {})?;
        ensure!(found.count(Way::Unreached) > 0 && !found.faults(&lab, &pods).is_empty());
        Ok(())
    });
}

/// A clone may lie in a folder that is empty in each node.
#[test]
fn programs_below_an_empty_folder_stay_visible() {
    as_root(|| {
        for empty in ["/run", "/var/tmp"] {
            let folder = tempfile::tempdir_in(empty)?;
            let program = folder.path().join("heliograph-lab");
            // By another process: a child of a test beside this one could inherit the file while it is open for writing, and
            // the kernel would not run it (ETXTBSY).
            let copied = Command::new("cp").arg(binary("heliograph-lab")?).arg(&program).status()?;
            ensure!(copied.success(), "cp ended with {copied}");
            let mut command = Command::new(&program);
            let mut keeper =
                command.args(["jail", "node"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut lifeline = keeper.stdin.take().context("no standard input")?;
            writeln!(lifeline, "{}", serde_json::to_string(&NodePlan::default())?)?;
            let mut lines = BufReader::new(keeper.stdout.take().context("no standard output")?).lines();
            let init = lines.next().context("no init")??;
            ensure!(lines.next().context("no report")?? == "ready", "the node was not prepared");
            let inside = format!("/proc/{init}/root{}", program.display());
            ensure!(std::fs::metadata(&inside)?.len() > 0, "{inside} is empty");
            drop(lifeline);
            keeper.wait()?;
        }
        Ok(())
    });
}
