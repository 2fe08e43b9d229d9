//! What a speaker is told to be: one whole value, set at once; the speaker works out what changed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;

#[cfg(feature = "bfd")]
use crate::bfd;
use crate::policy::Policy;
use crate::wire::{Family, MAX_STALE_TIME, Prefix, Role};

/// Everything a speaker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our AS number; never 0 (RFC 7607).
    pub asn: u32,
    /// Our BGP Identifier; never 0 (RFC 6286).
    pub router_id: Ipv4Addr,
    /// The cluster we reflect for (RFC 4456 §7); `router_id` where `None`.
    pub cluster_id: Option<Ipv4Addr>,
    /// Graceful restart (RFC 4724); `None` does not offer the capability.
    pub graceful_restart: Option<GracefulRestart>,
    /// We are about to leave: what we tell carries GRACEFUL_SHUTDOWN, and inside the AS the lowest LOCAL_PREF, so that
    /// traffic moves away before the sessions end (RFC 8326). Changes live.
    pub graceful_shutdown: bool,
    /// What we originate.
    pub networks: Vec<Network>,
    /// Whom we peer with; addresses are unique.
    pub neighbors: Vec<Neighbor>,
    /// From where others may connect, too; a neighbour of its own and a longer range come first.
    pub ranges: Vec<ListenRange>,
}

/// Addresses from which neighbours may come that are not listed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenRange {
    /// The addresses.
    pub range: Prefix,
    /// How many may be there at a time.
    pub limit: usize,
    /// What each is to be, but for its address; they are never connected to.
    pub neighbor: Neighbor,
}

impl ListenRange {
    /// The neighbour at an address, if it lies within.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Neighbor> {
        let host = Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })?;
        let name = format!("{} {address}", self.neighbor.name);
        let neighbor = || Neighbor { address, name, passive: true, ..self.neighbor.clone() };
        self.range.contains(&host).then(neighbor)
    }
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long peers shall keep our routes while we are away; whole seconds, at most 4095 (RFC 4724 §3).
    pub restart_time: Duration,
    /// How long after a restart we wait for the End-of-RIB of all peers before we send our own (RFC 4724 §4.1,
    /// Selection_Deferral_Timer).
    pub selection_deferral: Duration,
    /// Keep routes through NOTIFICATIONs and an expired hold timer too, with peers that offer the same (RFC 8538). Off
    /// unless asked for: routes of a node that is cut off then stay for its restart time, not just its hold time.
    pub notifications: bool,
    /// Long-lived graceful restart (RFC 9494): how long peers may keep our routes as a last resort once the restart time
    /// is over; whole seconds, less than 2^24. Who offers it also keeps the routes of peers that do, for as long as they
    /// say; zero does that and no more. `None` does not offer it.
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

/// A prefix we originate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The prefix.
    pub prefix: Prefix,
    /// Its next hop; `None`: our own address on each session. A prefix whose family differs from the session's
    /// transport needs one.
    pub next_hop: Option<IpAddr>,
}

/// One neighbour. Internal where `asn` is ours (iBGP), external else (eBGP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Its address: the key it is known by.
    pub address: IpAddr,
    /// The port we connect to.
    pub port: u16,
    /// What people call it, for reports.
    pub name: String,
    /// Its AS number; never 0.
    pub asn: u32,
    /// The AS number we have for it instead of our own, and alone in what it is told: for moving from one AS to another
    /// (RFC 7705 §3.3, Replace Old AS). External neighbours only.
    pub local_asn: Option<u32>,
    /// It is a client of ours: we reflect (RFC 4456 §6). Only for internal neighbours.
    pub reflector_client: bool,
    /// The address we connect from; `None`: the kernel's choice.
    pub local_address: Option<IpAddr>,
    /// We wait for it to connect (RFC 4271 §8.1.1, PassiveTcpEstablishment).
    pub passive: bool,
    /// Families to carry, at least one.
    pub families: Vec<Family>,
    /// Timers.
    pub timers: Timers,
    /// Offer to tell and be told IPv4 prefixes with IPv6 next hops (RFC 8950). Whoever installs the routes must be able
    /// to.
    pub extended_next_hop: bool,
    /// Several paths to a prefix, where it is able to, too (RFC 7911).
    pub add_path: AddPath,
    /// What we are to it; guards against leaks, on external sessions only (RFC 9234).
    pub role: Option<Role>,
    /// Refuse a peer that does not tell its role (RFC 9234 §4.2).
    pub strict_role: bool,
    /// How many prefixes of each family it may send.
    pub prefix_limit: Option<PrefixLimit>,
    /// How far away it may be.
    pub ttl: Ttl,
    /// How its segments are authenticated.
    pub authentication: Option<Authentication>,
    /// BFD from the first session on: when BFD fails, the BGP session ends at once (RFC 5882). A BFD session that never
    /// comes up does not hold BGP down. Changes apply without a reset. Both sides need the same [`bfd::Path`]: multihop
    /// if there may be a router between them.
    #[cfg(feature = "bfd")]
    pub bfd: Option<bfd::Settings>,
    /// The next hop of the routes that are advertised to it. Changes live.
    pub next_hop_mode: NextHopMode,
    /// What we take from it.
    pub import: Filter,
    /// What we tell it.
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
/// (RFC 8950 §4) is not advertised: the route is withheld. A link-local next hop is for one link only (RFC 2545 §3), so
/// `Unchanged` advertises our own address instead of one.
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

