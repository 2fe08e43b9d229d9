//! A benchmark of one agent in clusters of thousands of nodes: `cargo bench -p heliograph-agent`, with options after `--`.
//!
//! The agent, the API server and etcd are real. The other nodes are Node objects that change as kubelets change them, and
//! BGP speakers that send the messages of such nodes. Everything runs in its own network namespaces.

#[path = "../../tests/common/binaries.rs"]
mod binaries;
mod holder;
mod kubelets;
#[allow(dead_code)]
mod network;
mod objects;
mod peers;
#[allow(dead_code)]
#[path = "../../../bgp/benches/reflection/processes.rs"]
mod processes;
mod report;
#[allow(dead_code)]
#[path = "../../tests/apiserver/rights.rs"]
mod rights;
mod run;
#[allow(dead_code)]
#[path = "../../tests/apiserver/server.rs"]
mod server;
mod tap;
#[path = "../../../bgp/benches/reflection/usage.rs"]
mod usage;
#[allow(dead_code)]
#[path = "../../tests/apiserver/user.rs"]
mod user;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use objects::Cluster;
use run::Site;

#[derive(Parser)]
#[command(about = "Measures one agent in large clusters, with a real API server")]
struct Arguments {
    /// Clusters, each a topology and its number of nodes.
    #[arg(long, value_delimiter = ',', default_value = "mesh-1000,reflectors-5000")]
    clusters: Vec<String>,
    /// Starts of an agent in each cluster.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds from the agent's start to the measurement at rest.
    #[arg(long, default_value_t = 60)]
    settle: u64,
    /// Seconds of the measurement at rest.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Runs with small numbers, as a test and not as a measurement.
    #[arg(long)]
    test: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    // `cargo test --benches` runs us without --bench.
    if arguments.test || !arguments.bench {
        arguments.clusters = vec!["mesh-20".into(), "reflectors-30".into()];
        (arguments.rounds, arguments.settle, arguments.rest) = (1, 5, 5);
    }
    let clusters = arguments.clusters.iter().map(|name| cluster(name)).collect::<Result<Vec<_>>>()?;
    network::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&arguments, clusters))
}

fn cluster(name: &str) -> Result<Cluster> {
    let (topology, nodes) = name.split_once('-').with_context(|| format!("{name} is not TOPOLOGY-NODES"))?;
    let nodes = nodes.parse().with_context(|| format!("in cluster {name}"))?;
    let reflected = match topology {
        "mesh" => false,
        "reflectors" => true,
        _ => bail!("there is no topology {topology}: use mesh or reflectors"),
    };
    Ok(Cluster { reflected, nodes })
}

async fn measure(arguments: &Arguments, clusters: Vec<Cluster>) -> Result<()> {
    let server = server::Server::start().await;
    let site = Site::prepare(server).await?;
    for cluster in clusters {
        site.make(cluster).await?;
        let mut outcomes = Vec::new();
        for round in 1..=arguments.rounds {
            let settle = Duration::from_secs(arguments.settle);
            let rest = Duration::from_secs(arguments.rest);
            let outcome =
                site.run(cluster, settle, rest).await.with_context(|| format!("{cluster}, round {round}"))?;
            println!("  {cluster} · round {round}: {}", report::line(&outcome));
            outcomes.push(outcome);
        }
        report::table(cluster, &outcomes);
    }
    Ok(())
}
