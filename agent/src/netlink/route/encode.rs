//! Requests for routes, written into the buffer that is sent.

use super::{Devices, ROUTE_HEADER, TUNNEL_TTL, attribute, encapsulation};
use crate::dataplane::{Hop, METRIC, PROTOCOL, Route, Tunnel};
use heliograph_cni::IpFamily;
use heliograph_cni::codec::HEADER;
use ipnetwork::IpNetwork;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The reason for which a route can't be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The tunnel device doesn't exist.
    #[error("tunnel device {} does not exist", .0.device_name())]
    NoDevice(Tunnel),
    /// The two ends of a tunnel have different families.
    #[error("tunnel from {local} to {remote} mixes address families")]
    MixedEnds {
        /// The local end.
        local: IpAddr,
        /// The remote end.
        remote: IpAddr,
    },
    /// The tunnel doesn't transport packets of the prefix's family.
    #[error("{} prefix {prefix} can't go through the {} tunnel to {remote}", IpFamily::of_network(prefix), IpFamily::of(*remote))]
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

/// A change of a route of Heliograph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Adds a route that does not exist yet. If there is one with the same key, the kernel rejects the change.
    Add(IpNetwork, Arc<Route>),
    /// Replaces Heliograph's route.
    Replace(IpNetwork, Arc<Route>),
    /// Deletes Heliograph's route at a metric and TOS, with any next hops.
    Delete {
        /// The prefix.
        prefix: IpNetwork,
        /// The metric.
        metric: u32,
        /// The TOS octet.
        tos: u8,
    },
}

impl RouteChange {
    /// Returns the prefix.
    pub fn prefix(&self) -> IpNetwork {
        match self {
            RouteChange::Add(prefix, _)
            | RouteChange::Replace(prefix, _)
            | RouteChange::Delete { prefix, .. } => *prefix,
        }
    }
}

impl fmt::Display for RouteChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteChange::Add(prefix, route) => write!(f, "add route {prefix} {route}"),
            RouteChange::Replace(prefix, route) => write!(f, "replace route {prefix} by {route}"),
            RouteChange::Delete { prefix, metric: METRIC, tos: 0 } => write!(f, "delete route {prefix}"),
            RouteChange::Delete { prefix, metric, .. } => {
                write!(f, "delete stray route {prefix} metric {metric}")
            }
        }
    }
}

/// Several requests, which the kernel handles in their order. [`super::Socket::commit`] sends them.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) bytes: Vec<u8>,
    /// The place at which the last request begins.
    pub(super) last: usize,
    pub(super) count: u32,
}

