//! The session with one neighbor: the finite state machine of RFC 4271 §8, collision detection (§6.8) and graceful restart
//! (RFC 4724).
//!
//! Pure: every call takes the time in its [`Context`] and puts its outputs there. The states Idle, Connect and Active
//! belong to the session, the others to each of its connections. Up to two connections run until their OPENs are
//! exchanged and collision detection closes one.

mod collision;
mod connection;
mod graceful;
mod history;
mod negotiation;
mod refresh;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use self::connection::{Connection, Stage};
use self::graceful::Stale;
pub(crate) use self::history::History;
pub(crate) use self::negotiation::Negotiated;
use crate::config::{GracefulRestart, Neighbor};
use crate::report::{SessionError, SessionReason, SessionState, StopReason};
use crate::wire::{self, Family, FaultAction, Message, Notification, Open, Update, cease, code};

/// The first pause before a connection attempt after an error. It doubles with each error (RFC 4271 §8.1.1,
/// DampPeerOscillations).
const FIRST_DAMPING: Duration = Duration::from_secs(1);
const MAX_DAMPING: Duration = Duration::from_secs(60);
/// The time after which an established session counts as stable: the pause after its next error is the first one again.
const STABLE: Duration = Duration::from_secs(60);

/// The identifier of a connection, shared by the speaker and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// The lowest identifier.
    pub const FIRST: Self = Self(0);
}

/// The part of the configuration that a session uses.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) local_asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) graceful_restart: Option<GracefulRestart>,
    pub(crate) neighbor: Neighbor,
}

/// The inputs and outputs of a call.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// This speaker has restarted and is waiting for End-of-RIB: the R bit is set in OPENs.
    pub(crate) restarting: bool,
    /// This node forwards by the routes that it advertised before: the F bit is set in OPENs.
    pub(crate) forwarding: bool,
    pub(crate) next_conn: &'a mut u64,
    pub(crate) rng: &'a mut fastrand::Rng,
    pub(crate) outputs: &'a mut Vec<Output>,
}

impl Context<'_> {
    fn new_conn(&mut self) -> ConnId {
        *self.next_conn += 1;
        ConnId(*self.next_conn)
    }

    /// Returns 0.75 to 1 times `interval` (RFC 4271 §10).
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(0.75 + 0.25 * self.rng.f64())
    }

    fn put(&mut self, output: Output) {
        self.outputs.push(output);
    }
}

/// An output of the state machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Open a connection.
    Connect(ConnId),
    /// Close a connection; the session has forgotten it already.
    Close(ConnId),
    /// The session is established.
    Up { negotiated: Negotiated, local: IpAddr },
    /// The session is no longer established. Paths of the families in `keep` become stale or stay stale, the others are
    /// removed.
    Down { keep: Vec<Family>, reason: SessionReason },
    /// Remove the peer's stale paths.
    DropStale(Option<Family>),
    /// The stale paths of a family become long-lived stale (RFC 9494 §4.2).
    LongLived(Family),
    /// An UPDATE was received.
    Update(Update),
    /// The peer requests a refresh (RFC 2918 §4); `enhanced`: between BoRR and EoRR (RFC 7313 §4).
    Refresh { family: Family, enhanced: bool },
    /// The peer begins a refresh: its paths are stale until it has sent them again (RFC 7313 §4).
    MarkStale(Family),
}

/// The session with one neighbor.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    connections: Vec<Connection>,
    /// ConnectRetryTimer (RFC 4271 §8.1.3).
    retry_at: Option<Instant>,
    /// The end of the pause in our own connection attempts.
    damped_until: Option<Instant>,
    /// The length of the next such pause, before jitter.
    damping: Duration,
    /// IdleHoldTimer (RFC 4271 §8.1.3): connections of the peer are refused until then. It ends with the pause in our own
    /// attempts or earlier (see [`Timers::idle_hold`](crate::config::Timers::idle_hold)).
    idle_until: Option<Instant>,
    /// Stopped for good, or not started yet.
    stopped: bool,
    /// Stopped until the configuration changes.
    suspended: bool,
    stale: Vec<Stale>,
    /// Families whose End-of-RIB has not been received yet.
    awaiting_end_of_rib: Vec<Family>,
    established_count: u64,
    last_error: Option<(SessionError, Instant)>,
    history: History,
    reason: SessionReason,
    shown: (SessionState, Instant),
}

