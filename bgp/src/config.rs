//! Configuration of a speaker: one value for everything, replaced as a whole; the speaker applies the difference.
//!
//! Every type is `#[non_exhaustive]`, so that a new field breaks no caller. A value is made by its `new` or `default`,
//! and each field has a setter of the same name that takes and returns the value. Fields can also be assigned.

mod change;
mod invalid;
mod setters;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;

#[cfg(feature = "bfd")]
use crate::bfd;
use crate::policy::{Community, Policy};
use crate::wire::{Attributes, Family, MAX_STALE_TIME, Prefix, Role, is_host};

pub(crate) use self::change::{ConfigChange, InForce};
pub use self::invalid::InvalidField;

/// The most octets of communities in a [`Network`]: they and the rest of an UPDATE fit in a message of 4096 octets, the
/// longest without RFC 8654.
const MAX_COMMUNITY_OCTETS: usize = 3072;

/// The configuration of a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Our AS number; never 0 (RFC 7607).
    pub asn: u32,
    /// Our BGP Identifier; never 0 (RFC 6286).
    pub router_id: Ipv4Addr,
    /// Our cluster id as a route reflector (RFC 4456 §7); `None`: the router id.
    pub cluster_id: Option<Ipv4Addr>,
    /// Graceful restart (RFC 4724); `None` does not offer the capability.
    pub graceful_restart: Option<GracefulRestart>,
    /// Graceful shutdown (RFC 8326): our advertisements carry the community GRACEFUL_SHUTDOWN, and inside the AS the
    /// lowest LOCAL_PREF, so that traffic moves away before the sessions end. Changes live.
    pub graceful_shutdown: bool,
    /// The networks that we originate. Of two with the same prefix the last one counts. Changes live.
    pub networks: Vec<Network>,
    /// The neighbors; addresses are unique.
    pub neighbors: Vec<Neighbor>,
    /// Prefixes from which neighbors are accepted without being listed. A listed neighbor and a longer range take
    /// precedence.
    pub ranges: Vec<ListenRange>,
}

/// A prefix from which neighbors are accepted without being configured one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenRange {
    /// The addresses.
    pub range: Prefix,
    /// The most neighbors at a time.
    pub limit: usize,
    /// The configuration of each of them, apart from its address. They are always passive.
    pub neighbor: Neighbor,
}

impl ListenRange {
    /// Returns a range that accepts up to `limit` neighbors, each configured as `neighbor` with its own address.
    pub fn new(range: Prefix, limit: usize, neighbor: Neighbor) -> Self {
        Self { range, limit, neighbor }
    }

    /// Returns the neighbor at an address, if it lies within.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Neighbor> {
        let host = Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })?;
        let name = format!("{} {address}", self.neighbor.name);
        let neighbor = || Neighbor { address, name, passive: true, ..self.neighbor.clone() };
        self.range.contains(&host).then(neighbor)
    }
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GracefulRestart {
    /// The time for which peers keep our routes while we restart; whole seconds, at most 4095 (RFC 4724 §3).
    pub restart_time: Duration,
    /// The longest time after a restart for which we wait for the End-of-RIB of all peers before we send our own
    /// (RFC 4724 §4.1, Selection_Deferral_Timer).
    pub selection_deferral: Duration,
    /// Keep routes also after NOTIFICATIONs and an expired hold timer, with peers that offer the same (RFC 8538). Off by
    /// default: routes of a node that is cut off then stay for its restart time, and not just its hold time.
    pub notifications: bool,
    /// Long-lived graceful restart (RFC 9494): the time for which peers keep our routes as a last resort after the restart
    /// time; whole seconds, less than 2^24. A speaker that offers it also keeps the routes of peers that do, for the time
    /// that they offer; with zero it does only that. `None` does not offer it.
    pub long_lived: Option<Duration>,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time: Duration::from_secs(120),
            selection_deferral: Duration::from_secs(60),
            notifications: false,
            long_lived: None,
        }
    }
}

impl GracefulRestart {
    fn validate(&self) -> Result<(), ConfigError> {
        let fits = |time: Duration| time.subsec_nanos() == 0 && time.as_secs() <= MAX_STALE_TIME.into();
        if self.long_lived.is_none_or(fits) {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            what: "graceful restart".into(),
            problem: format!(
                "the long-lived stale time must be 0 to {MAX_STALE_TIME} whole seconds (RFC 9494 §3.1)"
            ),
        })
    }
}

