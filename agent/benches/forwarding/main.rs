//! A benchmark of forwarding: `cargo bench -p heliograph-agent --bench forwarding`, with options after `--`.
//!
//! Routes of one BGP peer are learned into the kernel, changed and withdrawn, by our agent and by BIRD in turn. Other cases
//! measure one agent at events in clusters of thousands of nodes. Several builds of the agent can be measured in one run,
//! in turn, so that other load of the machine affects all of them. Everything runs in its own network namespaces.

#[path = "../../tests/common/binaries.rs"]
mod binaries;
mod cluster;
mod daemon;
mod fib;
mod files;
#[path = "../cluster/holder.rs"]
mod holder;
#[allow(dead_code)]
#[path = "../cluster/kubelets.rs"]
mod kubelets;
mod netlink;
#[path = "../cluster/network.rs"]
mod network;
mod nftables;
#[path = "../cluster/objects.rs"]
mod objects;
mod outside;
#[path = "../cluster/peers.rs"]
mod peers;
mod priority;
mod probe;
#[allow(dead_code)]
#[path = "../../../bgp/benches/reflection/processes.rs"]
mod processes;
mod report;
#[allow(dead_code)]
#[path = "../../tests/apiserver/rights.rs"]
mod rights;
mod routes;
#[allow(dead_code)]
#[path = "../../tests/apiserver/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../cluster/tap.rs"]
mod tap;
#[allow(dead_code)]
#[path = "../../tests/apiserver/user.rs"]
mod user;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use daemon::{Program, Subject};
use outside::Family;
use report::Row;

