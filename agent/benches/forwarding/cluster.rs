//! One agent with a real API server, in clusters of thousands of nodes, at single events.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use crate::Numbers;
use crate::daemon::Daemon;
use crate::holder::Holder;
use crate::kubelets::register;
use crate::network::{AgentNet, GATEWAY, pod_routes};
use crate::nftables::{Changes, Written};
use crate::objects::{Cluster, heartbeat, name};
use crate::outside::{Family, Outside, PROBE, TABLE, Table, bgp_peer};
use crate::peers::Peers;
use crate::probe::Probe;
use crate::report::{Row, Unit, median_of};
use crate::rights::grant_manifests;
use crate::routes::Routes;
use crate::server::Server;
use crate::tap::Tap;
use crate::user::{OURS, User, until};

/// The longest time until all routes are in the kernel.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The time in which the CPU time of one event is measured.
const WINDOW: Duration = Duration::from_millis(1500);

/// The number of nodes that join an agent with a large table.
const LATE_JOINS: usize = 3;

/// The API server with its nodes.
pub struct Site {
    server: Server,
    admin: User,
    nodes: usize,
}

impl Site {
    pub fn prepare(runtime: &Runtime) -> Result<Self> {
        runtime.block_on(async {
            let server = Server::start().await;
            let admin = User(server.client("admin").await);
            grant_manifests(&admin, None).await;
            admin.define().await;
            for peer in [bgp_peer("table", TABLE, Family::V4), bgp_peer("probe", PROBE, Family::V6)] {
                admin.put(&format!("{OURS}/bgppeers"), &peer).await;
            }
            Ok(Self { server, admin, nodes: 0 })
        })
    }

    /// Creates or deletes nodes, so that there are as many as this.
    async fn resize(&mut self, nodes: usize) {
        register(&self.admin, self.nodes..nodes.max(self.nodes)).await;
        for n in nodes..self.nodes {
            self.admin.delete(&format!("/api/v1/nodes/{}", name(n))).await;
        }
        self.nodes = nodes;
    }
}

/// An agent in a cluster, with the sessions of both outside speakers.
struct Place {
    daemon: Daemon,
    cluster: Cluster,
    table: Outside,
    probe: Probe,
    network: AgentNet,
    _peers: Peers,
    _tap: Tap,
    _holder: Holder,
}

