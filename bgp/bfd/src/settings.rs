//! What a session is told to be.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// UDP port of single-hop BFD (RFC 5881 §4).
pub const PORT_SINGLE_HOP: u16 = 3784;
/// UDP port of multihop BFD (RFC 5883 §5).
pub const PORT_MULTIHOP: u16 = 4784;
/// TTL or hop limit of what we send, and of what a single hop away arrives (RFC 5881 §5).
pub const TTL: u8 = 255;

/// The shortest interval taken: a neighbour that asks for less would only tell of our own scheduling.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest that fits a packet.
const LONGEST: Duration = Duration::from_micros(u32::MAX as u64);

/// What a session is known by: the addresses at its two ends. A pair has one session, of whichever path (RFC 5881 §2,
/// RFC 5883 §3). Two links whose ends bear the same link-local addresses can't be told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Our address.
    pub local: IpAddr,
    /// The neighbour's.
    pub remote: IpAddr,
}

/// How far away the neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// On a link of ours (RFC 5881).
    SingleHop,
    /// Behind routers (RFC 5883).
    Multihop {
        /// Packets that arrive with less are discarded: 255 less the hops there may be. 0 takes all, as RFC 5883 §5
        /// leaves any check to the operator.
        min_ttl: u8,
    },
}

impl Path {
    /// The port that packets go to.
    pub fn port(self) -> u16 {
        match self {
            Self::SingleHop => PORT_SINGLE_HOP,
            Self::Multihop { .. } => PORT_MULTIHOP,
        }
    }

    /// The TTL or hop limit that a packet must still have.
    pub fn min_ttl(self) -> u8 {
        match self {
            Self::SingleHop => TTL,
            Self::Multihop { min_ttl } => min_ttl,
        }
    }
}

/// One session's parameters. All but `path` and `interface` change live, by a Poll Sequence where one is needed (RFC
/// 5880 §6.8.3); those two begin the session anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often we send at most while up, before jitter: 1 ms to 71 minutes. While not up it is at least 1 s.
    pub min_tx: Duration,
    /// How often we can take packets: 1 ms to 71 minutes.
    pub min_rx: Duration,
    /// How many packets in a row the neighbour may miss before it takes us for dead; not 0.
    pub multiplier: u8,
    /// How far away it is.
    pub path: Path,
    /// Index of the only interface that packets may come in on; link-local addresses need it.
    pub interface: Option<u32>,
    /// Held down; the neighbour is told so, and takes it for no failure (RFC 5880 §6.8.16).
    pub admin_down: bool,
}

impl Default for Settings {
    /// A single hop, 300 ms and 3: a dead neighbour is found within 900 ms.
    fn default() -> Self {
        let interval = Duration::from_millis(300);
        Self {
            min_tx: interval,
            min_rx: interval,
            multiplier: 3,
            path: Path::SingleHop,
            interface: None,
            admin_down: false,
        }
    }
}

/// Why sessions can't be had as asked for; everything stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A parameter that can't be.
    #[error("BFD session from {local} to {remote}: {problem}")]
    Invalid {
        /// Our address.
        local: IpAddr,
        /// The neighbour's.
        remote: IpAddr,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Each session needs a source port of its own, and there are only so many (RFC 5881 §4).
    #[error(
        "{0} BFD sessions asked for, but only 16384 can be had: each needs a port from 49152 to 65535 of its own"
    )]
    TooMany(usize),
}

/// Whether an address is of one link only, where the interface tells which.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

impl Key {
    pub(super) fn canonical(self) -> Self {
        Self { local: self.local.to_canonical(), remote: self.remote.to_canonical() }
    }
}

impl Settings {
    /// The usual times, for a neighbour that is at most `hops` hops away, 1 being the same link (RFC 5883).
    pub fn multihop(hops: u8) -> Self {
        let min_ttl = TTL - hops.saturating_sub(1);
        Self { path: Path::Multihop { min_ttl }, ..Self::default() }
    }

    pub(super) fn validate(&self, key: Key) -> Result<(), SettingsError> {
        let Key { local, remote } = key;
        let problem = if local.is_ipv4() != remote.is_ipv4() {
            "the addresses are of different families: give two of one family"
        } else if local.is_unspecified() || local.is_multicast() {
            "our address is unspecified or multicast: give the one that packets bear"
        } else if let Some(problem) = self.problem(remote) {
            problem
        } else {
            return Ok(());
        };
        Err(SettingsError::Invalid { local, remote, problem })
    }

    /// What can't be of a session with this neighbour, whatever our address is.
    pub fn problem(&self, remote: IpAddr) -> Option<&'static str> {
        let in_range = |time: Duration| (SHORTEST..=LONGEST).contains(&time);
        if remote.is_unspecified() || remote.is_multicast() {
            Some("the neighbour's address is unspecified or multicast: give the one that its packets bear")
        } else if is_link_local(remote) && self.interface.is_none() {
            Some("a link-local address says nothing without an interface: give its index")
        } else if self.multiplier == 0 {
            Some("the detect multiplier is 0 (RFC 5880 §6.8.1): give 1 or more, 3 as a rule")
        } else if !in_range(self.min_tx) || !in_range(self.min_rx) {
            Some("an interval is below 1 ms or above 71 minutes: give one between, 300 ms as a rule")
        } else {
            None
        }
    }

    /// Where packets go.
    pub(super) fn destination(&self, remote: IpAddr) -> SocketAddr {
        scoped(remote, self.path.port(), self.interface)
    }

    /// Where they come from.
    pub(super) fn source(&self, local: IpAddr, port: u16) -> SocketAddr {
        scoped(local, port, self.interface)
    }
}

fn scoped(address: IpAddr, port: u16, interface: Option<u32>) -> SocketAddr {
    let mut socket_address = SocketAddr::new(address, port);
    if let SocketAddr::V6(v6) = &mut socket_address
        && is_link_local(address)
    {
        v6.set_scope_id(interface.unwrap_or(0));
    }
    socket_address
}
