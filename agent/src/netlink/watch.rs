//! The subscription to the kernel's notifications, as hints.
//!
//! Notifications are many where pods come and go, and where another daemon keeps routes. A filter in the kernel (classic
//! BPF) drops those that are of no use before they are queued: so they wake nobody, and they can't displace others.

use super::error::{Cause, KernelError, KernelResult};
use super::hint::{ForeignRoute, Hint};
use super::link::{Address, Link};
use super::route::decode::RouteView;
use crate::dataplane::{PROTOCOL, Tunnel};
use heliograph_cni::codec::{HEADER, Received, find, messages, text, u32_at};
use heliograph_cni::{ROUTE_PROTOCOL as PLUGIN_PROTOCOL, is_host_interface};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{self, AsyncSocket, SocketAddr, TokioSocket};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

/// The groups of rtnetlink that are subscribed to (`RTNLGRP_…`): links, and for both families addresses, routes and rules.
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];
/// The group of all changes to nf_tables (NFNLGRP_NFTABLES).
const NF_TABLES: u32 = 7;
/// The length of the receive buffer of the process: notifications are shorter.
const DATAGRAM: usize = 64 * 1024;
/// The size of the receive buffer in the kernel in octets, of which only what is queued takes memory.
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;
/// The largest number of datagrams that are received at once.
const AT_ONCE: usize = 4096;

/// A subscription to hints. Open it before the first reading, so that no change is missed.
pub struct Watch {
    routes: TokioSocket,
    /// `None` on a kernel without nf_tables.
    tables: Option<TokioSocket>,
    transaction: Transaction,
    buffer: Vec<u8>,
    own: Own,
}

/// The ports of the sockets by which Heliograph itself makes changes, which give no hint.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The socket that changes routes.
    pub routes: u32,
    /// The sockets that change nf_tables.
    pub tables: Vec<u32>,
}

impl Watch {
    /// Subscribes. Needs a tokio runtime with I/O.
    pub fn open(own: Own) -> KernelResult<Self> {
        let failed = |error: io::Error| {
            KernelError::from_cause("subscribe to the kernel's changes", Cause::from(error))
        };
        let routes = subscribed(NETLINK_ROUTE, &GROUPS, Some(own.routes)).map_err(failed)?;
        let tables = match subscribed(NETLINK_NETFILTER, &[NF_TABLES], None) {
            Ok(tables) => Some(tables),
            Err(error) => {
                tracing::debug!(%error, "no notifications of nf_tables");
                None
            }
        };
        let transaction = Transaction::default();
        Ok(Self { routes, tables, transaction, buffer: Vec::with_capacity(DATAGRAM), own })
    }