impl Place {
    /// Starts the agent, and waits until it is at rest.
    async fn new(
        site: &mut Site,
        cluster: Cluster,
        joins: usize,
        numbers: &Numbers,
        program: &Path,
    ) -> Result<Self> {
        site.resize(cluster.nodes).await;
        site.admin.put(&format!("{OURS}/bgpconfigurations"), &cluster.configuration()).await;
        for kind in ["bgpsessions", "bgpnodes"] {
            site.admin.delete(&format!("{OURS}/{kind}")).await;
            until("the objects of the agent before are gone", async || {
                let list = site.admin.get(&format!("{OURS}/{kind}")).await.unwrap_or_default();
                list["items"].as_array().is_some_and(Vec::is_empty)
            })
            .await;
        }
        let network = AgentNet::new()?;
        network.place(if cluster.reflected { 1..3 } else { 1..cluster.nodes + joins })?;
        let peers = Peers::start(cluster).await?;
        let holder = Holder::start(site.server.client("admin").await).await;
        let text = fs::read_to_string(site.server.kubeconfig("agent"))?;
        let (_, rest) = text.split_once("https://127.0.0.1:").context("an API server at 127.0.0.1")?;
        let port: u16 = rest.split('"').next().unwrap_or_default().parse()?;
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let tap = Tap::start((GATEWAY, port).into(), api).await?;
        let kubeconfig = text.replace("https://127.0.0.1:", &format!("https://{GATEWAY}:"));
        let mut daemon = Daemon::with_api_server(&network, program, &kubeconfig)?;
        let start = Instant::now();
        let table = Outside::establish(TABLE, Family::V4).with_context(|| daemon.log_tail())?;
        let probe = Probe::start().with_context(|| daemon.log_tail())?;
        let wanted = cluster.nodes - 1;
        while pod_routes(daemon.pid()) != [wanted, wanted] {
            daemon.check()?;
            ensure!(
                start.elapsed() < TIMEOUT,
                "{:?} of {wanted} routes\n{}",
                pod_routes(daemon.pid()),
                daemon.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(numbers.cluster_settle).await;
        Ok(Self { daemon, cluster, table, probe, network, _peers: peers, _tap: tap, _holder: holder })
    }

    /// Returns the CPU time of 30 s at rest.
    fn at_rest(&self, span: Duration) -> Row {
        let (start, before) = (Instant::now(), self.daemon.cpu());
        std::thread::sleep(span);
        let cpu =
            self.daemon.cpu().saturating_sub(before).as_secs_f64() * 30.0 / start.elapsed().as_secs_f64();
        Row::new("30 s at rest: CPU", cpu, Unit::Seconds)
    }

    fn link_events(&mut self, numbers: &Numbers) -> Result<Vec<Row>> {
        let network = &self.network;
        let idle = self.daemon.cpu_of(numbers.events, WINDOW, |_| Ok(()))?;
        let link = self.daemon.cpu_of(numbers.events, WINDOW, |_| network.link_event())?;
        Ok(vec![
            Row::new("1.5 s without an event: CPU", idle, Unit::Seconds),
            Row::new("1.5 s in which a link comes and goes: CPU", link, Unit::Seconds),
        ])
    }
}

/// Measures an agent in a mesh: a node that joins, reports of kubelets, and then a peer with a large table.
pub fn mesh(site: &mut Site, runtime: &Runtime, numbers: &Numbers, program: &Path) -> Result<Vec<Row>> {
    let cluster = Cluster { reflected: false, nodes: numbers.mesh_nodes };
    let joins = 2 * numbers.events.max(LATE_JOINS);
    let mut place = runtime.block_on(Place::new(site, cluster, joins, numbers, program))?;
    crate::priority::set(true);
    let mut rows = vec![
        Row::new(
            format!("memory at rest with {} nodes", cluster.nodes),
            place.daemon.memory() as f64,
            Unit::Octets,
        ),
        Row::new("peak of memory", place.daemon.peak() as f64, Unit::Octets),
        place.at_rest(numbers.rest),
    ];
    rows.extend(place.link_events(numbers)?);

    let changes = Changes::watch(&place.network)?;
    let mut written: Vec<Written> = Vec::new();
    let mut times = Vec::new();
    let pid = place.daemon.pid();
    let cpu = place.daemon.cpu_of(numbers.events, WINDOW, |n| {
        // Not next to each other, so that no range of addresses grows.
        let node = cluster.nodes + 2 * n + 1;
        let before = pod_routes(pid)[0];
        let start = Instant::now();
        runtime.block_on(register(&site.admin, node..node + 1));
        while pod_routes(pid)[0] == before {
            ensure!(start.elapsed() < Duration::from_secs(60), "node {node} has no route in time");
            std::thread::sleep(Duration::from_millis(10));
        }
        times.push(start.elapsed().as_secs_f64());
        std::thread::sleep(WINDOW.saturating_sub(start.elapsed()));
        written.push(changes.take());
        Ok(())
    })?;
    let median = |value: fn(&Written) -> usize| {
        median_of(written.iter().map(|one| value(one) as f64)).unwrap_or_default()
    };
    rows.extend([
        Row::new("1.5 s in which a node joins: CPU", cpu, Unit::Seconds),
        Row::new(
            "a node joins: time until its route",
            median_of(times.into_iter()).unwrap_or_default(),
            Unit::Seconds,
        ),
        Row::new("a node joins: elements in nftables", median(|one| one.elements), Unit::Count),
        Row::new("a node joins: chains, rules and sets in nftables", median(|one| one.others), Unit::Count),
        Row::new("a node joins: octets in nftables", median(|one| one.octets), Unit::Octets),
    ]);
    let cpu = place.daemon.cpu_of(numbers.events, WINDOW, |n| {
        let path = format!("/api/v1/nodes/{}/status", name(3 + n));
        let kind = "application/strategic-merge-patch+json";
        let body = heartbeat(SystemTime::now());
        let answer = runtime.block_on(site.admin.ask("PATCH", &path, kind, Some(&body)));
        ensure!(answer.code == 200, "{answer:?}");
        Ok(())
    })?;
    rows.push(Row::new("1.5 s with one report of a kubelet: CPU", cpu, Unit::Seconds));

    let table =
        Table { family: Family::V4, routes: numbers.routes, next_hops: numbers.next_hops, version: 0 };
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(changes.flushed(&place.network)?.as_secs_f64());
        std::thread::sleep(WINDOW);
    }
    let time = median_of(times.into_iter()).unwrap_or_default();
    rows.push(Row::new("`nft flush ruleset`: time until the rules are back", time, Unit::Seconds));

    let routes = Routes::watch(&place.network, Family::V4, numbers.routes)?;
    routes.expect(Some(&table));
    place.table.send(&table.advertise())?;
    routes.reached(&mut place.daemon).with_context(|| place.daemon.log_tail())?;
    std::thread::sleep(numbers.settle);
    rows.extend(place.probe.during("all routes, at rest", numbers.rest, || Ok(()))?);
    rows.extend(place.probe.during("all routes, nodes join", Duration::from_secs(1), || {
        for n in 0..LATE_JOINS {
            let node = cluster.nodes + 2 * n;
            runtime.block_on(register(&site.admin, node..node + 1));
            std::thread::sleep(Duration::from_secs(2));
        }
        Ok(())
    })?);
    place.daemon.check()?;
    drop(place);
    site.nodes += joins;
    runtime.block_on(site.resize(cluster.nodes));
    Ok(rows)
}

/// Measures an agent in a cluster with reflectors: at rest, at a route event and at a link event.
pub fn reflectors(site: &mut Site, runtime: &Runtime, numbers: &Numbers, program: &Path) -> Result<Vec<Row>> {
    let cluster = Cluster { reflected: true, nodes: numbers.reflected_nodes };
    let mut place = runtime.block_on(Place::new(site, cluster, 0, numbers, program))?;
    crate::priority::set(true);
    let mut rows = vec![
        Row::new(
            format!("memory at rest with {} nodes", place.cluster.nodes),
            place.daemon.memory() as f64,
            Unit::Octets,
        ),
        Row::new("peak of memory", place.daemon.peak() as f64, Unit::Octets),
        place.at_rest(numbers.rest),
    ];
    rows.extend(place.link_events(numbers)?);
    let routes = Routes::watch(&place.network, Family::V4, 1)?;
    let mut times = Vec::new();
    let Place { daemon, table, .. } = &mut place;
    let mut samples = Vec::new();
    for n in 0..numbers.events as u16 {
        let one = Table { family: Family::V4, routes: 1, next_hops: 2, version: n };
        routes.expect(Some(&one));
        let (start, before) = (Instant::now(), daemon.cpu());
        table.send(&one.advertise())?;
        times.push((routes.reached(daemon)? - start).as_secs_f64());
        std::thread::sleep(WINDOW.saturating_sub(start.elapsed()));
        samples.push(daemon.cpu().saturating_sub(before).as_secs_f64());
    }
    rows.extend([
        Row::new(
            "1.5 s with a route event: CPU",
            median_of(samples.into_iter()).unwrap_or_default(),
            Unit::Seconds,
        ),
        Row::new(
            "a route event: time until the kernel has it",
            median_of(times.into_iter()).unwrap_or_default(),
            Unit::Seconds,
        ),
    ]);
    rows.extend(place.probe.during("delay at rest", numbers.rest, || Ok(()))?);
    Ok(rows)
}
