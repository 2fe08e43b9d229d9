//! A speaker in one file: peers with one neighbour, announces one prefix, prints what it learns.
//!
//! `cargo run -p heliograph-bgp --example speaker -- 127.0.0.2 64512 127.0.0.1 179 64512 10.1.0.0/24`
#![allow(clippy::disallowed_methods, reason = "an example has sockets and a clock")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use heliograph_bgp::io::{Options, Stop, start};
use heliograph_bgp::wire::Prefix;
use heliograph_bgp::{Config, Filter, Neighbor, Network};
use ipnetwork::IpNetwork;

const USAGE: &str = "usage: speaker OUR-ADDRESS OUR-ASN PEER-ADDRESS PEER-PORT PEER-ASN PREFIX";

fn argument<T: std::str::FromStr>(index: usize) -> T {
    std::env::args().nth(index).and_then(|argument| argument.parse().ok()).expect(USAGE)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router_id: Ipv4Addr = argument(1);
    let config = Config::new(argument(2), router_id)
        .networks([Network::new(Prefix::from(argument::<IpNetwork>(6)))])
        .neighbors([Neighbor::new(argument(3), argument(5))
            .port(argument(4))
            .local_address(IpAddr::from(router_id))
            .import(Filter::All)
            .export(Filter::All)]);
    let listen = vec![SocketAddr::new(IpAddr::V4(router_id), 179)];
    let speaker = start(config, Options::default().listen(listen).restarting(false)).await?;
    let mut changes = speaker.changes();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = changes.changed() => {}
        }
        for session in speaker.sessions().await {
            println!("{} {:?}: {}", session.address, session.state, session.reason);
        }
        for path in speaker.paths().await {
            println!("  {} via {:?} from {:?}: {}", path.prefix, path.next_hop, path.peer, path.reason);
        }
    }
    speaker.stop(Stop::Cease).await;
    Ok(())
}
