//! One neighbour: the state machine of RFC 4271 §8, with the collisions of §6.8 and graceful restart (RFC 4724).
//!
//! Pure: every call takes the time in its [`Context`] and leaves what is to be done in it. The states Idle, Connect and
//! Active are of the neighbour, the others of each of its connections: up to two run until their OPENs tell which one
//! stays.

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
use crate::report::SessionState;
use crate::wire::{self, Family, FaultAction, Message, Notification, Open, Update, cease, code};

/// After an error we wait before trying again, twice as long each time (RFC 4271 §8.1.1, DampPeerOscillations).
const FIRST_IDLE_HOLD: Duration = Duration::from_secs(1);
const MAX_IDLE_HOLD: Duration = Duration::from_secs(60);
/// A session that stood this long has shown that the earlier trouble is over.
const STABLE: Duration = Duration::from_secs(60);
/// Names a connection between the speaker and whoever owns the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// Less than every other.
    pub const FIRST: Self = Self(0);
}

/// What a session needs to know of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) local_asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) graceful_restart: Option<GracefulRestart>,
    pub(crate) neighbor: Neighbor,
}

/// What a call may use, and what it leaves to be done.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// We have restarted and still gather routes: the R bit is set in OPENs.
    pub(crate) restarting: bool,
    /// We forward by what we announced before: the F bit is set in OPENs.
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

    /// Between 0.75 and 1 times `interval` (RFC 4271 §10).
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(0.75 + 0.25 * self.rng.f64())
    }

    fn put(&mut self, output: Output) {
        self.outputs.push(output);
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Open a connection.
    Connect(ConnId),
    /// Close one; it is forgotten here already.
    Close(ConnId),
    /// Routes flow from now on.
    Up { negotiated: Negotiated, local: IpAddr },
    /// No longer. Routes of the families in `keep` become stale or stay so, the others go.
    Down { keep: Vec<Family>, reason: String },
    /// The peer's routes that are still stale go.
    DropStale(Option<Family>),
    /// They become the last resort (RFC 9494 §4.2).
    LongLived(Family),
    /// The peer told us something.
    Update(Update),
    /// The peer wants to be told again (RFC 2918 §4); `enhanced`: and where that begins and ends (RFC 7313 §4).
    Refresh { family: Family, enhanced: bool },
    /// The peer tells all again: what it has told so far is stale until then (RFC 7313 §4).
    MarkStale(Family),
}

/// One neighbour.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    connections: Vec<Connection>,
    /// ConnectRetryTimer (RFC 4271 §8.1.3).
    retry_at: Option<Instant>,
    /// IdleHoldTimer (RFC 4271 §8.1.3).
    idle_until: Option<Instant>,
    idle_hold: Duration,
    /// Stopped for good, or not yet started.
    stopped: bool,
    /// At rest until the configuration changes.
    suspended: bool,
    stale: Vec<Stale>,
    /// Families whose first feed has not ended yet.
    feeding: Vec<Family>,
    established_count: u64,
    last_error: Option<(String, Instant)>,
    history: History,
    reason: String,
    shown: (SessionState, Instant),
}

