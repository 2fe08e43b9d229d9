//! Sockets, as BFD wants them (RFC 5881 §4 and §5).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use crate::Meta;

/// More than any packet has; what is longer is cut, and its length then refused.
const LONGEST: usize = 512;
/// Internetwork control (CS6): links that are full must not look like links that are dead.
const TRAFFIC_CLASS: u32 = 0xc0;

/// Hears neighbours.
pub(super) struct Listener {
    socket: tokio::net::UdpSocket,
    local: SocketAddr,
}

/// A datagram, and what the kernel knows of it.
pub(super) struct Received {
    buffer: [u8; LONGEST],
    length: usize,
    pub(super) meta: Meta,
}

impl Received {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Listener {
    /// Has the kernel tell of each datagram its TTL, and the address and interface it came to. An IPv6 socket takes
    /// IPv6 only, so both families can be listened on side by side.
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        socket.bind(&address.into())?;
        let socket = tokio::net::UdpSocket::from_std(socket.into())?;
        Ok(Self { local: socket.local_addr()?, socket })
    }

    /// Where it listens.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether something may have come; errors show at the read that follows.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// The next datagram; where there is none, the runtime is told so.
    pub(super) fn read_ready(&self) -> io::Result<Received> {
        self.socket.try_io(Interest::READABLE, || self.read())
    }

    /// The next datagram, whatever the runtime knows.
    pub(super) fn read(&self) -> io::Result<Received> {
        let mut buffer = [0; LONGEST];
        let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo, nix::libc::c_int);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let remote = message.address.as_ref().and_then(address_of).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let mut meta = Meta { local: self.local, remote, ttl: None, interface: None };
        // Where the kernel's words were cut off none are taken: the datagram counts as one with TTL 0.
        for control in message.cmsgs().into_iter().flatten() {
            note(&mut meta, &control);
        }
        let length = message.bytes;
        Ok(Received { buffer, length, meta })
    }
}

fn note(meta: &mut Meta, control: &ControlMessageOwned) {
    match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
            meta.ttl = u8::try_from(*ttl).ok();
        }
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            meta.local.set_ip(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
            meta.interface = u32::try_from(info.ipi_ifindex).ok();
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            meta.local.set_ip(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            meta.interface = Some(info.ipi6_ifindex);
        }
        _ => {}
    }
}

fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// A socket that sends from `local` with `ttl`. It is not connected: an ICMP error about one packet would eat the next.
pub(super) fn sender(local: SocketAddr, ttl: u8) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if local.is_ipv4() {
        socket.set_ttl_v4(ttl.into())?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(ttl.into())?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    }
    // Nobody sends to this port; what comes is not kept.
    socket.set_recv_buffer_size(0)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}
