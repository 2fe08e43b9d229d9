//! The plugin's requests as messages, and the decoding of the answers.

use std::net::IpAddr;
use std::os::fd::RawFd;

use crate::codec::{Message, attributes, find, ip_address, text, u16_at, u32_at};
use crate::net::{Link, Mac, Route};
use crate::plan::Veth;
use crate::{IpFamily, ROUTE_PROTOCOL};

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGED: u16 = REQUEST | libc::NLM_F_ACK as u16;
const CREATE: u16 = ACKNOWLEDGED | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const CREATE_OR_REPLACE: u16 = ACKNOWLEDGED | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = REQUEST | libc::NLM_F_DUMP as u16;

/// Constants of linux/veth.h and linux/rtnetlink.h that libc lacks.
const VETH_INFO_PEER: u16 = 1;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTNH_F_ONLINK: u32 = 4;

/// Length of `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtmsg` and `struct ndmsg`.
const LINK_FIXED: usize = 16;
const ADDRESS_FIXED: usize = 8;
const ROUTE_FIXED: usize = 12;
const NEIGHBOR_FIXED: usize = 12;

fn af(family: IpFamily) -> u8 {
    (match family {
        IpFamily::V4 => libc::AF_INET,
        IpFamily::V6 => libc::AF_INET6,
    }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn link_fixed(index: u32, flags: u32, change: u32) -> [u8; LINK_FIXED] {
    let mut fixed = [0; LINK_FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// Creates a veth pair whose peer is in the namespace `netns`. Name, MTU and MAC are set at once: a MAC that is set later
/// would be a second event for programs that watch interfaces, and udev doesn't change one that is set.
pub(super) fn create_veth(veth: &Veth, netns: RawFd) -> Message {
    let end = |message: &mut Message, name: &str, mac: Mac| {
        message.attribute_text(libc::IFLA_IFNAME, name);
        message.attribute_u32(libc::IFLA_MTU, veth.mtu);
        message.attribute(libc::IFLA_ADDRESS, &mac.0);
    };
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_fixed(0, 0, 0));
    end(&mut message, &veth.host_name, veth.host_mac);
    message.nested(libc::IFLA_LINKINFO, |info| {
        info.attribute_text(libc::IFLA_INFO_KIND, "veth");
        info.nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |peer| {
                peer.raw(&link_fixed(0, 0, 0));
                end(peer, &veth.pod_name, veth.pod_mac);
                peer.attribute(libc::IFLA_NET_NS_FD, &netns.to_ne_bytes());
            });
        });
    });
    message
}

pub(super) fn set_up(index: u32) -> Message {
    let up = libc::IFF_UP as u32;
    Message::new(libc::RTM_NEWLINK, ACKNOWLEDGED, &link_fixed(index, up, up))
}

pub(super) fn delete_link(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_DELLINK, ACKNOWLEDGED, &link_fixed(0, 0, 0));
    message.attribute_text(libc::IFLA_IFNAME, name);
    message
}

pub(super) fn get_link(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, ACKNOWLEDGED, &link_fixed(0, 0, 0));
    message.attribute_text(libc::IFLA_IFNAME, name);
    message
}

pub(super) fn dump_links() -> Message {
    Message::new(libc::RTM_GETLINK, DUMP, &link_fixed(0, 0, 0))
}