/// A prefix that we originate, with the attributes of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// The prefix.
    pub prefix: Prefix,
    /// Its next hop; `None`: our own address on each session. A prefix whose family differs from the session's
    /// transport needs one.
    pub next_hop: Option<IpAddr>,
    /// Its communities, of any kind and in any order (RFC 1997, RFC 4360, RFC 8092).
    pub communities: Vec<Community>,
    /// Its MULTI_EXIT_DISC (RFC 4271 §5.1.4); `None`: it has none.
    pub med: Option<u32>,
    /// Its LOCAL_PREF (RFC 4271 §5.1.5), which internal peers receive and external ones do not; `None`: 100.
    pub local_pref: Option<u32>,
}

impl Network {
    /// Returns a network without attributes whose next hop is our address on each session.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, next_hop: None, communities: Vec::new(), med: None, local_pref: None }
    }

    /// Returns the attributes of its path.
    pub(crate) fn attributes(&self) -> Attributes {
        let Self { med, local_pref, .. } = *self;
        let mut attributes = Attributes { med, local_pref, ..Attributes::local() };
        for community in &self.communities {
            community.add(&mut attributes);
        }
        attributes
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let invalid =
            |problem: String| Err(ConfigError::Invalid { what: format!("network {}", self.prefix), problem });
        if !self.prefix.is_unicast() {
            return invalid(
                "it is not a unicast prefix, and every peer ignores it (RFC 4271 §6.3): remove it".into(),
            );
        }
        if let Some(next_hop) = self.next_hop {
            if !is_host(next_hop) {
                return invalid(format!("the next hop {next_hop} is no address of a host: set one that is"));
            }
            // The other way round there is RFC 8950.
            if next_hop.is_ipv4() && self.prefix.family() == Family::Ipv6Unicast {
                return invalid(format!("the next hop {next_hop} of an IPv6 prefix must be an IPv6 address"));
            }
        }
        let octets: usize = self.communities.iter().map(|community| community.octets()).sum();
        if octets > MAX_COMMUNITY_OCTETS {
            return invalid(format!(
                "its communities take {octets} octets and at most {MAX_COMMUNITY_OCTETS} fit in a message: remove some"
            ));
        }
        Ok(())
    }
}

/// A neighbor. Internal where `asn` is ours (iBGP), else external (eBGP).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbor {
    /// Its address, which identifies it.
    pub address: IpAddr,
    /// The port to connect to.
    pub port: u16,
    /// Its name in reports and messages.
    pub name: String,
    /// Its AS number; never 0.
    pub asn: u32,
    /// Our AS number on the session where it is not that of the speaker: for moving from one AS to another (RFC 7705
    /// §3.3, Replace Old AS). External neighbors only.
    pub local_asn: Option<u32>,
    /// The neighbor is a client and we are its route reflector (RFC 4456 §6). Internal neighbors only.
    pub reflector_client: bool,
    /// The address to connect from; `None`: the kernel's choice.
    pub local_address: Option<IpAddr>,
    /// Wait for the neighbor to connect (RFC 4271 §8.1.1, PassiveTcpEstablishment).
    pub passive: bool,
    /// The address families of the session, at least one.
    pub families: Vec<Family>,
    /// Timers.
    pub timers: Timers,
    /// Offer IPv4 prefixes with IPv6 next hops (RFC 8950). The program that installs the routes must support them.
    pub extended_next_hop: bool,
    /// Several paths to a prefix, where the neighbor offers it too (RFC 7911).
    pub add_path: AddPath,
    /// Our role towards the neighbor; prevents route leaks, on external sessions only (RFC 9234).
    pub role: Option<Role>,
    /// Reject a peer that sends no role (RFC 9234 §4.2).
    pub strict_role: bool,
    /// The limit on the prefixes of each family that it may send.
    pub prefix_limit: Option<PrefixLimit>,
    /// The distance at which it may be.
    pub ttl: Ttl,
    /// The authentication of its TCP segments.
    pub authentication: Option<Authentication>,
    /// BFD for this neighbor, from the first session on: when BFD fails, the session ends at once (RFC 5882). BFD that
    /// never comes up does not hold up BGP. Changes live. Both sides must have the same [`bfd::Path`]: multihop where
    /// there may be a router between them.
    #[cfg(feature = "bfd")]
    pub bfd: Option<bfd::Settings>,
    /// The next hop of the routes that are advertised to it. Changes live.
    pub next_hop_mode: NextHopMode,
    /// The filter for paths that it sends.
    pub import: Filter,
    /// The filter for paths that we advertise to it.
    pub export: Filter,
}

