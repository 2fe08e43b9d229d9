//! Route reflection, measured side by side with other daemons: `cargo bench -p heliograph-bgp --bench reflection`, with options after `--`.
//!
//! Each daemon is started anew for each run of each case, and within a case daemons take turns, so that other load of the
//! machine affects all of them. The results are the ratios. Everything happens in a network namespace of its own.
#![allow(clippy::disallowed_methods, reason = "a benchmark has a clock and sockets")]

mod cases;
mod clients;
mod daemon;
mod messages;
mod peers;
mod processes;
mod report;
mod serve;
mod usage;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};

use cases::{Case, Outcome};
use daemon::Daemon;
use peers::{PEERS, Peer};

#[derive(Parser)]
#[command(about = "Measures route reflection, side by side with other daemons")]
struct Arguments {
    /// Cases to run, of: mesh, table, churn, reconnect, or one such as mesh-500, table-10.
    #[arg(long, value_delimiter = ',', default_value = "mesh,table,churn,reconnect")]
    cases: Vec<String>,
    /// Daemons to measure; those that are not installed are reported and left out.
    #[arg(long, value_delimiter = ',', default_value = "heliograph,bird2,frr,openbgpd,gobgp")]
    peers: Vec<String>,
    /// Runs of each daemon in each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Run small cases with our own daemon only: a check, not a measurement.
    #[arg(long)]
    test: bool,
    /// Set by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Set by this program: be the reflector for the clients listed in this file.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(config) = &arguments.serve {
        return serve::serve(config);
    }
    // `cargo test --benches` runs this without --bench.
    let smoke = arguments.test || !arguments.bench;
    enter_namespace()?;
    let (cases, peers, rounds) = match smoke {
        true => (small_cases(), vec![&PEERS[0]], 1),
        false => (chosen_cases(&arguments.cases)?, chosen_peers(&arguments.peers)?, arguments.rounds),
    };
    for peer in &peers {
        println!("{}: {}", peer.name, version(peer));
    }
    let mut failed = false;
    for case in cases {
        let mut results: Vec<(&Peer, Vec<Outcome>)> = peers.iter().map(|peer| (*peer, Vec::new())).collect();
        for round in 1..=rounds {
            for (peer, outcomes) in &mut results {
                match measure(peer, case) {
                    Ok(outcome) => {
                        println!(
                            "  {} · round {round} · {}: {}",
                            case.name(),
                            peer.name,
                            report::line(&outcome)
                        );
                        outcomes.push(outcome);
                    }
                    Err(error) => {
                        failed |= peer.name == PEERS[0].name;
                        println!("  {} · round {round} · {} failed: {error:#}", case.name(), peer.name);
                    }
                }
            }
        }
        report::table(case, &results);
    }
    ensure!(!failed, "our own daemon failed a case: see above");
    Ok(())
}

/// Enters a new network namespace, in which port 179 is free, and which is apart from the machine's network.
fn enter_namespace() -> Result<()> {
    let uid = nix::unistd::getuid();
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
            .context("cannot make a user and network namespace: run as root, or allow user namespaces")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    ensure!(up.context("cannot run ip (iproute2)")?.success(), "the loopback device cannot be set up");
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit.1, limit.1)?;
    Ok(())
}

fn measure(peer: &Peer, case: Case) -> Result<Outcome> {
    let dir = tempfile::Builder::new().prefix("reflection").tempdir()?;
    // Daemons that drop root privileges must be able to read their configuration.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let clients: Vec<Ipv4Addr> = (0..case.clients()).map(clients::address).collect();
    let daemon = Daemon::start(peer, dir.path(), &clients)?;
    case.run(&daemon).with_context(|| format!("it wrote: {}", daemon.last_output()))
}

fn version(peer: &Peer) -> String {
    let Some(binary) = peer.binary().filter(|_| !peer.version.is_empty()) else {
        return env!("CARGO_PKG_VERSION").into();
    };
    let Ok(output) = Command::new(binary).args(peer.version).output() else { return "unknown".into() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

fn small_cases() -> Vec<Case> {
    vec![
        Case::Mesh { clients: 20 },
        Case::Table { routes: 5_000, receivers: 2 },
        Case::Churn { clients: 10, events: 5 },
        Case::Reconnect { routes: 5_000, times: 2 },
    ]
}

fn chosen_cases(names: &[String]) -> Result<Vec<Case>> {
    const ROUTES: u32 = 1_000_000;
    let mut cases = Vec::new();
    for name in names {
        let (kind, number) = match name.split_once('-') {
            Some((kind, number)) => {
                (kind, Some(number.parse::<usize>().with_context(|| format!("in case {name}"))?))
            }
            None => (name.as_str(), None),
        };
        let each = |all: &[usize]| number.map_or(all.to_vec(), |number| vec![number]);
        match kind {
            "mesh" => {
                cases.extend(
                    each(&[50, 100, 200, 500, 1000]).into_iter().map(|clients| Case::Mesh { clients }),
                );
            }
            "table" => cases.extend(
                each(&[1, 10]).into_iter().map(|receivers| Case::Table { routes: ROUTES, receivers }),
            ),
            "churn" => {
                cases.extend(each(&[500]).into_iter().map(|clients| Case::Churn { clients, events: 200 }));
            }
            "reconnect" => cases.extend(
                each(&[100_000])
                    .into_iter()
                    .map(|routes| Case::Reconnect { routes: routes as u32, times: 5 }),
            ),
            _ => bail!("no case is called {name}: choose of mesh, table, churn, reconnect"),
        }
    }
    Ok(cases)
}

fn chosen_peers(names: &[String]) -> Result<Vec<&'static Peer>> {
    let mut chosen = Vec::new();
    for name in names {
        let peer = PEERS.iter().find(|peer| peer.name == name);
        let peer = peer.with_context(|| format!("no daemon is called {name}"))?;
        match peer.binary() {
            Some(_) => chosen.push(peer),
            None => println!(
                "{name} is not installed and left out: apt-get install {}, with a policy-rc.d that lets no service \
                 start",
                peer.package
            ),
        }
    }
    Ok(chosen)
}
