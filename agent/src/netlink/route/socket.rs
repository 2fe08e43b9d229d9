//! A blocking rtnetlink socket in the network namespace of the thread that opened it.

use super::Batch;
use super::encode::family_number;
use crate::netlink::error::{Cause, KernelError, KernelResult};
use heliograph_cni::IpFamily;
use heliograph_cni::codec::{HEADER, Message, Received, extended_ack, messages, u32_at};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, SndBuf, SndBufForce};
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, setsockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::{self, SocketAddr, protocols::NETLINK_ROUTE};
use std::os::fd::AsRawFd;

/// The number of attempts to get a dump that no change interrupts.
pub const DUMP_ATTEMPTS: u32 = 8;
/// The time in seconds after which an answer counts as lost. The kernel answers before the send returns.
const TIMEOUT: i64 = 10;
/// The length of the receive buffer of the process. The kernel sends at most 32 KiB of a dump at once.
const DATAGRAM: usize = 64 * 1024;
/// The size of the socket's buffers in the kernel in octets.
const KERNEL_BUFFER: usize = 1024 * 1024;
/// The memory in octets that an answer with an explanation takes of the receive buffer, with the kernel's administration.
const ANSWER: usize = 1280;

/// A blocking rtnetlink socket.
#[derive(Debug)]
pub struct Socket {
    socket: sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// The largest number of requests in a batch: all answers must fit into the receive buffer.
    most_requests: u32,
    /// The largest length of a batch in octets.
    longest_batch: usize,
}

/// The end of a part of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// More follows.
    More,
    /// The dump is complete.
    Last,
    /// A change interrupted the dump, which is over: it has to be repeated.
    Interrupted,
}