/// The rule for the NEXT_HOP of the routes that are advertised to a neighbor (RFC 4271 §5.1.3).
///
/// | path | `Automatic` | `OwnAddress` | `Unchanged` |
/// |---|---|---|---|
/// | originated | [`Network::next_hop`], else our own address | our own address | as `Automatic` |
/// | learned from an external peer, to an internal one | our own address; if it is of the wrong family, the path's | our own address | the path's |
/// | learned from any peer, to an external one | our own address | our own address | the path's |
/// | reflected: from an internal peer to an internal one | the path's | the path's | the path's |
///
/// Our own address is that of the session. A next hop that does not fit the prefix's family or the session
/// (RFC 8950 §4) is not advertised: the route is withheld. A link-local next hop is for one link only (RFC 2545 §3): if a
/// learned path has no other, every mode advertises our own address instead, for reflected paths too, as BIRD does.
///
/// A reflected path keeps its next hop in every mode (RFC 4456 §10): a reflector that takes the traffic of its clients
/// can cause loops, and is often not able to forward it. FRR's `next-hop-self` has the same rule. A rule with
/// [`NextHopSelf`](crate::policy::Modification::NextHopSelf) in the export policy changes reflected paths too, as FRR's
/// `next-hop-self force` does. Such a rule takes precedence over every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NextHopMode {
    /// The rules of RFC 4271 §5.1.3, with one difference, without third-party next hops:
    ///
    /// - Rule 1, to an internal peer: a path learned from another internal peer keeps its next hop. An originated path
    ///   has the configured next hop, or our own address. Different: a path learned from an external peer gets our own
    ///   address, where the RFC keeps the next hop unless configured otherwise. The nodes of a cluster run no IGP that
    ///   carries the link to the external peer, so only the node on that link is sure to reach it.
    /// - Rule 2, to an external peer one hop away: our own address on the session, which the RFC names as the default.
    ///   The third-party next hops that it allows on a common subnet are not used.
    /// - Rule 3, to an external peer several hops away: our own address on the session, which the RFC names as the
    ///   default.
    #[default]
    Automatic,
    /// Our own address for every path that is not reflected: FRR's `next-hop-self`.
    OwnAddress,
    /// The next hop of the path as it was learned, as a route server advertises it (RFC 7947 §2.2.1), or a speaker with
    /// a multihop session (RFC 4271 §5.1.3, rule 3). The receiver has to reach it by itself.
    Unchanged,
}

/// Several paths to a prefix with one neighbor, in all of its families (RFC 7911). Off by default. Every value is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddPath {
    /// Receive several paths to a prefix.
    pub receive: bool,
    /// The most paths to a prefix to advertise, the best ones. Those that came from the neighbor itself count and are not
    /// advertised. `None`: the best path alone, without Path Identifiers.
    pub send: Option<NonZeroU8>,
}

/// A limit on the prefixes of a family that a neighbor may send (RFC 4486 §4). Each path counts where the neighbor sends
/// several, and so do paths that the import filter rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixLimit {
    /// The most prefixes. With more the session ends: Cease, Maximum Number of Prefixes Reached.
    pub max: u32,
    /// The percentage of `max` at which there is a warning, 1 to 100.
    pub warn_percent: u8,
    /// The time after which the session may start again; `None`: not before the neighbor's configuration changes.
    pub restart: Option<Duration>,
}

impl PrefixLimit {
    /// Returns a limit with a warning at 75 percent. A session that exceeds it does not start again by itself.
    pub fn new(max: u32) -> Self {
        Self { max, warn_percent: 75, restart: None }
    }

