//! The part of nf_tables that Heliograph's table needs, by netlink: no program is needed, and no process is started for a
//! transaction. The numbers are those of the kernel's nf_tables.h and nfnetlink.h. docs/decisions/nf-tables-codec.md
//! gives the reason for a codec of our own.

use super::error::{Cause, KernelError, KernelResult};
use attribute::{Attribute, write_all};
use heliograph_cni::codec::{Message, Received, extended_ack, messages, u32_at};
use nix::errno::Errno;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;

pub mod attribute;
pub mod rule;

/// The family of tables that apply to IPv4 and IPv6 (NFPROTO_INET).
const INET: u8 = 1;
/// The number of nf_tables among the subsystems of netfilter (NFNL_SUBSYS_NFTABLES).
const SUBSYSTEM: u16 = 10;
/// The length of netfilter's header, which follows that of netlink (`struct nfgenmsg`), in octets.
const FAMILY_HEADER: usize = 4;
/// Message types of netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The message types that begin and end a transaction.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Flags of messages.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The number of attempts to get a dump that no change interrupts.
const DUMP_ATTEMPTS: u32 = 8;

/// Added to an [`Object`], the message type for an action.
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// The object of a message (NFT_MSG_NEW…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A table.
    Table = 0,
    /// A chain.
    Chain = 3,
    /// A rule.
    Rule = 6,
    /// A set.
    Set = 9,
    /// Elements of a set.
    Elements = 12,
}

/// A list of changes that the kernel makes all at once or not at all.
#[derive(Debug)]
pub struct Transaction {
    messages: Vec<Message>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self { messages: vec![message(BATCH_BEGIN, 0, [0, 0], SUBSYSTEM, &[])] }
    }
}

impl Transaction {
    /// Adds an object if it doesn't exist yet. A rule is appended to the existing ones.
    pub fn add(&mut self, object: Object, attributes: &[Attribute]) {
        let order = if object == Object::Rule { APPEND } else { 0 };
        self.messages.push(message(kind(object, NEW), CREATE | order, [INET, 0], 0, attributes));
    }

    /// Deletes an object with everything in it.
    pub fn delete(&mut self, object: Object, attributes: &[Attribute]) {
        self.messages.push(message(kind(object, DELETE), 0, [INET, 0], 0, attributes));
    }

    /// Sends the changes to the kernel and waits for the confirmation.
    ///
    /// # Errors
    /// The kernel's error for the first message that it rejected; then nothing was changed.
    pub fn commit(mut self, what: &str) -> KernelResult<()> {
        // Only the last change is acknowledged: acknowledgements of thousands would not fit into the socket's buffer.
        if let Some(last) = self.messages.last_mut() {
            last.add_flags(ACK);
        }
        // Sequence numbers count from 1.
        let last = self.messages.len() as u32;
        self.messages.push(message(BATCH_END, 0, [0, 0], SUBSYSTEM, &[]));
        let bytes: Vec<u8> =
            (1..).zip(self.messages).flat_map(|(sequence, message)| message.finish(sequence)).collect();
        let socket = open(what, bytes.len())?;
        send(&socket, what, &bytes)?;
        loop {
            let datagram = receive(&socket, what)?;
            for answer in messages(&datagram) {
                match answer.kind {
                    ERROR if code(&answer) != 0 => return Err(rejection(what, &answer)),
                    ERROR if answer.sequence == last => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// Returns all objects of a kind that the attributes select, each as its attributes. Some kernels return more.
pub fn dump(what: &str, object: Object, attributes: &[Attribute]) -> KernelResult<Vec<Vec<u8>>> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(found) = dump_once(what, object, attributes)? {
            return Ok(found);
        }
    }
    Err(KernelError::from_cause(what, Cause::Interrupted(DUMP_ATTEMPTS)))
}

/// Requests a dump once; `None` if it was interrupted.
fn dump_once(what: &str, object: Object, attributes: &[Attribute]) -> KernelResult<Option<Vec<Vec<u8>>>> {
    let request = message(kind(object, GET), DUMP, [INET, 0], 0, attributes).finish(1);
    let socket = open(what, request.len())?;
    send(&socket, what, &request)?;
    let mut found = Vec::new();
    let mut interrupted = false;
    loop {
        let datagram = receive(&socket, what)?;
        for answer in messages(&datagram) {
            interrupted |= answer.flags & INTERRUPTED != 0;
            match answer.kind {
                ERROR if code(&answer) != 0 => return Err(rejection(what, &answer)),
                DONE => return Ok((!interrupted).then_some(found)),
                kind if kind >> 8 == SUBSYSTEM => {
                    found.push(answer.payload.get(FAMILY_HEADER..).unwrap_or_default().to_vec());
                }
                _ => {}
            }
        }
    }
}

/// Returns whether an error means that nf_tables, or the requested object, does not exist.
pub fn is_absent(error: &KernelError) -> bool {
    // Without the module, the messages of the whole subsystem are unknown: EINVAL.
    matches!(
        error.errno(),
        Some(
            Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT
        )
    )
}

fn kind(object: Object, action: u16) -> u16 {
    (SUBSYSTEM << 8) | (object as u16 + action)
}

fn message(kind: u16, flags: u16, family: [u8; 2], resource: u16, attributes: &[Attribute]) -> Message {
    let [high, low] = resource.to_be_bytes();
    let mut message = Message::new(kind, REQUEST | flags, &[family[0], family[1], high, low]);
    write_all(attributes, &mut message);
    message
}

/// Opens a socket for one exchange: it can contain no answer to an earlier one.
fn open(what: &str, to_send: usize) -> KernelResult<Socket> {
    let made = || {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    };
    let socket: Socket = made().map_err(|error| failed(what, error))?;
    // Kernels before 4.12 lack these options: their errors have no explanation.
    for option in [socket.set_ext_ack(true), socket.set_cap_ack(true)] {
        if let Err(error) = option {
            tracing::debug!(%error, "netlink option not available");
        }
    }
    // A transaction is one send, for any number of nodes. The kernel counts its own overhead too.
    let size = (2 * to_send).max(1 << 16);
    let forced = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &size);
    if let Err(error) = forced {
        tracing::debug!(%error, "the size of the send buffer is not changed");
    }
    Ok(socket)
}

fn send(socket: &Socket, what: &str, messages: &[u8]) -> KernelResult<()> {
    let sent = socket.send_to(messages, &SocketAddr::new(0, 0), 0).map_err(|error| failed(what, error))?;
    if sent == messages.len() { Ok(()) } else { Err(KernelError::from_cause(what, Cause::NoAnswer)) }
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

/// Receives the next datagram. The kernel has answered when a send or an earlier receive returns, so this never waits.
fn receive(socket: &Socket, what: &str) -> KernelResult<Vec<u8>> {
    let received = socket.recv_from_full().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => KernelError::from_cause(what, Cause::NoAnswer),
        _ => failed(what, error),
    })?;
    Ok(received.0)
}

fn failed(what: &str, error: io::Error) -> KernelError {
    KernelError::from_cause(what, Cause::from(error))
}
