//! The little of nf_tables that our own table needs, spoken with the kernel directly: no program has to be there, and
//! a transaction takes no process. The numbers are those of the kernel's nf_tables.h and nfnetlink.h.

use super::error::{Cause, KernelError, KernelResult};
use super::netlink::explanation;
use attribute::{Attribute, write_all};
use nix::errno::Errno;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;

pub mod attribute;
pub mod rule;

/// Address family of tables that see IPv4 and IPv6 (NFPROTO_INET).
const INET: u8 = 1;
/// nf_tables among the parts of netfilter (NFNL_SUBSYS_NFTABLES).
const SUBSYSTEM: u16 = 10;
/// Octets of a netlink header and of netfilter's after it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// Kinds of messages of netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Beginning and end of a transaction.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Flags of a message.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// How often an interrupted dump is repeated before it counts as failed.
const DUMP_ATTEMPTS: u32 = 8;

/// What a message is about (NFT_MSG_NEW…; one more is GET, two more DEL).
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

/// Changes that the kernel makes all at once or not at all.
#[derive(Debug)]
pub struct Transaction {
    messages: Vec<u8>,
    /// Number of the last message, and where it begins.
    last: (u32, usize),
}

impl Default for Transaction {
    fn default() -> Self {
        let mut transaction = Self { messages: Vec::new(), last: (0, 0) };
        transaction.push(BATCH_BEGIN, 0, [0, 0], SUBSYSTEM, &[]);
        transaction
    }
}

impl Transaction {
    /// Adds a thing, or does nothing if it is there; a rule comes after those that are there.
    pub fn add(&mut self, object: Object, attributes: &[Attribute]) {
        let order = if object == Object::Rule { APPEND } else { 0 };
        self.push(kind(object, 0), CREATE | order, [INET, 0], 0, attributes);
    }

    /// Deletes a thing with all that is in it.
    pub fn delete(&mut self, object: Object, attributes: &[Attribute]) {
        self.push(kind(object, 2), 0, [INET, 0], 0, attributes);
    }

    fn push(&mut self, kind: u16, flags: u16, family: [u8; 2], resource: u16, attributes: &[Attribute]) {
        let start = self.messages.len();
        self.last = (self.last.0 + 1, start);
        write_message(&mut self.messages, kind, REQUEST | flags, self.last.0, family, resource, attributes);
    }

