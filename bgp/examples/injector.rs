//! An injector: peers with a router and advertises the prefixes that it reads, one a line.
//!
//! `cargo run -p heliograph-bgp --example injector -- --asn 64513 --local 127.0.0.2 --neighbor 127.0.0.1 --neighbor-asn
//! 64512 --port 1790 routes.txt`, with lines such as
//!
//! ```text
//! 203.0.113.0/24
//! 198.51.100.0/24 next-hop 192.0.2.1 med 50 local-pref 200 community 64513:1 community 64513:1:2
//! withdraw 203.0.113.0/24
//! ```
//!
//! Without a file the lines come from standard input, and each takes effect at once; its end withdraws all prefixes, as
//! Ctrl-C does. An invalid line of standard input is reported and has no effect; one of a file ends the program.
#![allow(clippy::disallowed_methods, reason = "an example has sockets and a clock")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use heliograph_bgp::io::{self, Options, SetConfigError, Stop};
use heliograph_bgp::policy::Community;
use heliograph_bgp::report::{SessionReport, SessionState};
use heliograph_bgp::{Config, Filter, LargeCommunity, Neighbor, Network, Prefix};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// Advertises prefixes from a file or standard input; accepts nothing.
#[derive(Parser)]
struct Arguments {
    /// Our AS number.
    #[arg(long)]
    asn: u32,
    /// Our address, and our BGP Identifier; for a router with an IPv6 address, the identifier alone.
    #[arg(long)]
    local: Ipv4Addr,
    /// The router's address.
    #[arg(long)]
    neighbor: IpAddr,
    /// The router's AS number.
    #[arg(long)]
    neighbor_asn: u32,
    /// The router's port.
    #[arg(long, default_value_t = 179)]
    port: u16,
    /// The prefixes, one a line; without it, standard input.
    file: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // For a router with an IPv6 address the kernel chooses ours.
    let local = arguments.neighbor.is_ipv4().then_some(IpAddr::from(arguments.local));
    let neighbor = Neighbor::new(arguments.neighbor, arguments.neighbor_asn)
        .port(arguments.port)
        .local_address(local)
        .export(Filter::All);
    let mut config = Config::new(arguments.asn, arguments.local).neighbors([neighbor]);
    let mut networks = BTreeMap::new();
    let from_file = arguments.file.is_some();
    if let Some(file) = arguments.file {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (number, line) in (1..).zip(text.lines()) {
            apply(line, &mut networks)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("{}, line {number}", file.display()))?;
        }
        config.networks = networks.values().cloned().collect();
    }
    let speaker = io::start(config.clone(), Options::default()).await?;
    let mut changes = speaker.changes();
    let mut lines = BufReader::new(stdin()).lines();
    // Attempts to connect that fail are no changes.
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut shown = String::new();
    loop {
        for session in speaker.sessions().await? {
            let line = describe(&session);
            if line != shown {
                println!("# {line}");
                shown = line;
            }
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = tick.tick() => {}
            changed = changes.changed() => changed?,
            line = lines.next_line(), if !from_file => {
                let Some(line) = line? else { break };
                let mut changed = networks.clone();
                if let Err(error) = apply(&line, &mut changed) {
                    eprintln!("{error}");
                    continue;
                }
                let new = config.clone().networks(changed.values().cloned());
                match speaker.set_config(new.clone()).await {
                    Ok(()) => (networks, config) = (changed, new),
                    Err(SetConfigError::Config(error)) => eprintln!("{error}"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    speaker.stop(Stop::Cease).await;
    Ok(())
}

/// Describes a session; one that is not established by its last error, if there is one.
fn describe(session: &SessionReport) -> String {
    let SessionReport { address, state, advertised, reason, .. } = session;
    match &session.last_error {
        _ if *state == SessionState::Established => {
            format!("{address} {state}, {advertised} advertised: {reason}")
        }
        Some((error, _)) => format!("{address} not established: {error}"),
        None => format!("{address} not established: {reason}"),
    }
}

/// Carries out one line.
fn apply(line: &str, networks: &mut BTreeMap<Prefix, Network>) -> Result<(), String> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else { return Ok(()) };
    if first == "withdraw" {
        let prefix: Prefix = parse(words.next())?;
        networks.remove(&prefix);
        return Ok(());
    }
    let mut network = Network::new(parse(Some(first))?);
    while let Some(word) = words.next() {
        network = match word {
            "next-hop" => network.next_hop(parse::<IpAddr>(words.next())?),
            "med" => network.med(parse::<u32>(words.next())?),
            "local-pref" => network.local_pref(parse::<u32>(words.next())?),
            "community" => {
                network.communities.push(community(words.next().unwrap_or_default())?);
                network
            }
            _ => return Err(format!("`{word}` is not next-hop, med, local-pref or community")),
        };
    }
    networks.insert(network.prefix, network);
    Ok(())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(word: Option<&str>) -> Result<T, String> {
    let word = word.ok_or("a value is missing at the end of the line")?;
    word.parse().map_err(|error| format!("`{word}`: {error}"))
}

/// `64512:1`, or `64512:1:2` of a large one.
fn community(text: &str) -> Result<Community, String> {
    let parts: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    match parts.as_deref() {
        Ok([asn @ ..=0xffff, value @ ..=0xffff]) => Ok(Community::Standard(asn << 16 | value)),
        Ok([global, local1, local2]) => {
            Ok(Community::Large(LargeCommunity { global: *global, local1: *local1, local2: *local2 }))
        }
        _ => Err(format!("`{text}` is no community: write 64512:1, or 64512:1:2 for a large one")),
    }
}
