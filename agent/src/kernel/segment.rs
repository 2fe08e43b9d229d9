//! The look-up of a next hop's segment in the kernel's routes, ignoring Heliograph's own.
//!
//! Two look-ups are needed: one for the entry of the table that matches (is it Heliograph's?), and one for the resolved
//! route (gateway, interface, source). An entry of Heliograph would describe the overlay and not the underlay: then the
//! main table is read, and the foreign route with the longest prefix decides.

use super::error::{Cause, KernelResult};
use super::linux::Linux;
use super::message::{address_of, metric_of, netlink_family, prefix_of, table_of};
use super::{IpFamily, PROTOCOL, Segment, tunnel};
use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use nix::errno::Errno;
use std::net::IpAddr;

/// Implements [`super::Kernel::segment`].
pub(super) async fn locate(kernel: &Linux, next_hop: IpAddr) -> KernelResult<Segment> {
    let what = format!("look up the route to {next_hop}");
    let request = |flags| RouteNetlinkMessage::GetRoute(lookup(next_hop, flags));
    let matched = match kernel.netlink.get(&what, request(RouteFlags::FibMatch)).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => message,
        Ok(other) => return Err(unexpected(&what, &other)),
        // A blackhole, which may be Heliograph's.
        Err(error) if means_no_route(&error) && error.errno() == Some(Errno::EINVAL) => {
            return segment_by_foreign_routes(kernel, next_hop).await;
        }
        Err(error) if means_no_route(&error) => {
            return Ok(Segment::Unreachable { error: error.cause.to_string() });
        }
        Err(error) => return Err(error),
    };
    if matched.header.kind == RouteType::Local {
        return Ok(Segment::Local);
    }
    if u8::from(matched.header.protocol) == PROTOCOL {
        return segment_by_foreign_routes(kernel, next_hop).await;
    }
    if matched.header.kind != RouteType::Unicast {
        return Ok(unreachable_by(&matched));
    }
    let resolved = match kernel.netlink.get(&what, request(RouteFlags::empty())).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => message,
        Ok(other) => return Err(unexpected(&what, &other)),
        Err(error) if means_no_route(&error) => {
            return Ok(Segment::Unreachable { error: error.cause.to_string() });
        }
        Err(error) => return Err(error),
    };
    segment_of(kernel, &FirstHop::of(&resolved), next_hop).await
}

/// Returns whether an error means that there is no route, or one of type unreachable, prohibit or blackhole. For the last,
/// the kernel returns EINVAL, as it does for an invalid request; but then it adds an explanation.
fn means_no_route(error: &super::KernelError) -> bool {
    match &error.cause {
        Cause::Rejected { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. } => true,
        Cause::Rejected { errno: Errno::EINVAL, message } => message.is_none(),
        _ => false,
    }
}

fn unexpected(what: &str, answer: &RouteNetlinkMessage) -> super::KernelError {
    super::KernelError::from_cause(what, Cause::Unexpected(format!("{answer:?}")))
}

/// Makes the request for a look-up.
fn lookup(address: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = IpFamily::of(address);
    message.header.address_family = netlink_family(family);
    message.header.destination_prefix_length = family.bits();
    message.header.flags = flags;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

fn unreachable_by(route: &RouteMessage) -> Segment {
    Segment::Unreachable { error: format!("the route to it is of type {:?}", route.header.kind) }
}

/// The first next hop of a route.
#[derive(Debug, Default, PartialEq, Eq)]
struct FirstHop {
    oif: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

impl FirstHop {
    fn of(message: &RouteMessage) -> Self {
        let mut hop = Self::default();
        hop.read(&message.attributes);
        hop
    }

    fn read(&mut self, attributes: &[RouteAttribute]) {
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(index) => self.oif = Some(*index),
                RouteAttribute::Gateway(address) => self.gateway = address_of(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => self.gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => self.source = address_of(address),
                RouteAttribute::MultiPath(hops) => {
                    // The segment must be the same for all paths, so the first is enough.
                    if let Some(first) = hops.first() {
                        self.oif = Some(first.interface_index);
                        self.read(&first.attributes);
                    }
                }
                _ => {}
            }
        }
    }
}

async fn segment_of(kernel: &Linux, hop: &FirstHop, next_hop: IpAddr) -> KernelResult<Segment> {
    let Some(oif) = hop.oif else {
        return Ok(Segment::Unreachable { error: "the route has no interface".to_owned() });
    };
    let link = kernel.link(oif).await?;
    let name = link.name;
    if tunnel::is_device_name(&name) {
        return Ok(Segment::Unreachable {
            error: format!("the only route to it goes through the tunnel {name}"),
        });
    }
    let source = match hop.source {
        Some(source) => source,
        None => match kernel.address_on(oif, IpFamily::of(next_hop)).await? {
            Some(source) => source,
            None => return Ok(Segment::Unreachable { error: format!("this node has no address on {name}") }),
        },
    };
    Ok(match hop.gateway {
        None => Segment::Direct { oif, name, source },
        Some(gateway) => Segment::Routed { gateway, oif, name, source },
    })
}

async fn segment_by_foreign_routes(kernel: &Linux, next_hop: IpAddr) -> KernelResult<Segment> {
    let routes = kernel.main_table(IpFamily::of(next_hop)).await?;
    match best_foreign_route(&routes, next_hop) {
        Some(route) => match route.header.kind {
            RouteType::Unicast => segment_of(kernel, &FirstHop::of(route), next_hop).await,
            _ => Ok(unreachable_by(route)),
        },
        None => Ok(Segment::Unreachable {
            error: "there are no routes to it except those of Heliograph".to_owned(),
        }),
    }
}

/// Returns the route that the kernel would use without Heliograph's: the one with the longest prefix, then the lowest
/// metric.
fn best_foreign_route(routes: &[RouteMessage], next_hop: IpAddr) -> Option<&RouteMessage> {
    routes
        .iter()
        .filter(|route| u8::from(route.header.protocol) != PROTOCOL && route.header.tos == 0)
        .filter(|route| table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN))
        .filter(|route| prefix_of(route).is_some_and(|prefix: IpNetwork| prefix.contains(next_hop)))
        .min_by_key(|route| (std::cmp::Reverse(route.header.destination_prefix_length), metric_of(route)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, protocol: u8, metric: u32, oif: u32) -> RouteMessage {
        let prefix: IpNetwork = prefix.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = super::super::message::family_of(prefix);
        message.header.destination_prefix_length = prefix.prefix();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = protocol.into();
        message.attributes = vec![RouteAttribute::Priority(metric), RouteAttribute::Oif(oif)];
        if prefix.prefix() > 0 {
            message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
        }
        message
    }

    fn chosen(routes: &[RouteMessage], to: &str) -> Option<u32> {
        best_foreign_route(routes, to.parse().unwrap()).and_then(|route| FirstHop::of(route).oif)
    }

    #[test]
    fn own_routes_are_ignored_and_the_longest_foreign_prefix_decides() {
        let routes = [
            route("0.0.0.0/0", 4, 0, 1),
            route("192.0.2.0/24", 2, 0, 2),
            route("192.0.2.128/25", PROTOCOL, 104, 3),
            route("192.0.2.0/24", 4, 50, 4),
        ];
        assert_eq!(chosen(&routes, "192.0.2.129"), Some(2));
        assert_eq!(chosen(&routes, "203.0.113.1"), Some(1));
        assert_eq!(chosen(&routes[2..3], "192.0.2.129"), None);
    }
}