impl Session {
    /// Creates a session that is not started yet; `history` is that of an earlier one with the same neighbor.
    pub(crate) fn new(settings: Settings, now: Instant, history: History) -> Self {
        Self {
            history,
            settings,
            connections: Vec::new(),
            retry_at: None,
            damped_until: None,
            damping: FIRST_DAMPING,
            idle_until: None,
            stopped: true,
            suspended: false,
            stale: Vec::new(),
            awaiting_end_of_rib: Vec::new(),
            established_count: 0,
            last_error: None,
            reason: SessionReason::NotStarted,
            shown: (SessionState::Idle, now),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Applies settings that need no new session: they differ from the old ones in nothing that was negotiated.
    pub(crate) fn set_settings(&mut self, ctx: &mut Context<'_>, settings: Settings) {
        let was_passive = std::mem::replace(&mut self.settings, settings).neighbor.passive;
        let was_suspended = std::mem::take(&mut self.suspended);
        if (was_passive || was_suspended) && !self.settings.neighbor.passive && self.damped_until.is_none() {
            self.try_connect(ctx);
        }
        if self.settings.neighbor.passive {
            self.retry_at = None;
            self.abandon(ctx, |c| c.stage == Stage::Connecting);
        }
        self.note_state(ctx.now);
    }

    /// Starts the session: ManualStart or ManualStart_with_PassiveTcpEstablishment (RFC 4271 §8.1.2, Events 1 and 4).
    pub(crate) fn start(&mut self, ctx: &mut Context<'_>) {
        self.stopped = false;
        self.end_pause();
        self.damping = FIRST_DAMPING;
        self.try_connect(ctx);
        self.note_state(ctx.now);
    }

    /// Stops the session: ManualStop (Event 2). Sends `notification`, a Cease, on all connections, and removes the
    /// peer's paths.
    pub(crate) fn stop(&mut self, ctx: &mut Context<'_>, notification: &Notification, reason: StopReason) {
        self.stopped = true;
        self.retry_at = None;
        self.end_pause();
        for connection in std::mem::take(&mut self.connections) {
            self.close_with(ctx, connection, notification.clone(), &reason.into());
        }
        self.forget_stale(ctx);
        self.reason = reason.into();
        self.note_state(ctx.now);
    }

    /// Ends an established session that exceeded a limit, for `pause` or until the configuration changes.
    pub(crate) fn suspend(
        &mut self,
        ctx: &mut Context<'_>,
        notification: Notification,
        error: SessionError,
        pause: Option<Duration>,
    ) {
        let Some(connection) = self.established().and_then(|conn| self.take(conn)) else { return };
        let reason = self.record_error(ctx.now, error);
        self.close_with(ctx, connection, notification, &reason);
        self.forget_stale(ctx);
        self.retry_at = None;
        match pause {
            Some(pause) => {
                self.damped_until = Some(ctx.now + pause);
                self.idle_until = self.damped_until;
            }
            None => self.suspended = true,
        }
        self.note_state(ctx.now);
    }

    /// Ends the session because its BFD session failed, which last worked at `confirmed_at`. `independent`: the peer's
    /// BFD survives a restart of its control plane.
    #[cfg(feature = "bfd")]
    pub(crate) fn bfd_down(
        &mut self,
        ctx: &mut Context<'_>,
        reason: &crate::bfd::Reason,
        confirmed_at: Instant,
        independent: bool,
    ) {
        let error = SessionError::BfdDown { reason: *reason };
        match self.established() {
            // A peer may restart and be established again before its BFD times out: the BFD session that failed is
            // then the one from before the restart (RFC 5882 §4.3.2).
            Some(_) if confirmed_at < self.shown.1 => return,
            Some(conn) => {
                let Some(connection) = self.take(conn) else { return };
                let reason = self.record_error(ctx.now, error);
                let notification = Notification::new(code::CEASE, cease::BFD_DOWN);
                self.close_with(ctx, connection, notification, &reason);
                self.retry_later(ctx);
            }
            // BFD that shares the fate of the control plane fails in every restart, so the restart goes on. Independent
            // BFD has detected that the stale routes lose packets (RFC 5882 §4.3.1, §4.3.2).
            None if independent && !self.stale.is_empty() => {
                self.record_error(ctx.now, error);
                self.forget_stale(ctx);
            }
            None => {}
        }
        self.note_state(ctx.now);
    }

    /// Returns whether the session is stopped and has nothing left to send or close.
    pub(crate) fn is_gone(&self) -> bool {
        self.stopped && self.connections.is_empty()
    }

    /// Returns whether the session has no connection, no stale paths and no pause.
    pub(crate) fn is_dormant(&self) -> bool {
        self.connections.is_empty() && self.stale.is_empty() && self.damped_until.is_none() && !self.suspended
    }

    /// Accepts a connection of the peer; returns `None` where it is to be closed.
    pub(crate) fn accept(&mut self, ctx: &mut Context<'_>, local: IpAddr) -> Option<ConnId> {
        if self.stopped || self.suspended || self.idle_until.is_some() {
            return None;
        }
        // A peer that opens another connection has given up its earlier one.
        self.abandon(ctx, |c| !c.outgoing && c.stage == Stage::OpenSent);
        let mut connection = Connection::incoming(ctx.new_conn());
        let id = connection.id;
        connection.opened(ctx.now, local, negotiation::our_open(&self.settings, ctx));
        self.connections.push(connection);
        self.note_state(ctx.now);
        Some(id)
    }

    /// Continues with a connection attempt that succeeded (Event 16).
    pub(crate) fn connected(&mut self, ctx: &mut Context<'_>, conn: ConnId, local: IpAddr) {
        let open = negotiation::our_open(&self.settings, ctx);
        if let Some(connection) = self.connection(conn).filter(|c| c.stage == Stage::Connecting) {
            connection.opened(ctx.now, local, open);
            self.retry_at = None;
        }
        self.note_state(ctx.now);
    }

    /// Ends a connection attempt that failed (Event 18).
    pub(crate) fn connect_failed(&mut self, ctx: &mut Context<'_>, conn: ConnId, error: &str) {
        if self.take(conn).is_some() {
            let Neighbor { address, port, .. } = self.settings.neighbor;
            self.record_error(ctx.now, SessionError::connect_failed(address, port, error));
            self.retry_later(ctx);
        }
        self.note_state(ctx.now);
    }

    /// Ends a connection that was lost (Event 18).
    pub(crate) fn closed(&mut self, ctx: &mut Context<'_>, conn: ConnId, error: &str) {
        let Some(connection) = self.take(conn) else { return };
        let error = SessionError::connection_lost(connection.stage.state(), error);
        match connection.stage {
            Stage::Closing => {}
            Stage::Established => {
                let reason = self.record_error(ctx.now, error);
                // RFC 4724 §4.2: a connection lost without a NOTIFICATION counts as a restart of the peer.
                self.down(ctx, &connection, true, &reason);
            }
            _ => drop(self.record_error(ctx.now, error)),
        }
        self.retry_later(ctx);
        self.note_state(ctx.now);
    }

    /// Processes bytes received on a connection.
    pub(crate) fn received(&mut self, ctx: &mut Context<'_>, conn: ConnId, bytes: &[u8]) {
        // Bytes received after our NOTIFICATION are not even kept.
        let listening = |c: &&mut Connection| c.stage > Stage::Connecting;
        if let Some(connection) = self.connection(conn).filter(listening) {
            connection.framer.push(bytes);
        }
        while let Some(connection) = self.connection(conn).filter(listening) {
            match next_message(connection) {
                Ok(Some(message)) => self.message(ctx, conn, message),
                Ok(None) => break,
                Err(error) => self.fail(ctx, conn, error),
            }
        }
        self.note_state(ctx.now);
    }

    /// Lets the timers that are due expire.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= ctx.now);
        let expired: Vec<_> = self.connections.iter().filter(|c| due(c.expires)).map(|c| c.id).collect();
        let stuck: Vec<_> = self.connections.iter().filter(|c| due(c.send_hold_at)).map(|c| c.id).collect();
        let quiet: Vec<_> = self.connections.iter().filter(|c| due(c.keepalive_at)).map(|c| c.id).collect();
        let (retry, damping_over) = (due(self.retry_at), due(self.damped_until));
        if due(self.idle_until) {
            self.idle_until = None;
        }

        for conn in expired {
            self.expire(ctx, conn);
        }
        for conn in stuck {
            self.expire_sending(ctx, conn);
        }
        for conn in quiet {
            self.keep_alive(ctx, conn);
        }
        if retry || damping_over {
            self.retry_at = None;
            self.end_pause();
            self.abandon(ctx, |c| c.stage == Stage::Connecting);
            self.try_connect(ctx);
        }
        self.age_stale(ctx);
        self.note_state(ctx.now);
    }

    /// Returns the time at which [`Session::handle_timeout`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let pause = self.damped_until.into_iter().chain(self.idle_until);
        let own = self.retry_at.into_iter().chain(pause).chain(self.stale_deadline());
        own.chain(self.connections.iter().filter_map(Connection::next_deadline)).min()
    }

