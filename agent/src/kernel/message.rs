//! Our routes ⇄ netlink route messages, in full: whatever differs from how we write a route shows as altered.

use super::{Foreign, Held, Hop, IpFamily, METRIC, PROTOCOL, Route, Stray};
use ipnetwork::IpNetwork;
use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteIpTunnel, RouteLwEnCapType,
    RouteLwTunnelEncap, RouteMessage, RouteNextHop, RouteScope, RouteType, RouteVia,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// TTL of the outer header: the inner one's would make the underlay's hops part of the pods' path.
const TUNNEL_TTL: u8 = 64;

/// Indices of our tunnel devices, without which a hop through a tunnel can't be written or read.
pub type Devices = BTreeMap<IpFamily, u32>;

/// Why a route can't be put into a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The tunnel device isn't there.
    #[error("tunnel device {} does not exist", .0.device())]
    NoDevice(IpFamily),
    /// The two ends of a tunnel are of different families.
    #[error("tunnel from {local} to {remote} mixes address families")]
    MixedEnds {
        /// This end.
        local: IpAddr,
        /// The far end.
        remote: IpAddr,
    },
    /// `ipip` carries IPv4 only.
    #[error("IPv6 prefix {prefix} can't go through the IPv4 tunnel to {remote}")]
    WrongPayload {
        /// The prefix.
        prefix: IpNetwork,
        /// The far end.
        remote: IpAddr,
    },
    /// IPv6 routes have no IPv4 gateways.
    #[error("IPv6 prefix {prefix} can't have the IPv4 gateway {via}")]
    WrongGateway {
        /// The prefix.
        prefix: IpNetwork,
        /// The gateway.
        via: IpAddr,
    },
    /// Linux's IPv6 multipath takes next hops with a gateway only, and one through a tunnel has none.
    #[error("IPv6 prefix {0} can't be spread over tunnels")]
    SpreadOverTunnels(IpNetwork),
    /// A unicast route needs a next hop.
    #[error("route {0} has no next hop")]
    NoHop(IpNetwork),
}

/// The message for a route of ours.
pub fn encode(prefix: IpNetwork, route: &Route, devices: &Devices) -> Result<RouteMessage, Unwritable> {
    let mut message = skeleton(prefix, METRIC, 0);
    message.header.kind = RouteType::Unicast;
    match route {
        Route::Blackhole => message.header.kind = RouteType::BlackHole,
        Route::Unicast(hops) => match hops.as_slice() {
            [] => return Err(Unwritable::NoHop(prefix)),
            [hop] => {
                let (oif, attributes) = encode_hop(prefix, hop, devices)?;
                message.attributes.push(RouteAttribute::Oif(oif));
                message.attributes.extend(attributes);
            }
            several => {
                if prefix.is_ipv6() && several.iter().any(|hop| matches!(hop, Hop::Tunnel { .. })) {
                    return Err(Unwritable::SpreadOverTunnels(prefix));
                }
                let hops = several.iter().map(|hop| {
                    let (oif, attributes) = encode_hop(prefix, hop, devices)?;
                    let mut next_hop = RouteNextHop::default();
                    next_hop.interface_index = oif;
                    next_hop.attributes = attributes;
                    Ok(next_hop)
                });
                let hops = hops.collect::<Result<Vec<_>, Unwritable>>()?;
                message.attributes.push(RouteAttribute::MultiPath(hops));
            }
        },
    }
    Ok(message)
}

/// The message that deletes the route with our protocol number at this metric and TOS, whatever its next hops.
pub fn encode_delete(prefix: IpNetwork, metric: u32, tos: u8) -> RouteMessage {
    let mut message = skeleton(prefix, metric, tos);
    // Any scope and type: only prefix, TOS, metric and protocol say which route is meant.
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message
}

fn skeleton(prefix: IpNetwork, metric: u32, tos: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(prefix);
    message.header.destination_prefix_length = prefix.prefix();
    message.header.tos = tos;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL.into();
    message.header.scope = RouteScope::Universe;
    message.attributes =
        vec![RouteAttribute::Destination(prefix.network().into()), RouteAttribute::Priority(metric)];
    message
}

