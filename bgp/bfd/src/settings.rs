//! The identity and the parameters of a session.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The UDP port of single-hop BFD (RFC 5881 §4).
pub const PORT_SINGLE_HOP: u16 = 3784;
/// The UDP port of multihop BFD (RFC 5883 §5).
pub const PORT_MULTIHOP: u16 = 4784;
/// The TTL or hop limit of every packet that is sent, and of each that arrives from a single hop away (RFC 5881 §5).
pub const TTL: u8 = 255;

/// The shortest interval accepted: below it, detection would measure the scheduling of this process.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The longest interval that fits a packet.
const MAX_INTERVAL: Duration = Duration::from_micros(u32::MAX as u64);

/// The identity of a session: the addresses of its two ends. A pair of addresses has one session, single-hop or
/// multihop (RFC 5881 §2, RFC 5883 §3). Two links whose ends have the same link-local addresses are therefore not
/// distinguished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Key {
    /// Our address.
    pub local: IpAddr,
    /// The neighbor's address.
    pub remote: IpAddr,
}

/// The distance of the neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Path {
    /// The neighbor is on a directly connected link (RFC 5881).
    SingleHop,
    /// There may be routers on the way (RFC 5883).
    Multihop {
        /// The lowest TTL accepted: 255 minus the number of routers that may be on the way. 0 accepts all; RFC 5883 §5
        /// leaves the check to the operator.
        min_ttl: u8,
    },
}

impl Path {
    /// Returns the UDP port to which packets are sent.
    pub fn port(self) -> u16 {
        match self {
            Self::SingleHop => PORT_SINGLE_HOP,
            Self::Multihop { .. } => PORT_MULTIHOP,
        }
    }

    /// Returns the lowest TTL or hop limit accepted.
    pub fn min_ttl(self) -> u8 {
        match self {
            Self::SingleHop => TTL,
            Self::Multihop { min_ttl } => min_ttl,
        }
    }
}

/// The parameters of a session. Changes apply to a running session, by a Poll Sequence if one is needed (RFC 5880
/// §6.8.3); a change of `path` or `interface` restarts it.
///
/// ```
/// # use std::time::Duration;
/// use heliograph_bfd::Settings;
///
/// let settings = Settings::multihop(8).interval(Duration::from_millis(100)).multiplier(5);
/// assert_eq!(settings.path.min_ttl(), 248);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The shortest interval at which we send, before jitter: 1 ms to 71 minutes. It is at least 1 s while the session
    /// is not up.
    pub min_tx: Duration,
    /// The shortest interval at which we can receive: 1 ms to 71 minutes.
    pub min_rx: Duration,
    /// The number of consecutive packets that the neighbor must miss to take us for down; not 0.
    pub multiplier: u8,
    /// The distance of the neighbor.
    pub path: Path,
    /// The index of the only interface on which packets are accepted; required for link-local addresses.
    pub interface: Option<u32>,
    /// Holds the session down. The neighbor is informed and does not take it for a failure (RFC 5880 §6.8.16).
    pub admin_down: bool,
}

impl Default for Settings {
    /// Returns the settings of [`Settings::single_hop`].
    fn default() -> Self {
        Self::single_hop()
    }
}

/// Settings that no session can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// The two addresses are of different families.
    #[error("the addresses are of different families: use two of one family")]
    Families,
    /// Our address is unspecified or multicast.
    #[error("our address is unspecified or multicast: use the source address of our packets")]
    LocalAddress,
    /// The neighbor's address is unspecified or multicast.
    #[error("the neighbor's address is unspecified or multicast: use the source address of its packets")]
    RemoteAddress,
    /// A link-local address without an interface.
    #[error("a link-local address needs the index of its interface: set it")]
    MissingInterface,
    /// A multiplier of 0.
    #[error("the detect multiplier is 0 (RFC 5880 §6.8.1): use at least 1, usually 3")]
    Multiplier,
    /// An interval that is too short or too long.
    #[error("an interval is below 1 ms or above 71 minutes: use one between, usually 300 ms")]
    Interval,
}

