//! Which segment a next hop is on: the kernel's answer, routes of ours left aside.
//!
//! The kernel is asked twice: for the table entry that matches (whose route is it?) and for the way it would take
//! (gateway, interface, source). If the entry is ours, the answer would be about the overlay, not about the
//! underlay it rests on: then the main table is read and the longest prefix among the routes of others decides.

use super::error::{Cause, KernelResult};
use super::linux::Linux;
use super::message::{address_of, metric_of, prefix_of, table_of};
use super::{IpFamily, PROTOCOL, Segment};
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use std::net::IpAddr;

/// Answers [`super::Kernel::segment`].
pub(super) async fn locate(kernel: &Linux, next_hop: IpAddr) -> KernelResult<Segment> {
    let what = format!("look up the way to {next_hop}");
    let ask = |flags| RouteNetlinkMessage::GetRoute(question(next_hop, flags));
    let matched = match kernel.netlink.get(&what, ask(RouteFlags::FibMatch)).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => message,
        Ok(other) => return Err(unexpected(&what, &other)),
        // A blackhole, and it may be ours.
        Err(error) if means_no_way(&error) && error.errno() == Some(Errno::EINVAL) => {
            return beside_ours(kernel, next_hop).await;
        }
        Err(error) if means_no_way(&error) => {
            return Ok(Segment::Unreachable { error: error.cause.to_string() });
        }
        Err(error) => return Err(error),
    };
    if matched.header.kind == RouteType::Local {
        return Ok(Segment::Local);
    }
    if u8::from(matched.header.protocol) == PROTOCOL {
        return beside_ours(kernel, next_hop).await;
    }
    if matched.header.kind != RouteType::Unicast {
        return Ok(dead_end(&matched));
    }
    let resolved = match kernel.netlink.get(&what, ask(RouteFlags::empty())).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => message,
        Ok(other) => return Err(unexpected(&what, &other)),
        Err(error) if means_no_way(&error) => {
            return Ok(Segment::Unreachable { error: error.cause.to_string() });
        }
        Err(error) => return Err(error),
    };
    answer(kernel, &Way::of(&resolved), next_hop).await
}

/// Whether a rejection is an answer: there is no route, or one of type unreachable, prohibit or blackhole. The last comes
/// as an invalid argument, and so does a question that the kernel doesn't understand, but to that it says what is wrong.
fn means_no_way(error: &super::KernelError) -> bool {
    match &error.cause {
        Cause::Refused { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. } => true,
        Cause::Refused { errno: Errno::EINVAL, message } => message.is_none(),
        _ => false,
    }
}

fn unexpected(what: &str, answer: &RouteNetlinkMessage) -> super::KernelError {
    super::KernelError::from_cause(what, Cause::Unexpected(format!("{answer:?}")))
}

fn question(address: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, bits) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.header.flags = flags;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

fn dead_end(route: &RouteMessage) -> Segment {
    Segment::Unreachable { error: format!("the way there is a route of type {:?}", route.header.kind) }
}

/// The way a route message says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    oif: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

impl Way {
    fn of(message: &RouteMessage) -> Self {
        let mut way = Self::default();
        way.read(&message.attributes);
        way
    }

    fn read(&mut self, attributes: &[RouteAttribute]) {
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(index) => self.oif = Some(*index),
                RouteAttribute::Gateway(address) => self.gateway = address_of(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => self.gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => self.source = address_of(address),
                RouteAttribute::MultiPath(hops) => {
                    // Equal paths: the first stands for all, as for where the next hop is they must agree.
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

async fn answer(kernel: &Linux, way: &Way, next_hop: IpAddr) -> KernelResult<Segment> {
    let Some(oif) = way.oif else {
        return Ok(Segment::Unreachable { error: "the kernel's route has no interface".to_owned() });
    };
    let link = kernel.link(oif).await?;
    let name = link.name;
    if [IpFamily::V4, IpFamily::V6].iter().any(|family| family.device() == name) {
        return Ok(Segment::Unreachable {
            error: format!("the only way leads through our own tunnel {name}"),
        });
    }
    let source = match way.source {
        Some(source) => source,
        None => match kernel.address_on(oif, IpFamily::of(next_hop)).await? {
            Some(source) => source,
            None => return Ok(Segment::Unreachable { error: format!("no address of ours on {name}") }),
        },
    };
    Ok(match way.gateway {
        None => Segment::Direct { oif, name, source },
        Some(gateway) => Segment::Routed { gateway, oif, name, source },
    })
}

async fn beside_ours(kernel: &Linux, next_hop: IpAddr) -> KernelResult<Segment> {
    let routes = kernel.main_table(IpFamily::of(next_hop)).await?;
    match best_of_others(&routes, next_hop) {
        Some(route) => match route.header.kind {
            RouteType::Unicast => answer(kernel, &Way::of(route), next_hop).await,
            _ => Ok(dead_end(route)),
        },
        None => Ok(Segment::Unreachable {
            error: "no route but those that Heliograph itself installed".to_owned(),
        }),
    }
}

/// The route which the kernel would use if ours weren't there: longest prefix, then lowest metric.
fn best_of_others(routes: &[RouteMessage], next_hop: IpAddr) -> Option<&RouteMessage> {
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
        best_of_others(routes, to.parse().unwrap()).and_then(|route| Way::of(route).oif)
    }

    #[test]
    fn ours_are_left_aside_and_the_longest_prefix_of_others_decides() {
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