/// The netlink family of a prefix.
pub fn family_of(prefix: IpNetwork) -> AddressFamily {
    if prefix.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn encode_hop(
    prefix: IpNetwork,
    hop: &Hop,
    devices: &Devices,
) -> Result<(u32, Vec<RouteAttribute>), Unwritable> {
    match *hop {
        Hop::Direct { via, oif } => {
            let gateway = match (prefix.is_ipv4(), via) {
                (true, IpAddr::V4(_)) | (false, IpAddr::V6(_)) => RouteAttribute::Gateway(via.into()),
                (true, IpAddr::V6(_)) => RouteAttribute::Via(RouteVia::from(via)),
                (false, IpAddr::V4(_)) => return Err(Unwritable::WrongGateway { prefix, via }),
            };
            Ok((oif, vec![gateway]))
        }
        Hop::Tunnel { remote, local } => {
            let family = IpFamily::of(remote);
            let (kind, encap) = match (local, remote) {
                (IpAddr::V4(local), IpAddr::V4(remote)) => (RouteLwEnCapType::Ip, encap4(local, remote)),
                (IpAddr::V6(local), IpAddr::V6(remote)) => (RouteLwEnCapType::Ip6, encap6(local, remote)),
                _ => return Err(Unwritable::MixedEnds { local, remote }),
            };
            if family == IpFamily::V4 && prefix.is_ipv6() {
                return Err(Unwritable::WrongPayload { prefix, remote });
            }
            let oif = *devices.get(&family).ok_or(Unwritable::NoDevice(family))?;
            Ok((oif, vec![RouteAttribute::EncapType(kind), RouteAttribute::Encap(encap)]))
        }
    }
}

fn encap4(local: std::net::Ipv4Addr, remote: std::net::Ipv4Addr) -> Vec<RouteLwTunnelEncap> {
    vec![
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Id(0)),
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(remote)),
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Source(local)),
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Ttl(TUNNEL_TTL)),
    ]
}

fn encap6(local: std::net::Ipv6Addr, remote: std::net::Ipv6Addr) -> Vec<RouteLwTunnelEncap> {
    vec![
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(0)),
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(remote)),
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Source(local)),
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Hoplimit(TUNNEL_TTL)),
    ]
}

/// A route of the main table, as far as it matters to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Ours at our metric.
    Ours(IpNetwork, Held),
    /// Ours at another metric or TOS.
    Stray(Stray),
    /// Somebody else's.
    Foreign(IpNetwork, Foreign),
}

/// What a dumped message is to us; `None` for what isn't a route of the main table.
pub fn decode(message: &RouteMessage, devices: &Devices) -> Option<Seen> {
    let header = &message.header;
    if table_of(message) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let prefix = prefix_of(message)?;
    let metric = metric_of(message);
    let protocol = u8::from(header.protocol);
    if protocol != PROTOCOL {
        return Some(Seen::Foreign(prefix, Foreign { metric, protocol }));
    }
    if metric != METRIC || header.tos != 0 {
        return Some(Seen::Stray(Stray { prefix, metric, tos: header.tos }));
    }
    let held = match decode_route(message, devices) {
        Some(route) => Held::Route(route),
        None => Held::Altered(format!("{:?} {:?}", header.kind, message.attributes)),
    };
    Some(Seen::Ours(prefix, held))
}

/// The table a route is in.
pub fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| u32::from(message.header.table))
}

/// The metric of a route; one without is of metric 0.
pub fn metric_of(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// The prefix of a route; a default route carries no destination.
pub fn prefix_of(message: &RouteMessage) -> Option<IpNetwork> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    let address = match (destination, message.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        (None, AddressFamily::Inet6) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        (None, _) => return None,
    };
    IpNetwork::new(address, message.header.destination_prefix_length).ok()
}

/// The IP address in a route attribute.
pub fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The route a message says, if nothing in it differs from how we write routes.
fn decode_route(message: &RouteMessage, devices: &Devices) -> Option<Route> {
    let mut multipath = None;
    let mut oif = None;
    let mut hop_attributes = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::MultiPath(hops) => multipath = Some(hops),
            RouteAttribute::Metrics(metrics) if !metrics.is_empty() => return None,
            RouteAttribute::PrefSource(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Realm(_)
            | RouteAttribute::Expires(_) => return None,
            other => hop_attributes.push(other.clone()),
        }
    }
    match (message.header.kind, multipath) {
        // IPv6 shows the loopback device on a blackhole.
        (RouteType::BlackHole, None) => Some(Route::Blackhole),
        (RouteType::Unicast, None) => Some(Route::unicast([decode_hop(oif?, &hop_attributes, devices)?])),
        (RouteType::Unicast, Some(hops)) => {
            let hops = hops.iter().map(|hop| {
                // The field holds the weight less one.
                let even = hop.hops == 0;
                even.then(|| decode_hop(hop.interface_index, &hop.attributes, devices))?
            });
            let hops = hops.collect::<Option<Vec<_>>>()?;
            let count = hops.len();
            match Route::unicast(hops) {
                Route::Unicast(unique) if unique.len() != count => None,
                route => Some(route),
            }
        }
        _ => None,
    }
}

