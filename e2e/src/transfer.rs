//! A bulk TCP transfer between two pods, in real full-size packets.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::pods::Pod;
use crate::probe::count;
use crate::sniff::{Sniffer, Traffic};

/// The result of a transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Bytes that arrived, every one as it was sent.
    pub bytes: usize,
    /// From connection to the last byte.
    pub took: Duration,
    /// The packets of the sending direction, as the sniffer saw them.
    pub traffic: Traffic,
    /// Fragments that any node made meanwhile, by the kernels' own counters.
    pub fragments: u64,
}

/// The byte at a position of the stream: a period that no packet size is a multiple of.
fn pattern(position: usize) -> u8 {
    (position % 251) as u8
}

/// Sends `bytes` from one pod to another. The sniffer is cleared first, and has to see packets as they would be on
/// a wire; so the sending node's uplinks get to make packets of one segment each, as a plain network card does.
///
/// # Errors
/// When the connection fails or what arrives is not what was sent.
pub fn transfer(lab: &Lab, sniffer: &Sniffer, from: &Pod, to: &Pod, bytes: usize) -> Result<Transfer> {
    for link in lab.topology.links.iter().flat_map(|l| &l.ends).filter(|end| end.node == from.node) {
        lab.node(&from.node).run(["ip", "link", "set", &link.interface, "gso_max_segs", "1"])?;
    }
    let fragments = fragments_made(lab)?;
    sniffer.catch_up()?;
    sniffer.clear();
    let listener =
        to.netns.enter(|| TcpListener::bind((to.address, 0)).context("cannot listen in the pod"))?;
    let port = listener.local_addr()?.port();
    let start = Instant::now();
    let (total, right) = std::thread::scope(|scope| -> Result<(usize, bool)> {
        let receiver = scope.spawn(move || count(listener.accept()?.0, pattern));
        // If this fails the listener must not wait for ever: a connection that brings nothing sets it free.
        let sent = send(from, SocketAddr::new(to.address, port), bytes);
        if sent.is_err() {
            let _ = to.netns.enter(|| Ok(TcpStream::connect((to.address, port))?));
        }
        let counted = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent?;
        counted
    })?;
    if total != bytes || !right {
        bail!("{bytes} bytes were sent, {total} arrived{}", if right { "" } else { ", and not the same" });
    }
    let took = start.elapsed();
    sniffer.catch_up()?;
    let traffic = sniffer.traffic(from.address, to.address);
    Ok(Transfer { bytes, took, traffic, fragments: fragments_made(lab)? - fragments })
}

/// The sum of `FragCreates` over all nodes (RFC 4293's ipIfStatsOutFragCreates, as /proc/net/snmp has it).
fn fragments_made(lab: &Lab) -> Result<u64> {
    lab.all().map(|node| node.counter("Ip", "FragCreates")).sum()
}

fn send(from: &Pod, to: SocketAddr, bytes: usize) -> Result<()> {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(20));
    let mut stream = from.netns.enter(|| connect().with_context(|| format!("cannot connect to {to}")))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    // A whole number of periods, so that every block is the same.
    let block: Vec<u8> = (0..251 * 1024).map(pattern).collect();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len());
        stream
            .write_all(&block[..now])
            .with_context(|| format!("the transfer broke with {left} bytes to go"))?;
        left -= now;
    }
    Ok(())
}
