//! The same conversion by the types of netlink-packet-route: a reference for the tests of the codec. A route of Heliograph
//! that differs in anything from what [`encode`] writes is decoded as altered.

use crate::dataplane::{METRIC, PROTOCOL, Tunnel};
pub use heliograph_cni::IpFamily;
use heliograph_cni::codec::ip_address;
use ipnetwork::IpNetwork;
use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteIpTunnel, RouteLwEnCapType,
    RouteLwTunnelEncap, RouteMessage, RouteNextHop, RouteScope, RouteType, RouteVia,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A route to one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Unicast(Vec<Hop>),
    Blackhole,
}

impl Route {
    pub fn unicast(hops: impl IntoIterator<Item = Hop>) -> Self {
        let sorted: std::collections::BTreeSet<Hop> = hops.into_iter().collect();
        Route::Unicast(sorted.into_iter().collect())
    }
}

/// One next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    Direct { via: IpAddr, oif: u32 },
    Tunnel { remote: IpAddr, local: IpAddr },
}

/// A route of Heliograph in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Route(Route),
    Altered(String),
}

/// A route of Heliograph at another metric or TOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray {
    pub prefix: IpNetwork,
    pub metric: u32,
    pub tos: u8,
}

/// A foreign route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    pub metric: u32,
    pub protocol: u8,
}

/// The TTL of the outer header. If it were copied from the inner header, the underlay's hops would count for pods.
const TUNNEL_TTL: u8 = 64;

/// The indices of the tunnel devices, which are needed to encode and decode next hops behind a tunnel.
pub type Devices = BTreeMap<IpFamily, u32>;

/// The reason for which a route can't be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The tunnel device doesn't exist.
    #[error("tunnel device {} does not exist", Tunnel::ipip(*.0).device_name())]
    NoDevice(IpFamily),
    /// The two ends of a tunnel have different families.
    #[error("tunnel from {local} to {remote} mixes address families")]
    MixedEnds {
        /// The local end.
        local: IpAddr,
        /// The remote end.
        remote: IpAddr,
    },
    /// An `ipip` tunnel transports IPv4 only.
    #[error("IPv6 prefix {prefix} can't go through the IPv4 tunnel to {remote}")]
    WrongPayload {
        /// The prefix.
        prefix: IpNetwork,
        /// The remote end.
        remote: IpAddr,
    },
    /// An IPv6 route can't have an IPv4 gateway.
    #[error("IPv6 prefix {prefix} can't have the IPv4 gateway {via}")]
    WrongGateway {
        /// The prefix.
        prefix: IpNetwork,
        /// The gateway.
        via: IpAddr,
    },
    /// Multipath of Linux for IPv6 requires gateways, and a next hop behind a tunnel has none.
    #[error("IPv6 prefix {0} can't have several paths through tunnels")]
    MultipathTunnels(IpNetwork),
    /// A unicast route needs a next hop.
    #[error("route {0} has no next hop")]
    NoHop(IpNetwork),
}

/// Encodes a route.
pub fn encode(prefix: IpNetwork, route: &Route, devices: &Devices) -> Result<RouteMessage, EncodeError> {
    let mut message = route_message(prefix, METRIC, 0);
    message.header.kind = RouteType::Unicast;
    match route {
        Route::Blackhole => message.header.kind = RouteType::BlackHole,
        Route::Unicast(hops) => match hops.as_slice() {
            [] => return Err(EncodeError::NoHop(prefix)),
            [hop] => {
                let (oif, attributes) = encode_hop(prefix, hop, devices)?;
                message.attributes.push(RouteAttribute::Oif(oif));
                message.attributes.extend(attributes);
            }
            several => {
                if prefix.is_ipv6() && several.iter().any(|hop| matches!(hop, Hop::Tunnel { .. })) {
                    return Err(EncodeError::MultipathTunnels(prefix));
                }
                let hops = several.iter().map(|hop| {
                    let (oif, attributes) = encode_hop(prefix, hop, devices)?;
                    let mut next_hop = RouteNextHop::default();
                    next_hop.interface_index = oif;
                    next_hop.attributes = attributes;
                    Ok(next_hop)
                });
                let hops = hops.collect::<Result<Vec<_>, EncodeError>>()?;
                message.attributes.push(RouteAttribute::MultiPath(hops));
            }
        },
    }
    Ok(message)
}

/// Encodes the deletion of the route with Heliograph's protocol number at this metric and TOS, with any next hops.
pub fn encode_delete(prefix: IpNetwork, metric: u32, tos: u8) -> RouteMessage {
    let mut message = route_message(prefix, metric, tos);
    // Any scope and type: only prefix, TOS, metric and protocol select the route.
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message
}

