//! Hints that the kernel changed. A hint does not contain the change: the receiver reads the kernel again.

use super::error::{Cause, KernelError, KernelResult};
use super::message::{family_of, prefix_of, table_of};
use super::{PROTOCOL, tunnel};
use futures::StreamExt;
use heliograph_cni::{ROUTE_PROTOCOL as PLUGIN_PROTOCOL, is_host_interface};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use std::net::IpAddr;
use tokio::sync::watch;

/// The subject of a hint. Several hints at once become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint {
    /// Links, addresses or foreign routes changed: the segments of next hops and the MTU may be different.
    pub underlay: bool,
    /// Another program changed an object of Heliograph.
    pub own_objects: bool,
}

impl Hint {
    /// Everything may have changed.
    const EVERYTHING: Self = Self { underlay: true, own_objects: true };
    const UNDERLAY: Self = Self { underlay: true, own_objects: false };
    const OWN_OBJECTS: Self = Self { underlay: false, own_objects: true };
}

/// The numbers of hints so far.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    underlay: u64,
    own_objects: u64,
}

/// The hints from one subscription.
#[derive(Debug)]
pub struct Changes {
    tally: watch::Receiver<Tally>,
    seen: Tally,
}

impl Changes {
    /// Subscribes. Changes by the socket with the port `own` give no hint.
    pub(super) fn subscribe(own: u32) -> KernelResult<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|error| {
                KernelError::from_cause(
                    "subscribe to the kernel's changes",
                    Cause::Unexpected(error.to_string()),
                )
            })?;
        tokio::spawn(connection);
        let (sender, tally) = watch::channel(Tally::default());
        tokio::spawn(async move {
            // The connection closes with its handle.
            let _handle = handle;
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = sender.closed() => return,
                };
                let Some((message, _)) = message else { return };
                let Some(hint) = hint(&message, own) else { continue };
                sender.send_modify(|tally| {
                    tally.underlay += u64::from(hint.underlay);
                    tally.own_objects += u64::from(hint.own_objects);
                });
            }
        });
        Ok(Self { tally, seen: Tally::default() })
    }

    /// Waits for the next hint; `None` if the subscription ended (then subscribe again and read everything).
    pub async fn next(&mut self) -> Option<Hint> {
        self.tally.changed().await.ok()?;
        let now = *self.tally.borrow_and_update();
        let hint = Hint {
            underlay: now.underlay != self.seen.underlay,
            own_objects: now.own_objects != self.seen.own_objects,
        };
        self.seen = now;
        Some(hint)
    }
}

/// Returns the hint that a notification gives, if it is relevant.
fn hint(message: &NetlinkMessage<RouteNetlinkMessage>, own: u32) -> Option<Hint> {
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        // The socket lost notifications: anything may have changed.
        NetlinkPayload::Overrun(_) => return Some(Hint::EVERYTHING),
        _ => return None,
    };
    match inner {
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route_hint(route, message.header.port_number == own)
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => link_hint(link),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            // Each pod's veth gets a link-local address, and next hops are hardly ever link-local.
            let link_local = address.header.family == AddressFamily::Inet6
                && address.header.scope == netlink_packet_route::address::AddressScope::Link;
            (!link_local).then_some(Hint::UNDERLAY)
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Hint::UNDERLAY),
        _ => None,
    }
}

fn route_hint(route: &RouteMessage, own: bool) -> Option<Hint> {
    let protocol = u8::from(route.header.protocol);
    if protocol == PROTOCOL {
        return (!own).then_some(Hint::OWN_OBJECTS);
    }
    if protocol == PLUGIN_PROTOCOL {
        return None;
    }
    // Policy rules may use other tables, but the local one only repeats the addresses.
    const LOCAL_TABLE: u32 = 255;
    if table_of(route) == LOCAL_TABLE {
        return None;
    }
    let prefix = prefix_of(route)?;
    debug_assert_eq!(family_of(prefix), route.header.address_family);
    let irrelevant = match prefix.network() {
        IpAddr::V6(network) => network.is_multicast() || network.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    // A foreign route may also conflict with one of Heliograph's, or no longer do so.
    (!irrelevant).then_some(Hint::EVERYTHING)
}

fn link_hint(link: &LinkMessage) -> Option<Hint> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    match name {
        Some(name) if is_host_interface(name) => None,
        Some(name) if tunnel::is_device_name(name) => Some(Hint::OWN_OBJECTS),
        // The kernel deletes IPv4 routes over a link that goes down without a notification.
        _ => Some(Hint::EVERYTHING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Route;
    use crate::kernel::message::{Devices, encode};

    fn route(protocol: u8, prefix: &str) -> RouteNetlinkMessage {
        let mut message = encode(prefix.parse().unwrap(), &Route::Blackhole, &Devices::new()).unwrap();
        message.header.protocol = protocol.into();
        RouteNetlinkMessage::NewRoute(message)
    }

    fn from(port: u32, message: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = NetlinkMessage::from(message);
        message.header.port_number = port;
        message
    }

    fn link(name: &str) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        RouteNetlinkMessage::NewLink(message)
    }

    #[test]
    fn own_changes_and_changes_of_pods_give_no_hint() {
        assert_eq!(hint(&from(7, route(PROTOCOL, "10.1.0.0/24")), 7), None);
        assert_eq!(hint(&from(8, route(PLUGIN_PROTOCOL, "10.1.0.2/32")), 7), None);
        assert_eq!(hint(&from(0, link("hg0123456789ab")), 7), None);
        assert_eq!(hint(&from(0, route(2, "fe80::/64")), 7), None);
    }

    #[test]
    fn changes_by_other_programs_are_distinguished() {
        assert_eq!(hint(&from(8, route(PROTOCOL, "10.1.0.0/24")), 7), Some(Hint::OWN_OBJECTS));
        assert_eq!(hint(&from(8, route(4, "0.0.0.0/0")), 7), Some(Hint::EVERYTHING));
        assert_eq!(hint(&from(0, link("eth0")), 7), Some(Hint::EVERYTHING));
        assert_eq!(hint(&from(0, link("hgw0")), 7), Some(Hint::EVERYTHING));
        assert_eq!(hint(&from(0, link("heliograph4")), 7), Some(Hint::OWN_OBJECTS));
    }

    #[test]
    fn after_an_overrun_everything_is_read() {
        let mut message = from(0, link("x"));
        message.payload = NetlinkPayload::Overrun(Vec::new());
        assert_eq!(hint(&message, 7), Some(Hint::EVERYTHING));
    }
}
