//! Our stand-alone reflector, with one thread and the crate's driver like `heliograph reflector`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use heliograph_bgp::Family;
use heliograph_bgp::io::{Options, start};
use heliograph_bgp::{Config, Filter, Neighbor, Timers};

use crate::clients::{DAEMON, PORT};
use crate::messages::{ASN, HOLD_SECONDS};

/// Runs the reflector for the clients listed in a file, one address on each line, until it is killed.
pub fn serve(config: &Path) -> Result<()> {
    let text = std::fs::read_to_string(config).with_context(|| format!("cannot read {config:?}"))?;
    let addresses: Vec<IpAddr> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let neighbors = addresses.into_iter().map(client);
        let config = Config::new(ASN, DAEMON).graceful_restart(None).neighbors(neighbors);
        let listen = vec![SocketAddr::from((DAEMON, PORT))];
        let _speaker = start(config, Options::default().listen(listen).restarting(false)).await?;
        std::future::pending::<()>().await;
        Ok(())
    })
}

fn client(address: IpAddr) -> Neighbor {
    Neighbor::new(address, ASN)
        .port(PORT)
        .reflector_client(true)
        .local_address(IpAddr::from(DAEMON))
        .passive(true)
        .families([Family::Ipv4Unicast])
        .timers(Timers::default().hold(std::time::Duration::from_secs(HOLD_SECONDS.into())))
        .import(Filter::All)
        .export(Filter::All)
}