/// Several paths to a prefix with one neighbour, in all of its families (RFC 7911). Nothing unless asked for. There is no
/// value of it that would not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// Take several of its.
    pub receive: bool,
    /// Tell it that many at most, the best ones. Those that we have from it are among the ones counted and are not told.
    /// `None`: the best alone, without Path Identifiers.
    pub send: Option<NonZeroU8>,
}

/// A limit on the prefixes of a family that a neighbour may send, each path counted where it sends several, those refused by the import filter included
/// (RFC 4486 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// With more the session ends: Cease, Maximum Number of Prefixes Reached.
    pub max: u32,
    /// Percentage of `max` that is worth a warning, 1 to 100.
    pub warn_percent: u8,
    /// When to try again; `None`: not before the neighbour's configuration changes.
    pub restart: Option<Duration>,
}

impl PrefixLimit {
    /// The count that is worth a warning.
    pub(crate) fn warns_at(&self) -> u64 {
        u64::from(self.max) * u64::from(self.warn_percent) / 100
    }
}

/// How far away a neighbour may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// As far as the kernel's default takes packets.
    #[default]
    System,
    /// At most that many hops, by the TTL of what we send; 1 is the same link.
    Hops(u8),
    /// At most that many hops, by the TTL of what comes: both sides send 255 and drop what is lower (RFC 5082). Nobody
    /// further away can even reach the socket.
    Security(u8),
}

/// How a neighbour's TCP segments are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// TCP MD5 (RFC 2385): old, weak and everywhere. A key of 1 to 80 octets.
    Md5(Key),
    /// TCP-AO (RFC 5925), where the kernel has it (Linux 6.7 with CONFIG_TCP_AO).
    Ao(AoKey),
}

/// A master key tuple of TCP-AO (RFC 5925 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AoKey {
    /// KeyID in what we send.
    pub send_id: u8,
    /// KeyID in what comes.
    pub receive_id: u8,
    /// The algorithm (RFC 5926).
    pub algorithm: AoAlgorithm,
    /// The key, of 1 to 80 octets.
    pub key: Key,
}

/// The algorithms that RFC 5926 §3 requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AoAlgorithm {
    /// HMAC-SHA-1-96
    HmacSha1,
    /// AES-128-CMAC-96
    Aes128Cmac,
}

/// A secret; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Octets as both sides have them.
    pub fn new(octets: impl Into<Vec<u8>>) -> Self {
        Self(octets.into())
    }

    /// The secret itself.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A neighbour's timers (RFC 4271 §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Hold time to propose: 0 (never expires) or at least 3 s, whole seconds.
    pub hold: Duration,
    /// Time between KEEPALIVEs, at most; `None`: a third of the negotiated hold time.
    pub keepalive: Option<Duration>,
    /// Time between attempts to connect, before jitter.
    pub connect_retry: Duration,
    /// Longest time for which connections of the peer are refused after an error (IdleHoldTime, RFC 4271 §8.1.1). The
    /// pauses in our own attempts grow up to 60 s whatever this is. Changes live.
    pub idle_hold: Duration,
    /// How long the peer may take nothing of what we have to say before we give it up (RFC 9687); longer than the
    /// hold time. `None`: 8 minutes, or twice the hold time where that is longer.
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

/// Which prefixes pass. External neighbours start from [`Filter::nothing`] (RFC 8212).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Every prefix.
    All,
    /// Only those that match one of these; none where empty.
    Only(Vec<PrefixRange>),
    /// What rules say, with the changes they make. When such an import changes, the neighbour is asked to tell all again
    /// (RFC 2918).
    Rules(Policy),
}

impl Filter {
    /// Lets nothing pass.
    pub fn nothing() -> Self {
        Self::Only(Vec::new())
    }

    /// Whether `prefix` passes; with rules, whether any route to it could.
    pub fn accepts(&self, prefix: &Prefix) -> bool {
        match self {
            Self::All | Self::Rules(_) => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.matches(prefix)),
        }
    }
}

/// Prefixes within `within`, up to a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixRange {
    /// The covering prefix, itself included.
    pub within: Prefix,
    /// The longest length that matches; at least `within`'s.
    pub max_length: u8,
}

impl PrefixRange {
    /// Whether `prefix` lies within and is not too long.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        self.within.contains(prefix) && prefix.length() <= self.max_length
    }
}