impl Socket {
    /// Opens a socket.
    pub fn open() -> KernelResult<Self> {
        let failed = |error: std::io::Error| {
            KernelError::from_cause("open a routing netlink socket", Cause::from(error))
        };
        let mut socket = sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        let address = socket.bind_auto().map_err(failed)?;
        // Only the kernel (port 0) may answer.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Kernels before 4.20 lack some of these options: their errors have no explanation, and their dumps are filtered
        // less.
        for option in
            [socket.set_ext_ack(true), socket.set_cap_ack(true), socket.set_netlink_get_strict_chk(true)]
        {
            if let Err(error) = option {
                tracing::debug!(%error, "netlink option not available");
            }
        }
        let set = |result: nix::Result<()>| result.map_err(|errno| failed(errno.into()));
        set(setsockopt(&socket, ReceiveTimeout, &TimeVal::new(TIMEOUT, 0)))?;
        // Only the capability NET_ADMIN permits more than the system's limit; without it, batches are smaller.
        if setsockopt(&socket, RcvBufForce, &KERNEL_BUFFER).is_err() {
            set(setsockopt(&socket, RcvBuf, &KERNEL_BUFFER))?;
        }
        if setsockopt(&socket, SndBufForce, &KERNEL_BUFFER).is_err() {
            set(setsockopt(&socket, SndBuf, &KERNEL_BUFFER))?;
        }
        let receive = getsockopt(&socket, RcvBuf).map_err(|errno| failed(errno.into()))?;
        let send = getsockopt(&socket, SndBuf).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            buffer: vec![0; DATAGRAM],
            most_requests: u32::try_from(receive / ANSWER).unwrap_or(1).max(1),
            longest_batch: send / 4,
        })
    }

    /// Returns the socket's port. Notifications of changes by this socket contain it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Returns whether a batch is so large that it has to be committed before more is added.
    pub fn is_full(&self, batch: &Batch) -> bool {
        batch.count >= self.most_requests || batch.len() >= self.longest_batch
    }

    /// Sends the requests of a batch and waits until the kernel has handled all of them; calls `failed` with the place of
    /// each that it rejected. The batch is empty afterwards. An error means that the effects are unknown.
    ///
    /// The kernel handles the requests of one send in their order, and answers those that it rejects and the last one, which
    /// alone requests an acknowledgement: so 1,000 successful changes cost one answer.
    pub fn commit(&mut self, batch: &mut Batch, mut failed: impl FnMut(usize, Cause)) -> Result<(), Cause> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let mut place = 0;
        while let Some(length) = u32_at(&batch.bytes, place) {
            self.sequence = self.sequence.wrapping_add(1);
            batch.bytes[place + 8..place + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            place += length as usize;
        }
        // The acknowledgement flag is in the lower octet of the flags.
        let flags = batch.last + 6;
        let all = u16::from_ne_bytes([batch.bytes[flags], batch.bytes[flags + 1]]) | libc::NLM_F_ACK as u16;
        batch.bytes[flags..flags + 2].copy_from_slice(&all.to_ne_bytes());
        let sent = self.transmit(&batch.bytes);
        let count = batch.count;
        batch.clear();
        sent?;
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]) {
                let place = message.sequence.wrapping_sub(first);
                if place >= count || i32::from(message.kind) != libc::NLMSG_ERROR {
                    continue; // It belongs to an earlier request, whose answer came too late.
                }
                if let Some(cause) = rejection(&message) {
                    failed(place as usize, cause);
                }
                if place == count - 1 {
                    return Ok(());
                }
            }
        }
    }

    /// Begins a dump of a family's routes in the main table, filtered by the protocol number if there is one. Kernels before
    /// 4.20 don't filter, so the receiver has to.
    pub fn begin_dump(&mut self, family: IpFamily, protocol: Option<u8>) -> Result<(), Cause> {
        let mut header = [0; super::ROUTE_HEADER];
        header[0] = family_number(family);
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = protocol.unwrap_or(0);
        self.request(Message::new(libc::RTM_GETROUTE, DUMP, &header))
    }

    /// Receives the next part of a dump, of at most 32 KiB; calls `visit` with the payload of each object.
    pub fn next_part(&mut self, mut visit: impl FnMut(&[u8])) -> Result<Part, Cause> {
        let length = self.receive()?;
        let mut interrupted = false;
        for message in messages(&self.buffer[..length]) {
            if message.sequence != self.sequence {
                continue; // It belongs to an earlier request.
            }
            interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match i32::from(message.kind) {
                libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                    return match rejection(&message) {
                        Some(cause) => Err(cause),
                        None if interrupted => Ok(Part::Interrupted),
                        None => Ok(Part::Last),
                    };
                }
                _ => visit(message.payload),
            }
        }
        if !interrupted {
            return Ok(Part::More);
        }
        // The rest is of no use, but has to be received before the next request.
        loop {
            let length = self.receive()?;
            let ended = |message: Received<'_>| {
                message.sequence == self.sequence
                    && matches!(i32::from(message.kind), libc::NLMSG_ERROR | libc::NLMSG_DONE)
            };
            if messages(&self.buffer[..length]).any(ended) {
                return Ok(Part::Interrupted);
            }
        }
    }

    /// Looks up one route by a request of which `header` is `struct rtmsg`; calls `visit` with the payload of the answer.
    pub(crate) fn look_up<R>(
        &mut self,
        header: [u8; super::ROUTE_HEADER],
        destination: std::net::IpAddr,
        visit: impl FnOnce(&[u8]) -> Option<R>,
    ) -> Result<R, Cause> {
        let mut message = Message::new(libc::RTM_GETROUTE, libc::NLM_F_REQUEST as u16, &header);
        match destination {
            std::net::IpAddr::V4(address) => {
                message.attribute(super::attribute::DESTINATION, &address.octets());
            }
            std::net::IpAddr::V6(address) => {
                message.attribute(super::attribute::DESTINATION, &address.octets());
            }
        }
        self.request(message)?;
        let payload = self.answer()?;
        visit(payload).ok_or_else(|| Cause::Unexpected(format!("{payload:?}")))
    }

    /// Waits for the one answer to the last request, which is the first message in the buffer; returns its payload.
    fn answer(&mut self) -> Result<&[u8], Cause> {
        loop {
            let length = self.receive()?;
            let first =
                messages(&self.buffer[..length]).next().filter(|first| first.sequence == self.sequence);
            let Some(first) = first else { continue };
            if i32::from(first.kind) == libc::NLMSG_ERROR {
                let none = || Cause::Unexpected("an acknowledgement instead of an object".to_owned());
                return Err(rejection(&first).unwrap_or_else(none));
            }
            let length = first.payload.len();
            return Ok(&self.buffer[HEADER..HEADER + length]);
        }
    }

    fn request(&mut self, mut message: Message) -> Result<(), Cause> {
        self.sequence = self.sequence.wrapping_add(1);
        message.add_flags(libc::NLM_F_REQUEST as u16);
        self.transmit(&message.finish(self.sequence))
    }

    fn transmit(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Cause::Rejected { errno, message: None }),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives a datagram into the buffer; returns its length.
    fn receive(&mut self) -> Result<usize, Cause> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => return Ok(length),
                Ok(length) => {
                    return Err(Cause::Unexpected(format!("{length} octets, more than {DATAGRAM}")));
                }
                Err(Errno::EINTR) => {}
                // An answer was lost: none came in time, or one did not fit into the socket's buffer.
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Err(Cause::NoAnswer),
                Err(errno) => return Err(Cause::Rejected { errno, message: None }),
            }
        }
    }
}

/// The flags of a request for a dump.
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Returns the error in an acknowledgement or at the end of a dump. Both begin with zero or a negative errno.
fn rejection(message: &Received<'_>) -> Option<Cause> {
    let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    let rejected = || Cause::Rejected {
        errno: Errno::from_raw(code.saturating_neg()),
        message: extended_ack(message.payload, message.flags),
    };
    (code != 0).then(rejected)
}
