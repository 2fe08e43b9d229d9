//! `heliograph-lab`: prepares the machine, runs the demonstration, and keeps the processes of a lab together.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use heliograph_e2e::cluster::Spec;
use heliograph_e2e::{cleanup, cluster, conformance, demo, guest, jail, ours, setup, uml};

/// The Heliograph lab.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts a lab, shows that its pods reach each other and on which way, and removes it.
    Demo {
        /// A topology in e2e/topologies, the path of a containerlab file, or `kubernetes` for a whole Kubernetes.
        #[arg(long, default_value = "two-racks")]
        topology: String,
    },
    /// Installs and builds what a purpose needs and the machine lacks.
    Setup {
        /// The purpose.
        #[arg(long = "for", value_enum, default_value_t)]
        purpose: setup::Purpose,
    },
    /// A whole Kubernetes on this machine.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Runs Kubernetes' own network tests on a cluster of their own, and writes the page with their results.
    Conformance {
        /// Only the tests whose names match this regular expression; the page is left as it is.
        #[arg(long)]
        focus: Option<String>,
        /// The pods' network.
        #[arg(long, value_enum, default_value_t)]
        network: cluster::pod_network::PodNetwork,
        /// The page.
        #[arg(long, default_value = "docs/conformance.md")]
        page: PathBuf,
        /// The folder for log and report.
        #[arg(long, default_value = "target/conformance")]
        folder: PathBuf,
    },
    /// Puts our programs into a container image, as a tar, without a builder.
    Image {
        /// Folder of the static programs.
        programs: PathBuf,
        /// The tar.
        out: PathBuf,
    },
    /// Runs a command on a kernel with ipip: here, or in User-mode Linux.
    Run {
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// A process namespace that ends with the lab. Used by the lab itself.
    #[command(hide = true, subcommand)]
    Jail(Inmate),
    /// The first process of a User-mode Linux guest. Used by the lab itself.
    #[command(hide = true)]
    Guest {
        /// The file with the command.
        job: PathBuf,
        /// Arguments that the kernel adds for other init programs.
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        _rest: Vec<String>,
    },
}

#[derive(Subcommand)]
enum ClusterVerb {
    /// Starts it with its network, and leaves it running.
    Up {
        /// The number of nodes.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// The network between them.
        #[arg(long, value_enum, default_value_t)]
        topology: cluster::network::Topology,
        /// The pods' network.
        #[arg(long, value_enum, default_value_t)]
        network: cluster::pod_network::PodNetwork,
        /// Also CoreDNS, so that Services have names.
        #[arg(long)]
        services: bool,
    },
    /// Removes it without a trace.
    Down,
    /// Lists its daemons and whether they run.
    Status,
}

#[derive(Subcommand)]
enum Inmate {
    /// A node; its plan comes on standard input.
    Node,
    /// A command.
    Run {
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = run(Arguments::parse().command);
    cleanup::let_interruption_finish();
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            // The lab is gone by now, and its logs with it.
            let logs = heliograph_e2e::lab::last_logs();
            if !logs.is_empty() {
                eprintln!("{logs}\n");
            }
            eprintln!("heliograph-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Verb) -> Result<i32> {
    match command {
        Verb::Demo { topology } => {
            cleanup::on_interrupt()?;
            demo::demo(&topology)
        }
        Verb::Setup { purpose } => {
            cleanup::on_interrupt()?;
            setup::setup(purpose).map(|()| 0)
        }
        Verb::Cluster(verb) => {
            cleanup::on_interrupt()?;
            let spec = Spec::for_people();
            match verb {
                ClusterVerb::Up { nodes, topology, network, services } => {
                    cluster::up(Spec { nodes, topology, services, ..spec }, network)
                }
                ClusterVerb::Down => cluster::down(&spec),
                ClusterVerb::Status => cluster::status(&spec),
            }
            .map(|()| 0)
        }
        Verb::Conformance { focus, network, page, folder } => {
            cleanup::on_interrupt()?;
            conformance::everything(focus, network, &page, &folder).map(i32::from)
        }
        Verb::Image { programs, out } => ours::image(&programs, &out).map(|()| 0),
        Verb::Run { words } => {
            cleanup::on_interrupt()?;
            uml::run_with_ipip(&words, &mut |step| eprintln!("{step}"))
        }
        Verb::Jail(Inmate::Node) => jail::keep_node(),
        Verb::Jail(Inmate::Run { words }) => jail::keep_command(&words),
        Verb::Guest { job, .. } => guest::guest(&job),
    }
}