    /// Returns whether an OPEN, KEEPALIVE or NOTIFICATION is pending on `conn`.
    pub(crate) fn wants_transmit(&self, conn: ConnId) -> bool {
        self.connections.iter().any(|c| c.id == conn && (!c.unsent.is_empty() || c.stage == Stage::Closing))
    }

    /// Moves the pending messages to `out`, and closes a connection whose NOTIFICATION is among them.
    pub(crate) fn transmit(&mut self, ctx: &mut Context<'_>, conn: ConnId, out: &mut BytesMut) {
        let (now, send_hold) = (ctx.now, self.settings.neighbor.timers.send_hold);
        let Some(connection) = self.connection(conn) else { return };
        out.extend_from_slice(&connection.unsent.split());
        connection.restart_send_hold_timer(now, send_hold);
        if connection.stage == Stage::Closing {
            self.take(conn);
            ctx.put(Output::Close(conn));
        }
    }

    /// Returns all connections.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.connections.iter().map(|c| c.id)
    }

    /// Returns the established connection.
    pub(crate) fn established(&self) -> Option<ConnId> {
        self.connections.iter().find(|c| c.stage == Stage::Established).map(|c| c.id)
    }

    /// Returns the result of capability negotiation, while established.
    pub(crate) fn negotiated(&self) -> Option<&Negotiated> {
        self.connections.iter().find(|c| c.stage == Stage::Established)?.negotiated.as_ref()
    }

    /// Returns whether End-of-RIB of every family has been received.
    pub(crate) fn end_of_rib_received(&self) -> bool {
        self.established().is_some() && self.awaiting_end_of_rib.is_empty()
    }

    /// Returns whether End-of-RIB of a family is still to come, from a peer that sends one.
    fn awaits_end_of_rib(&self, family: Family) -> bool {
        let sends = self.negotiated().is_some_and(|negotiated| negotiated.graceful_restart.is_some());
        sends && self.awaiting_end_of_rib.contains(&family)
    }

    /// Returns the state, and the time since when.
    pub(crate) fn state(&self) -> (SessionState, Instant) {
        self.shown
    }

    pub(crate) fn established_count(&self) -> u64 {
        self.established_count
    }

    pub(crate) fn last_error(&self) -> Option<&(SessionError, Instant)> {
        self.last_error.as_ref()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Returns the history, for the session that follows this one.
    pub(crate) fn take_history(&mut self) -> History {
        std::mem::take(&mut self.history)
    }

    /// Returns the reason for the state.
    pub(crate) fn reason(&self) -> &SessionReason {
        &self.reason
    }

    fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == conn)
    }

    fn take(&mut self, conn: ConnId) -> Option<Connection> {
        let index = self.connections.iter().position(|c| c.id == conn)?;
        Some(self.connections.remove(index))
    }

    /// Returns whether another attempt of ours would be useless. An incoming connection in OpenSent does not count: a peer
    /// that sends nothing on it would keep us from connecting for as long as we wait for its OPEN.
    fn busy(&self) -> bool {
        self.connections
            .iter()
            .any(|c| c.stage >= Stage::OpenConfirm || (c.outgoing && c.stage > Stage::Closing))
    }

    fn try_connect(&mut self, ctx: &mut Context<'_>) {
        if self.stopped || self.suspended || self.busy() {
            return;
        }
        if self.settings.neighbor.passive {
            self.reason = SessionReason::Passive;
            return;
        }
        let connection = Connection::outgoing(ctx.new_conn());
        ctx.put(Output::Connect(connection.id));
        self.connections.push(connection);
        let neighbor = &self.settings.neighbor;
        self.reason = SessionReason::Connecting { address: neighbor.address, port: neighbor.port };
        let retry = neighbor.timers.connect_retry.max(FIRST_DAMPING);
        // An attempt has at least one retry time before it is given up and repeated.
        self.retry_at = Some(ctx.now + ctx.jittered(retry.saturating_mul(2)));
    }

    /// Starts the ConnectRetryTimer, unless a connection or a pause makes it needless.
    fn retry_later(&mut self, ctx: &mut Context<'_>) {
        if self.stopped
            || self.suspended
            || self.busy()
            || self.damped_until.is_some()
            || self.settings.neighbor.passive
        {
            return;
        }
        let at = ctx.now + ctx.jittered(self.settings.neighbor.timers.connect_retry);
        // Never later than planned: a peer that keeps connecting and closing must not put off our attempt.
        self.retry_at = Some(self.retry_at.map_or(at, |planned| planned.min(at)));
    }

    fn expire(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(connection) = self.take(conn) else { return };
        if connection.stage == Stage::Closing {
            ctx.put(Output::Close(conn));
            return;
        }
        let hold_time = connection.negotiated.as_ref().map(|negotiated| negotiated.hold).unwrap_or_default();
        let error = match connection.stage {
            Stage::OpenSent => SessionError::NoOpen,
            _ => SessionError::HoldTimerExpired { hold_time },
        };
        let reason = self.record_error(ctx.now, error);
        self.close_with(ctx, connection, Notification::new(code::HOLD_TIMER, 0), &reason);
        self.retry_later(ctx);
    }

    /// Ends a session whose peer reads nothing: SendHoldTimer_Expires (RFC 9687 §3.2).
    fn expire_sending(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let stands = |c: &&mut Connection| c.stage == Stage::Established;
        if self.connection(conn).filter(stands).is_none() {
            return;
        }
        let Some(connection) = self.take(conn) else { return };
        let reason = self.record_error(ctx.now, SessionError::SendHoldTimerExpired);
        self.close_with(ctx, connection, Notification::new(code::SEND_HOLD_TIMER, 0), &reason);
        self.hold_idle(ctx);
    }

    fn keep_alive(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let alive = |c: &&mut Connection| c.stage >= Stage::OpenConfirm;
        let hold = self.connection(conn).filter(alive).and_then(|c| c.negotiated.as_ref()).map(|n| n.hold);
        let next = hold.and_then(|hold| self.keepalive_interval(ctx, hold));
        if let Some(connection) = self.connection(conn).filter(alive) {
            connection.send(&Message::Keepalive);
            connection.keepalive_at = next.map(|interval| ctx.now + interval);
        }
    }

    /// Returns a third of the hold time (RFC 4271 §10), or the configured interval if that is shorter; `None` without a hold
    /// time.
    fn keepalive_interval(&self, ctx: &mut Context<'_>, hold: Duration) -> Option<Duration> {
        let third = hold / 3;
        let interval =
            self.settings.neighbor.timers.keepalive.map_or(third, |configured| configured.min(third));
        (!interval.is_zero()).then(|| ctx.jittered(interval))
    }

    fn message(&mut self, ctx: &mut Context<'_>, conn: ConnId, message: Message) {
        let Some(stage) = self.connection(conn).map(|c| c.stage) else { return };
        match (stage, message) {
            (_, Message::Notification(notification)) => self.notified(ctx, conn, &notification),
            (Stage::OpenSent, Message::Open(open)) => self.opened(ctx, conn, &open),
            (Stage::OpenConfirm, Message::Keepalive) => self.establish(ctx, conn),
            (Stage::Established, Message::Keepalive) => self.kept_alive(ctx, conn),
            (Stage::Established, Message::Update(update)) => self.updated(ctx, conn, update),
            (Stage::Established, Message::RouteRefresh(family, refresh)) => {
                self.refreshed(ctx, conn, family, refresh);
            }
            // `next_message` returns nothing else.
            _ => {}
        }
    }

    fn opened(&mut self, ctx: &mut Context<'_>, conn: ConnId, open: &Open) {
        let negotiated = match negotiation::agree(&self.settings, open) {
            Ok(negotiated) => negotiated,
            Err(error) => return self.fail(ctx, conn, error),
        };
        if !self.wins(ctx, conn, open) {
            return;
        }
        let keepalive = self.keepalive_interval(ctx, negotiated.hold);
        if let Some(connection) = self.connection(conn) {
            connection.confirmed(ctx.now, negotiated, keepalive);
        }
        self.note_state(ctx.now);
        // An attempt of ours that is not connected yet could only end in another collision.
        self.abandon(ctx, |c| c.stage == Stage::Connecting);
    }

    /// Establishes the session: KEEPALIVE in OpenConfirm (Event 26).
    fn establish(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        // A connection still in OpenSent cannot win a collision any more. Closed now, its OPEN does not look like a restart
        // of the peer.
        let rival = |c: &&Connection| c.id != conn && c.stage == Stage::OpenSent;
        let rivals: Vec<ConnId> = self.connections.iter().filter(rival).map(|c| c.id).collect();
        for rival in rivals {
            self.lose(ctx, rival);
        }
        let send_hold = self.settings.neighbor.timers.send_hold;
        let Some(connection) = self.connection(conn) else { return };
        connection.stage = Stage::Established;
        connection.restart_hold_timer(ctx.now);
        connection.restart_send_hold_timer(ctx.now, send_hold);
        let (Some(negotiated), Some(local)) = (connection.negotiated.clone(), connection.local) else {
            return;
        };
        self.awaiting_end_of_rib = negotiated.families.clone();
        self.established_count += 1;
        self.retry_at = None;
        self.end_pause();
        self.reason = SessionReason::Established;
        ctx.put(Output::Up { negotiated: negotiated.clone(), local });
        self.settle_stale(ctx, &negotiated);
        self.note_state(ctx.now);
    }

    fn kept_alive(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(connection) = self.connection(conn) else { return };
        connection.restart_hold_timer(ctx.now);
        let marks_end = connection.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_none());
        // A peer without RFC 4724 need not send End-of-RIB; its first KEEPALIVE after its routes counts as one.
        if marks_end {
            self.awaiting_end_of_rib.clear();
        }
    }

    fn updated(&mut self, ctx: &mut Context<'_>, conn: ConnId, update: Update) {
        if let Some(connection) = self.connection(conn) {
            connection.restart_hold_timer(ctx.now);
        }
        if let Some(fault) = update.faults.iter().find(|f| f.action == FaultAction::TreatAsWithdraw) {
            self.record_error(ctx.now, SessionError::treated_as_withdraw(fault));
        }
        let ended = update.end_of_rib;
        ctx.put(Output::Update(update));
        if let Some(family) = ended {
            self.end_of_rib(ctx, family);
        }
    }

    /// Ends a connection on which a NOTIFICATION was received (Events 24 and 25). No answer is sent (RFC 4271 §6).
    fn notified(&mut self, ctx: &mut Context<'_>, conn: ConnId, notification: &Notification) {
        let Some(connection) = self.take(conn) else { return };
        ctx.put(Output::Close(conn));
        let collision = notification.code == code::CEASE && notification.subcode == cease::COLLISION;
        let error = SessionError::notification_received(notification);
        if !collision {
            let reason = self.record_error(ctx.now, error);
            if connection.stage == Stage::Established {
                let survives = connection.negotiated.as_ref().is_some_and(Negotiated::survives_notifications);
                // RFC 8538 §4
                self.down(ctx, &connection, survives && !notification.is_hard_reset(), &reason);
            }
            if !matches!(notification.code, code::CEASE | code::HOLD_TIMER) {
                self.hold_idle(ctx);
            }
        } else if connection.stage == Stage::Established {
            self.down(ctx, &connection, false, &error.into());
        }
        self.retry_later(ctx);
    }

    /// Ends a connection because of an error of the peer: sends a NOTIFICATION, and pauses before the next attempt.
    fn fail(&mut self, ctx: &mut Context<'_>, conn: ConnId, error: wire::Error) {
        let Some(connection) = self.take(conn) else { return };
        let reason = self.record_error(ctx.now, SessionError::notification_sent(&error));
        self.close_with(ctx, connection, error.notification, &reason);
        self.hold_idle(ctx);
    }

    /// Ends a connection that was taken out of the list, with a NOTIFICATION where one can be sent.
    fn close_with(
        &mut self,
        ctx: &mut Context<'_>,
        mut connection: Connection,
        mut notification: Notification,
        reason: &SessionReason,
    ) {
        match connection.stage {
            Stage::Connecting => return ctx.put(Output::Close(connection.id)),
            Stage::Established => {
                let survives = connection.negotiated.as_ref().is_some_and(Negotiated::survives_notifications);
                let hard = survives && ends_for_good(&notification);
                if hard {
                    notification = notification.into_hard_reset();
                }
                self.down(ctx, &connection, survives && !hard, reason);
            }
            _ => {}
        }
        if connection.stage != Stage::Closing {
            connection.close_with(ctx.now, notification);
        }
        self.connections.push(connection);
    }

    fn hold_idle(&mut self, ctx: &mut Context<'_>) {
        if self.stopped || self.suspended || self.established().is_some() {
            return;
        }
        let damping = ctx.jittered(self.damping);
        // The growing pause delays our own attempts. A peer that connects itself is refused for a bounded time only: it has
        // a pause of its own, and may have been corrected in the meantime.
        self.idle_until = Some(ctx.now + damping.min(self.settings.neighbor.timers.idle_hold));
        // Errors on connections of the peer do not put off an attempt of ours that is planned.
        if self.damped_until.is_none() {
            self.damped_until = Some(ctx.now + damping);
            self.damping = (self.damping * 2).min(MAX_DAMPING);
        }
        self.retry_at = None;
    }

    fn end_pause(&mut self) {
        self.damped_until = None;
        self.idle_until = None;
    }

    /// Closes the connections for which `which` returns true, without a NOTIFICATION.
    fn abandon(&mut self, ctx: &mut Context<'_>, which: impl Fn(&Connection) -> bool) {
        self.connections.retain(|connection| {
            let goes = which(connection);
            if goes {
                ctx.outputs.push(Output::Close(connection.id));
            }
            !goes
        });
    }

    /// Records an error, and returns it as the reason for the state.
    fn record_error(&mut self, now: Instant, error: SessionError) -> SessionReason {
        self.history.error(now, error.clone());
        self.last_error = Some((error.clone(), now));
        self.reason = error.into();
        self.reason.clone()
    }

    /// Determines the state in RFC 4271's terms, and records a change of it.
    fn note_state(&mut self, now: Instant) {
        let resting = self.stopped || self.suspended || self.idle_until.is_some();
        let state = match self.connections.iter().map(|c| c.stage).max() {
            Some(Stage::Closing) | None if resting => SessionState::Idle,
            Some(Stage::Closing) | None => SessionState::Active,
            Some(stage) => stage.state(),
        };
        let before = self.shown.0;
        if state == before {
            return;
        }
        match state {
            SessionState::OpenSent if state > before => self.reason = SessionReason::OpenSent,
            SessionState::OpenConfirm if state > before => self.reason = SessionReason::OpenConfirm,
            _ => {}
        }
        self.history.transition(now, before, state, self.reason.clone());
        self.shown = (state, now);
    }
}

/// Returns whether the session will not be established again soon after this NOTIFICATION: routes that are kept would then
/// only attract traffic that is lost (RFC 8538 §3.1).
fn ends_for_good(notification: &Notification) -> bool {
    notification.code == code::CEASE
        && matches!(
            notification.subcode,
            cease::MAX_PREFIXES | cease::SHUTDOWN | cease::DECONFIGURED | cease::BFD_DOWN
        )
}

fn next_message(connection: &mut Connection) -> Result<Option<Message>, wire::Error> {
    let Some(frame) = connection.framer.next()? else { return Ok(None) };
    // A message that the state does not admit is an error whatever it contains: it is not decoded.
    if !connection.stage.admits(frame.kind) {
        let reason = format!("{} received in {}", frame.kind.name(), connection.stage.state());
        let notification = Notification::new(code::FSM, connection.stage.fsm_error());
        return Err(wire::Error { notification, reason });
    }
    match &connection.negotiated {
        Some(negotiated) => wire::decode(&frame, &negotiated.codec, &negotiated.families).map(Some),
        None => wire::decode(&frame, &wire::Codec::default(), &[]).map(Some),
    }
}
