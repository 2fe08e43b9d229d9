//! Our speakers, each with a runtime of its own, so that one can be killed without closing its sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heliograph_bgp::Prefix;
use heliograph_bgp::io::{Handle, Options, start};
use heliograph_bgp::report::{PathReport, SessionReport, SessionState};
use heliograph_bgp::{Config, Filter, Neighbor, Network, Timers};
use tokio::runtime::{Builder, Runtime};

use crate::lab::{ours, theirs_like, until};

/// The AS of most cases.
pub const ASN: u32 = 64512;
/// The port of BGP.
pub const PORT: u16 = 179;
/// The hold time with the daemons, in seconds.
pub const HOLD: u16 = 30;

/// A speaker of ours.
pub struct Speaker {
    address: IpAddr,
    config: Config,
    running: Option<(Runtime, Handle)>,
}

impl Speaker {
    /// Starts a speaker that listens on `address`.
    pub fn start(address: IpAddr, config: Config) -> Result<Self> {
        let mut speaker = Self { address, config, running: None };
        speaker.run(false)?;
        Ok(speaker)
    }

    fn run(&mut self, restarting: bool) -> Result<()> {
        // Its thread is created by this one, and so is in the same namespace.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let options = Options::default().listen([SocketAddr::new(self.address, PORT)]).restarting(restarting);
        let handle = runtime.block_on(start(self.config.clone(), options))?;
        self.running = Some((runtime, handle));
        Ok(())
    }

    /// Ends the speaker as `kill -9` does: its tasks and sockets are dropped wherever they are.
    pub fn kill(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// Starts it again with the Restart State bit (RFC 4724 §3).
    pub fn restart(&mut self) -> Result<()> {
        self.run(true)
    }

    fn call<T>(&self, what: impl AsyncFnOnce(&Handle) -> T) -> Result<T> {
        let (runtime, handle) = self.running.as_ref().context("our speaker does not run")?;
        Ok(runtime.block_on(what(handle)))
    }

    pub fn set(&self, config: Config) -> Result<()> {
        Ok(self.call(async |handle| handle.set_config(config).await)??)
    }

    /// Returns the session with a neighbor.
    pub fn session(&self, neighbor: impl Into<IpAddr>) -> Result<SessionReport> {
        let neighbor = neighbor.into();
        let sessions = self.call(async |handle| handle.sessions().await)??;
        let found = sessions.into_iter().find(|session| session.address == neighbor);
        found.with_context(|| format!("no session with {neighbor}"))
    }

    /// Returns all paths to a prefix.
    pub fn paths(&self, prefix: Prefix) -> Result<Vec<PathReport>> {
        let paths = self.call(async |handle| handle.paths().await)??;
        Ok(paths.into_iter().filter(|path| path.prefix == prefix).collect())
    }

    /// Returns the best path to a prefix; the error has the others.
    pub fn best(&self, prefix: Prefix) -> Result<PathReport> {
        let paths = self.paths(prefix)?;
        let best = paths.iter().find(|path| path.best).cloned();
        best.with_context(|| format!("no best path to {prefix}, of {paths:?}"))
    }

    /// Waits until the session with a neighbor is established.
    pub fn up(&self, neighbor: impl Into<IpAddr>) -> Result<SessionReport> {
        let neighbor = neighbor.into();
        until(&format!("our session with {neighbor} is established"), || {
            let session = self.session(neighbor)?;
            ensure!(session.state == SessionState::Established, "{session:?}");
            Ok(session)
        })
    }
}

/// Returns the IPv4 prefix that one of our hosts originates.
pub fn prefix(host: u8) -> Prefix {
    Prefix::new(Ipv4Addr::new(10, 100, host, 0).into(), 24).expect("fits")
}

/// Returns the IPv6 prefix that one of our hosts originates.
pub fn prefix6(host: u8) -> Prefix {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0x1000 + u16::from(host), 0, 0, 0, 0, 0);
    Prefix::new(address.into(), 48).expect("fits")
}

/// Returns a network with our own address as its next hop.
pub fn network(prefix: Prefix) -> Network {
    Network::new(prefix)
}

/// Returns the configuration of one of our hosts, which originates its IPv4 prefix.
pub fn config(asn: u32, host: u8, neighbors: Vec<Neighbor>) -> Config {
    Config::new(asn, ours(host)).networks([network(prefix(host))]).neighbors(neighbors)
}

/// Returns the daemon as a neighbor of one of our addresses, without filters and with short timers.
pub fn neighbor(local: impl Into<IpAddr>, asn: u32) -> Neighbor {
    let local = local.into();
    towards(local, theirs_like(local), asn)
}

/// Returns such a neighbor with any address.
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