fn route_message(prefix: IpNetwork, metric: u32, tos: u8) -> RouteMessage {
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

/// Returns the netlink family of a prefix.
pub fn family_of(prefix: IpNetwork) -> AddressFamily {
    netlink_family(IpFamily::of_network(&prefix))
}

fn encode_hop(
    prefix: IpNetwork,
    hop: &Hop,
    devices: &Devices,
) -> Result<(u32, Vec<RouteAttribute>), EncodeError> {
    match *hop {
        Hop::Direct { via, oif } => {
            let gateway = match (prefix.is_ipv4(), via) {
                (true, IpAddr::V4(_)) | (false, IpAddr::V6(_)) => RouteAttribute::Gateway(via.into()),
                (true, IpAddr::V6(_)) => RouteAttribute::Via(RouteVia::from(via)),
                (false, IpAddr::V4(_)) => return Err(EncodeError::WrongGateway { prefix, via }),
            };
            Ok((oif, vec![gateway]))
        }
        Hop::Tunnel { remote, local } => {
            let family = IpFamily::of(remote);
            let (kind, encap) = match (local, remote) {
                (IpAddr::V4(local), IpAddr::V4(remote)) => (RouteLwEnCapType::Ip, encap4(local, remote)),
                (IpAddr::V6(local), IpAddr::V6(remote)) => (RouteLwEnCapType::Ip6, encap6(local, remote)),
                _ => return Err(EncodeError::MixedEnds { local, remote }),
            };
            if family == IpFamily::V4 && prefix.is_ipv6() {
                return Err(EncodeError::WrongPayload { prefix, remote });
            }
            let oif = *devices.get(&family).ok_or(EncodeError::NoDevice(family))?;
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

/// A decoded route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DumpedRoute {
    /// A route of Heliograph at its metric and TOS.
    Ours(IpNetwork, Held),
    /// A route of Heliograph at another metric or TOS.
    Stray(Stray),
    /// A foreign route.
    Foreign(IpNetwork, Foreign),
}

/// Decodes a message of a dump; `None` if it isn't a route of the main table.
pub fn decode(message: &RouteMessage, devices: &Devices) -> Option<DumpedRoute> {
    let header = &message.header;
    if table_of(message) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let prefix = prefix_of(message)?;
    let metric = metric_of(message);
    let protocol = u8::from(header.protocol);
    if protocol != PROTOCOL {
        return Some(DumpedRoute::Foreign(prefix, Foreign { metric, protocol }));
    }
    if metric != METRIC || header.tos != 0 {
        return Some(DumpedRoute::Stray(Stray { prefix, metric, tos: header.tos }));
    }
    let held = match decode_route(message, devices) {
        Some(route) => Held::Route(route),
        None => Held::Altered(format!("{:?} {:?}", header.kind, message.attributes)),
    };
    Some(DumpedRoute::Ours(prefix, held))
}

/// Returns the table of a route.
pub fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| u32::from(message.header.table))
}

/// Returns the metric of a route, by default 0.
pub fn metric_of(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// Returns the prefix of a route. A default route has no destination attribute.
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

/// Returns the IP address in a route attribute.
pub fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Decodes a route; `None` if anything in it differs from what [`encode`] writes.
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
        // An IPv6 blackhole has the loopback device.
        (RouteType::BlackHole, None) => Some(Route::Blackhole),
        (RouteType::Unicast, None) => Some(Route::unicast([decode_hop(oif?, &hop_attributes, devices)?])),
        (RouteType::Unicast, Some(hops)) => {
            let hops = hops.iter().map(|hop| {
                // The field contains the weight minus one.
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

/// Decodes the two ends of an encapsulation; `None` if the rest differs from what [`encode`] writes.
fn decode_encap(parts: &[RouteLwTunnelEncap]) -> Option<(IpAddr, IpAddr)> {
    let mut encap = Encap::default();
    for part in parts {
        match part {
            // Two bugs of netlink-packet-route 0.34: for multipath next hops it looks for the type of encapsulation in
            // the wrong place and leaves all parts undecoded, and it panics when an unknown part (the kernel's padding)
            // is emitted by its wrapper.
            RouteLwTunnelEncap::Other(part)
            | RouteLwTunnelEncap::Ip(RouteIpTunnel::Other(part))
            | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Other(part)) => encap.add(part),
            RouteLwTunnelEncap::Ip(part) => encap.add(part),
            RouteLwTunnelEncap::Ip6(part) => encap.add(part),
            _ => return None,
        }
    }
    (encap.ttl == Some(TUNNEL_TTL) && encap.plain).then_some((encap.local?, encap.remote?))
}

/// A decoded encapsulation. The attributes of IPv4 and IPv6 have the same numbers (lwtunnel.h).
struct Encap {
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    ttl: Option<u8>,
    /// Set if it contains nothing that [`encode`] never writes.
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

    fn add(&mut self, part: &impl Nla) {
        let mut value = vec![0; part.value_len()];
        part.emit_value(&mut value);
        match part.kind() {
            Self::DESTINATION => self.remote = ip_address(&value),
            Self::SOURCE => self.local = ip_address(&value),
            Self::TTL => self.ttl = value.first().copied(),
            // The rest (key, TOS, flags, padding) must be zero, as `encode` writes none of it.
            _ => self.plain &= value.iter().all(|octet| *octet == 0),
        }
    }
}

/// Returns the netlink number of a family.
pub fn netlink_family(family: IpFamily) -> AddressFamily {
    match family {
        IpFamily::V4 => AddressFamily::Inet,
        IpFamily::V6 => AddressFamily::Inet6,
    }
}