/// Why a [`Config`] is refused; nothing of it is applied then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// AS 0 is reserved.
    #[error("{what}: AS number 0 is reserved (RFC 7607): give the AS number that the peer uses")]
    AsnZero {
        /// Where it stands.
        what: String,
    },
    /// An identifier of 0.
    #[error(
        "the BGP identifier is 0.0.0.0, which RFC 6286 forbids: give a non-zero one, such as the node's IPv4 address"
    )]
    RouterIdZero,
    /// Two neighbours with one address.
    #[error("neighbour {address} is listed twice, as {first} and as {second}: remove one")]
    DuplicateNeighbor {
        /// The address.
        address: IpAddr,
        /// The first one's name.
        first: String,
        /// The second one's name.
        second: String,
    },
    /// Anything else that cannot be.
    #[error("{what}: {problem}")]
    Invalid {
        /// Where it stands.
        what: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Config {
    /// A speaker that originates nothing, peers with nobody and offers graceful restart with its usual times.
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

    /// Checks what the types cannot: numbers, duplicates, ranges.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.asn == 0 {
            return Err(ConfigError::AsnZero { what: "our own AS".into() });
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterIdZero);
        }
        self.graceful_restart.map_or(Ok(()), |restart| restart.validate())?;
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
    /// A neighbour with the usual port and timers, both families, and filters that let nothing pass either way
    /// (RFC 8212). To be refined: `Neighbor { import: Filter::All, ..Neighbor::new(address, asn) }`.
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
        let what = || format!("neighbour {} ({})", self.address, self.name);
        let invalid = |problem: &str| Err(ConfigError::Invalid { what: what(), problem: problem.into() });
        if self.asn == 0 {
            return Err(ConfigError::AsnZero { what: what() });
        }
        if self.reflector_client && self.asn != our_asn {
            return invalid(
                "only an internal neighbour can be a reflector's client (RFC 4456 §6): use our own AS",
            );
        }
        if matches!(&self.import, Filter::Rules(policy) if policy.sets_next_hop()) {
            return invalid("our own address cannot be the next hop of what we learn: set it on export");
        }
        if self.local_asn == Some(0) {
            return Err(ConfigError::AsnZero { what: format!("our AS number for {}", what()) });
        }
        if self.local_asn.is_some_and(|local| local == self.asn || self.asn == our_asn) {
            return invalid(
                "another AS number of ours is for external neighbours, and not theirs (RFC 7705 §3)",
            );
        }
        if self.role.is_some() && self.asn == our_asn {
            return invalid(
                "a role is for an external neighbour (RFC 9234 §4): leave it out inside our own AS",
            );
        }
        if self.strict_role && self.role.is_none() {
            return invalid("a strict role needs a role: say what we are to the neighbour");
        }
        if self.prefix_limit.is_some_and(|limit| limit.max == 0 || !(1..=100).contains(&limit.warn_percent)) {
            return invalid("a prefix limit must be at least 1, and its warning 1 to 100 percent of it");
        }
        if matches!(self.ttl, Ttl::Hops(0) | Ttl::Security(0)) {
            return invalid("a neighbour is at least 1 hop away: use 1 for the same link");
        }
        let key = match &self.authentication {
            Some(Authentication::Md5(key) | Authentication::Ao(AoKey { key, .. })) => Some(key),
            None => None,
        };
        if key.is_some_and(|key| !(1..=80).contains(&key.0.len())) {
            return invalid("a key must have 1 to 80 octets: the kernel takes no other");
        }
        #[cfg(feature = "bfd")]
        if let Some(problem) = self.bfd.as_ref().and_then(|bfd| self.bfd_problem(bfd)) {
            return invalid(&format!("BFD: {problem}"));
        }
        if self.families.is_empty() {
            return invalid("no address family: list at least one");
        }
        let hold = self.timers.hold;
        if hold.subsec_nanos() != 0 || hold.as_secs() > u64::from(u16::MAX) || matches!(hold.as_secs(), 1 | 2)
        {
            return invalid("the hold time must be 0 or 3 to 65535 whole seconds (RFC 4271 §4.2)");
        }
        if self.timers.keepalive.is_some_and(|keepalive| keepalive.is_zero()) {
            return invalid("the keepalive time must not be 0: leave it out for a third of the hold time");
        }
        if self.timers.send_hold.is_some_and(|send_hold| send_hold <= hold) {
            return invalid("the send hold time must be longer than the hold time (RFC 9687 §3.2)");
        }
        if self.timers.connect_retry.is_zero() {
            return invalid("the connect retry time must not be 0");
        }
        Ok(())
    }

    #[cfg(feature = "bfd")]
    fn bfd_problem(&self, bfd: &bfd::Settings) -> Option<&'static str> {
        let further = matches!(self.ttl, Ttl::Hops(2..) | Ttl::Security(2..));
        if further && bfd.path == bfd::Path::SingleHop {
            return Some(
                "the neighbour may be several hops away, and a single-hop session (RFC 5881) takes packets \
                         from the same link only: make it multihop",
            );
        }
        bfd.problem(self.address)
    }
}
