//! The requests this plugin makes, as messages, and its readings of what comes back.

use std::net::IpAddr;
use std::os::fd::RawFd;

use super::codec::{Message, attributes, text, u32_at};
use crate::ROUTE_PROTOCOL;
use crate::net::{Link, Mac, Route};
use crate::plan::Veth;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ASK: u16 = REQUEST | libc::NLM_F_ACK as u16;
const CREATE: u16 = ASK | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const CREATE_OR_REPLACE: u16 = ASK | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = REQUEST | libc::NLM_F_DUMP as u16;

/// From linux/veth.h and linux/rtnetlink.h, which libc doesn't have.
const VETH_INFO_PEER: u16 = 1;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTNH_F_ONLINK: u32 = 4;

/// Length of `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtmsg` and `struct ndmsg`.
const LINK_FIXED: usize = 16;
const ADDRESS_FIXED: usize = 8;
const ROUTE_FIXED: usize = 12;
const NEIGHBOUR_FIXED: usize = 12;

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Bits of a whole address, the length of a host's prefix.
pub(super) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
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

/// A veth pair whose peer is made in the namespace `netns`. Name, MTU and MAC are set at birth: an address given
/// later would be a second event for whoever watches interfaces, and udev leaves a set one alone.
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
    Message::new(libc::RTM_NEWLINK, ASK, &link_fixed(index, up, up))
}

pub(super) fn delete_link(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_DELLINK, ASK, &link_fixed(0, 0, 0));
    message.attribute_text(libc::IFLA_IFNAME, name);
    message
}

pub(super) fn get_link(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, ASK, &link_fixed(0, 0, 0));
    message.attribute_text(libc::IFLA_IFNAME, name);
    message
}

pub(super) fn dump_links() -> Message {
    Message::new(libc::RTM_GETLINK, DUMP, &link_fixed(0, 0, 0))
}

/// The address as its own network. For IPv6 without duplicate address detection: nobody else is on the link, and
/// the pod may use it at once.
pub(super) fn add_address(index: u32, address: IpAddr) -> Message {
    let flags = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut fixed = [family(address), bits(address), flags, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(libc::RTM_NEWADDR, CREATE, &fixed);
    message.attribute(libc::IFA_LOCAL, &octets(address));
    message.attribute(libc::IFA_ADDRESS, &octets(address));
    message
}

pub(super) fn dump_addresses(of_family: IpAddr) -> Message {
    Message::new(libc::RTM_GETADDR, DUMP, &[family(of_family), 0, 0, 0, 0, 0, 0, 0])
}

fn route_fixed(of_family: IpAddr, prefix_len: u8, scope: u8, flags: u32) -> [u8; ROUTE_FIXED] {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[..8].copy_from_slice(&[
        family(of_family),
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
    let fixed = route_fixed(address, bits(address), libc::RT_SCOPE_LINK, 0);
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed);
    message.attribute(libc::RTA_DST, &octets(address));
    message.attribute_u32(libc::RTA_OIF, index);
    message
}

/// A default route whose gateway is on the link because we say so.
pub(super) fn add_default_route(index: u32, gateway: IpAddr) -> Message {
    let fixed = route_fixed(gateway, 0, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed);
    message.attribute(libc::RTA_GATEWAY, &octets(gateway));
    message.attribute_u32(libc::RTA_OIF, index);
    message
}

/// Asks which entry of the FIB the address meets. Unlike a dump it costs the same however many routes there are.
pub(super) fn look_up(address: IpAddr) -> Message {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[..2].copy_from_slice(&[family(address), bits(address)]);
    fixed[8..].copy_from_slice(&(RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH).to_ne_bytes());
    let mut message = Message::new(libc::RTM_GETROUTE, ASK, &fixed);
    message.attribute(libc::RTA_DST, &octets(address));
    message
}

pub(super) fn dump_routes(of_family: IpAddr) -> Message {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = family(of_family);
    Message::new(libc::RTM_GETROUTE, DUMP, &fixed)
}

fn neighbour_fixed(index: u32, address: IpAddr, state: u16) -> [u8; NEIGHBOUR_FIXED] {
    let mut fixed = [0; NEIGHBOUR_FIXED];
    fixed[0] = family(address);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed
}

pub(super) fn add_neighbour(index: u32, address: IpAddr, mac: Mac) -> Message {
    let fixed = neighbour_fixed(index, address, libc::NUD_PERMANENT);
    let mut message = Message::new(libc::RTM_NEWNEIGH, CREATE_OR_REPLACE, &fixed);
    message.attribute(libc::NDA_DST, &octets(address));
    message.attribute(libc::NDA_LLADDR, &mac.0);
    message
}

pub(super) fn get_neighbour(index: u32, address: IpAddr) -> Message {
    let mut message = Message::new(libc::RTM_GETNEIGH, ASK, &neighbour_fixed(index, address, 0));
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
                let kind = attributes(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The interface and the address of an address message. For a point-to-point address IFA_LOCAL is ours.
pub(super) fn read_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(payload.get(..ADDRESS_FIXED)?, 4)?;
    let find = |wanted| attributes(&payload[ADDRESS_FIXED..]).find(|(kind, _)| *kind == wanted);
    let (_, value) = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
    Some((index, read_ip(value)?))
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
            libc::RTA_DST => route.destination = read_ip(value),
            libc::RTA_GATEWAY => route.gateway = read_ip(value),
            libc::RTA_OIF => route.interface = u32_at(value, 0),
            libc::RTA_TABLE => route.table = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(route)
}

/// The MAC of a permanent entry.
pub(super) fn read_permanent_neighbour(payload: &[u8]) -> Option<Mac> {
    let state = super::codec::u16_at(payload.get(..NEIGHBOUR_FIXED)?, 8)?;
    if state & libc::NUD_PERMANENT == 0 {
        return None;
    }
    let (_, value) = attributes(&payload[NEIGHBOUR_FIXED..]).find(|(kind, _)| *kind == libc::NDA_LLADDR)?;
    value.try_into().ok().map(Mac)
}

fn read_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
