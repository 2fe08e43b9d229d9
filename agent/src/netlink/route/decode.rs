//! Routes decoded from the buffer in which they were received. A route of Heliograph that differs in anything from what
//! [`super::encode`] writes is altered.

use super::{Devices, MAIN_TABLE, NEXT_HOP_HEADER, ROUTE_HEADER, TUNNEL_TTL, attribute, encapsulation};
use crate::dataplane::{Held, Hop, METRIC, PROTOCOL, Route};
use heliograph_cni::codec::{attributes, ip_address, u16_at, u32_at};
use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The header of a route message and its attributes that select the route.
#[derive(Debug, Clone, Copy)]
pub struct RouteView<'a> {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The routing table.
    pub table: u32,
    /// The metric, by default 0.
    pub metric: u32,
    /// The TOS octet.
    pub tos: u8,
    /// The protocol number.
    pub protocol: u8,
    /// The type (`RTN_…`).
    pub kind: u8,
    /// All attributes.
    attributes: &'a [u8],
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DumpedRoute {
    /// A route of Heliograph at its metric and TOS.
    Ours(IpNetwork, Held<Decoded>),
    /// A route of Heliograph at another metric or TOS.
    Stray(Stray),
    /// A foreign route.
    Foreign(Foreign),
}

/// A route with Heliograph's protocol number at another metric or TOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stray {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The metric.
    pub metric: u32,
    /// The TOS octet.
    pub tos: u8,
}

/// A foreign route in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The metric.
    pub metric: u32,
    /// The TOS octet.
    pub tos: u8,
    /// The protocol number.
    pub protocol: u8,
}

/// A decoded route. With one next hop, as most have, it needs no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A route with one next hop.
    One(Hop),
    /// Any other route.
    Other(Route),
}

impl Decoded {
    /// Returns whether it is a certain route.
    pub fn is(&self, route: &Route) -> bool {
        match self {
            Decoded::One(hop) => route.hops() == std::slice::from_ref(hop),
            Decoded::Other(other) => other == route,
        }
    }

    /// Returns the route.
    pub fn into_route(self) -> Route {
        match self {
            Decoded::One(hop) => Route::unicast([hop]),
            Decoded::Other(route) => route,
        }
    }
}

impl<'a> RouteView<'a> {
    /// Decodes the payload of a route message; `None` if it is no route of IPv4 or IPv6.
    pub fn new(payload: &'a [u8]) -> Option<Self> {
        let header = payload.get(..ROUTE_HEADER)?;
        let mut address = match i32::from(header[0]) {
            // A default route has no destination attribute.
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut table, mut metric) = (u32::from(header[4]), 0);
        let all = &payload[ROUTE_HEADER..];
        for (kind, value) in attributes(all) {
            match kind {
                attribute::DESTINATION => address = ip_address(value)?,
                attribute::TABLE => table = u32_at(value, 0)?,
                attribute::PRIORITY => metric = u32_at(value, 0)?,
                _ => {}
            }
        }
        Some(Self {
            prefix: IpNetwork::new(address, header[1]).ok()?,
            table,
            metric,
            tos: header[3],
            protocol: header[5],
            kind: header[7],
            attributes: all,
        })
    }

    /// Decodes a route of the main table; `None` if it is one of another table.
    pub fn dumped(&self, devices: &Devices) -> Option<DumpedRoute> {
        let Self { prefix, metric, tos, protocol, .. } = *self;
        if self.table != MAIN_TABLE {
            return None;
        }
        if protocol != PROTOCOL {
            return Some(DumpedRoute::Foreign(Foreign { prefix, metric, tos, protocol }));
        }
        if metric != METRIC || tos != 0 {
            return Some(DumpedRoute::Stray(Stray { prefix, metric, tos }));
        }
        Some(DumpedRoute::Ours(prefix, self.route(devices).map_or(Held::Altered, Held::Value)))
    }

    /// Returns the first next hop.
    pub fn first_hop(&self) -> FirstHop {
        let mut hop = FirstHop::default();
        hop.read(self.attributes);
        hop
    }

