//! A blocking rtnetlink socket: one request and its answer, with the kernel's explanation if it rejects the request.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

use crate::codec::{Message, extended_ack, messages, u32_at};

/// The largest datagram that the kernel sends in a dump.
const DATAGRAM: usize = 64 * 1024;
/// The number of attempts to get a dump that no change interrupts.
const DUMP_TRIES: usize = 10;

/// An error that the kernel returned, with its explanation if it gave one.
#[derive(Debug)]
pub(super) struct NetlinkError {
    pub error: io::Error,
    pub message: Option<String>,
}

impl NetlinkError {
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self { error, message: None }
    }
}

/// An rtnetlink socket of the namespace in which the thread was when it opened the socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        // Only the kernel (port 0) may answer.
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Best effort: without it errors are numbers only.
        let _ = enable(&fd, libc::NETLINK_EXT_ACK);
        Ok(Self { fd, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a request that has the flag `NLM_F_ACK` and waits for the acknowledgement; returns the payloads that came
    /// before it.
    pub fn request(&mut self, message: Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.send(message)?;
        self.answer().map(|(payloads, _)| payloads)
    }

    /// Sends a dump request, again if the tables changed meanwhile, and returns all payloads.
    pub fn dump(&mut self, message: impl Fn() -> Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.send(message())?;
            let (payloads, interrupted) = self.answer()?;
            if !interrupted {
                return Ok(payloads);
            }
        }
        Err(io::Error::other(format!("the dump was interrupted by changes {DUMP_TRIES} times")).into())
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        retry(|| send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()))?;
        Ok(())
    }

    /// Reads the answer to the last request up to its end. The flag is set if a dump was interrupted.
    fn answer(&mut self) -> Result<(Vec<Vec<u8>>, bool), NetlinkError> {
        let mut payloads = Vec::new();
        let mut interrupted = false;
        loop {
            let length = retry(|| recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC))?;
            let datagram = self.buffer.get(..length).ok_or_else(|| {
                io::Error::other(format!("the kernel's answer of {length} bytes is larger than {DATAGRAM}"))
            })?;
            for message in messages(datagram) {
                if message.sequence != self.sequence {
                    continue; // belongs to an earlier request
                }
                interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        return acknowledged(message.payload, message.flags, payloads, interrupted);
                    }
                    libc::NLMSG_DONE => {
                        return acknowledged(message.payload, message.flags, payloads, interrupted);
                    }
                    _ => payloads.push(message.payload.to_vec()),
                }
            }
        }
    }
}

/// Evaluates an acknowledgement or the end of a dump: both begin with zero or a negative errno.
fn acknowledged(
    payload: &[u8],
    flags: u16,
    payloads: Vec<Vec<u8>>,
    interrupted: bool,
) -> Result<(Vec<Vec<u8>>, bool), NetlinkError> {
    match u32_at(payload, 0).map_or(0, u32::cast_signed) {
        0 => Ok((payloads, interrupted)),
        errno => Err(NetlinkError {
            error: io::Error::from_raw_os_error(errno.saturating_neg()),
            message: extended_ack(payload, flags),
        }),
    }
}

fn enable(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the pointer and length are those of a live c_int the kernel only reads.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
