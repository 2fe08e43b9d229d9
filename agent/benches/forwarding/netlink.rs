//! Netlink notifications of a namespace, read by a thread.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The size of the receive buffer: all notifications of 100,000 routes fit.
const RECEIVE_BUFFER: usize = 1 << 30;
/// The length of a message's header.
const HEADER: usize = 16;

/// A message: its type, its payload after the header.
pub type Message<'a> = (u16, &'a [u8]);

/// A thread that passes all notifications on, until it is dropped.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Opens a socket in the present namespace that receives the notifications of these groups, one bit each.
pub fn subscribe(protocol: SockProtocol, groups: u32) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
    // So that the thread ends soon after it is stopped.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

impl Listener {
    /// Starts the thread. `receive` gets each message, or the error after which messages are lost.
    pub fn start(
        socket: OwnedFd,
        mut receive: impl FnMut(std::result::Result<Message<'_>, Error>) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            crate::priority::set(true);
            let mut buffer = vec![0; 1 << 20];
            while !stopped.load(Relaxed) {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => messages(&buffer[..length]).for_each(|message| receive(Ok(message))),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => receive(Err(error.into())),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Returns the attributes in `bytes`: their types without flags, and values.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