    /// Has the kernel do it.
    ///
    /// # Errors
    /// The kernel's answer to the first message that it refused; then nothing was changed.
    pub fn commit(mut self, what: &str) -> KernelResult<()> {
        let (number, start) = self.last;
        // Only the last change is confirmed: answers to thousands would not fit the socket.
        let flags = u16::from_ne_bytes([self.messages[start + 6], self.messages[start + 7]]) | ACK;
        self.messages[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        self.push(BATCH_END, 0, [0, 0], SUBSYSTEM, &[]);
        let socket = open(what, self.messages.len())?;
        send(&socket, what, &self.messages)?;
        loop {
            for answer in receive(&socket, what)? {
                match answer.kind {
                    ERROR if answer.code() != 0 => return Err(answer.rejection(what)),
                    ERROR if answer.number == number => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// All objects of a kind that the attributes choose, each as its attributes. The kernel may choose less narrowly.
pub fn dump(what: &str, object: Object, attributes: &[Attribute]) -> KernelResult<Vec<Vec<u8>>> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(found) = dump_once(what, object, attributes)? {
            return Ok(found);
        }
    }
    Err(KernelError::from_cause(what, Cause::Interrupted(DUMP_ATTEMPTS)))
}

/// One dump, or `None` if it was interrupted.
fn dump_once(what: &str, object: Object, attributes: &[Attribute]) -> KernelResult<Option<Vec<Vec<u8>>>> {
    let mut message = Vec::new();
    write_message(&mut message, kind(object, 1), REQUEST | DUMP, 1, [INET, 0], 0, attributes);
    let socket = open(what, message.len())?;
    send(&socket, what, &message)?;
    let mut found = Vec::new();
    let mut interrupted = false;
    loop {
        for answer in receive(&socket, what)? {
            interrupted |= answer.flags & INTERRUPTED != 0;
            match answer.kind {
                ERROR if answer.code() != 0 => return Err(answer.rejection(what)),
                DONE => return Ok((!interrupted).then_some(found)),
                kind if kind >> 8 == SUBSYSTEM => {
                    found.push(answer.body.get(FAMILY_HEADER..).unwrap_or_default().to_vec());
                }
                _ => {}
            }
        }
    }
}

/// What an errno says of whether there is nf_tables, and the thing asked for, at all.
pub fn is_absent(error: &KernelError) -> bool {
    // Without the module the whole family of messages is unknown: EINVAL.
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

fn write_message(
    to: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    number: u32,
    family: [u8; 2],
    resource: u16,
    attributes: &[Attribute],
) {
    let start = to.len();
    to.extend([0; 4]);
    to.extend(kind.to_ne_bytes());
    to.extend(flags.to_ne_bytes());
    to.extend(number.to_ne_bytes());
    // The port: the kernel knows it.
    to.extend([0; 4]);
    to.extend(family);
    to.extend(resource.to_be_bytes());
    write_all(attributes, to);
    let length = (to.len() - start) as u32;
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A socket for one exchange: nothing of an earlier one can be waiting in it.
fn open(what: &str, to_send: usize) -> KernelResult<Socket> {
    let made = || {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    };
    let socket: Socket = made().map_err(|error| failed(what, &error))?;
    // Kernels from 4.12 on know these; an older one only explains less.
    for option in [socket.set_ext_ack(true), socket.set_cap_ack(true)] {
        if let Err(error) = option {
            tracing::debug!(%error, "netlink option not available");
        }
    }
    // A transaction is one send, however many nodes there are; the kernel counts its own overhead too.
    let room = (2 * to_send).max(1 << 16);
    let forced = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &room);
    if let Err(error) = forced {
        tracing::debug!(%error, "the send buffer stays as it is");
    }
    Ok(socket)
}

fn send(socket: &Socket, what: &str, messages: &[u8]) -> KernelResult<()> {
    let sent = socket.send_to(messages, &SocketAddr::new(0, 0), 0).map_err(|error| failed(what, &error))?;
    if sent == messages.len() { Ok(()) } else { Err(KernelError::from_cause(what, Cause::Silent)) }
}

/// A message from the kernel.
struct Answer {
    kind: u16,
    flags: u16,
    number: u32,
    body: Vec<u8>,
}

impl Answer {
    /// What an error message says; 0 is success.
    fn code(&self) -> i32 {
        let code = self.body.get(..4).and_then(|code| code.try_into().ok());
        code.map_or(-(Errno::EPROTO as i32), i32::from_ne_bytes)
    }

    fn rejection(&self, what: &str) -> KernelError {
        let errno = Errno::from_raw(-self.code());
        let message = explanation(self.body.get(4..).unwrap_or_default());
        KernelError::from_cause(what, Cause::Refused { errno, message })
    }
}

/// The next messages. The kernel has answered when a send or an earlier receive returns, so there is nothing to wait for.
fn receive(socket: &Socket, what: &str) -> KernelResult<Vec<Answer>> {
    let (datagram, _) = socket.recv_from_full().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => KernelError::from_cause(what, Cause::Silent),
        _ => failed(what, &error),
    })?;
    let mut rest = datagram.as_slice();
    let mut answers = Vec::new();
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let Some(body) = rest.get(HEADER..length) else { break };
        answers.push(Answer { kind: half(4), flags: half(6), number: word(8), body: body.to_vec() });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

fn failed(what: &str, error: &io::Error) -> KernelError {
    let cause = match error.raw_os_error() {
        Some(code) => Cause::Refused { errno: Errno::from_raw(code), message: None },
        None => Cause::Unexpected(error.to_string()),
    };
    KernelError::from_cause(what, cause)
}
