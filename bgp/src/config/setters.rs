//! Setters of the configuration's fields, each with the name of its field.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;

use super::{
    AddPath, Authentication, Config, Filter, GracefulRestart, ListenRange, Neighbor, Network, NextHopMode,
    PrefixLimit, Timers, Ttl,
};
#[cfg(feature = "bfd")]
use crate::bfd;
use crate::policy::Community;
use crate::setters::setters;
use crate::wire::{Family, Role};

setters!(Config {
    asn: u32,
    router_id: Ipv4Addr,
    cluster_id: impl Into<Option<Ipv4Addr>>,
    graceful_restart: impl Into<Option<GracefulRestart>>,
    graceful_shutdown: bool,
} each {
    networks: Network,
    neighbors: Neighbor,
    ranges: ListenRange,
});

setters!(GracefulRestart {
    restart_time: Duration,
    selection_deferral: Duration,
    notifications: bool,
    long_lived: impl Into<Option<Duration>>,
} each {});

setters!(Network {
    next_hop: impl Into<Option<IpAddr>>,
    med: impl Into<Option<u32>>,
    local_pref: impl Into<Option<u32>>,
} each {
    communities: Community,
});

setters!(Neighbor {
    port: u16,
    name: impl Into<String>,
    local_asn: impl Into<Option<u32>>,
    reflector_client: bool,
    local_address: impl Into<Option<IpAddr>>,
    passive: bool,
    timers: Timers,
    extended_next_hop: bool,
    add_path: AddPath,
    role: impl Into<Option<Role>>,
    strict_role: bool,
    prefix_limit: impl Into<Option<PrefixLimit>>,
    ttl: Ttl,
    authentication: impl Into<Option<Authentication>>,
    next_hop_mode: NextHopMode,
    import: Filter,
    export: Filter,
} each {
    families: Family,
});

#[cfg(feature = "bfd")]
setters!(Neighbor {
    bfd: impl Into<Option<bfd::Settings>>,
} each {});

setters!(AddPath {
    receive: bool,
    send: impl Into<Option<NonZeroU8>>,
} each {});

setters!(PrefixLimit {
    warn_percent: u8,
    restart: impl Into<Option<Duration>>,
} each {});

setters!(Timers {
    hold: Duration,
    keepalive: impl Into<Option<Duration>>,
    connect_retry: Duration,
    idle_hold: Duration,
    send_hold: impl Into<Option<Duration>>,
} each {});
