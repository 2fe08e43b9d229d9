//! Our side: speakers of the crate, each with a runtime of its own, so that one can be killed without a word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heliograph_bgp::io::{Handle, Options, start};
use heliograph_bgp::report::{PathReport, SessionReport, SessionState};
use heliograph_bgp::wire::Prefix;
use heliograph_bgp::{Config, Filter, Neighbor, Network, Timers};
use tokio::runtime::{Builder, Runtime};

use crate::lab::{ours, theirs_like, until};

/// The AS of most cases.
pub const ASN: u32 = 64512;
/// Where BGP is spoken.
pub const PORT: u16 = 179;
/// Hold time with the peers, in seconds.
pub const HOLD: u16 = 30;

/// A speaker of ours.
pub struct Speaker {
    address: IpAddr,
    config: Config,
    running: Option<(Runtime, Handle)>,
}

impl Speaker {
    /// Starts one that listens on `address`.
    pub fn start(address: IpAddr, config: Config) -> Result<Self> {
        let mut speaker = Self { address, config, running: None };
        speaker.run(false)?;
        Ok(speaker)
    }

    fn run(&mut self, restarting: bool) -> Result<()> {
        // Its thread is made by this one, and so is in the same network.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let options = Options::default().listen([SocketAddr::new(self.address, PORT)]).restarting(restarting);
        let handle = runtime.block_on(start(self.config.clone(), options))?;
        self.running = Some((runtime, handle));
        Ok(())
    }

    /// As `kill -9` would: the tasks are gone and with them the sockets, in the middle of whatever they did.
    pub fn kill(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// Starts again after that, and says so to its neighbours.
    pub fn restart(&mut self) -> Result<()> {
        self.run(true)
    }

    fn ask<T>(&self, what: impl AsyncFnOnce(&Handle) -> T) -> Result<T> {
        let (runtime, handle) = self.running.as_ref().context("our speaker does not run")?;
        Ok(runtime.block_on(what(handle)))
    }

    pub fn set(&self, config: Config) -> Result<()> {
        Ok(self.ask(async |handle| handle.set_config(config).await)??)
    }

    /// The session with a neighbour.
    pub fn session(&self, neighbor: impl Into<IpAddr>) -> Result<SessionReport> {
        let neighbor = neighbor.into();
        let sessions = self.ask(async |handle| handle.sessions().await)?;
        let found = sessions.into_iter().find(|session| session.address == neighbor);
        found.with_context(|| format!("no session with {neighbor}"))
    }

    /// All paths to a prefix.
    pub fn paths(&self, prefix: Prefix) -> Result<Vec<PathReport>> {
        let paths = self.ask(async |handle| handle.paths().await)?;
        Ok(paths.into_iter().filter(|path| path.prefix == prefix).collect())
    }

    /// The best path to a prefix, with the others in the error where there is none.
    pub fn best(&self, prefix: Prefix) -> Result<PathReport> {
        let paths = self.paths(prefix)?;
        let best = paths.iter().find(|path| path.best).cloned();
        best.with_context(|| format!("no best path to {prefix}, of {paths:?}"))
    }

    /// Waits until the session with a neighbour stands.
    pub fn up(&self, neighbor: impl Into<IpAddr>) -> Result<SessionReport> {
        let neighbor = neighbor.into();
        until(&format!("our session with {neighbor} stands"), || {
            let session = self.session(neighbor)?;
            ensure!(session.state == SessionState::Established, "{session:?}");
            Ok(session)
        })
    }
}

/// What our host announces.
pub fn prefix(host: u8) -> Prefix {
    Prefix::new(Ipv4Addr::new(10, 100, host, 0).into(), 24).expect("fits")
}

/// And of IPv6.
pub fn prefix6(host: u8) -> Prefix {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0x1000 + u16::from(host), 0, 0, 0, 0, 0);
    Prefix::new(address.into(), 48).expect("fits")
}

/// A prefix with our own address as its next hop.
pub fn network(prefix: Prefix) -> Network {
    Network::new(prefix)
}

/// Our host's configuration, with the peer as only neighbour and its IPv4 prefix.
pub fn config(asn: u32, host: u8, neighbors: Vec<Neighbor>) -> Config {
    Config::new(asn, ours(host)).networks([network(prefix(host))]).neighbors(neighbors)
}

/// A neighbour of ours from an address of ours: all is told and taken, and nobody waits long.
pub fn neighbor(local: impl Into<IpAddr>, asn: u32) -> Neighbor {
    let local = local.into();
    towards(local, theirs_like(local), asn)
}

/// The same for one that isn't the peer.
pub fn towards(local: impl Into<IpAddr>, address: impl Into<IpAddr>, asn: u32) -> Neighbor {
    let local: IpAddr = local.into();
    let timers =
        Timers::default().hold(Duration::from_secs(HOLD.into())).connect_retry(Duration::from_millis(500));
    Neighbor::new(address.into(), asn)
        .local_address(local)
        .port(PORT)
        .timers(timers)
        .import(Filter::All)
        .export(Filter::All)
}