/// Adds an address as a /32 or /128. For IPv6 without duplicate address detection: there is no other node on the link,
/// and the pod may use the address at once.
pub(super) fn add_address(index: u32, address: IpAddr) -> Message {
    let family = IpFamily::of(address);
    let flags = match family {
        IpFamily::V4 => 0,
        IpFamily::V6 => libc::IFA_F_NODAD as u8,
    };
    let mut fixed = [af(family), family.bits(), flags, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(libc::RTM_NEWADDR, CREATE, &fixed);
    message.attribute(libc::IFA_LOCAL, &octets(address));
    message.attribute(libc::IFA_ADDRESS, &octets(address));
    message
}

pub(super) fn dump_addresses(family: IpFamily) -> Message {
    Message::new(libc::RTM_GETADDR, DUMP, &[af(family), 0, 0, 0, 0, 0, 0, 0])
}

fn route_fixed(family: IpFamily, prefix_len: u8, scope: u8, flags: u32) -> [u8; ROUTE_FIXED] {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[..8].copy_from_slice(&[
        af(family),
        prefix_len,
        0,
        0,
        libc::RT_TABLE_MAIN,
        ROUTE_PROTOCOL,
        scope,
        libc::RTN_UNICAST,
    ]);
    fixed[8..].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

pub(super) fn add_host_route(index: u32, address: IpAddr) -> Message {
    let family = IpFamily::of(address);
    let fixed = route_fixed(family, family.bits(), libc::RT_SCOPE_LINK, 0);
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed);
    message.attribute(libc::RTA_DST, &octets(address));
    message.attribute_u32(libc::RTA_OIF, index);
    message
}

/// Adds a default route whose gateway is on the link without an address there (`onlink`).
pub(super) fn add_default_route(index: u32, gateway: IpAddr) -> Message {
    let fixed = route_fixed(IpFamily::of(gateway), 0, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed);
    message.attribute(libc::RTA_GATEWAY, &octets(gateway));
    message.attribute_u32(libc::RTA_OIF, index);
    message
}

/// Looks up the entry of the FIB that matches an address. Unlike a dump, its cost doesn't grow with the routes.
pub(super) fn look_up(address: IpAddr) -> Message {
    let mut fixed = [0; ROUTE_FIXED];
    let family = IpFamily::of(address);
    fixed[..2].copy_from_slice(&[af(family), family.bits()]);
    fixed[8..].copy_from_slice(&(RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH).to_ne_bytes());
    let mut message = Message::new(libc::RTM_GETROUTE, ACKNOWLEDGED, &fixed);
    message.attribute(libc::RTA_DST, &octets(address));
    message
}

pub(super) fn dump_routes(family: IpFamily) -> Message {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = af(family);
    Message::new(libc::RTM_GETROUTE, DUMP, &fixed)
}

fn neighbor_fixed(index: u32, address: IpAddr, state: u16) -> [u8; NEIGHBOR_FIXED] {
    let mut fixed = [0; NEIGHBOR_FIXED];
    fixed[0] = af(IpFamily::of(address));
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed
}

pub(super) fn add_neighbor(index: u32, address: IpAddr, mac: Mac) -> Message {
    let fixed = neighbor_fixed(index, address, libc::NUD_PERMANENT);
    let mut message = Message::new(libc::RTM_NEWNEIGH, CREATE_OR_REPLACE, &fixed);
    message.attribute(libc::NDA_DST, &octets(address));
    message.attribute(libc::NDA_LLADDR, &mac.0);
    message
}

pub(super) fn get_neighbor(index: u32, address: IpAddr) -> Message {
    let mut message = Message::new(libc::RTM_GETNEIGH, ACKNOWLEDGED, &neighbor_fixed(index, address, 0));
    message.attribute(libc::NDA_DST, &octets(address));
    message
}

pub(super) fn read_link(payload: &[u8]) -> Option<Link> {
    let fixed = payload.get(..LINK_FIXED)?;
    let up = u32_at(fixed, 8)? & libc::IFF_UP as u32 != 0;
    let mut link =
        Link { index: u32_at(fixed, 4)?, name: String::new(), mac: None, mtu: 0, up, kind: String::new() };
    for (kind, value) in attributes(&payload[LINK_FIXED..]) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_LINKINFO => {
                link.kind = find(value, libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Returns the interface and the address of an address message. With a point-to-point peer, IFA_LOCAL is the address of
/// this end.
pub(super) fn read_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(payload.get(..ADDRESS_FIXED)?, 4)?;
    let attributes = &payload[ADDRESS_FIXED..];
    let value = find(attributes, libc::IFA_LOCAL).or_else(|| find(attributes, libc::IFA_ADDRESS))?;
    Some((index, ip_address(value)?))
}

pub(super) fn read_route(payload: &[u8]) -> Option<Route> {
    let fixed = payload.get(..ROUTE_FIXED)?;
    let mut route = Route {
        prefix_len: fixed[1],
        destination: None,
        gateway: None,
        interface: None,
        protocol: fixed[5],
        table: u32::from(fixed[4]),
    };
    for (kind, value) in attributes(&payload[ROUTE_FIXED..]) {
        match kind {
            libc::RTA_DST => route.destination = ip_address(value),
            libc::RTA_GATEWAY => route.gateway = ip_address(value),
            libc::RTA_OIF => route.interface = u32_at(value, 0),
            libc::RTA_TABLE => route.table = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(route)
}

/// Returns the MAC of a permanent entry.
pub(super) fn read_permanent_neighbor(payload: &[u8]) -> Option<Mac> {
    let state = u16_at(payload.get(..NEIGHBOR_FIXED)?, 8)?;
    if state & libc::NUD_PERMANENT == 0 {
        return None;
    }
    find(&payload[NEIGHBOR_FIXED..], libc::NDA_LLADDR)?.try_into().ok().map(Mac)
}