    /// Returns the count at which there is a warning.
    pub(crate) fn warns_at(&self) -> u64 {
        u64::from(self.max) * u64::from(self.warn_percent) / 100
    }
}

/// The distance at which a neighbor may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// Any distance that the kernel's default TTL reaches.
    #[default]
    System,
    /// At most this many hops, by the TTL of packets sent; 1 is the same link.
    Hops(u8),
    /// At most this many hops, by the TTL of packets received: both sides send 255 and drop packets with a lower one
    /// (RFC 5082). Hosts further away cannot even reach the socket.
    Security(u8),
}

/// Authentication of a neighbor's TCP segments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication {
    /// TCP MD5 (RFC 2385): old, weak and everywhere. A key of 1 to 80 octets.
    Md5(Key),
    /// TCP-AO (RFC 5925), where the kernel has it (Linux 6.7 with CONFIG_TCP_AO).
    Ao(AoKey),
}

/// A master key tuple of TCP-AO (RFC 5925 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AoKey {
    /// KeyID of segments sent.
    pub send_id: u8,
    /// KeyID of segments received.
    pub receive_id: u8,
    /// The algorithm (RFC 5926).
    pub algorithm: AoAlgorithm,
    /// The key, of 1 to 80 octets.
    pub key: Key,
}

impl AoKey {
    /// Returns a master key tuple; the other side has the two KeyIDs the other way round.
    pub fn new(send_id: u8, receive_id: u8, algorithm: AoAlgorithm, key: Key) -> Self {
        Self { send_id, receive_id, algorithm, key }
    }
}

/// The algorithms that RFC 5926 §3 requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AoAlgorithm {
    /// HMAC-SHA-1-96
    HmacSha1,
    /// AES-128-CMAC-96
    Aes128Cmac,
}

/// A secret; its `Debug` output does not contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Returns a key of these octets, which both sides must have.
    pub fn new(octets: impl Into<Vec<u8>>) -> Self {
        Self(octets.into())
    }

    /// Returns the secret itself.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A neighbor's timers (RFC 4271 §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timers {
    /// Hold time to propose: 0 (never expires) or at least 3 s, whole seconds.
    pub hold: Duration,
    /// The longest time between KEEPALIVEs; `None`: a third of the negotiated hold time.
    pub keepalive: Option<Duration>,
    /// Time between attempts to connect, before jitter.
    pub connect_retry: Duration,
    /// Longest time for which connections of the peer are refused after an error (IdleHoldTime, RFC 4271 §8.1.1). The
    /// pauses in our own attempts grow up to 60 s whatever this is. Changes live.
    pub idle_hold: Duration,
    /// The time after which a session ends whose peer reads nothing (RFC 9687); longer than the hold time. `None`: 8
    /// minutes, or twice the hold time where that is longer.
    pub send_hold: Option<Duration>,
}

impl Default for Timers {
    /// Returns 90 s of hold time, as RFC 4271 §10 suggests, 5 s between attempts, as peers in a cluster come and go often,
    /// and 1 s of idle hold time.
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(90),
            keepalive: None,
            connect_retry: Duration::from_secs(5),
            idle_hold: Duration::from_secs(1),
            send_hold: None,
        }
    }
}

/// A filter for routes. External neighbors start with [`Filter::nothing`] (RFC 8212).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// Accepts every prefix.
    All,
    /// Accepts prefixes that match one of these; none where empty.
    Only(Vec<PrefixRange>),
    /// Accepts and modifies routes by rules. When such an import filter changes, the neighbor is asked for a route refresh
    /// (RFC 2918).
    Rules(Policy),
}

impl Filter {
    /// Returns a filter that rejects everything.
    pub fn nothing() -> Self {
        Self::Only(Vec::new())
    }

    /// Returns whether `prefix` is accepted; with rules, whether any route to it could be.
    pub fn accepts(&self, prefix: &Prefix) -> bool {
        match self {
            Self::All | Self::Rules(_) => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.matches(prefix)),
        }
    }
}

/// The prefixes within `within`, up to a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixRange {
    /// The covering prefix, itself included.
    pub within: Prefix,
    /// The longest length that matches; at least `within`'s.
    pub max_length: u8,
}

