//! The state machine without I/O: the tests pass in messages and the time, and check the outputs.

mod collision;
mod fsm;
mod graceful;
mod history;
mod long_lived;
mod negotiation;
mod refresh;
mod timers;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::*;
use crate::config::Filter;
use crate::wire::{Capability, Codec, Framer};

pub(crate) const ASN: u32 = 64512;
pub(crate) const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const FAMILIES: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

pub(crate) fn neighbor() -> Neighbor {
    Neighbor { import: Filter::All, export: Filter::All, ..Neighbor::new(PEER.into(), ASN) }
}

pub(crate) fn settings() -> Settings {
    Settings {
        local_asn: ASN,
        router_id: US,
        graceful_restart: Some(GracefulRestart::default()),
        neighbor: neighbor(),
    }
}

/// A session with its outputs.
pub(crate) struct Bench {
    pub session: Session,
    pub now: Instant,
    pub restarting: bool,
    pub outputs: Vec<Output>,
    next_conn: u64,
    rng: fastrand::Rng,
}

impl Bench {
    /// Creates a session and starts it: a connection attempt is requested unless `settings` are passive.
    pub(crate) fn new(settings: Settings) -> Self {
        let mut bench = Self::idle(settings, 7);
        bench.call(|session, ctx| session.start(ctx));
        bench
    }

    pub(crate) fn idle(settings: Settings, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(settings, now, History::default()),
            now,
            restarting: false,
            outputs: Vec::new(),
            next_conn: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn call<T>(&mut self, call: impl FnOnce(&mut Session, &mut Context<'_>) -> T) -> T {
        let mut ctx = Context {
            now: self.now,
            restarting: self.restarting,
            forwarding: true,
            next_conn: &mut self.next_conn,
            rng: &mut self.rng,
            outputs: &mut self.outputs,
        };
        call(&mut self.session, &mut ctx)
    }

    /// Returns the connection attempt that was requested last; all other outputs are dropped.
    pub(crate) fn attempt(&mut self) -> ConnId {
        let asked = self.take().into_iter().rev().find_map(|output| match output {
            Output::Connect(conn) => Some(conn),
            _ => None,
        });
        asked.expect("a connection was asked for")
    }

    pub(crate) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub(crate) fn connected(&mut self, conn: ConnId) {
        self.call(|session, ctx| session.connected(ctx, conn, IpAddr::V4(US)));
    }

    pub(crate) fn accept(&mut self) -> Option<ConnId> {
        self.call(|session, ctx| session.accept(ctx, IpAddr::V4(US)))
    }

    pub(crate) fn receive(&mut self, conn: ConnId, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &Codec { four_octet_as: true, ..Codec::default() }, &mut bytes);
        self.receive_bytes(conn, &bytes);
    }

    pub(crate) fn receive_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.call(|session, ctx| session.received(ctx, conn, bytes));
    }

    /// Returns all messages pending on a connection.
    pub(crate) fn sent(&mut self, conn: ConnId) -> Vec<Message> {
        let mut bytes = BytesMut::new();
        self.call(|session, ctx| session.transmit(ctx, conn, &mut bytes));
        let mut framer = Framer::new();
        framer.push(&bytes);
        let codec = Codec { four_octet_as: true, ..Codec::default() };
        let mut messages = Vec::new();
        while let Some(frame) = framer.next().expect("a valid stream") {
            messages.push(wire::decode(&frame, &codec, &FAMILIES).expect("a valid message"));
        }
        messages
    }

    /// Returns the NOTIFICATION that is the last message on a connection, which is closed with it.
    pub(crate) fn last_notification(&mut self, conn: ConnId) -> (u8, u8) {
        match self.sent(conn).pop() {
            Some(Message::Notification(n)) => {
                assert!(self.outputs.contains(&Output::Close(conn)), "closed after its last word");
                (n.code, n.subcode)
            }
            other => panic!("not a NOTIFICATION: {other:?}"),
        }
    }

    /// Advances the time and lets the timers that are due expire.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(deadline) = self.session.next_deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.call(|session, ctx| session.handle_timeout(ctx));
        }
        self.now = until;
    }

    /// Advances the time to the next deadline and lets it expire. Returns how long that was.
    pub(crate) fn wait_next(&mut self) -> Duration {
        let deadline = self.session.next_deadline().expect("a deadline");
        let before = std::mem::replace(&mut self.now, deadline);
        self.call(|session, ctx| session.handle_timeout(ctx));
        deadline - before
    }

    pub(crate) fn state(&self) -> SessionState {
        self.session.state().0
    }

    /// Exchanges OPENs and KEEPALIVEs on an open connection.
    pub(crate) fn establish(&mut self, conn: ConnId, open: Open) {
        self.receive(conn, &Message::Open(open));
        self.receive(conn, &Message::Keepalive);
        self.sent(conn);
    }

    /// Establishes a session on the requested connection attempt.
    pub(crate) fn up(settings: Settings, open: Open) -> (Self, ConnId) {
        let mut bench = Self::new(settings);
        let conn = bench.attempt();
        bench.connected(conn);
        bench.establish(conn, open);
        assert_eq!(bench.state(), SessionState::Established);
        bench.take();
        (bench, conn)
    }
}

/// Returns the peer's OPEN, without graceful restart.
pub(crate) fn open() -> Open {
    let mut capabilities: Vec<_> = FAMILIES.into_iter().map(Capability::Multiprotocol).collect();
    capabilities.extend([Capability::RouteRefresh, Capability::FourOctetAs(ASN)]);
    Open { asn: ASN, hold_time: 90, router_id: PEER, capabilities }
}

/// Returns the peer's OPEN, with graceful restart; the F bit of both families is `forwarding`.
pub(crate) fn open_restart(restart_time: u16, forwarding: bool) -> Open {
    let restart = wire::GracefulRestart {
        restarting: false,
        notification: false,
        restart_time,
        families: FAMILIES.map(|family| (family, forwarding)).into(),
    };
    with(open(), Capability::GracefulRestart(restart))
}

pub(crate) fn with(mut open: Open, capability: Capability) -> Open {
    open.capabilities.push(capability);
    open
}

pub(crate) fn down(outputs: &[Output]) -> Option<Vec<Family>> {
    outputs.iter().find_map(|output| match output {
        Output::Down { keep, .. } => Some(keep.clone()),
        _ => None,
    })
}