#[derive(Parser)]
#[command(about = "Measures routes from BGP into the kernel, and one agent at events")]
struct Arguments {
    /// Cases to run, of: fib4, fib6 (also with BIRD), few, routes, table (an agent with a folder), mesh, reflectors (an
    /// agent with an API server). [default: fib4,fib6; as a test all that need no API server]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Builds of the agent, each as NAME=PATH; the first is what others are compared with. [default: the one just built]
    #[arg(long, value_delimiter = ',')]
    agents: Vec<String>,
    /// A build of the agent to measure beside the others, as PATH or NAME=PATH.
    #[arg(long)]
    also: Vec<String>,
    /// Runs of each daemon in each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Routes of the BGP peer in the cases fib4, fib6, table and mesh.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Next hops of these routes.
    #[arg(long, default_value_t = 100)]
    next_hops: u16,
    /// Routes of the BGP peer in the case routes.
    #[arg(long, default_value_t = 10_000)]
    some_routes: u32,
    /// Nodes in the case mesh.
    #[arg(long, default_value_t = 1000)]
    mesh_nodes: usize,
    /// Nodes in the case reflectors.
    #[arg(long, default_value_t = 5000)]
    reflected_nodes: usize,
    /// Repetitions of an event.
    #[arg(long, default_value_t = 10)]
    events: usize,
    /// Seconds until an agent counts as at rest.
    #[arg(long, default_value_t = 12)]
    settle: u64,
    /// The same for an agent with an API server.
    #[arg(long, default_value_t = 45)]
    cluster_settle: u64,
    /// Seconds of a measurement at rest; an agent reads the kernel again every 30.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Runs daemons with the real-time policy SCHED_RR, as well as the threads that measure: for a machine with other load.
    #[arg(long)]
    real_time: bool,
    /// Runs with small numbers, as a test and not as a measurement.
    #[arg(long)]
    test: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The numbers of a run.
struct Numbers {
    routes: u32,
    next_hops: u16,
    some_routes: u32,
    mesh_nodes: usize,
    reflected_nodes: usize,
    events: usize,
    settle: Duration,
    cluster_settle: Duration,
    rest: Duration,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    // `cargo test --benches` runs us without --bench.
    let small = arguments.test || !arguments.bench;
    if arguments.cases.is_empty() {
        let all: &[&str] =
            if small { &["fib4", "fib6", "few", "routes", "table"] } else { &["fib4", "fib6"] };
        arguments.cases = all.iter().map(ToString::to_string).collect();
    }
    if small {
        arguments.rounds = 1;
        (arguments.routes, arguments.next_hops, arguments.some_routes) = (2000, 10, 500);
        (arguments.mesh_nodes, arguments.reflected_nodes, arguments.events) = (20, 30, 2);
        (arguments.settle, arguments.cluster_settle, arguments.rest) = (1, 5, 2);
    }
    let subjects = subjects(&arguments)?;
    let numbers = Numbers {
        routes: arguments.routes,
        next_hops: arguments.next_hops,
        some_routes: arguments.some_routes,
        mesh_nodes: arguments.mesh_nodes,
        reflected_nodes: arguments.reflected_nodes,
        events: arguments.events,
        settle: Duration::from_secs(arguments.settle),
        cluster_settle: Duration::from_secs(arguments.cluster_settle),
        rest: Duration::from_secs(arguments.rest),
    };
    network::enter()?;
    if arguments.real_time {
        priority::enable();
    }
    // The other speakers and the proxy to the API server run on its thread, while this one waits for the daemon.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut bench = Bench { numbers, runtime, site: None };
    for name in &arguments.cases {
        bench.case(name, &subjects, arguments.rounds)?;
    }
    Ok(())
}

fn subjects(arguments: &Arguments) -> Result<Vec<Subject>> {
    let built = format!("heliograph={}", env!("CARGO_BIN_EXE_heliograph"));
    let agents = if arguments.agents.is_empty() { vec![built] } else { arguments.agents.clone() };
    let mut subjects = Vec::new();
    for (text, default) in
        agents.iter().map(|text| (text, None)).chain(arguments.also.iter().map(|text| (text, Some("also"))))
    {
        let (name, path) = match (text.split_once('='), default) {
            (Some(pair), _) => pair,
            (None, Some(name)) => (name, text.as_str()),
            (None, None) => bail!("{text} is not NAME=PATH"),
        };
        let path = Path::new(path).canonicalize().with_context(|| format!("there is no agent {path}"))?;
        subjects.push(Subject { name: name.into(), program: Program::Agent(path) });
    }
    match ["/usr/sbin/bird", "/usr/local/sbin/bird"].map(PathBuf::from).into_iter().find(|path| path.exists())
    {
        Some(path) => subjects.push(Subject { name: "bird2".into(), program: Program::Bird(path) }),
        None => println!("bird2 is not installed and left out: apt-get install bird2"),
    }
    Ok(subjects)
}

/// A benchmark with what its cases share.
struct Bench {
    numbers: Numbers,
    runtime: Runtime,
    /// The API server, from the first case on that needs one.
    site: Option<cluster::Site>,
}

impl Bench {
    /// Runs a case with all subjects in turn, and prints the medians.
    fn case(&mut self, name: &str, subjects: &[Subject], rounds: usize) -> Result<()> {
        let with_bird = name.starts_with("fib");
        let mut results: Vec<(&Subject, Vec<Vec<Row>>)> = subjects
            .iter()
            .filter(|subject| with_bird || matches!(subject.program, Program::Agent(_)))
            .map(|subject| (subject, Vec::new()))
            .collect();
        for round in 1..=rounds {
            for (subject, runs) in &mut results {
                let rows = self.run(name, subject);
                priority::set(false);
                let rows = rows.with_context(|| format!("{name}, round {round}, {}", subject.name))?;
                println!("  {name} · round {round} · {}: {}", subject.name, report::line(&rows));
                runs.push(rows);
            }
        }
        report::table(name, &results);
        Ok(())
    }

    fn run(&mut self, name: &str, subject: &Subject) -> Result<Vec<Row>> {
        match name {
            "fib4" => fib::run(subject, Family::V4, &self.numbers),
            "fib6" => fib::run(subject, Family::V6, &self.numbers),
            "few" => files::few(self, subject.agent()?),
            "routes" => files::routes(self, subject.agent()?),
            "table" => files::table(self, subject.agent()?),
            "mesh" | "reflectors" => {
                let site = match self.site.take() {
                    Some(site) => site,
                    None => cluster::Site::prepare(&self.runtime)?,
                };
                let site = self.site.insert(site);
                match name {
                    "mesh" => cluster::mesh(site, &self.runtime, &self.numbers, subject.agent()?),
                    _ => cluster::reflectors(site, &self.runtime, &self.numbers, subject.agent()?),
                }
            }
            _ => bail!("there is no case {name}: use fib4, fib6, few, routes, table, mesh or reflectors"),
        }
    }
}
