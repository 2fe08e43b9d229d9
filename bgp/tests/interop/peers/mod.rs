//! The daemons: how each is told what to be, and asked how it sees things.

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

/// In the order of the table.
pub const PEERS: [&dyn Peer; 4] = [&bird::Bird, &frr::Frr, &gobgp::GoBgp, &openbgpd::OpenBgpd];

/// What a daemon announces: an IPv4 prefix with [`COMMUNITIES`], and an IPv6 one to those that carry IPv6.
pub fn prefix() -> Prefix {
    Prefix::new(Ipv4Addr::new(10, 2, 0, 0).into(), 24).expect("fits")
}

/// See [`prefix`].
pub fn prefix6() -> Prefix {
    Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0).into(), 48).expect("fits")
}

/// A standard, a large and an extended community (a route target).
pub const COMMUNITIES: [&str; 3] = ["64512:100", "64512:1:2", "rt 64512:7"];

/// What a daemon is to be. It has [`THEIRS`] and [`THEIRS6`], and waits for its neighbours unless it is told to connect.
#[derive(Clone, Default)]
pub struct Setup {
    pub asn: u32,
    pub neighbors: Vec<Neighbor>,
    pub graceful: Option<Graceful>,
    /// It starts again after it was killed.
    pub restarting: bool,
}

#[derive(Clone, Copy)]
pub struct Graceful {
    /// Seconds for which others shall keep its routes.
    pub time: u16,
    /// And after that, as a last resort (RFC 9494).
    pub long_lived: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Neighbor {
    pub address: IpAddr,
    pub asn: u32,
    pub client: bool,
    /// The daemon connects, too.
    pub connects: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    pub key: Option<&'static str>,
    pub extended_next_hop: bool,
    pub add_path: bool,
    pub bfd: bool,
}

impl Neighbor {
    /// One that carries IPv4 only, and nothing special.
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

    /// The daemon's address on the session.
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

    /// A text for each neighbour.
    fn each(&self, text: impl Fn(&Neighbor) -> String) -> String {
        self.neighbors.iter().map(text).collect()
    }
}

/// How a daemon sees a session.
#[derive(Debug, Default)]
pub struct SessionView {
    pub established: bool,
    /// UPDATEs, or routes, that it has had on it.
    pub updates: u64,
    /// Requests to tell all again that it has sent; `None` where it doesn't tell.
    pub refreshes_sent: Option<u64>,
    /// Beginnings and ends of refreshes that it has had of us, and has sent (RFC 7313); `None` where it doesn't tell.
    pub marks: Option<Marks>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Marks {
    pub received: u64,
    pub sent: u64,
}

/// How a daemon sees a path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PathView {
    pub from: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    pub originator: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// Written like [`COMMUNITIES`].
    pub communities: BTreeSet<String>,
    pub as_path: Vec<u32>,
    /// Kept from before a restart.
    pub stale: bool,
    /// By the community of RFC 9494 §4.2 at the latest.
    pub long_lived_stale: bool,
}

/// Why a daemon has no part in a case, as it can be seen when it runs.
#[derive(Clone, Copy, Debug)]
pub enum Lack {
    /// With everything on, its OPEN does not have the capability of this code, of this name.
    Capability(u8, &'static str),
    /// Its OPEN offers graceful restart without any family.
    RestartFamilies,
    /// It hears nothing on the UDP port of BFD.
    Bfd,
    /// It lets those in who do not sign though they should.
    UnsignedWelcome,
    /// It refuses every refresh that others ask for, and every mark of theirs, as of a family that was not negotiated.
    RefusesRefresh,
    /// Told to refresh, it looks again at what it has kept, and asks nobody.
    Refresh,
}

impl Lack {
    /// What the table says in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::RefusesRefresh | Self::UnsignedWelcome => "broken there",
            _ => "not offered",
        }
    }

    /// What the table says.
    pub fn words(self) -> String {
        match self {
            Self::Capability(code, name) => {
                format!("its OPEN has no capability {code} ({name}) with everything switched on that it has")
            }
            Self::RestartFamilies => {
                "its OPEN offers graceful restart for no family: others are not asked to keep anything".into()
            }
            Self::Bfd => "it has no BFD: nothing in its network listens on UDP 3784".into(),
            Self::UnsignedWelcome => {
                "on Linux its listening socket has no keys: a neighbour that should sign gets in without, and one that \
                 signs does not; with the session it opens itself all is well"
                    .into()
            }
            Self::RefusesRefresh => {
                "it answers no request for a refresh and heeds no mark, and logs `route refresh: AID IPv4 unicast not \
                 negotiated` about families that were negotiated; BIRD as its neighbour gets no more"
                    .into()
            }
            Self::Refresh => {
                "told to refresh, it looks again at what it has kept of each neighbour, and asks nobody"
                    .into()
            }
        }
    }
}