    /// Waits for notifications, and appends the hints of all that have come. It may be cancelled at any time.
    ///
    /// # Errors
    /// The subscription ended: open another, and read everything.
    pub async fn next(&mut self, hints: &mut Vec<Hint>) -> KernelResult<()> {
        poll_fn(|cx| self.poll_next(cx, hints)).await.map_err(|error| {
            KernelError::from_cause("receive the kernel's notifications", Cause::from(error))
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, hints: &mut Vec<Hint>) -> Poll<io::Result<()>> {
        let Self { routes, tables, transaction, buffer, own } = self;
        let before = hints.len();
        let mut empty = (false, tables.is_none());
        for _ in 0..AT_ONCE {
            match receive(routes, cx, buffer) {
                Poll::Pending => {
                    empty.0 = true;
                    break;
                }
                Poll::Ready(Ok(true)) => {
                    hints.extend(messages_with_port(buffer).filter_map(|message| hint(&message, own)));
                }
                // Anything may have changed.
                Poll::Ready(Ok(false)) => hints.push(Hint::Everything),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        for _ in 0..AT_ONCE {
            let Some(tables) = tables else { break };
            match receive(tables, cx, buffer) {
                Poll::Pending => {
                    empty.1 = true;
                    break;
                }
                Poll::Ready(Ok(true)) => hints
                    .extend(messages_with_port(buffer).filter_map(|message| transaction.hint(&message, own))),
                Poll::Ready(Ok(false)) => hints.push(Hint::Nftables { generation: None, ours: true }),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if hints.len() > before {
            return Poll::Ready(Ok(()));
        }
        if empty != (true, true) {
            // A socket that was not emptied does not wake the task.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Opens a socket that receives these groups.
fn subscribed(protocol: isize, groups: &[u32], own: Option<u32>) -> io::Result<TokioSocket> {
    let mut subscribed = TokioSocket::new(protocol)?;
    let socket = subscribed.socket_mut();
    if setsockopt(socket, RcvBufForce, &KERNEL_BUFFER).is_err() {
        setsockopt(socket, RcvBuf, &KERNEL_BUFFER)?;
    }
    if let Some(own) = own {
        attach(socket, &filter(own))?;
    }
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(subscribed)
}

/// Receives a datagram into the buffer; `false`: the socket lost some.
fn receive(socket: &TokioSocket, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<bool>> {
    buffer.clear();
    match socket.poll_recv(cx, buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
        Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => Poll::Ready(Ok(false)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
    }
}

/// Returns the filter for notifications of rtnetlink: it drops routes of the plugin, routes of the local table, and
/// Heliograph's own changes of its routes.
fn filter(own: u32) -> Vec<libc::sock_filter> {
    const LOCAL_TABLE: u8 = libc::RT_TABLE_LOCAL;
    let load = |size: u32, at: usize| instruction(libc::BPF_LD | libc::BPF_ABS | size, 0, 0, at as u32);
    let equal = |value: u32, yes: u8, no: u8| {
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value)
    };
    let result = |length: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, length);
    // A load converts from network byte order, and the header is in that of the host.
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    vec![
        load(libc::BPF_H, 4),
        equal(kind(libc::RTM_NEWROUTE), 1, 0),
        equal(kind(libc::RTM_DELROUTE), 0, 7),
        load(libc::BPF_B, HEADER + 5),
        equal(u32::from(PLUGIN_PROTOCOL), 6, 0),
        equal(u32::from(PROTOCOL), 2, 0),
        load(libc::BPF_B, HEADER + 4),
        equal(u32::from(LOCAL_TABLE), 3, 2),
        load(libc::BPF_W, 12),
        equal(u32::from_be_bytes(own.to_ne_bytes()), 1, 0),
        result(u32::MAX),
        result(0),
    ]
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn attach(socket: &sys::Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the descriptor is open. The kernel only reads the program and the instructions that it points to, both of
    // which live through the call, and copies them.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A notification, with the port of the socket that requested the change.
struct Notification<'a> {
    message: Received<'a>,
    port: u32,
}

fn messages_with_port(datagram: &[u8]) -> impl Iterator<Item = Notification<'_>> {
    let mut place = 0;
    messages(datagram).map(move |message| {
        let port = u32_at(datagram, place + 12).unwrap_or(0);
        place += (HEADER + message.payload.len()).next_multiple_of(4);
        Notification { message, port }
    })
}

/// Returns the hint that a notification of rtnetlink gives, if it is relevant.
fn hint(Notification { message, port }: &Notification<'_>, own: &Own) -> Option<Hint> {
    match message.kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            route_hint(message.payload, message.kind == libc::RTM_NEWROUTE, *port == own.routes)
        }
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link_hint(message.payload),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => address_hint(message.payload),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Hint::Rule),
        _ => None,
    }
}

fn route_hint(payload: &[u8], added: bool, own: bool) -> Option<Hint> {
    let route = RouteView::new(payload)?;
    let RouteView { prefix, table, metric, tos, protocol, .. } = route;
    // Policy rules may use other tables, but the local one only repeats the addresses.
    if protocol == PLUGIN_PROTOCOL || table == u32::from(libc::RT_TABLE_LOCAL) {
        return None;
    }
    if protocol == PROTOCOL && table == super::route::MAIN_TABLE {
        return (!own).then_some(Hint::OwnRoute { prefix });
    }
    let irrelevant = match prefix.network() {
        IpAddr::V6(network) => network.is_multicast() || network.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let foreign = ForeignRoute { prefix, table, metric, tos, protocol, added };
    (!irrelevant).then_some(Hint::ForeignRoute(foreign))
}

fn link_hint(payload: &[u8]) -> Option<Hint> {
    let Link { index, name, .. } = Link::new(payload)?;
    (!is_host_interface(&name)).then(|| Hint::Link { index, ours: Tunnel::by_device(&name).is_some() })
}

fn address_hint(payload: &[u8]) -> Option<Hint> {
    let Address { index, own, scope } = Address::new(payload)?;
    // Each pod's veth gets a link-local address, and next hops are hardly ever link-local.
    let link_local = own.is_ipv6() && scope == libc::RT_SCOPE_LINK;
    (!link_local).then_some(Hint::Address { index, address: own })
}

/// The notifications of a transaction of nf_tables so far. The last one has the generation.
#[derive(Debug, Default)]
struct Transaction {
    ours: bool,
}

impl Transaction {
    /// Returns the hint that a notification gives.
    fn hint(&mut self, Notification { message, port }: &Notification<'_>, own: &Own) -> Option<Hint> {
        /// NFNL_SUBSYS_NFTABLES in the upper octet of the type; NFT_MSG_NEWGEN.
        const SUBSYSTEM: u16 = 10 << 8;
        const NEW_GENERATION: u16 = SUBSYSTEM | 15;
        /// The length of `struct nfgenmsg`, which begins with the family.
        const NF_HEADER: usize = 4;
        /// NFPROTO_INET.
        const INET: u8 = 1;
        // NFTA_GEN_ID; and the name of the table, which is the first attribute of all other objects.
        const GENERATION: u16 = 1;
        const TABLE: u16 = 1;
        let all = message.payload.get(NF_HEADER..)?;
        if message.kind == NEW_GENERATION {
            let generation = find(all, GENERATION).and_then(|value| u32_at(value, 0)).map(u32::from_be);
            let ours = std::mem::take(&mut self.ours);
            return Some(Hint::Nftables { generation, ours });
        }
        let table = find(all, TABLE).is_some_and(|name| text(name) == super::nftables::TABLE);
        self.ours |= table && message.payload[0] == INET && !own.tables.contains(port);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Route;
    use crate::netlink::route::{Batch, Devices, RouteChange};
    use heliograph_cni::codec::Message;
    use std::sync::Arc;

    const OWN: u32 = 7;

    fn own() -> Own {
        Own { routes: OWN, tables: vec![OWN] }
    }

    /// Returns a notification with the port of the socket that made the change.
    fn from(port: u32, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes[12..16].copy_from_slice(&port.to_ne_bytes());
        bytes
    }

    fn hint_of(bytes: &[u8]) -> Option<Hint> {
        let mut all = messages_with_port(bytes);
        hint(&all.next().unwrap(), &own())
    }

    fn message(kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = Message::new(kind, 0, fixed);
        attributes.iter().for_each(|(kind, value)| message.attribute(*kind, value));
        message.finish(0)
    }

    fn route(prefix: &str, protocol: u8) -> Vec<u8> {
        let change = RouteChange::Add(prefix.parse().unwrap(), Arc::new(Route::Blackhole));
        let mut batch = Batch::default();
        batch.push(&change, &Devices::new()).unwrap();
        let mut bytes = batch.into_bytes();
        bytes[HEADER + 5] = protocol;
        bytes
    }

    fn link(name: &str) -> Vec<u8> {
        let mut fixed = [0; 16];
        fixed[4] = 9;
        message(libc::RTM_NEWLINK, &fixed, &[(3, format!("{name}\0").as_bytes())])
    }

    #[test]
    fn hints_name_what_they_are_about() {
        let foreign = |prefix: &str, protocol, table| {
            let prefix = prefix.parse().unwrap();
            Hint::ForeignRoute(ForeignRoute { prefix, table, metric: 104, tos: 0, protocol, added: true })
        };
        let static_route = from(8, route("10.0.0.0/24", 4));
        assert_eq!(hint_of(&static_route), Some(foreign("10.0.0.0/24", 4, 254)));
        assert_eq!(
            hint_of(&from(8, route("10.0.0.0/24", 104))),
            Some(Hint::OwnRoute { prefix: "10.0.0.0/24".parse().unwrap() })
        );
        assert_eq!(hint_of(&from(OWN, route("10.0.0.0/24", 104))), None, "an own change");
        assert_eq!(hint_of(&from(8, route("10.0.0.7/32", PLUGIN_PROTOCOL))), None, "a pod's route");
        assert_eq!(hint_of(&from(8, route("fe80::/64", 2))), None);
        let mut other_table = static_route.clone();
        other_table[HEADER + 4] = 99;
        assert_eq!(hint_of(&other_table), Some(foreign("10.0.0.0/24", 4, 99)), "policy rules may use it");
        other_table[HEADER + 4] = 255;
        assert_eq!(hint_of(&other_table), None, "the local table repeats the addresses");
        let mut removed = static_route;
        removed[4] = libc::RTM_DELROUTE as u8;
        assert!(matches!(hint_of(&removed), Some(Hint::ForeignRoute(ForeignRoute { added: false, .. }))));

        assert_eq!(hint_of(&link("hg0123456789ab")), None, "a pod's interface");
        assert_eq!(hint_of(&link("eth0")), Some(Hint::Link { index: 9, ours: false }));
        assert_eq!(hint_of(&link("heliograph6")), Some(Hint::Link { index: 9, ours: true }));
        assert_eq!(hint_of(&message(libc::RTM_DELRULE, &[2; 12], &[])), Some(Hint::Rule));
        assert_eq!(hint_of(&message(3, &[0; 12], &[])), None);
    }

    #[test]
    fn own_addresses_give_hints_and_link_local_ones_do_not() {
        let address = |family: i32, scope, attributes: &[(u16, &[u8])]| {
            let fixed = [family as u8, 24, 0, scope, 5, 0, 0, 0];
            hint_of(&message(libc::RTM_NEWADDR, &fixed, attributes))
        };
        let peer = address(libc::AF_INET, 0, &[(1, &[192, 0, 2, 9]), (2, &[192, 0, 2, 1])]);
        assert_eq!(peer, Some(Hint::Address { index: 5, address: [192, 0, 2, 1].into() }));
        assert_eq!(address(libc::AF_INET6, 253, &[(1, &[0xfe; 16])]), None);
        assert!(address(libc::AF_INET6, 0, &[(1, &[0x20; 16])]).is_some());
    }

    #[test]
    fn a_transaction_of_nf_tables_is_one_hint() {
        let object = |table: &str, port| {
            from(port, message(10 << 8, &[1, 0, 0, 0], &[(1, format!("{table}\0").as_bytes())]))
        };
        let generation = |number: u32| message((10 << 8) | 15, &[0; 4], &[(1, &number.to_be_bytes())]);
        let mut transaction = Transaction::default();
        let mut hints = |datagrams: &[Vec<u8>]| -> Vec<Hint> {
            let datagram = datagrams.concat();
            messages_with_port(&datagram).filter_map(|message| transaction.hint(&message, &own())).collect()
        };
        let of = |generation, ours| [Hint::Nftables { generation: Some(generation), ours }];
        assert_eq!(hints(&[object("filter", 8), generation(3)]), of(3, false));
        assert_eq!(hints(&[object("heliograph", 8), object("filter", 8)]), []);
        assert_eq!(hints(&[generation(4)]), of(4, true));
        assert_eq!(hints(&[object("heliograph", OWN), generation(5)]), of(5, false));
    }

    /// Runs the filter as the kernel does; returns whether the notification passes.
    fn passes(filter: &[libc::sock_filter], bytes: &[u8]) -> bool {
        let (mut place, mut register) = (0, 0_u32);
        loop {
            let libc::sock_filter { code, jt, jf, k } = filter[place];
            place += 1;
            let at = k as usize;
            let load = |length: usize| {
                bytes[at..at + length].iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet))
            };
            match u32::from(code) {
                0x20 => register = load(4),
                0x28 => register = load(2),
                0x30 => register = load(1),
                0x15 => place += usize::from(if register == k { jt } else { jf }),
                0x06 => return k != 0,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_filter_drops_what_gives_no_hint() {
        let filter = filter(OWN);
        assert!(passes(&filter, &from(8, route("10.0.0.0/24", 4))));
        assert!(passes(&filter, &from(OWN, route("10.0.0.0/24", 4))));
        assert!(passes(&filter, &from(8, route("10.0.0.0/24", 104))));
        assert!(!passes(&filter, &from(OWN, route("10.0.0.0/24", 104))));
        assert!(!passes(&filter, &from(8, route("10.0.0.0/24", PLUGIN_PROTOCOL))));
        let mut removed = from(OWN, route("fd00::/64", 104));
        removed[4] = libc::RTM_DELROUTE as u8;
        assert!(!passes(&filter, &removed));
        removed[HEADER + 5] = 2;
        assert!(passes(&filter, &removed));
        removed[HEADER + 4] = 255;
        assert!(!passes(&filter, &removed));
        assert!(
            passes(&filter, &link("eth0")) && passes(&filter, &message(libc::RTM_NEWRULE, &[0; 12], &[]))
        );
    }
}