    /// Decodes the route; `None` if anything in it differs from what [`super::encode`] writes.
    fn route(&self, devices: &Devices) -> Option<Decoded> {
        let mut multipath = None;
        let mut oif = None;
        let mut hop = HopParts::default();
        for (kind, value) in attributes(self.attributes) {
            match kind {
                attribute::OIF => oif = u32_at(value, 0),
                attribute::MULTIPATH => multipath = Some(value),
                attribute::METRICS if !value.is_empty() => return None,
                attribute::PREFERRED_SOURCE
                | attribute::SOURCE
                | attribute::NEXT_HOP_ID
                | attribute::FLOW
                | attribute::EXPIRES => return None,
                _ => hop.read(kind, value),
            }
        }
        match (self.kind, multipath) {
            // An IPv6 blackhole has the loopback device.
            (libc::RTN_BLACKHOLE, None) => Some(Decoded::Other(Route::Blackhole)),
            (libc::RTN_UNICAST, None) => Some(Decoded::One(hop.decode(oif?, devices)?)),
            (libc::RTN_UNICAST, Some(hops)) => {
                let hops: Vec<Hop> = next_hops(hops)
                    .map(|hop| {
                        // The field contains the weight minus one.
                        let mut parts = HopParts::default();
                        attributes(hop.attributes).for_each(|(kind, value)| parts.read(kind, value));
                        (hop.weight == 0).then(|| parts.decode(hop.oif, devices))?
                    })
                    .collect::<Option<_>>()?;
                let count = hops.len();
                let route = Route::unicast(hops);
                (count > 1 && route.hops().len() == count).then_some(Decoded::Other(route))
            }
            _ => None,
        }
    }
}

/// The first next hop of a route.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FirstHop {
    /// The index of the interface.
    pub oif: Option<u32>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

impl FirstHop {
    fn read(&mut self, all: &[u8]) {
        for (kind, value) in attributes(all) {
            match kind {
                attribute::OIF => self.oif = u32_at(value, 0),
                attribute::GATEWAY => self.gateway = ip_address(value),
                attribute::VIA => self.gateway = via(value),
                attribute::PREFERRED_SOURCE => self.source = ip_address(value),
                attribute::MULTIPATH => {
                    // The segment must be the same for all paths, so the first is enough.
                    if let Some(first) = next_hops(value).next() {
                        self.oif = Some(first.oif);
                        self.read(first.attributes);
                    }
                }
                _ => {}
            }
        }
    }
}

/// One next hop of several.
struct NextHop<'a> {
    weight: u8,
    oif: u32,
    attributes: &'a [u8],
}

/// Splits the next hops of a route (`struct rtnexthop`).
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = NextHop<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attributes = bytes.get(NEXT_HOP_HEADER..length)?;
        let hop = NextHop { weight: bytes[3], oif: u32_at(bytes, 4)?, attributes };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(hop)
    })
}

/// Returns the address in `struct rtvia`, which is of IPv6 where IPv4 prefixes have it.
fn via(value: &[u8]) -> Option<IpAddr> {
    let right = u16_at(value, 0)? == libc::AF_INET6 as u16;
    ip_address(value.get(2..)?).filter(|address| right && address.is_ipv6())
}

/// The attributes of a next hop.
#[derive(Default)]
struct HopParts<'a> {
    gateway: Option<IpAddr>,
    encap_type: Option<u16>,
    encap: Option<&'a [u8]>,
}

impl<'a> HopParts<'a> {
    fn read(&mut self, kind: u16, value: &'a [u8]) {
        match kind {
            attribute::GATEWAY => self.gateway = ip_address(value),
            attribute::VIA => self.gateway = via(value),
            attribute::ENCAP_TYPE => self.encap_type = u16_at(value, 0),
            attribute::ENCAP => self.encap = Some(value),
            _ => {}
        }
    }

    fn decode(&self, oif: u32, devices: &Devices) -> Option<Hop> {
        match (self.gateway, self.encap) {
            (Some(via), None) => Some(Hop::Direct { via, oif }),
            (None, Some(parts)) => {
                let (local, remote) = ends(parts)?;
                let expected = match (local, remote) {
                    (IpAddr::V4(_), IpAddr::V4(_)) => encapsulation::IP,
                    (IpAddr::V6(_), IpAddr::V6(_)) => encapsulation::IP6,
                    _ => return None,
                };
                // After the device was created again, a route through the old one is not the desired one.
                let (tunnel, _) = devices.iter().find(|(tunnel, index)| {
                    **index == oif && tunnel.family == heliograph_cni::IpFamily::of(remote)
                })?;
                let right = self.encap_type == Some(expected);
                right.then_some(Hop::Tunnel { tunnel: *tunnel, remote, local })
            }
            _ => None,
        }
    }
}

/// Decodes the two ends of an encapsulation, local and remote; `None` if the rest differs from what [`super::encode`]
/// writes.
fn ends(parts: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (mut local, mut remote, mut ttl) = (None, None, None);
    for (kind, value) in attributes(parts) {
        match kind {
            encapsulation::DESTINATION => remote = ip_address(value),
            encapsulation::SOURCE => local = ip_address(value),
            encapsulation::TTL => ttl = value.first().copied(),
            // The rest (key, TOS, flags, padding) must be zero, as none of it is written.
            _ if value.iter().any(|octet| *octet != 0) => return None,
            _ => {}
        }
    }
    (ttl == Some(TUNNEL_TTL)).then_some((local?, remote?))
}