fn decode_hop(oif: u32, attributes: &[RouteAttribute], devices: &Devices) -> Option<Hop> {
    let mut gateway = None;
    let mut encap = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = address_of(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Encap(parts) => encap = Some(parts),
            _ => {}
        }
    }
    match (gateway, encap) {
        (Some(via), None) => Some(Hop::Direct { via, oif }),
        (None, Some(parts)) => {
            let (local, remote) = decode_encap(parts)?;
            (devices.get(&IpFamily::of(remote)) == Some(&oif)).then_some(Hop::Tunnel { remote, local })
        }
        _ => None,
    }
}

/// The two ends in an encapsulation, if the rest of it is as we write it.
fn decode_encap(parts: &[RouteLwTunnelEncap]) -> Option<(IpAddr, IpAddr)> {
    let mut encap = Encap::default();
    for part in parts {
        match part {
            // Two faults of netlink-packet-route 0.34: in one of several next hops it looks for the kind of
            // encapsulation in the wrong place and leaves all parts as they came, and it panics when a part that it
            // doesn't know (the kernel's padding) is written through its wrapper.
            RouteLwTunnelEncap::Other(part)
            | RouteLwTunnelEncap::Ip(RouteIpTunnel::Other(part))
            | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Other(part)) => encap.take(part),
            RouteLwTunnelEncap::Ip(part) => encap.take(part),
            RouteLwTunnelEncap::Ip6(part) => encap.take(part),
            _ => return None,
        }
    }
    (encap.ttl == Some(TUNNEL_TTL) && encap.plain).then_some((encap.local?, encap.remote?))
}

/// What an encapsulation says. IPv4's and IPv6's have the same numbers for the same things (lwtunnel.h).
struct Encap {
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    ttl: Option<u8>,
    /// Whether there is nothing in it that we never write.
    plain: bool,
}

impl Default for Encap {
    fn default() -> Self {
        Self { local: None, remote: None, ttl: None, plain: true }
    }
}

impl Encap {
    const DESTINATION: u16 = 2;
    const SOURCE: u16 = 3;
    const TTL: u16 = 4;

    fn take(&mut self, part: &impl Nla) {
        let mut value = vec![0; part.value_len()];
        part.emit_value(&mut value);
        match part.kind() {
            Self::DESTINATION => self.remote = address_in(&value),
            Self::SOURCE => self.local = address_in(&value),
            Self::TTL => self.ttl = value.first().copied(),
            // The rest is zero where we wrote nothing: key, TOS, flags, padding.
            _ => self.plain &= value.iter().all(|octet| *octet == 0),
        }
    }
}

