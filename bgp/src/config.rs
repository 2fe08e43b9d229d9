//! What a speaker is told to be: one whole value, set at once; the speaker works out what changed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::wire::{Family, Prefix, Role};

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
    /// What we originate.
    pub networks: Vec<Network>,
    /// Whom we peer with; addresses are unique.
    pub neighbors: Vec<Neighbor>,
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
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time: Duration::from_secs(120),
            selection_deferral: Duration::from_secs(60),
            notifications: false,
        }
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
    /// What we are to it; guards against leaks, on external sessions only (RFC 9234).
    pub role: Option<Role>,
    /// Refuse a peer that does not tell its role (RFC 9234 §4.2).
    pub strict_role: bool,
    /// What we take from it.
    pub import: Filter,
    /// What we tell it.
    pub export: Filter,
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
    /// How long the peer may take nothing of what we have to say before we give it up (RFC 9687); longer than the
    /// hold time. `None`: 8 minutes, or twice the hold time where that is longer.
    pub send_hold: Option<Duration>,
}

impl Default for Timers {
    /// 90 s of hold time as RFC 4271 §10 suggests; 5 s between attempts, as peers in a cluster come and go often.
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(90),
            keepalive: None,
            connect_retry: Duration::from_secs(5),
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
}

impl Filter {
    /// Lets nothing pass.
    pub fn nothing() -> Self {
        Self::Only(Vec::new())
    }

    /// Whether `prefix` passes.
    pub fn accepts(&self, prefix: &Prefix) -> bool {
        match self {
            Self::All => true,
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
            networks: Vec::new(),
            neighbors: Vec::new(),
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
            reflector_client: false,
            local_address: None,
            passive: false,
            families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
            timers: Timers::default(),
            extended_next_hop: false,
            role: None,
            strict_role: false,
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
        if self.role.is_some() && self.asn == our_asn {
            return invalid(
                "a role is for an external neighbour (RFC 9234 §4): leave it out inside our own AS",
            );
        }
        if self.strict_role && self.role.is_none() {
            return invalid("a strict role needs a role: say what we are to the neighbour");
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
}
