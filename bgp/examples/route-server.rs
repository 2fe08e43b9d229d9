//! A route server: passes routes on between its members, each in an AS of its own.
//!
//! `cargo run -p heliograph-bgp --example route-server -- --asn 64500 --router-id 127.0.0.1 --listen 127.0.0.1:1790
//! --member 127.0.0.2=64501 --member 127.0.0.3=64502`
//!
//! Members have the role of a route server's client (RFC 9234), prefixes of private use and defaults are rejected, and no
//! member sends more than its limit. Next hops are unchanged. The AS number of the route server is prepended to
//! the AS_PATH, which RFC 7947 §2.2.2.1 advises against.
#![allow(clippy::disallowed_methods, reason = "an example has sockets and a clock")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Parser;
use heliograph_bgp::io::{self, Options};
use heliograph_bgp::policy::{Action, Condition, Policy, PrefixMatch, Rule};
use heliograph_bgp::{Config, Filter, Neighbor, NextHopMode, Prefix, PrefixLimit, Role};

/// Prefixes that no member may send: private use, shared, loopback and link-local (RFC 6890).
const BOGONS: &[&str] = &[
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// Passes routes on between members.
#[derive(Parser)]
struct Arguments {
    /// Our AS number.
    #[arg(long)]
    asn: u32,
    /// Our BGP Identifier.
    #[arg(long)]
    router_id: Ipv4Addr,
    /// An address and port to accept connections on.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// A member, as ADDRESS=ASN.
    #[arg(long, required = true, value_parser = member)]
    member: Vec<(IpAddr, u32)>,
    /// The most prefixes that a member may send.
    #[arg(long, default_value_t = 10_000)]
    limit: u32,
}

fn member(text: &str) -> Result<(IpAddr, u32), String> {
    let parts =
        text.split_once('=').and_then(|(address, asn)| Some((address.parse().ok()?, asn.parse().ok()?)));
    parts.ok_or_else(|| format!("`{text}` is no ADDRESS=ASN"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let import = import()?;
    let members = arguments.member.into_iter().map(|(address, asn)| {
        Neighbor::new(address, asn)
            .name(format!("member AS{asn}"))
            .passive(true)
            .role(Role::RouteServer)
            .next_hop_mode(NextHopMode::Unchanged)
            .prefix_limit(PrefixLimit::new(arguments.limit))
            .import(Filter::Rules(import.clone()))
            .export(Filter::All)
    });
    let config = Config::new(arguments.asn, arguments.router_id).neighbors(members);
    let speaker = io::start(config, Options::default().listen(arguments.listen)).await?;
    let mut changes = speaker.changes();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            changed = changes.changed() => changed?,
        }
        for session in speaker.sessions().await? {
            let counts = (session.received, session.accepted, session.advertised);
            println!(
                "{} {} {} (received, accepted, advertised: {counts:?})",
                session.address, session.name, session.state
            );
        }
    }
    speaker.shut_down("the route server is stopped".into()).await;
    Ok(())
}

/// Rejects bogons and default routes, and accepts the rest.
fn import() -> anyhow::Result<Policy> {
    let longer = |text: &&str| -> anyhow::Result<PrefixMatch> {
        let within: Prefix = text.parse()?;
        Ok(PrefixMatch::new(within, within.length(), within.family().max_length()))
    };
    let bogons = BOGONS.iter().map(longer).collect::<Result<_, _>>()?;
    let default = ["0.0.0.0/0", "::/0"].iter().map(|text| Ok(PrefixMatch::new(text.parse()?, 0, 0)));
    let default = default.collect::<anyhow::Result<_>>()?;
    let reject =
        |name, prefixes| Rule::new(name).conditions([Condition::Prefix(prefixes)]).action(Action::Reject);
    Ok(Policy::new(vec![reject("bogons", bogons), reject("default", default)], Action::Accept)?)
}
