//! The subscription to changes of nf_tables.

use super::attribute::{find_number, find_text};
use super::{FAMILY_HEADER, GENERATION, INET, SUBSYSTEM, TABLE, TABLE_NAME, kind};
use crate::netlink::Hint;
use crate::netlink::error::{Cause, KernelError, KernelResult};
use heliograph_cni::codec::{HEADER, messages, u32_at};
use nix::errno::Errno;
use rtnetlink::sys::{Socket as RawSocket, protocols::NETLINK_NETFILTER};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The multicast group of nf_tables (NFNLGRP_NFTABLES).
const GROUP: u32 = 7;
/// The size of the receive buffer: another program may replace tables with thousands of rules at once.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A subscription in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch {
    socket: RawSocket,
    own: u32,
    /// Set if another program changed Heliograph's table in a transaction whose end was not received yet.
    touched: bool,
}

impl Watch {
    /// Subscribes. Changes by the socket with the port `own` give no hint that the table changed.
    ///
    /// # Errors
    /// The kernel has no nftables, or the process lacks the capability.
    pub fn open(own: u32) -> KernelResult<Self> {
        let opened = || {
            let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            socket.add_membership(GROUP)?;
            Ok(socket)
        };
        let socket = opened().map_err(|error: io::Error| {
            KernelError::from_cause("subscribe to changes of nftables", Cause::from(error))
        })?;
        let size = RECEIVE_BUFFER;
        if let Err(error) =
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &size)
        {
            tracing::debug!(%error, "the size of the receive buffer is not changed");
        }
        Ok(Self { socket, own, touched: false })
    }

    /// Returns the hints that have arrived: one for each transaction of any program.
    ///
    /// # Errors
    /// The socket can't be read; then subscribe again and read everything.
    pub fn read(&mut self) -> KernelResult<Vec<Hint>> {
        let mut hints = Vec::new();
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => self.datagram(&datagram, &mut hints),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(hints),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    hints.push(Hint::Nftables { generation: None, ours: true });
                }
                Err(error) => {
                    return Err(KernelError::from_cause("receive changes of nftables", Cause::from(error)));
                }
            }
        }
    }

    fn datagram(&mut self, datagram: &[u8], hints: &mut Vec<Hint>) {
        let mut rest = datagram;
        for message in messages(datagram) {
            // The port of the program that made the change is in the header.
            let port = u32_at(rest, 12).unwrap_or(0);
            rest = rest.get((HEADER + message.payload.len()).next_multiple_of(4)..).unwrap_or_default();
            if message.kind >> 8 != SUBSYSTEM {
                continue;
            }
            let attributes = message.payload.get(FAMILY_HEADER..).unwrap_or_default();
            if message.kind & 0xff == kind::NEW_GENERATION {
                let generation = find_number(attributes, GENERATION);
                hints.push(Hint::Nftables { generation, ours: std::mem::take(&mut self.touched) });
            } else if port != self.own
                && message.payload.first() == Some(&INET)
                && find_text(attributes, TABLE_NAME) == Some(TABLE)
            {
                self.touched = true;
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