impl Session {
    /// A session that is not started yet; `history` is that of an earlier one with the same neighbour.
    pub(crate) fn new(settings: Settings, now: Instant, history: History) -> Self {
        Self {
            history,
            settings,
            connections: Vec::new(),
            retry_at: None,
            idle_until: None,
            idle_hold: FIRST_IDLE_HOLD,
            stopped: true,
            suspended: false,
            stale: Vec::new(),
            feeding: Vec::new(),
            established_count: 0,
            last_error: None,
            reason: "not started".into(),
            shown: (SessionState::Idle, now),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes settings that need no new session: those of a running one differ in nothing that was negotiated.
    pub(crate) fn set_settings(&mut self, ctx: &mut Context<'_>, settings: Settings) {
        let was_passive = std::mem::replace(&mut self.settings, settings).neighbor.passive;
        let was_suspended = std::mem::take(&mut self.suspended);
        if (was_passive || was_suspended) && !self.settings.neighbor.passive && self.idle_until.is_none() {
            self.try_connect(ctx);
        }
        if self.settings.neighbor.passive {
            self.retry_at = None;
            self.abandon(ctx, |c| c.stage == Stage::Connecting);
        }
        self.note_state(ctx.now);
    }

    /// ManualStart, or its passive kin (RFC 4271 §8.1.2, Events 1 and 4).
    pub(crate) fn start(&mut self, ctx: &mut Context<'_>) {
        self.stopped = false;
        self.idle_until = None;
        self.idle_hold = FIRST_IDLE_HOLD;
        self.try_connect(ctx);
        self.note_state(ctx.now);
    }

    /// ManualStop (Event 2): says `notification`, a Cease, on whatever stands. Its routes go.
    pub(crate) fn stop(&mut self, ctx: &mut Context<'_>, notification: &Notification, reason: &str) {
        self.stopped = true;
        self.retry_at = None;
        self.idle_until = None;
        for connection in std::mem::take(&mut self.connections) {
            self.close_with(ctx, connection, notification.clone(), reason);
        }
        self.forget_stale(ctx);
        self.reason = reason.into();
        self.note_state(ctx.now);
    }

    /// Ends an established session that went beyond a limit, and rests: for `pause`, or until the configuration changes.
    pub(crate) fn suspend(
        &mut self,
        ctx: &mut Context<'_>,
        notification: Notification,
        reason: &str,
        pause: Option<Duration>,
    ) {
        let Some(connection) = self.established().and_then(|conn| self.take(conn)) else { return };
        self.fail_in_words(ctx.now, reason.into());
        self.close_with(ctx, connection, notification, reason);
        self.forget_stale(ctx);
        self.retry_at = None;
        match pause {
            Some(pause) => self.idle_until = Some(ctx.now + pause),
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
        let reason = format!("BFD failed: {reason}");
        match self.established() {
            // A peer may restart and be established again before its BFD times out: the BFD session that failed is
            // then the one from before the restart (RFC 5882 §4.3.2).
            Some(_) if confirmed_at < self.shown.1 => return,
            Some(conn) => {
                let Some(connection) = self.take(conn) else { return };
                self.fail_in_words(ctx.now, reason.clone());
                let notification = Notification::new(code::CEASE, cease::BFD_DOWN);
                self.close_with(ctx, connection, notification, &reason);
                self.retry_later(ctx);
            }
            // BFD that shares the fate of the control plane fails in every restart, so the restart goes on. Independent
            // BFD has detected that the stale routes lose packets (RFC 5882 §4.3.1, §4.3.2).
            None if independent && !self.stale.is_empty() => {
                self.fail_in_words(ctx.now, reason);
                self.forget_stale(ctx);
            }
            None => {}
        }
        self.note_state(ctx.now);
    }

    /// Whether nothing is left to send or close.
    pub(crate) fn is_gone(&self) -> bool {
        self.stopped && self.connections.is_empty()
    }

    /// Whether there is nothing to wait for: no connection, no route kept, no rest to be taken.
    pub(crate) fn is_dormant(&self) -> bool {
        self.connections.is_empty() && self.stale.is_empty() && self.idle_until.is_none() && !self.suspended
    }

    /// The peer connected; `None` where it is not wanted now.
    pub(crate) fn accept(&mut self, ctx: &mut Context<'_>, local: IpAddr) -> Option<ConnId> {
        if self.stopped || self.suspended || self.idle_until.is_some() {
            return None;
        }
        // The peer has given up an earlier attempt of its own if it makes another.
        self.abandon(ctx, |c| !c.outgoing && c.stage == Stage::OpenSent);
        let mut connection = Connection::incoming(ctx.new_conn());
        let id = connection.id;
        connection.opened(ctx.now, local, negotiation::our_open(&self.settings, ctx));
        self.connections.push(connection);
        self.note_state(ctx.now);
        Some(id)
    }

    /// Our attempt succeeded (Event 16).
    pub(crate) fn connected(&mut self, ctx: &mut Context<'_>, conn: ConnId, local: IpAddr) {
        let open = negotiation::our_open(&self.settings, ctx);
        if let Some(connection) = self.connection(conn).filter(|c| c.stage == Stage::Connecting) {
            connection.opened(ctx.now, local, open);
            self.retry_at = None;
        }
        self.note_state(ctx.now);
    }

    /// Our attempt failed (Event 18).
    pub(crate) fn connect_failed(&mut self, ctx: &mut Context<'_>, conn: ConnId, error: &str) {
        if self.take(conn).is_some() {
            let neighbor = &self.settings.neighbor;
            self.fail_in_words(
                ctx.now,
                format!("connecting to {} port {}: {error}", neighbor.address, neighbor.port),
            );
            self.retry_later(ctx);
        }
        self.note_state(ctx.now);
    }

    /// The connection broke (Event 18).
    pub(crate) fn closed(&mut self, ctx: &mut Context<'_>, conn: ConnId, reason: &str) {
        let Some(connection) = self.take(conn) else { return };
        match connection.stage {
            Stage::Closing => {}
            Stage::Established => {
                self.fail_in_words(ctx.now, reason.to_owned());
                // RFC 4724 §4.2: without a NOTIFICATION the peer is taken to restart.
                self.down(ctx, &connection, true, reason);
            }
            stage => self.fail_in_words(ctx.now, format!("{reason}, in {stage:?}")),
        }
        self.retry_later(ctx);
        self.note_state(ctx.now);
    }

    /// Bytes came.
    pub(crate) fn received(&mut self, ctx: &mut Context<'_>, conn: ConnId, bytes: &[u8]) {
        // What comes after our last word is not even kept.
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

    /// Timers that are due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= ctx.now);
        let expired: Vec<_> = self.connections.iter().filter(|c| due(c.expires)).map(|c| c.id).collect();
        let stuck: Vec<_> = self.connections.iter().filter(|c| due(c.send_hold_at)).map(|c| c.id).collect();
        let quiet: Vec<_> = self.connections.iter().filter(|c| due(c.keepalive_at)).map(|c| c.id).collect();
        let (retry, idle_over) = (due(self.retry_at), due(self.idle_until));

        for conn in expired {
            self.expire(ctx, conn);
        }
        for conn in stuck {
            self.expire_sending(ctx, conn);
        }
        for conn in quiet {
            self.keep_alive(ctx, conn);
        }
        if retry || idle_over {
            self.retry_at = None;
            self.idle_until = None;
            self.abandon(ctx, |c| c.stage == Stage::Connecting);
            self.try_connect(ctx);
        }
        self.age_stale(ctx);
        self.note_state(ctx.now);
    }

    /// When [`Session::handle_timeout`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let own = self.retry_at.into_iter().chain(self.idle_until).chain(self.stale_deadline());
        own.chain(self.connections.iter().filter_map(Connection::next_deadline)).min()
    }

    /// Whether OPEN, KEEPALIVE or NOTIFICATION wait to be sent on `conn`.
    pub(crate) fn wants_transmit(&self, conn: ConnId) -> bool {
        self.connections.iter().any(|c| c.id == conn && (!c.unsent.is_empty() || c.stage == Stage::Closing))
    }

    /// Moves what waits into `out`. A connection that said its last word is closed.
    pub(crate) fn transmit(&mut self, ctx: &mut Context<'_>, conn: ConnId, out: &mut BytesMut) {
        let (now, send_hold) = (ctx.now, self.settings.neighbor.timers.send_hold);
        let Some(connection) = self.connection(conn) else { return };
        out.extend_from_slice(&connection.unsent.split());
        connection.taken(now, send_hold);
        if connection.stage == Stage::Closing {
            self.take(conn);
            ctx.put(Output::Close(conn));
        }
    }

    /// All connections there are.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.connections.iter().map(|c| c.id)
    }

    /// The connection on which routes flow.
    pub(crate) fn established(&self) -> Option<ConnId> {
        self.connections.iter().find(|c| c.stage == Stage::Established).map(|c| c.id)
    }

    /// What was agreed on, while established.
    pub(crate) fn negotiated(&self) -> Option<&Negotiated> {
        self.connections.iter().find(|c| c.stage == Stage::Established)?.negotiated.as_ref()
    }

    /// Whether the first feed of every family is in.
    pub(crate) fn feed_ended(&self) -> bool {
        self.established().is_some() && self.feeding.is_empty()
    }

    /// Whether the End-of-RIB of a family is still to come, from a peer that sends one.
    fn awaits_end_of_rib(&self, family: Family) -> bool {
        let sends = self.negotiated().is_some_and(|negotiated| negotiated.graceful_restart.is_some());
        sends && self.feeding.contains(&family)
    }

    /// State, and since when.
    pub(crate) fn state(&self) -> (SessionState, Instant) {
        self.shown
    }

    pub(crate) fn established_count(&self) -> u64 {
        self.established_count
    }

    pub(crate) fn last_error(&self) -> Option<&(String, Instant)> {
        self.last_error.as_ref()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// For the session that comes after this one.
    pub(crate) fn take_history(&mut self) -> History {
        std::mem::take(&mut self.history)
    }

    /// Why it is in its state.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == conn)
    }

    fn take(&mut self, conn: ConnId) -> Option<Connection> {
        let index = self.connections.iter().position(|c| c.id == conn)?;
        Some(self.connections.remove(index))
    }

    /// Whether another attempt of ours would be in vain. A connection of the peer's on which it says nothing does not
    /// count: it could keep us from connecting for as long as we wait for its OPEN.
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
            self.reason = "passive: waiting for the peer to connect".into();
            return;
        }
        let connection = Connection::outgoing(ctx.new_conn());
        ctx.put(Output::Connect(connection.id));
        self.connections.push(connection);
        let neighbor = &self.settings.neighbor;
        self.reason = format!("connecting to {} port {}", neighbor.address, neighbor.port);
        let retry = neighbor.timers.connect_retry.max(FIRST_IDLE_HOLD);
        // The attempt has at least one retry time before it is given up and made anew.
        self.retry_at = Some(ctx.now + ctx.jittered(retry.saturating_mul(2)));
    }

    /// Arms the retry timer, unless something still goes on.
    fn retry_later(&mut self, ctx: &mut Context<'_>) {
        if self.stopped
            || self.suspended
            || self.busy()
            || self.idle_until.is_some()
            || self.settings.neighbor.passive
        {
            return;
        }
        let at = ctx.now + ctx.jittered(self.settings.neighbor.timers.connect_retry);
        // Never later than planned: a peer that keeps connecting and closing must not keep us from trying.
        self.retry_at = Some(self.retry_at.map_or(at, |planned| planned.min(at)));
    }

    fn expire(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(connection) = self.take(conn) else { return };
        if connection.stage == Stage::Closing {
            ctx.put(Output::Close(conn));
            return;
        }
        let reason = match connection.stage {
            Stage::OpenSent => "hold timer expired: the peer sent no OPEN".to_owned(),
            _ => format!(
                "hold timer expired: nothing heard for {} s",
                connection.negotiated.as_ref().map_or(0, |negotiated| negotiated.hold.as_secs())
            ),
        };
        self.fail_in_words(ctx.now, reason.clone());
        self.close_with(ctx, connection, Notification::new(code::HOLD_TIMER, 0), &reason);
        self.retry_later(ctx);
    }

    /// SendHoldTimer_Expires (RFC 9687 §3.2).
    fn expire_sending(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let stands = |c: &&mut Connection| c.stage == Stage::Established;
        if self.connection(conn).filter(stands).is_none() {
            return;
        }
        let Some(connection) = self.take(conn) else { return };
        let reason = "send hold timer expired: the peer reads nothing";
        self.fail_in_words(ctx.now, reason.into());
        self.close_with(ctx, connection, Notification::new(code::SEND_HOLD_TIMER, 0), reason);
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

    /// A third of the hold time (RFC 4271 §10), less where so configured; none without a hold time.
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
            // Nothing else comes this far: see `next_message`.
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
        // An attempt of ours that hasn't even connected can only end in another collision.
        self.abandon(ctx, |c| c.stage == Stage::Connecting);
    }

    /// KEEPALIVE in OpenConfirm (Event 26): the session stands.
    fn establish(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        // A rival from before cannot win any more; closed now, its OPEN is not taken for a restart of the peer.
        let rival = |c: &&Connection| c.id != conn && c.stage == Stage::OpenSent;
        let rivals: Vec<ConnId> = self.connections.iter().filter(rival).map(|c| c.id).collect();
        for rival in rivals {
            self.lose(ctx, rival);
        }
        let send_hold = self.settings.neighbor.timers.send_hold;
        let Some(connection) = self.connection(conn) else { return };
        connection.stage = Stage::Established;
        connection.heard(ctx.now);
        connection.taken(ctx.now, send_hold);
        let (Some(negotiated), Some(local)) = (connection.negotiated.clone(), connection.local) else {
            return;
        };
        self.feeding = negotiated.families.clone();
        self.established_count += 1;
        self.retry_at = None;
        self.idle_until = None;
        self.reason = "established".into();
        ctx.put(Output::Up { negotiated: negotiated.clone(), local });
        self.settle_stale(ctx, &negotiated);
        self.note_state(ctx.now);
    }

    fn kept_alive(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(connection) = self.connection(conn) else { return };
        connection.heard(ctx.now);
        let marks_end = connection.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_none());
        // A peer without RFC 4724 need not send End-of-RIB; its first KEEPALIVE after the feed began stands for it.
        if marks_end {
            self.feeding.clear();
        }
    }

    fn updated(&mut self, ctx: &mut Context<'_>, conn: ConnId, update: Update) {
        if let Some(connection) = self.connection(conn) {
            connection.heard(ctx.now);
        }
        if let Some(fault) = update.faults.iter().find(|f| f.action == FaultAction::TreatAsWithdraw) {
            let words =
                format!("UPDATE treated as withdrawal: attribute {}: {}", fault.attribute, fault.reason);
            self.fail_in_words(ctx.now, words);
        }
        let ended = update.end_of_rib;
        ctx.put(Output::Update(update));
        if let Some(family) = ended {
            self.end_of_rib(ctx, family);
        }
    }

    /// A NOTIFICATION came (Events 24 and 25). Nothing is answered (RFC 4271 §6).
    fn notified(&mut self, ctx: &mut Context<'_>, conn: ConnId, notification: &Notification) {
        let Some(connection) = self.take(conn) else { return };
        ctx.put(Output::Close(conn));
        let collision = notification.code == code::CEASE && notification.subcode == cease::COLLISION;
        if !collision {
            let reason = format!("the peer sent: {notification}");
            self.fail_in_words(ctx.now, reason.clone());
            if connection.stage == Stage::Established {
                let survives = connection.negotiated.as_ref().is_some_and(Negotiated::survives_notifications);
                // RFC 8538 §4
                self.down(ctx, &connection, survives && !notification.is_hard_reset(), &reason);
            }
            if !matches!(notification.code, code::CEASE | code::HOLD_TIMER) {
                self.hold_idle(ctx);
            }
        } else if connection.stage == Stage::Established {
            self.down(ctx, &connection, false, "the peer sent: connection collision");
        }
        self.retry_later(ctx);
    }

    /// An error of the peer's: NOTIFICATION, and a pause before the next attempt.
    fn fail(&mut self, ctx: &mut Context<'_>, conn: ConnId, error: wire::Error) {
        let Some(connection) = self.take(conn) else { return };
        let reason = format!("we sent: {} ({})", error.notification, error.reason);
        self.fail_in_words(ctx.now, reason.clone());
        self.close_with(ctx, connection, error.notification, &reason);
        self.hold_idle(ctx);
    }

    /// Ends a connection that was taken out: with a NOTIFICATION where one can be sent.
    fn close_with(
        &mut self,
        ctx: &mut Context<'_>,
        mut connection: Connection,
        mut notification: Notification,
        reason: &str,
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
        self.idle_until = Some(ctx.now + ctx.jittered(self.idle_hold));
        self.idle_hold = (self.idle_hold * 2).min(MAX_IDLE_HOLD);
        self.retry_at = None;
    }

    /// Closes without a word those connections that `which` names.
    fn abandon(&mut self, ctx: &mut Context<'_>, which: impl Fn(&Connection) -> bool) {
        self.connections.retain(|connection| {
            let goes = which(connection);
            if goes {
                ctx.outputs.push(Output::Close(connection.id));
            }
            !goes
        });
    }

    fn fail_in_words(&mut self, now: Instant, words: String) {
        self.history.error(now, &words);
        self.reason = words.clone();
        self.last_error = Some((words, now));
    }

    /// Works out which of RFC 4271's states this is, and notes when that changed.
    fn note_state(&mut self, now: Instant) {
        let state = match self.connections.iter().map(|c| c.stage).max() {
            Some(Stage::Established) => SessionState::Established,
            Some(Stage::OpenConfirm) => SessionState::OpenConfirm,
            Some(Stage::OpenSent) => SessionState::OpenSent,
            Some(Stage::Connecting) => SessionState::Connect,
            Some(Stage::Closing) | None if self.stopped || self.suspended || self.idle_until.is_some() => {
                SessionState::Idle
            }
            Some(Stage::Closing) | None => SessionState::Active,
        };
        let before = self.shown.0;
        if state == before {
            return;
        }
        match state {
            SessionState::OpenSent if state > before => {
                self.reason = "connected, OPEN sent: waiting for the peer's".into();
            }
            SessionState::OpenConfirm if state > before => {
                self.reason = "OPENs exchanged: waiting for the peer's KEEPALIVE".into();
            }
            _ => {}
        }
        self.history.transition(now, before, state, &self.reason);
        self.shown = (state, now);
    }
}

/// Whether a NOTIFICATION means that the session is not to come back soon, so that keeping routes would only draw traffic
/// to where nobody takes it (RFC 8538 §3.1).
fn ends_for_good(notification: &Notification) -> bool {
    notification.code == code::CEASE
        && matches!(
            notification.subcode,
            cease::MAX_PREFIXES | cease::SHUTDOWN | cease::DECONFIGURED | cease::BFD_DOWN
        )
}

fn next_message(connection: &mut Connection) -> Result<Option<Message>, wire::Error> {
    let Some(frame) = connection.framer.next()? else { return Ok(None) };
    // What has no place here is not looked into: that it came is the error, whatever it holds.
    if !connection.stage.admits(frame.kind) {
        let reason = format!("{} received in {:?}", frame.kind.name(), connection.stage);
        let notification = Notification::new(code::FSM, connection.stage.fsm_error());
        return Err(wire::Error { notification, reason });
    }
    match &connection.negotiated {
        Some(negotiated) => wire::decode(&frame, &negotiated.codec, &negotiated.families).map(Some),
        None => wire::decode(&frame, &wire::Codec::default(), &[]).map(Some),
    }
}
