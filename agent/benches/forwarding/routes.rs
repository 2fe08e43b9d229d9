//! The routes of the outside peer in the kernel of a namespace, followed by notifications.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::SockProtocol;

use crate::daemon::Daemon;
use crate::netlink::{Listener, attributes, subscribe};
use crate::network::AgentNet;
use crate::outside::{Family, Table, next_hop_number, route_number};

/// The groups RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE.
const GROUPS: u32 = 1 << 6 | 1 << 10;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
/// RTA_DST and RTA_GATEWAY.
const DESTINATION: u16 = 1;
const GATEWAY: u16 = 5;
/// The length of struct rtmsg.
const ROUTE_HEADER: usize = 12;
/// The main table (RT_TABLE_MAIN).
const MAIN: u8 = 254;
/// The longest time until the kernel has all routes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The routes, followed until this is dropped.
pub struct Routes {
    shared: Arc<Shared>,
    _listener: Listener,
}

struct Shared {
    state: Mutex<State>,
    reached: Condvar,
}

struct State {
    /// The next hop of each route by number, 0 for a route that the kernel does not have.
    present: Vec<u16>,
    /// The same as it should become.
    wanted: Vec<u16>,
    /// The number of routes that are as wanted.
    equal: usize,
    /// The time when all were.
    reached: Option<Instant>,
    failure: Option<String>,
}

impl State {
    fn check(&mut self) {
        if self.equal == self.wanted.len() && self.reached.is_none() {
            self.reached = Some(Instant::now());
        }
    }
}

impl Routes {
    pub fn watch(network: &AgentNet, family: Family, count: u32) -> Result<Self> {
        let socket = network.within(|| subscribe(SockProtocol::NetlinkRoute, GROUPS));
        let socket = socket.context("cannot receive notifications of routes")?;
        let none = vec![0; count as usize];
        let state = State {
            present: none.clone(),
            wanted: none,
            equal: count as usize,
            reached: None,
            failure: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), reached: Condvar::new() });
        let following = shared.clone();
        let listener = Listener::start(socket, move |message| {
            let mut state = following.state.lock().expect("no panic");
            match message {
                Ok((kind, payload)) => {
                    let Some((number, next_hop)) = read(family, kind, payload) else { return };
                    let Some(present) = state.present.get_mut(number) else { return };
                    let before = std::mem::replace(present, next_hop);
                    let wanted = state.wanted[number];
                    state.equal += usize::from(next_hop == wanted);
                    state.equal -= usize::from(before == wanted);
                    state.check();
                }
                Err(error) => state.failure = Some(format!("notifications of routes were lost: {error}")),
            }
            if state.reached.is_some() || state.failure.is_some() {
                following.reached.notify_all();
            }
        });
        Ok(Self { shared, _listener: listener })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic")
    }

    /// Sets the routes that are awaited from now on; `None`: none of them.
    pub fn expect(&self, table: Option<&Table>) {
        let mut state = self.state();
        let count = state.wanted.len() as u32;
        state.wanted = (0..count).map(|n| table.map_or(0, |table| table.next_hop(n))).collect();
        state.equal =
            state.wanted.iter().zip(&state.present).filter(|(wanted, present)| wanted == present).count();
        state.reached = None;
        state.check();
    }

    /// Waits until the kernel has the expected routes, and returns the time when it had.
    pub fn reached(&self, daemon: &mut Daemon) -> Result<Instant> {
        let deadline = Instant::now() + TIMEOUT;
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                bail!("{failure}");
            }
            if let Some(reached) = state.reached {
                return Ok(reached);
            }
            ensure!(
                Instant::now() < deadline,
                "{} of {} routes are as they should be after {TIMEOUT:?}",
                state.equal,
                state.wanted.len()
            );
            state = self.shared.reached.wait_timeout(state, Duration::from_millis(200)).expect("no panic").0;
            daemon.check()?;
        }
    }
}

/// Returns a route's number and that of its next hop, 0 after its deletion. `None` for a route that is not the peer's.
fn read(family: Family, kind: u16, payload: &[u8]) -> Option<(usize, u16)> {
    let header = payload.get(..ROUTE_HEADER)?;
    if header[4] != MAIN || !matches!(kind, NEW_ROUTE | DELETED_ROUTE) {
        return None;
    }
    let (mut number, mut next_hop) = (None, 0);
    for (kind, value) in attributes(&payload[ROUTE_HEADER..]) {
        match kind {
            DESTINATION => number = route_number(family, value),
            GATEWAY => next_hop = next_hop_number(family, value).unwrap_or_default(),
            _ => {}
        }
    }
    Some((number? as usize, if kind == NEW_ROUTE { next_hop } else { 0 }))
}