pub trait Peer: Sync {
    fn name(&self) -> &'static str;

    /// The Debian package that has it.
    fn package(&self) -> &'static str;

    /// Every program needed.
    fn programs(&self) -> &'static [&'static str];

    /// What it says about its version.
    fn version(&self) -> Result<String>;

    /// Writes its configuration and gives the commands that run it in the foreground, each with a name for its log.
    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>>;

    /// Whatever it has to be told once it runs; tried until it succeeds.
    fn prepare(&self, _lab: &Lab, _setup: &Setup) -> Result<()> {
        Ok(())
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView>;

    /// All paths to a prefix.
    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>>;

    /// Asks a neighbour to tell all again.
    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()>;

    /// Whether BFD with a neighbour is up.
    fn bfd_up(&self, _lab: &Lab, _neighbor: IpAddr) -> Result<bool> {
        bail!("it has no BFD")
    }

    /// Whether the last session with a neighbour ended by BFD.
    fn ended_by_bfd(&self, _lab: &Lab, _neighbor: IpAddr) -> Result<bool> {
        bail!("it has no BFD")
    }

    /// Why it has no part in a case; `None`: it takes part.
    fn lacks(&self, case: Case) -> Option<Lack>;
}

/// A daemon that runs; killed when dropped.
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
            .map_err(|error| error.context(self.last_words()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.children.drain(..).for_each(|mut child| processes::kill_all(&mut child));
    }

    /// Starts it again after that.
    pub fn restart(&mut self) -> Result<()> {
        self.setup.restarting = true;
        self.run()
    }

    pub fn session(&self, neighbor: impl Into<IpAddr>) -> Result<SessionView> {
        self.peer.session(self.lab, neighbor.into())
    }

    /// All paths to a prefix.
    pub fn paths(&self, prefix: Prefix) -> Result<Vec<PathView>> {
        self.peer.paths(self.lab, prefix)
    }

    /// The only path to a prefix.
    pub fn path(&self, prefix: Prefix) -> Result<PathView> {
        let mut paths = self.paths(prefix)?;
        ensure!(paths.len() == 1, "{} has these paths to {prefix}: {paths:?}", self.peer.name());
        paths.pop().context("none")
    }

    /// Waits until a session stands in the daemon's eyes.
    pub fn up(&self, neighbor: impl Into<IpAddr>) -> Result<SessionView> {
        let neighbor = neighbor.into();
        until(&format!("{}'s session with {neighbor} stands", self.peer.name()), || {
            let session = self.session(neighbor)?;
            ensure!(session.established, "{session:?}");
            Ok(session)
        })
    }

    pub fn refresh(&self, neighbor: impl Into<IpAddr>) -> Result<()> {
        self.peer.refresh(self.lab, neighbor.into())
    }

    /// What its network has counted of segments whose TCP MD5 signature was missing, wrong, or not wanted.
    pub fn refused_segments(&self) -> Result<u64> {
        let child = self.children.first().context("it does not run")?;
        crate::md5::refused_segments(&format!("/proc/{}/net/netstat", child.id()))
    }

    /// Whether something in its network listens on a UDP port.
    pub fn hears_udp(&self, port: u16) -> Result<bool> {
        let child = self.children.first().context("it does not run")?;
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", child.id()));
        let tables = of("udp")? + &of("udp6")?;
        let locals = tables.lines().filter_map(|line| line.split_whitespace().nth(1));
        Ok(locals.filter_map(|local| local.rsplit(':').next()).any(|p| p == format!("{port:04X}")))
    }

    /// The last lines that its processes wrote, for an error.
    pub fn last_words(&self) -> String {
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

/// The first line of what a program says about its version.
fn version_of(program: &str, option: &str) -> Result<String> {
    let output =
        Command::new(program).arg(option).output().with_context(|| format!("cannot run {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().split(['(', ',']).next().unwrap_or_default().trim().into())
}

/// The elements of a list; none where it is not there.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    list(value).filter_map(Value::as_str)
}

fn address<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// AS numbers out of text such as `64512 {64513}`.
fn as_path(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The well-known community LLGR_STALE (RFC 9494 §4.2), as people and programs write it.
const LLGR_STALE: [&str; 3] = ["65535:6", "llgr-stale", "llgrStale"];