impl Batch {
    /// Returns the length in octets.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the requests as octets.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Removes all requests.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Appends a change. One that can't be encoded is not appended.
    pub fn push(&mut self, change: &RouteChange, devices: &Devices) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        let pushed = match change {
            RouteChange::Add(prefix, route) => self.put(*prefix, route, libc::NLM_F_EXCL, devices),
            RouteChange::Replace(prefix, route) => self.put(*prefix, route, libc::NLM_F_REPLACE, devices),
            RouteChange::Delete { prefix, metric, tos } => {
                self.delete(*prefix, *metric, *tos);
                Ok(())
            }
        };
        match &pushed {
            Ok(()) => {
                let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
                self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
                self.last = start;
                self.count += 1;
            }
            Err(_) => self.bytes.truncate(start),
        }
        pushed
    }

    fn put(
        &mut self,
        prefix: IpNetwork,
        route: &Route,
        flag: i32,
        devices: &Devices,
    ) -> Result<(), EncodeError> {
        let kind = match route {
            Route::Blackhole => libc::RTN_BLACKHOLE,
            Route::Unicast(_) => libc::RTN_UNICAST,
        };
        self.begin(libc::RTM_NEWROUTE, (libc::NLM_F_CREATE | flag) as u16);
        self.route_header(prefix, 0, libc::RT_SCOPE_UNIVERSE, kind);
        self.key(prefix, METRIC);
        match route {
            Route::Blackhole => Ok(()),
            Route::Unicast(hops) => match &**hops {
                [] => Err(EncodeError::NoHop(prefix)),
                [hop] => {
                    let oif = interface(hop, devices)?;
                    self.attribute(attribute::OIF, &oif.to_ne_bytes());
                    self.hop(prefix, hop)
                }
                several => self.multipath(prefix, several, devices),
            },
        }
    }

    fn delete(&mut self, prefix: IpNetwork, metric: u32, tos: u8) {
        self.begin(libc::RTM_DELROUTE, 0);
        // Any scope and type: only prefix, TOS, metric and protocol select the route.
        self.route_header(prefix, tos, libc::RT_SCOPE_NOWHERE, libc::RTN_UNSPEC);
        self.key(prefix, metric);
    }

    fn multipath(&mut self, prefix: IpNetwork, hops: &[Hop], devices: &Devices) -> Result<(), EncodeError> {
        if prefix.is_ipv6() && hops.iter().any(|hop| matches!(hop, Hop::Tunnel { .. })) {
            return Err(EncodeError::MultipathTunnels(prefix));
        }
        let start = self.open(attribute::MULTIPATH);
        for hop in hops {
            let oif = interface(hop, devices)?;
            let place = self.bytes.len();
            // `struct rtnexthop`: length, flags, weight minus one, interface.
            self.bytes.extend([0; 4]);
            self.bytes.extend(oif.to_ne_bytes());
            self.hop(prefix, hop)?;
            self.set_length(place);
        }
        self.set_length(start);
        Ok(())
    }

    /// Appends a next hop without its interface.
    fn hop(&mut self, prefix: IpNetwork, hop: &Hop) -> Result<(), EncodeError> {
        match *hop {
            Hop::Direct { via, .. } => match (prefix.is_ipv4(), via) {
                (true, IpAddr::V4(_)) | (false, IpAddr::V6(_)) => self.address(attribute::GATEWAY, via),
                (true, IpAddr::V6(via)) => {
                    // `struct rtvia`: the family, and the address.
                    let family = (libc::AF_INET6 as u16).to_ne_bytes();
                    let start = self.open(attribute::VIA);
                    self.bytes.extend(family);
                    self.bytes.extend(via.octets());
                    self.close(start);
                }
                (false, IpAddr::V4(_)) => return Err(EncodeError::WrongGateway { prefix, via }),
            },
            Hop::Tunnel { tunnel, remote, local } => {
                let kind = match (local, remote) {
                    (IpAddr::V4(_), IpAddr::V4(_)) => encapsulation::IP,
                    (IpAddr::V6(_), IpAddr::V6(_)) => encapsulation::IP6,
                    _ => return Err(EncodeError::MixedEnds { local, remote }),
                };
                if !tunnel.transports(IpFamily::of_network(&prefix)) {
                    return Err(EncodeError::WrongPayload { prefix, remote });
                }
                self.attribute(attribute::ENCAP_TYPE, &kind.to_ne_bytes());
                let start = self.open(attribute::ENCAP);
                self.attribute(encapsulation::ID, &0_u64.to_be_bytes());
                self.address(encapsulation::DESTINATION, remote);
                self.address(encapsulation::SOURCE, local);
                self.attribute(encapsulation::TTL, &[TUNNEL_TTL]);
                self.set_length(start);
            }
        }
        Ok(())
    }

    /// Appends `struct nlmsghdr`. The length and the sequence number are set later.
    fn begin(&mut self, kind: u16, flags: u16) {
        let flags = flags | libc::NLM_F_REQUEST as u16;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend([0; HEADER - 8]);
    }

    /// Appends `struct rtmsg`.
    fn route_header(&mut self, prefix: IpNetwork, tos: u8, scope: u8, kind: u8) {
        let family = family_number(IpFamily::of_network(&prefix));
        let header: [u8; ROUTE_HEADER] =
            [family, prefix.prefix(), 0, tos, libc::RT_TABLE_MAIN, PROTOCOL, scope, kind, 0, 0, 0, 0];
        self.bytes.extend(header);
    }

    /// Appends the prefix and the metric.
    fn key(&mut self, prefix: IpNetwork, metric: u32) {
        self.address(attribute::DESTINATION, prefix.network());
        self.attribute(attribute::PRIORITY, &metric.to_ne_bytes());
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend(value);
        self.close(start);
    }

    /// Begins an attribute.
    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    /// Ends an attribute, and pads it to a multiple of four octets.
    fn close(&mut self, start: usize) {
        self.set_length(start);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the length of an attribute or next hop that begins at this place and consists of padded attributes.
    ///
    /// # Panics
    /// It is longer than 65,535 octets: a route has fewer than a thousand next hops.
    fn set_length(&mut self, start: usize) {
        let length =
            u16::try_from(self.bytes.len() - start).expect("a route has fewer than a thousand next hops");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Returns the index of a next hop's interface.
fn interface(hop: &Hop, devices: &Devices) -> Result<u32, EncodeError> {
    match *hop {
        Hop::Direct { oif, .. } => Ok(oif),
        Hop::Tunnel { tunnel, remote, local } => {
            let family = IpFamily::of(remote);
            if IpFamily::of(local) != family || tunnel.family != family {
                return Err(EncodeError::MixedEnds { local, remote });
            }
            devices.get(&tunnel).copied().ok_or(EncodeError::NoDevice(tunnel))
        }
    }
}

/// Returns the number of a family (AF_INET, AF_INET6).
pub(crate) fn family_number(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => libc::AF_INET as u8,
        IpFamily::V6 => libc::AF_INET6 as u8,
    }
}
