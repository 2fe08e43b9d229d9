//! The changes of nftables in a namespace, as the kernel notifies them.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::SockProtocol;

use crate::netlink::{Listener, attributes, subscribe};
use crate::network::AgentNet;

/// The group NFNLGRP_NFTABLES.
const GROUP: u32 = 1 << 6;
/// The subsystem NFNL_SUBSYS_NFTABLES, the upper octet of a message's type.
const SUBSYSTEM: u16 = 10;
/// NFT_MSG_NEWRULE, NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM and NFT_MSG_NEWGEN.
const NEW_RULE: u16 = 6;
const NEW_ELEMENTS: u16 = 12;
const DELETED_ELEMENTS: u16 = 14;
const GENERATION: u16 = 15;
/// NFTA_SET_ELEM_LIST_ELEMENTS.
const ELEMENTS: u16 = 3;
/// The longest time until the rules are back after somebody deleted them.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The length of struct nfgenmsg.
const FAMILY_HEADER: usize = 4;

/// The numbers of changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Elements of sets that were added or deleted.
    pub elements: usize,
    /// Tables, chains, rules and sets that were added or deleted.
    pub others: usize,
    /// Octets of all notifications except those of generations.
    pub octets: usize,
    /// The time of the last rule that was added.
    pub rule: Option<Instant>,
}

/// It counts the changes, until it is dropped.
pub struct Changes {
    written: Arc<Mutex<Written>>,
    _listener: Listener,
}

impl Changes {
    pub fn watch(network: &AgentNet) -> Result<Self> {
        let socket = network.within(|| subscribe(SockProtocol::NetlinkNetFilter, GROUP));
        let socket = socket.context("cannot receive notifications of nftables")?;
        let written = Arc::new(Mutex::new(Written::default()));
        let count = written.clone();
        let listener = Listener::start(socket, move |message| {
            let Ok((kind, payload)) = message else { return };
            let mut count = count.lock().expect("no panic");
            match (kind >> 8, kind & 0xff) {
                (SUBSYSTEM, GENERATION) => return,
                (SUBSYSTEM, NEW_ELEMENTS | DELETED_ELEMENTS) => {
                    let lists = attributes(payload.get(FAMILY_HEADER..).unwrap_or_default());
                    let lists = lists.filter(|(kind, _)| *kind == ELEMENTS);
                    count.elements += lists.map(|(_, list)| attributes(list).count()).sum::<usize>();
                }
                (SUBSYSTEM, kind) => {
                    count.others += 1;
                    if kind == NEW_RULE {
                        count.rule = Some(Instant::now());
                    }
                }
                _ => return,
            }
            count.octets += payload.len();
        });
        Ok(Self { written, _listener: listener })
    }

    /// Returns the numbers of changes since the last call.
    pub fn take(&self) -> Written {
        std::mem::take(&mut self.written.lock().expect("no panic"))
    }

    /// Deletes all rules as another program would, and returns the time until they are back.
    pub fn flushed(&self, network: &AgentNet) -> Result<Duration> {
        self.take();
        let start = Instant::now();
        let status = network.command().args(["nft", "flush", "ruleset"]).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "nft (nftables) failed, see above");
        loop {
            std::thread::sleep(Duration::from_millis(100));
            if let Some(time) = self.take().rule {
                return Ok(time.saturating_duration_since(start));
            }
            ensure!(start.elapsed() < TIMEOUT, "the rules are not back in {TIMEOUT:?}");
        }
    }
}