fn address_in(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        Devices::from([(IpFamily::V4, 7), (IpFamily::V6, 8)])
    }

    fn prefix(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn direct(via: &str) -> Hop {
        Hop::Direct { via: via.parse().unwrap(), oif: 3 }
    }

    fn tunnel(remote: &str, local: &str) -> Hop {
        Hop::Tunnel { remote: remote.parse().unwrap(), local: local.parse().unwrap() }
    }

    fn there_and_back(at: &str, route: Route) {
        let message = encode(prefix(at), &route, &devices()).unwrap();
        assert_eq!(decode(&message, &devices()), Some(Seen::Ours(prefix(at), Held::Route(route))));
    }

    #[test]
    fn routes_survive_the_message() {
        there_and_back("10.1.0.0/24", Route::Blackhole);
        there_and_back("fd00::/64", Route::Blackhole);
        there_and_back("0.0.0.0/0", Route::unicast([direct("192.0.2.1")]));
        there_and_back("10.1.0.0/24", Route::unicast([direct("fe80::1")]));
        there_and_back("fd00::/64", Route::unicast([direct("2001:db8::1"), direct("2001:db8::2")]));
        there_and_back(
            "10.1.0.0/24",
            Route::unicast([tunnel("192.0.2.9", "192.0.2.1"), direct("192.0.2.3")]),
        );
        there_and_back(
            "10.1.0.0/24",
            Route::unicast([tunnel("192.0.2.9", "192.0.2.1"), tunnel("192.0.2.8", "192.0.2.1")]),
        );
        there_and_back("10.1.0.0/24", Route::unicast([tunnel("2001:db8::9", "2001:db8::1")]));
        there_and_back("fd00::/64", Route::unicast([tunnel("2001:db8::9", "2001:db8::1")]));
    }

    #[test]
    fn what_cannot_be_written_says_why() {
        let at6 = prefix("fd00::/64");
        let at4 = prefix("10.0.0.0/8");
        let none = Devices::new();
        let over4 = Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]);
        assert_eq!(encode(at4, &over4, &none), Err(Unwritable::NoDevice(IpFamily::V4)));
        assert!(matches!(encode(at6, &over4, &devices()), Err(Unwritable::WrongPayload { .. })));
        let mixed = Route::unicast([tunnel("192.0.2.9", "2001:db8::1")]);
        assert!(matches!(encode(at4, &mixed, &devices()), Err(Unwritable::MixedEnds { .. })));
        let via4 = Route::unicast([direct("192.0.2.1")]);
        assert!(matches!(encode(at6, &via4, &devices()), Err(Unwritable::WrongGateway { .. })));
        let two =
            Route::unicast([tunnel("2001:db8::9", "2001:db8::1"), tunnel("2001:db8::8", "2001:db8::1")]);
        assert_eq!(encode(at6, &two, &devices()), Err(Unwritable::SpreadOverTunnels(at6)));
        assert_eq!(encode(at4, &Route::unicast([]), &devices()), Err(Unwritable::NoHop(at4)));
    }

    #[test]
    fn what_somebody_changed_is_altered() {
        let at = prefix("10.1.0.0/24");
        let route = Route::unicast([direct("192.0.2.1")]);
        let mut message = encode(at, &route, &devices()).unwrap();
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet([192, 0, 2, 7].into())));
        assert!(matches!(decode(&message, &devices()), Some(Seen::Ours(_, Held::Altered(_)))));

        let two = Route::unicast([direct("192.0.2.1"), direct("192.0.2.2")]);
        let mut message = encode(at, &two, &devices()).unwrap();
        for attribute in &mut message.attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                hops[0].hops = 4;
            }
        }
        assert!(matches!(decode(&message, &devices()), Some(Seen::Ours(_, Held::Altered(_)))));

        // The tunnel device was made anew: the old route went with it, but if it shows, it isn't what is wanted.
        let over = Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]);
        let message = encode(at, &over, &Devices::from([(IpFamily::V4, 99)])).unwrap();
        assert!(matches!(decode(&message, &devices()), Some(Seen::Ours(_, Held::Altered(_)))));
    }

    #[test]
    fn the_kernels_padding_is_no_change() {
        use netlink_packet_core::DefaultNla;
        let route = Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]);
        let mut message = encode(prefix("10.1.0.0/24"), &route, &devices()).unwrap();
        let pad = |message: &mut RouteMessage, part: RouteLwTunnelEncap| {
            for attribute in &mut message.attributes {
                if let RouteAttribute::Encap(parts) = attribute {
                    parts.insert(0, part.clone());
                }
            }
        };
        pad(&mut message, RouteLwTunnelEncap::Ip(RouteIpTunnel::Other(DefaultNla::new(7, vec![]))));
        pad(&mut message, RouteLwTunnelEncap::Other(DefaultNla::new(7, vec![])));
        pad(&mut message, RouteLwTunnelEncap::Ip(RouteIpTunnel::Tos(0)));
        let held = Held::Route(route);
        assert_eq!(decode(&message, &devices()), Some(Seen::Ours(prefix("10.1.0.0/24"), held)));
        pad(&mut message, RouteLwTunnelEncap::Ip(RouteIpTunnel::Tos(16)));
        assert!(matches!(decode(&message, &devices()), Some(Seen::Ours(_, Held::Altered(_)))));
    }

    #[test]
    fn strays_foreign_and_other_tables_are_told_apart() {
        let at = prefix("10.1.0.0/24");
        let mut message = encode(at, &Route::Blackhole, &devices()).unwrap();
        message.header.tos = 8;
        let stray = Stray { prefix: at, metric: METRIC, tos: 8 };
        assert_eq!(decode(&message, &devices()), Some(Seen::Stray(stray)));
        message.header.protocol = 4.into();
        let foreign = Foreign { metric: METRIC, protocol: 4 };
        assert_eq!(decode(&message, &devices()), Some(Seen::Foreign(at, foreign)));
        message.header.table = 100;
        assert_eq!(decode(&message, &devices()), None);
    }
}
