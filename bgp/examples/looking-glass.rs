//! A looking glass: peers with routers and prints what they advertise, as it changes.
//!
//! `cargo run -p heliograph-bgp --example looking-glass -- --asn 64512 --router-id 127.0.0.1 --listen 127.0.0.1:1790
//! --neighbor 127.0.0.2=64513`
#![allow(clippy::disallowed_methods, reason = "an example has sockets and a clock")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use heliograph_bgp::io::{self, Options, Stop};
use heliograph_bgp::report::{PathReport, SessionReport, SessionState};
use heliograph_bgp::{Config, Filter, Neighbor, Prefix};

/// Prints the routes that neighbors advertise, as they change; advertises nothing.
#[derive(Parser)]
struct Arguments {
    /// Our AS number.
    #[arg(long)]
    asn: u32,
    /// Our BGP Identifier.
    #[arg(long)]
    router_id: Ipv4Addr,
    /// An address and port to accept connections on.
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// A neighbor, as ADDRESS=ASN.
    #[arg(long, required = true, value_parser = neighbor)]
    neighbor: Vec<(IpAddr, u32)>,
    /// The port to connect to.
    #[arg(long, default_value_t = 179)]
    port: u16,
}

fn neighbor(text: &str) -> Result<(IpAddr, u32), String> {
    let parts =
        text.split_once('=').and_then(|(address, asn)| Some((address.parse().ok()?, asn.parse().ok()?)));
    parts.ok_or_else(|| format!("`{text}` is no ADDRESS=ASN"))
}

/// A path by the prefix, the peer and the path identifier.
type Key = (Prefix, Option<IpAddr>, Option<u32>);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let neighbors = arguments.neighbor.into_iter().map(|(address, asn)| {
        Neighbor::new(address, asn).port(arguments.port).import(Filter::All).export(Filter::nothing())
    });
    let config = Config::new(arguments.asn, arguments.router_id).neighbors(neighbors);
    let speaker = io::start(config, Options::default().listen(arguments.listen)).await?;
    let mut changes = speaker.changes();
    // Attempts to connect that fail are no changes.
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut sessions: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut paths: BTreeMap<Key, PathReport> = BTreeMap::new();
    loop {
        for session in speaker.sessions().await? {
            let line = describe(&session);
            if sessions.get(&session.address) != Some(&line) {
                println!("# {line}");
                sessions.insert(session.address, line);
            }
        }
        let now = speaker.paths().await?;
        let now: BTreeMap<Key, PathReport> =
            now.into_iter().map(|path| ((path.prefix, path.peer, path.path_id), path)).collect();
        for (key, path) in &paths {
            if !now.contains_key(key) {
                println!("- {} {}", path.prefix, from(path));
            }
        }
        for (key, path) in &now {
            if paths.get(key) != Some(path) {
                let best = if path.best { " best" } else { "" };
                let via = path.next_hop.map_or("-".into(), |next_hop| next_hop.to_string());
                let (as_path, med, reason) = (&path.as_path, path.med, &path.reason);
                println!(
                    "+ {} {} via {via} path [{as_path}] med {med}{best}: {reason}",
                    path.prefix,
                    from(path)
                );
            }
        }
        paths = now;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = tick.tick() => {}
            changed = changes.changed() => changed?,
        }
    }
    speaker.stop(Stop::Cease).await;
    Ok(())
}

/// Describes a session; one that is not established by its last error, if there is one.
fn describe(session: &SessionReport) -> String {
    let SessionReport { address, state, reason, .. } = session;
    match &session.last_error {
        _ if *state == SessionState::Established => format!("{address} {state}: {reason}"),
        Some((error, _)) => format!("{address} not established: {error}"),
        None => format!("{address} not established: {reason}"),
    }
}

fn from(path: &PathReport) -> String {
    path.peer.map_or_else(|| "originated".into(), |peer| format!("from {peer}"))
}
