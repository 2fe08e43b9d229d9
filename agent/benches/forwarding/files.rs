//! One agent with a folder: its memory, many routes, foreign routes that change.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Bench;
use crate::daemon::Daemon;
use crate::network::AgentNet;
use crate::objects::{Cluster, node};
use crate::outside::{Family, Outside, PROBE, TABLE, Table, bgp_peer};
use crate::peers::Peers;
use crate::probe::Probe;
use crate::processes::{bind_to_us, kill_all};
use crate::report::{Row, Unit};
use crate::routes::Routes;

/// The nodes of the cluster.
const FEW: Cluster = Cluster { reflected: false, nodes: 3 };
/// The time between two changes of foreign routes.
const FOREIGN_INTERVAL: Duration = Duration::from_millis(100);

/// An agent in a cluster of three nodes with two BGPPeers, of which the second is for a [`Probe`].
struct Place {
    daemon: Daemon,
    table: Outside,
    probe: Probe,
    routes: Routes,
    _peers: Peers,
    network: AgentNet,
}

impl Place {
    fn new(bench: &Bench, program: &Path, routes: u32) -> Result<Self> {
        crate::priority::set(true);
        let network = AgentNet::new()?;
        network.place(1..FEW.nodes)?;
        let peers = bench.runtime.block_on(Peers::start(FEW))?;
        let mut intent = vec![FEW.configuration()];
        intent.extend((0..FEW.nodes).map(node));
        intent.extend([bgp_peer("table", TABLE, Family::V4), bgp_peer("probe", PROBE, Family::V6)]);
        let routes = Routes::watch(&network, Family::V4, routes)?;
        let mut daemon = Daemon::with_folder(&network, program, &intent)?;
        let table = Outside::establish(TABLE, Family::V4).with_context(|| daemon.log_tail())?;
        let probe = Probe::start().with_context(|| daemon.log_tail())?;
        daemon.ready()?;
        Ok(Self { daemon, table, probe, routes, _peers: peers, network })
    }

    /// Advertises the routes, and waits until the kernel has them and the agent is at rest.
    fn learn(&mut self, bench: &Bench, routes: u32) -> Result<()> {
        let table = Table { family: Family::V4, routes, next_hops: bench.numbers.next_hops, version: 0 };
        self.routes.expect(Some(&table));
        self.table.send(&table.advertise())?;
        self.routes.reached(&mut self.daemon).with_context(|| self.daemon.log_tail())?;
        std::thread::sleep(bench.numbers.settle);
        Ok(())
    }
}

/// Measures the memory of an agent in a cluster of few nodes.
pub fn few(bench: &Bench, program: &Path) -> Result<Vec<Row>> {
    let place = Place::new(bench, program, 0)?;
    std::thread::sleep(bench.numbers.settle);
    Ok(vec![
        Row::new("memory at rest with 3 nodes", place.daemon.memory() as f64, Unit::Octets),
        Row::new("peak of memory with 3 nodes", place.daemon.peak() as f64, Unit::Octets),
    ])
}

/// Measures an agent with some thousand routes, at rest and while foreign routes change ten times a second.
pub fn routes(bench: &Bench, program: &Path) -> Result<Vec<Row>> {
    let count = bench.numbers.some_routes;
    let mut place = Place::new(bench, program, count)?;
    place.learn(bench, count)?;
    let mut rows = vec![Row::new(
        format!("memory at rest with {count} routes"),
        place.daemon.memory() as f64,
        Unit::Octets,
    )];
    rows.push(Row::new("of a core, at rest", core(&place.daemon, bench.numbers.rest), Unit::Percent));
    let foreign = Foreign::start(&place.network, bench.numbers.rest)?;
    let busy = core(&place.daemon, bench.numbers.rest);
    foreign.end()?;
    rows.push(Row::new("of a core, foreign routes change 10 times a second", busy, Unit::Percent));
    rows.push(Row::new("memory after that", place.daemon.memory() as f64, Unit::Octets));
    place.daemon.check()?;
    Ok(rows)
}