impl PrefixRange {
    /// Returns the prefixes within `within` that are no longer than `max_length`.
    pub fn new(within: Prefix, max_length: u8) -> Self {
        Self { within, max_length }
    }

    /// Returns whether `prefix` lies within and is not too long.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        self.within.contains(prefix) && prefix.length() <= self.max_length
    }
}

/// The reason why a [`Config`] is invalid; nothing of it is applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// AS 0 is reserved.
    #[error("{what}: AS number 0 is reserved (RFC 7607): give the AS number that the peer uses")]
    #[non_exhaustive]
    AsnZero {
        /// The part of the configuration.
        what: String,
    },
    /// An identifier of 0.
    #[error(
        "the BGP identifier is 0.0.0.0, which RFC 6286 forbids: give a non-zero one, such as the node's IPv4 address"
    )]
    RouterIdZero,
    /// Two neighbors with one address.
    #[error("neighbor {address} is listed twice, as {first} and as {second}: remove one")]
    #[non_exhaustive]
    DuplicateNeighbor {
        /// The address.
        address: IpAddr,
        /// The first one's name.
        first: String,
        /// The second one's name.
        second: String,
    },
    /// A field of a neighbor has an invalid value.
    #[error("{neighbor}: {field}")]
    #[non_exhaustive]
    Field {
        /// The neighbor.
        neighbor: String,
        /// The field.
        field: InvalidField,
    },
    /// Any other invalid value.
    #[error("{what}: {problem}")]
    #[non_exhaustive]
    Invalid {
        /// The part of the configuration.
        what: String,
        /// The problem, and its remedy.
        problem: String,
    },
}

impl Config {
    /// Returns a configuration without networks and neighbors that offers graceful restart with its default times.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            graceful_restart: Some(GracefulRestart::default()),
            graceful_shutdown: false,
            networks: Vec::new(),
            neighbors: Vec::new(),
            ranges: Vec::new(),
        }
    }

    /// Validates numbers, duplicates and ranges, which the types cannot.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.asn == 0 {
            return Err(ConfigError::AsnZero { what: "our own AS".into() });
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterIdZero);
        }
        self.graceful_restart.map_or(Ok(()), |restart| restart.validate())?;
        self.networks.iter().try_for_each(Network::validate)?;
        let mut seen = std::collections::HashMap::new();
        for neighbor in &self.neighbors {
            neighbor.validate(self.asn)?;
            if let Some(first) = seen.insert(neighbor.address, &neighbor.name) {
                return Err(ConfigError::DuplicateNeighbor {
                    address: neighbor.address,
                    first: first.clone(),
                    second: neighbor.name.clone(),
                });
            }
        }
        for (index, range) in self.ranges.iter().enumerate() {
            range.neighbor.validate(self.asn)?;
            if self.ranges.iter().take(index).any(|other| other.range == range.range) {
                let problem = "it is listed twice: remove one".into();
                return Err(ConfigError::Invalid { what: format!("listen range {}", range.range), problem });
            }
        }
        Ok(())
    }
}

impl Neighbor {
    /// Returns a neighbor with the usual port and timers, both families, and filters that reject everything in both
    /// directions (RFC 8212). Setters refine it: `Neighbor::new(address, asn).import(Filter::All)`.
    pub fn new(address: IpAddr, asn: u32) -> Self {
        Self {
            address,
            port: 179,
            name: address.to_string(),
            asn,
            local_asn: None,
            reflector_client: false,
            local_address: None,
            passive: false,
            families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
            timers: Timers::default(),
            extended_next_hop: false,
            next_hop_mode: NextHopMode::Automatic,
            add_path: AddPath::default(),
            role: None,
            strict_role: false,
            prefix_limit: None,
            ttl: Ttl::System,
            authentication: None,
            #[cfg(feature = "bfd")]
            bfd: None,
            import: Filter::nothing(),
            export: Filter::nothing(),
        }
    }

    fn validate(&self, our_asn: u32) -> Result<(), ConfigError> {
        match self.invalid_fields(our_asn).into_iter().next() {
            None => Ok(()),
            Some(field) => {
                let neighbor = format!("neighbor {} ({})", self.address, self.name);
                Err(ConfigError::Field { neighbor, field })
            }
        }
    }
}