/// A set of sessions that is not possible; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The settings of one session are invalid.
    #[error("BFD session from {} to {}: {problem}", key.local, key.remote)]
    #[non_exhaustive]
    Invalid {
        /// The session.
        key: Key,
        /// The rule that its settings break.
        problem: InvalidSettings,
    },
    /// More sessions than source ports, of which each session needs one (RFC 5881 §4).
    #[error(
        "{0} BFD sessions requested, but at most 16384 are possible: each needs its own port from 49152 to 65535"
    )]
    TooMany(usize),
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

impl Key {
    /// Returns the key of the session between our address and the neighbor's.
    pub fn new(local: IpAddr, remote: IpAddr) -> Self {
        Self { local, remote }
    }

    /// Returns the key with IPv4 addresses in place of IPv4-mapped IPv6 addresses.
    pub(crate) fn canonical(self) -> Self {
        Self { local: self.local.to_canonical(), remote: self.remote.to_canonical() }
    }
}

impl Settings {
    /// Returns settings for a neighbor on the same link: intervals of 300 ms and the multiplier 3, so that a failure is
    /// detected within 900 ms.
    pub fn single_hop() -> Self {
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

    /// Returns settings with the same times for a neighbor that is at most `hops` hops away, where 1 is the same link
    /// (RFC 5883).
    pub fn multihop(hops: u8) -> Self {
        let min_ttl = TTL - hops.saturating_sub(1);
        Self::single_hop().path(Path::Multihop { min_ttl })
    }

    /// Sets both intervals.
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        self.min_tx(interval).min_rx(interval)
    }

    /// Sets the shortest interval at which we send.
    #[must_use]
    pub fn min_tx(self, min_tx: Duration) -> Self {
        Self { min_tx, ..self }
    }

    /// Sets the shortest interval at which we can receive.
    #[must_use]
    pub fn min_rx(self, min_rx: Duration) -> Self {
        Self { min_rx, ..self }
    }

    /// Sets the multiplier.
    #[must_use]
    pub fn multiplier(self, multiplier: u8) -> Self {
        Self { multiplier, ..self }
    }

    /// Sets the distance of the neighbor.
    #[must_use]
    pub fn path(self, path: Path) -> Self {
        Self { path, ..self }
    }

    /// Sets the only interface on which packets are accepted.
    #[must_use]
    pub fn interface(self, index: u32) -> Self {
        Self { interface: Some(index), ..self }
    }

    /// Sets whether the session is held down.
    #[must_use]
    pub fn admin_down(self, admin_down: bool) -> Self {
        Self { admin_down, ..self }
    }

    /// Checks the settings for a session with this neighbor, whichever our own address is.
    ///
    /// # Errors
    /// They are invalid.
    pub fn validate(&self, remote: IpAddr) -> Result<(), InvalidSettings> {
        let in_range = |time: Duration| (MIN_INTERVAL..=MAX_INTERVAL).contains(&time);
        if remote.is_unspecified() || remote.is_multicast() {
            Err(InvalidSettings::RemoteAddress)
        } else if is_link_local(remote) && self.interface.is_none() {
            Err(InvalidSettings::MissingInterface)
        } else if self.multiplier == 0 {
            Err(InvalidSettings::Multiplier)
        } else if !in_range(self.min_tx) || !in_range(self.min_rx) {
            Err(InvalidSettings::Interval)
        } else {
            Ok(())
        }
    }

    /// Checks the settings for this session.
    pub(crate) fn validate_for(&self, key: Key) -> Result<(), SettingsError> {
        let result = if key.local.is_ipv4() != key.remote.is_ipv4() {
            Err(InvalidSettings::Families)
        } else if key.local.is_unspecified() || key.local.is_multicast() {
            Err(InvalidSettings::LocalAddress)
        } else {
            self.validate(key.remote)
        };
        result.map_err(|problem| SettingsError::Invalid { key, problem })
    }

    /// Returns the address and port to which packets are sent.
    pub(crate) fn destination(&self, remote: IpAddr) -> SocketAddr {
        scoped(remote, self.path.port(), self.interface)
    }

    /// Returns the address and port from which packets are sent.
    pub(crate) fn source(&self, local: IpAddr, port: u16) -> SocketAddr {
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