/// Returns the CPU time of a span of time in percent of a core.
fn core(daemon: &Daemon, span: Duration) -> f64 {
    let (start, before) = (Instant::now(), daemon.cpu());
    std::thread::sleep(span);
    daemon.cpu().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0
}

/// A process that changes foreign routes in the agent's namespace.
struct Foreign(Child, std::thread::JoinHandle<std::io::Result<()>>);

impl Foreign {
    /// Starts it: it replaces one of ten routes after the other, and ends by itself.
    fn start(network: &AgentNet, span: Duration) -> Result<Self> {
        let mut command = network.command();
        bind_to_us(command.arg("ip").args(["-batch", "-"]).stdin(Stdio::piped()));
        let mut child = command.spawn().context("cannot run ip (iproute2)")?;
        let mut input = child.stdin.take().expect("it is piped");
        let writer = std::thread::spawn(move || {
            let end = Instant::now() + span;
            for n in 0u32.. {
                if Instant::now() >= end {
                    break;
                }
                let (route, via) = (n % 10, 1 + n / 10 % 2);
                writeln!(input, "route replace 198.51.{route}.0/24 via 10.100.253.{via} proto static")?;
                std::thread::sleep(FOREIGN_INTERVAL);
            }
            Ok(())
        });
        Ok(Self(child, writer))
    }

    fn end(mut self) -> Result<()> {
        self.1.join().expect("no panic").context("ip failed, see above")?;
        kill_all(&mut self.0);
        Ok(())
    }
}

/// Measures an agent with a large table: memory, `heliograph routes`, and delays of the thread that speaks BGP.
pub fn table(bench: &Bench, program: &Path) -> Result<Vec<Row>> {
    let count = bench.numbers.routes;
    let mut place = Place::new(bench, program, count)?;
    let mut rows = Vec::new();
    let learning = Duration::from_secs(1);
    let probe = &place.probe;
    let table = Table { family: Family::V4, routes: count, next_hops: bench.numbers.next_hops, version: 0 };
    rows.extend(probe.during("while the routes are learned", learning, || {
        place.routes.expect(Some(&table));
        place.table.send(&table.advertise())?;
        place.routes.reached(&mut place.daemon)?;
        Ok(())
    })?);
    std::thread::sleep(bench.numbers.settle);
    rows.push(Row::new(
        format!("memory at rest with {count} routes"),
        place.daemon.memory() as f64,
        Unit::Octets,
    ));
    rows.push(Row::new("of a core, at rest", core(&place.daemon, bench.numbers.rest), Unit::Percent));
    rows.extend(place.probe.during("at rest", bench.numbers.rest, || Ok(()))?);
    place.daemon.reset_peak()?;
    let mut times = Vec::new();
    rows.extend(place.probe.during("`heliograph routes`", Duration::ZERO, || {
        for _ in 0..3 {
            times.push(place.daemon.list_routes()?.as_secs_f64());
        }
        Ok(())
    })?);
    let time = crate::report::median_of(times.into_iter()).unwrap_or_default();
    rows.push(Row::new("`heliograph routes`: time", time, Unit::Seconds));
    rows.push(Row::new(
        "`heliograph routes`: peak of the agent's memory",
        place.daemon.peak() as f64,
        Unit::Octets,
    ));
    let one = Table { routes: 1, version: 1, ..table };
    let events = bench.numbers.events;
    rows.extend(place.probe.during("a route changes", Duration::from_secs(1), || {
        for n in 0..events as u16 {
            place.table.send(&Table { version: 1 + n % 2, ..one }.advertise())?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    })?);
    rows.extend(place.probe.during("a link is added and removed", Duration::from_secs(1), || {
        for _ in 0..events {
            place.network.link_event()?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    })?);
    rows.extend(place.probe.during("a node joins", Duration::from_secs(1), || {
        for n in 0..events {
            place.daemon.add(&node(FEW.nodes + n))?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    })?);
    place.daemon.check()?;
    Ok(rows)
}
