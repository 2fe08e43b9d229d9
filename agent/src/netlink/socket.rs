//! A synchronous netlink socket: requests with their answers, dumps, and batches.
//!
//! The kernel handles a request while it is sent, so its answer is there when the send returns: receiving never waits.

use super::error::{Cause, KernelError, KernelResult};
use heliograph_cni::codec::{Message, Received, extended_ack, messages, u32_at};
use nix::errno::Errno;
use rtnetlink::sys::{Socket as RawSocket, SocketAddr};
use std::io;

/// Message types of netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of messages.
const ACK: u16 = 4;
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
/// The number of attempts to get a dump that no change interrupts.
const DUMP_ATTEMPTS: u32 = 8;
/// The smallest size of the send buffer in octets.
const SEND_BUFFER: usize = 1 << 16;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    socket: RawSocket,
    port: u32,
    sequence: u32,
    send_buffer: usize,
    sent: u64,
}

/// The rejection of a batch, or its failure.
#[derive(Debug)]
pub struct BatchError {
    /// The kernel's error.
    pub error: KernelError,
    /// The message that the kernel rejected, by its place in the batch; `None` if the answer was lost.
    pub message: Option<usize>,
}

impl Socket {
    /// Opens a socket for a netlink protocol.
    ///
    /// # Errors
    /// The kernel doesn't support the protocol.
    pub fn open(protocol: isize) -> KernelResult<Self> {
        let what = "open a netlink socket";
        let made = || {
            let mut socket = RawSocket::new(protocol)?;
            let address = socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            Ok((socket, address.port_number()))
        };
        let (socket, port) = made().map_err(|error| failed(what, error))?;
        // Kernels before 4.12 lack these options: their errors have no explanation.
        for option in [socket.set_ext_ack(true), socket.set_cap_ack(true)] {
            if let Err(error) = option {
                tracing::debug!(%error, "netlink option not available");
            }
        }
        Ok(Self { socket, port, sequence: 0, send_buffer: 0, sent: 0 })
    }

    /// Returns the socket's port. Notifications of changes by this socket contain it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Returns the number of octets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends a request for a change and waits for its confirmation.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    pub fn change(&mut self, what: &str, mut message: Message) -> KernelResult<()> {
        message.add_flags(ACK);
        self.batch(what, vec![message], 0).map_err(|failure| failure.error)
    }

    /// Sends messages at once. Only the one at `confirming` is confirmed: confirmations of thousands would not fit into the
    /// socket's buffer. It must have been built with [`acknowledged`].
    ///
    /// # Errors
    /// The kernel's error for the first message that it rejected, or no answer.
    pub fn batch(&mut self, what: &str, batch: Vec<Message>, confirming: usize) -> Result<(), BatchError> {
        let lost = |error| BatchError { error, message: None };
        let base = self.send(what, batch).map_err(lost)?;
        loop {
            let datagram = self.receive(what).map_err(lost)?;
            for answer in messages(&datagram) {
                // An answer to an earlier request that failed has another number.
                let place = answer.sequence.wrapping_sub(base) as usize;
                match answer.kind {
                    ERROR if place > confirming => {}
                    ERROR if code(&answer) != 0 => {
                        return Err(BatchError { error: rejection(what, &answer), message: Some(place) });
                    }
                    ERROR if place == confirming => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Sends a request that has one answer; returns its octets after the header.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    pub fn get(&mut self, what: &str, message: Message) -> KernelResult<Vec<u8>> {
        let base = self.send(what, vec![message])?;
        loop {
            let datagram = self.receive(what)?;
            for answer in messages(&datagram).filter(|answer| answer.sequence == base) {
                match answer.kind {
                    ERROR if code(&answer) != 0 => return Err(rejection(what, &answer)),
                    ERROR => {}
                    _ => return Ok(answer.payload.to_vec()),
                }
            }
        }
    }

    /// Requests a dump; returns each object's octets after the header. It is repeated if the kernel's tables changed
    /// meanwhile.
    ///
    /// # Errors
    /// The kernel's error, no answer, or interruptions each time.
    pub fn dump(&mut self, what: &str, request: impl Fn() -> Message) -> KernelResult<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut message = request();
            message.add_flags(DUMP);
            if let Some(found) = self.dump_once(what, message)? {
                return Ok(found);
            }
        }
        Err(KernelError::from_cause(what, Cause::Interrupted(DUMP_ATTEMPTS)))
    }

    /// Requests a dump once; `None` if it was interrupted.
    fn dump_once(&mut self, what: &str, message: Message) -> KernelResult<Option<Vec<Vec<u8>>>> {
        let base = self.send(what, vec![message])?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive(what)?;
            for answer in messages(&datagram).filter(|answer| answer.sequence == base) {
                interrupted |= answer.flags & INTERRUPTED != 0;
                match answer.kind {
                    ERROR if code(&answer) != 0 => return Err(rejection(what, &answer)),
                    DONE => return Ok((!interrupted).then_some(found)),
                    _ => found.push(answer.payload.to_vec()),
                }
            }
        }
    }

    /// Sends messages at once; returns the sequence number of the first.
    fn send(&mut self, what: &str, batch: Vec<Message>) -> KernelResult<u32> {
        let base = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in batch {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(message.finish(self.sequence));
        }
        // A transaction is one send, for any number of objects. The kernel counts its own overhead too.
        let size = (2 * bytes.len()).max(SEND_BUFFER);
        if size > self.send_buffer {
            self.send_buffer = size;
            let forced =
                nix::sys::socket::setsockopt(&self.socket, nix::sys::socket::sockopt::SndBufForce, &size);
            if let Err(error) = forced {
                tracing::debug!(%error, "the size of the send buffer is not changed");
            }
        }
        let sent =
            self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(|error| failed(what, error))?;
        self.sent += sent as u64;
        if sent == bytes.len() { Ok(base) } else { Err(KernelError::from_cause(what, Cause::NoAnswer)) }
    }

    fn receive(&self, what: &str) -> KernelResult<Vec<u8>> {
        let received = self.socket.recv_from_full().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => KernelError::from_cause(what, Cause::NoAnswer),
            _ => failed(what, error),
        })?;
        Ok(received.0)
    }
}

/// Adds the flag that requests a confirmation to a message of a batch.
pub fn acknowledged(message: &mut Message) {
    message.add_flags(ACK);
}

/// Returns the error number in an acknowledgement, negative as the kernel sends it; 0 is success.
fn code(answer: &Received<'_>) -> i32 {
    u32_at(answer.payload, 0).map_or(-(Errno::EPROTO as i32), u32::cast_signed)
}

fn rejection(what: &str, answer: &Received<'_>) -> KernelError {
    let errno = Errno::from_raw(-code(answer));
    let message = extended_ack(answer.payload, answer.flags);
    KernelError::from_cause(what, Cause::Rejected { errno, message })
}

fn failed(what: &str, error: io::Error) -> KernelError {
    KernelError::from_cause(what, Cause::from(error))
}
