//! A blocking rtnetlink socket: one request, its answer, and the kernel's own words when it refuses.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

use super::codec::{HEADER, Message, attributes, messages, text, u32_at};

/// The kernel fills at most this much of a datagram when it dumps.
const DATAGRAM: usize = 64 * 1024;
/// A dump that changes keep interrupting is asked for again this often.
const DUMP_TRIES: usize = 10;

/// The kernel's refusal: its error, and its words if it had some.
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

/// An rtnetlink socket of the namespace the thread was in when it was opened.
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

    /// Sends a request made with `NLM_F_ACK` and waits for the acknowledgement; gives the payloads that came
    /// before it.
    pub fn request(&mut self, message: Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.send(message)?;
        self.answer().map(|(payloads, _)| payloads)
    }

    /// Sends a dump request, again if the tables changed under it, and gives all payloads.
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

    /// Reads to the end of the answer to the last request. The flag says that a dump was interrupted.
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
                    continue; // the rest of an answer given up on
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

/// Both an acknowledgement and the end of a dump begin with a negative errno, or zero.
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
            message: kernel_words(payload, flags),
        }),
    }
}

/// The text attribute of an extended acknowledgement. Before the attributes stands the refused request, whole or,
/// when the flags say so, its header only.
fn kernel_words(payload: &[u8], flags: u16) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
        return None;
    }
    let request = if flags & libc::NLM_F_CAPPED as u16 != 0 { HEADER } else { u32_at(payload, 4)? as usize };
    let start = 4 + request.next_multiple_of(4);
    let (_, words) = attributes(payload.get(start..)?).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    Some(text(words))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_the_request() {
        let mut reply = Message::new(2, 0, &[]);
        reply.attribute_u32(2, 36);
        reply.attribute_text(1, "Invalid prefix");
        let attributes = reply.finish(1).split_off(HEADER);
        let header = Message::new(24, 0, &[0; 12]).finish(1);
        for (flags, request) in [(libc::NLM_F_CAPPED, &header[..HEADER]), (0, &header[..])] {
            let mut payload = (-22i32).to_ne_bytes().to_vec();
            payload.extend(request);
            payload.extend(&attributes);
            let flags = (flags | libc::NLM_F_ACK_TLVS) as u16;
            let refusal = acknowledged(&payload, flags, vec![], false).unwrap_err();
            assert_eq!(refusal.errno(), 22);
            assert_eq!(refusal.message.as_deref(), Some("Invalid prefix"));
        }
    }
}
