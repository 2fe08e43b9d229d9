//! The daemons: their configuration, and their view of sessions and paths.

mod bird;
mod frr;
mod gobgp;
mod openbgpd;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};
use heliograph_bgp::Prefix;
use serde_json::Value;

use crate::cases::Case;
use crate::lab::{Lab, THEIRS, THEIRS6, until};
use crate::processes;

/// All daemons, in the order of the table.
pub const PEERS: [&dyn Peer; 4] = [&bird::Bird, &frr::Frr, &gobgp::GoBgp, &openbgpd::OpenBgpd];

/// Returns the IPv4 prefix that a daemon originates, with [`COMMUNITIES`].
pub fn prefix() -> Prefix {
    Prefix::new(Ipv4Addr::new(10, 2, 0, 0).into(), 24).expect("fits")
}

/// Returns the IPv6 prefix that a daemon originates if a neighbor carries IPv6.
pub fn prefix6() -> Prefix {
    Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0).into(), 48).expect("fits")
}

/// A standard, a large and an extended community (a route target).
pub const COMMUNITIES: [&str; 3] = ["64512:100", "64512:1:2", "rt 64512:7"];

/// The configuration of a daemon. It has the addresses [`THEIRS`] and [`THEIRS6`], and is passive unless `connects` is set.
#[derive(Clone, Default)]
pub struct Setup {
    pub asn: u32,
    pub neighbors: Vec<Neighbor>,
    pub graceful: Option<Graceful>,
    /// It restarts after it was killed.
    pub restarting: bool,
}

#[derive(Clone, Copy)]
pub struct Graceful {
    /// The restart time in seconds.
    pub time: u16,
    /// The long-lived stale time in seconds (RFC 9494).
    pub long_lived: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Neighbor {
    pub address: IpAddr,
    pub asn: u32,
    pub client: bool,
    /// Whether the daemon connects, too.
    pub connects: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    pub key: Option<&'static str>,
    pub extended_next_hop: bool,
    pub add_path: bool,
    pub bfd: bool,
}

impl Neighbor {
    /// Returns a neighbor that carries IPv4 only, without optional features.
    pub fn new(address: impl Into<IpAddr>, asn: u32) -> Self {
        Self {
            address: address.into(),
            asn,
            client: false,
            connects: false,
            ipv4: true,
            ipv6: false,
            key: None,
            extended_next_hop: false,
            add_path: false,
            bfd: false,
        }
    }

    /// Returns the daemon's address on the session.
    pub fn local(&self) -> IpAddr {
        if self.address.is_ipv4() { THEIRS.into() } else { THEIRS6.into() }
    }
}

impl Setup {
    pub fn any_bfd(&self) -> bool {
        self.neighbors.iter().any(|neighbor| neighbor.bfd)
    }

    fn any_ipv6(&self) -> bool {
        self.neighbors.iter().any(|neighbor| neighbor.ipv6)
    }

    /// Returns the configuration text of all neighbors.
    fn each(&self, text: impl Fn(&Neighbor) -> String) -> String {
        self.neighbors.iter().map(text).collect()
    }
}

/// A daemon's view of a session.
#[derive(Debug, Default)]
pub struct SessionView {
    pub established: bool,
    /// The number of UPDATEs, or routes, received.
    pub updates: u64,
    /// The number of refreshes requested; `None`: the daemon does not report it.
    pub refreshes_sent: Option<u64>,
    /// The number of refreshes with BoRR and EoRR, received and sent (RFC 7313); `None`: the daemon does not report it.
    pub marks: Option<Marks>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Marks {
    pub received: u64,
    pub sent: u64,
}

/// A daemon's view of a path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PathView {
    pub from: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    pub originator: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// Written like [`COMMUNITIES`].
    pub communities: BTreeSet<String>,
    pub as_path: Vec<u32>,
    /// Whether it is kept from before a restart.
    pub stale: bool,
    /// Whether it has the community LLGR_STALE (RFC 9494 §4.2).
    pub long_lived_stale: bool,
}

/// The reason why a daemon does not support a case, as each run checks it.
#[derive(Clone, Copy, Debug)]
pub enum Lack {
    /// With all features enabled, its OPEN does not have the capability of this code and name.
    Capability(u8, &'static str),
    /// Its OPEN offers graceful restart without any family.
    RestartFamilies,
    /// It does not listen on the UDP port of BFD.
    Bfd,
    /// It accepts connections without TCP MD5 from a neighbor with a key.
    AcceptsUnsigned,
    /// It rejects every refresh and every mark, as of a family that was not negotiated.
    RejectsRefresh,
    /// Its command for a refresh uses the routes that it has kept, and requests none.
    Refresh,
}

impl Lack {
    /// Returns the text in the cell of the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::RejectsRefresh | Self::AcceptsUnsigned => "broken there",
            _ => "not offered",
        }
    }

    /// Returns the note below the table.
    pub fn note(self) -> String {
        match self {
            Self::Capability(code, name) => {
                format!("its OPEN has no capability {code} ({name}) with all of its features enabled")
            }
            Self::RestartFamilies => {
                "its OPEN offers graceful restart for no family, so that its neighbors keep nothing".into()
            }
            Self::Bfd => "it has no BFD: nothing in its network listens on UDP 3784".into(),
            Self::AcceptsUnsigned => {
                "on Linux its listening socket has no keys: it accepts a neighbor without TCP MD5 that should use it, and not \
                 one that uses it; sessions that it opens itself are correct"
                    .into()
            }
            Self::RejectsRefresh => {
                "it ignores requests for a refresh and marks, and logs `route refresh: AID IPv4 unicast not negotiated` about \
                 families that were negotiated; with BIRD as its neighbor, too"
                    .into()
            }
            Self::Refresh => {
                "its command for a refresh applies the import policy to the routes that it has kept, and requests none"
                    .into()
            }
        }
    }
}

