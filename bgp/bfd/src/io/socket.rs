//! Sockets with the options of RFC 5881 §4 and §5.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use crate::Meta;

/// The longest datagram read, above any packet's length. A longer one is truncated, and then discarded by its length
/// field.
const LONGEST: usize = 512;
/// Internetwork control (CS6), so that a congested link is not taken for a failed one.
const TRAFFIC_CLASS: u32 = 0xc0;

/// A socket that receives from neighbors.
pub(super) struct Listener {
    socket: tokio::net::UdpSocket,
    local: SocketAddr,
}

/// A datagram with what the kernel reports about it.
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
    /// Binds a socket for which the kernel reports the TTL, destination address and interface of each datagram. An IPv6
    /// socket receives IPv6 only, so that both families can be bound to the same port.
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

    /// Returns the address that it is bound to.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Polls whether the socket is readable; the read that follows returns errors.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Reads the next datagram; if there is none, the runtime waits for the next one.
    pub(super) fn read_ready(&self) -> io::Result<Received> {
        self.socket.try_io(Interest::READABLE, || self.read())
    }

    /// Reads the next datagram from the kernel, without the runtime.
    pub(super) fn read(&self) -> io::Result<Received> {
        let mut buffer = [0; LONGEST];
        let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo, nix::libc::c_int);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let remote = message.address.as_ref().and_then(ip_of).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let mut meta = Meta::new(self.local, remote);
        // If the control messages were truncated none is used, and the datagram counts as one with TTL 0.
        for control in message.cmsgs().into_iter().flatten() {
            apply(&mut meta, &control);
        }
        let length = message.bytes;
        Ok(Received { buffer, length, meta })
    }
}

fn apply(meta: &mut Meta, control: &ControlMessageOwned) {
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

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Returns a socket that sends from `local` with `ttl`. It is not connected: otherwise an ICMP error about one packet
/// would be returned for the next, which would not be sent.
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
    // Nothing is received on this port.
    socket.set_recv_buffer_size(0)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}