pub trait Peer: Sync {
    fn name(&self) -> &'static str;

    /// Returns the name of its Debian package.
    fn package(&self) -> &'static str;

    /// Returns the paths of all programs needed.
    fn programs(&self) -> &'static [&'static str];

    /// Returns its version.
    fn version(&self) -> Result<String>;

    /// Writes its configuration and returns the commands that run it in the foreground, each with the name of its log.
    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>>;

    /// Configures the running daemon as far as its file cannot; repeated until it succeeds.
    fn prepare(&self, _lab: &Lab, _setup: &Setup) -> Result<()> {
        Ok(())
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView>;

    /// Returns all paths to a prefix.
    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>>;

    /// Requests a refresh from a neighbor.
    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()>;

    /// Returns whether BFD with a neighbor is up.
    fn bfd_up(&self, _lab: &Lab, _neighbor: IpAddr) -> Result<bool> {
        bail!("it has no BFD")
    }

    /// Returns whether the last session with a neighbor ended by BFD.
    fn ended_by_bfd(&self, _lab: &Lab, _neighbor: IpAddr) -> Result<bool> {
        bail!("it has no BFD")
    }

    /// Returns the reason why it does not support a case; `None`: it does.
    fn lacks(&self, case: Case) -> Option<Lack>;
}

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    pub peer: &'static dyn Peer,
    pub lab: &'a Lab,
    setup: Setup,
    children: Vec<Child>,
}

impl<'a> Daemon<'a> {
    pub fn start(peer: &'static dyn Peer, lab: &'a Lab, setup: Setup) -> Result<Self> {
        let mut daemon = Self { peer, lab, setup, children: Vec::new() };
        daemon.run()?;
        Ok(daemon)
    }

    fn run(&mut self) -> Result<()> {
        for (log, command) in self.peer.commands(self.lab, &self.setup)? {
            self.children.push(self.lab.start(command, log)?);
        }
        until(&format!("{} is ready", self.peer.name()), || self.peer.prepare(self.lab, &self.setup))
            .map_err(|error| error.context(self.last_log_lines()))
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.children.drain(..).for_each(|mut child| processes::kill_all(&mut child));
    }

    /// Starts it again after it was killed.
    pub fn restart(&mut self) -> Result<()> {
        self.setup.restarting = true;
        self.run()
    }

    pub fn session(&self, neighbor: impl Into<IpAddr>) -> Result<SessionView> {
        self.peer.session(self.lab, neighbor.into())
    }

    /// Returns all paths to a prefix.
    pub fn paths(&self, prefix: Prefix) -> Result<Vec<PathView>> {
        self.peer.paths(self.lab, prefix)
    }

    /// Returns the only path to a prefix.
    pub fn path(&self, prefix: Prefix) -> Result<PathView> {
        let mut paths = self.paths(prefix)?;
        ensure!(paths.len() == 1, "{} has these paths to {prefix}: {paths:?}", self.peer.name());
        paths.pop().context("none")
    }

    /// Waits until the daemon reports a session established.
    pub fn up(&self, neighbor: impl Into<IpAddr>) -> Result<SessionView> {
        let neighbor = neighbor.into();
        until(&format!("{}'s session with {neighbor} is established", self.peer.name()), || {
            let session = self.session(neighbor)?;
            ensure!(session.established, "{session:?}");
            Ok(session)
        })
    }

    pub fn refresh(&self, neighbor: impl Into<IpAddr>) -> Result<()> {
        self.peer.refresh(self.lab, neighbor.into())
    }

    /// Returns the number of segments that its kernel dropped for their TCP MD5 signature.
    pub fn dropped_segments(&self) -> Result<u64> {
        let child = self.children.first().context("it does not run")?;
        crate::md5::dropped_segments(&format!("/proc/{}/net/netstat", child.id()))
    }

    /// Returns whether a process in its namespace listens on a UDP port.
    pub fn listens_on_udp(&self, port: u16) -> Result<bool> {
        let child = self.children.first().context("it does not run")?;
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", child.id()));
        let tables = of("udp")? + &of("udp6")?;
        let locals = tables.lines().filter_map(|line| line.split_whitespace().nth(1));
        Ok(locals.filter_map(|local| local.rsplit(':').next()).any(|p| p == format!("{port:04X}")))
    }

    /// Returns the last lines of its logs, for an error.
    pub fn last_log_lines(&self) -> String {
        let logs = std::fs::read_dir(self.lab.dir()).into_iter().flatten().flatten();
        let logs = logs.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "log"));
        let tail = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}: {}", path.display(), lines[lines.len().saturating_sub(8)..].join("\n  "))
        };
        logs.map(|entry| tail(&entry.path())).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the version that a program prints.
fn version_of(program: &str, option: &str) -> Result<String> {
    let output =
        Command::new(program).arg(option).output().with_context(|| format!("cannot run {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().split(['(', ',']).next().unwrap_or_default().trim().into())
}

/// Returns the elements of a list; none if it is absent.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    list(value).filter_map(Value::as_str)
}

fn address<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// Returns the AS numbers in a text such as `64512 {64513}`.
fn as_path(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The notations of the well-known community LLGR_STALE (RFC 9494 §4.2).
const LLGR_STALE: [&str; 3] = ["65535:6", "llgr-stale", "llgrStale"];
