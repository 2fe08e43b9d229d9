//! One session: the state machine and the timers of RFC 5880 §6.8.
//!
//! Every call takes the time in its [`Context`]. Packets are not queued: a due packet is a flag, and is encoded when it
//! can be sent, so that it always carries the current state.

use std::time::{Duration, Instant};

use crate::packet::ControlPacket;
use crate::settings::{Key, Settings, TTL};
use crate::{Datagram, Diagnostic, Discard, Event, Reason, SessionReport, State};

/// The shortest interval between packets while the session is not up (RFC 5880 §6.8.3).
const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// The inputs and outputs of a call.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) rng: &'a mut fastrand::Rng,
    pub(super) events: &'a mut Vec<Event>,
}

/// The values of the last packet received (RFC 5880 §6.8.1, the variables bfd.Remote*).
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    demand: bool,
    control_plane_independent: bool,
    min_rx: Duration,
    desired_min_tx: Duration,
    multiplier: u8,
}

impl Remote {
    /// The initial values of RFC 5880 §6.8.1.
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::None,
        demand: false,
        control_plane_independent: false,
        min_rx: Duration::from_micros(1),
        desired_min_tx: Duration::ZERO,
        multiplier: 0,
    };

    fn of(packet: &ControlPacket) -> Self {
        Self {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
            min_rx: packet.required_min_rx,
            desired_min_tx: packet.desired_min_tx,
            multiplier: packet.multiplier,
        }
    }
}

/// One of our intervals. The two values differ until the neighbor has confirmed the new one (RFC 5880 §6.8.3).
#[derive(Clone, Copy, Debug)]
struct Interval {
    /// The value in our packets.
    advertised: Duration,
    /// The value that our timers use.
    in_force: Duration,
}

impl Interval {
    fn of(interval: Duration) -> Self {
        Self { advertised: interval, in_force: interval }
    }
}

/// The state of a Poll Sequence (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// No packet has carried the new parameters yet: a Final that arrives now answers an earlier Poll.
    Pending,
    /// Packets carry the new parameters and the Poll bit.
    Running,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sent: u64,
    received: u64,
    discarded: u64,
    ups: u64,
    failures: u64,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    key: Key,
    settings: Settings,
    source_port: u16,
    discriminator: u32,
    state: State,
    since: Instant,
    /// bfd.LocalDiag.
    diagnostic: Diagnostic,
    reason: Reason,
    remote: Remote,
    tx: Interval,
    rx: Interval,
    poll: Poll,
    received_at: Option<Instant>,
    /// The time of the last packet in which the neighbor reported that it receives ours.
    confirmed_at: Instant,
    sent_at: Option<Instant>,
    /// The interval from which `send_at` was computed.
    pace: Option<Duration>,
    send_at: Option<Instant>,
    detect_at: Option<Instant>,
    /// Removed; AdminDown is sent until then.
    gone_at: Option<Instant>,
    packet_due: bool,
    final_due: bool,
    counters: Counters,
    last_discard: Option<Discard>,
    send_error: Option<String>,
}

impl Session {
    /// Returns a session that sends its first packet at once.
    pub(super) fn new(
        now: Instant,
        key: Key,
        settings: Settings,
        source_port: u16,
        discriminator: u32,
    ) -> Self {
        let (state, diagnostic, reason) = if settings.admin_down {
            (State::AdminDown, Diagnostic::AdministrativelyDown, Reason::AdminDown)
        } else {
            (State::Down, Diagnostic::None, Reason::Waiting)
        };
        let mut session = Self {
            key,
            settings,
            source_port,
            discriminator,
            state,
            since: now,
            diagnostic,
            reason,
            remote: Remote::UNKNOWN,
            tx: Interval::of(settings.min_tx.max(SLOW_INTERVAL)),
            rx: Interval::of(settings.min_rx),
            poll: Poll::Idle,
            received_at: None,
            confirmed_at: now,
            sent_at: None,
            pace: None,
            send_at: Some(now),
            detect_at: None,
            gone_at: None,
            packet_due: false,
            final_due: false,
            counters: Counters::default(),
            last_discard: None,
            send_error: None,
        };
        session.pace = session.transmit_interval();
        session
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn source_port(&self) -> u16 {
        self.source_port
    }

    /// Sets the source port, which must not change once a packet was sent (RFC 5881 §4).
    pub(super) fn set_source_port(&mut self, port: u16) {
        self.source_port = port;
    }

    pub(super) fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// Returns whether the session was removed and only sends AdminDown.
    pub(super) fn is_leaving(&self) -> bool {
        self.gone_at.is_some()
    }

    /// Returns whether the session was removed and has sent AdminDown for long enough.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }

    /// Applies new settings with the same `path` and `interface`.
    pub(super) fn set(&mut self, ctx: &mut Context<'_>, settings: Settings) {
        let before = std::mem::replace(&mut self.settings, settings);
        match (before.admin_down, settings.admin_down) {
            (false, true) => self.hold_down(ctx, Reason::AdminDown),
            (true, false) => self.enter(ctx, State::Down, Diagnostic::None, Reason::Waiting),
            _ => self.advertise_intervals(),
        }
        self.update_timers(ctx);
    }

    /// Ends the session. It sends AdminDown for a detection time (RFC 5880 §6.8.16), so that the neighbor does not take
    /// the missing packets for a failure.
    pub(super) fn leave(&mut self, ctx: &mut Context<'_>) {
        if self.state != State::AdminDown {
            self.hold_down(ctx, Reason::Removed);
        }
        let pace = self.tx.in_force.max(self.remote.min_rx);
        self.gone_at = Some(ctx.now + pace * u32::from(self.settings.multiplier));
        self.update_timers(ctx);
    }

    fn hold_down(&mut self, ctx: &mut Context<'_>, reason: Reason) {
        if self.state == State::Up {
            ctx.events.push(Event::AdminDown { key: self.key, reason });
        }
        self.enter(ctx, State::AdminDown, Diagnostic::AdministrativelyDown, reason);
    }

    /// Applies a valid packet of this session (RFC 5880 §6.8.6, from "Set bfd.RemoteDiscr").
    pub(super) fn received(&mut self, ctx: &mut Context<'_>, packet: &ControlPacket) -> Result<(), Discard> {
        self.counters.received += 1;
        self.remote = Remote::of(packet);
        self.received_at = Some(ctx.now);
        if packet.final_ && self.poll == Poll::Running {
            self.poll = Poll::Idle;
            self.tx.in_force = self.tx.advertised;
            self.rx.in_force = self.rx.advertised;
        }
        if self.state == State::AdminDown {
            self.update_timers(ctx);
            return Err(Discard::AdminDown);
        }
        if matches!(packet.state, State::Init | State::Up) {
            self.confirmed_at = ctx.now;
        }
        self.change_state(ctx, packet);
        // The answer to a Poll is sent at once, regardless of timers and state (RFC 5880 §6.8.7).
        self.final_due |= packet.poll;
        self.update_timers(ctx);
        Ok(())
    }

    /// Runs the state machine (RFC 5880 §6.2, §6.8.6).
    fn change_state(&mut self, ctx: &mut Context<'_>, packet: &ControlPacket) {
        match (self.state, packet.state) {
            (State::Down, State::AdminDown) => self.reason = Reason::NeighborAdminDown,
            (before, State::AdminDown) => {
                // Not a failure: clients continue as if there were no BFD (RFC 5882 §3.2).
                let reason = Reason::NeighborAdminDown;
                if before == State::Up {
                    ctx.events.push(Event::AdminDown { key: self.key, reason });
                }
                self.enter(ctx, State::Down, Diagnostic::NeighborSignaledDown, reason);
            }
            (State::Down, State::Down) => self.enter(ctx, State::Init, self.diagnostic, Reason::OneWay),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => self.come_up(ctx),
            (State::Up, State::Down) => {
                let reason = Reason::NeighborDown(packet.diagnostic);
                self.fail(ctx, Diagnostic::NeighborSignaledDown, reason);
            }
            _ => {}
        }
    }

    fn come_up(&mut self, ctx: &mut Context<'_>) {
        self.counters.ups += 1;
        ctx.events.push(Event::Up { key: self.key });
        self.enter(ctx, State::Up, Diagnostic::None, Reason::Established);
    }

    fn fail(&mut self, ctx: &mut Context<'_>, diagnostic: Diagnostic, reason: Reason) {
        // Clients are informed only if they could rely on the session (RFC 5882 §3.2).
        if self.state == State::Up {
            self.counters.failures += 1;
            ctx.events.push(Event::Down {
                key: self.key,
                reason,
                control_plane_independent: self.remote.control_plane_independent,
                confirmed_at: self.confirmed_at,
            });
        }
        self.enter(ctx, State::Down, diagnostic, reason);
    }

    /// Changes the state and sends a packet at once (RFC 5880 §6.8.7: a packet whose contents differ need not wait).
    fn enter(&mut self, ctx: &mut Context<'_>, state: State, diagnostic: Diagnostic, reason: Reason) {
        self.state = state;
        self.since = ctx.now;
        self.diagnostic = diagnostic;
        self.reason = reason;
        self.advertise_intervals();
        let pace = self.transmit_interval();
        if pace.is_some() {
            self.send_at = Some(ctx.now);
            self.pace = pace;
        }
    }

    /// Advertises the intervals that state and settings require, with a Poll Sequence if they changed (RFC 5880
    /// §6.8.3).
    fn advertise_intervals(&mut self) {
        let up = self.state == State::Up;
        let tx = if up { self.settings.min_tx } else { self.settings.min_tx.max(SLOW_INTERVAL) };
        let rx = self.settings.min_rx;
        if (tx, rx) != (self.tx.advertised, self.rx.advertised) {
            self.poll = Poll::Pending;
        }
        self.tx.advertised = tx;
        self.rx.advertised = rx;
        // While up, a longer transmit interval and a shorter detection time apply only once the neighbor has confirmed.
        if !up || tx < self.tx.in_force {
            self.tx.in_force = tx;
        }
        if !up || rx > self.rx.in_force {
            self.rx.in_force = rx;
        }
    }

    /// Returns the interval at which periodic packets are sent, before jitter; `None`: none are sent (RFC 5880 §6.8.7).
    fn transmit_interval(&self) -> Option<Duration> {
        let remote = &self.remote;
        let both_up = self.state == State::Up && remote.state == State::Up;
        let quiet = remote.demand && both_up && self.poll == Poll::Idle;
        (!quiet && !remote.min_rx.is_zero()).then(|| self.tx.in_force.max(remote.min_rx))
    }

    /// Returns the detection time (RFC 5880 §6.8.4).
    fn detection_time(&self) -> Duration {
        self.receive_interval() * u32::from(self.remote.multiplier)
    }

    fn receive_interval(&self) -> Duration {
        self.rx.in_force.max(self.remote.desired_min_tx)
    }

    /// Sets both timers again after a change of anything on which they depend. A shorter interval applies at once,
    /// counted from the last packet (RFC 5880 §6.8.3).
    pub(super) fn update_timers(&mut self, ctx: &mut Context<'_>) {
        let pace = self.transmit_interval();
        if pace != self.pace {
            self.pace = pace;
            let sent_at = self.sent_at;
            self.send_at = pace.map(|pace| {
                let next = sent_at.map(|at| at + self.jittered(ctx.rng, pace));
                next.map_or(ctx.now, |next| next.max(ctx.now))
            });
        }
        self.detect_at = self.received_at.map(|at| at + self.detection_time());
        self.send_if_due(ctx);
    }

    fn send_if_due(&mut self, ctx: &mut Context<'_>) {
        if self.send_at.is_some_and(|at| at <= ctx.now) {
            self.packet_due = true;
            self.sent_at = Some(ctx.now);
            self.send_at = self.pace.map(|pace| ctx.now + self.jittered(ctx.rng, pace));
        }
    }

    /// Returns the interval less up to a quarter, drawn for each packet. With the multiplier 1, at least a tenth less
    /// (RFC 5880 §6.8.7).
    fn jittered(&self, rng: &mut fastrand::Rng, pace: Duration) -> Duration {
        let most = if self.settings.multiplier == 1 { 0.9 } else { 1.0 };
        pace.mul_f64(0.75 + (most - 0.75) * rng.f64())
    }

    /// Returns the time at which [`Session::handle_timeout`] must be called.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.send_at, self.detect_at, self.gone_at].into_iter().flatten().min()
    }

    /// Handles the timers that are due. The detection timer comes first, so that a packet that is due carries the new
    /// state.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        if self.detect_at.is_some_and(|at| at <= ctx.now) {
            self.expire(ctx);
        }
        self.send_if_due(ctx);
    }

    /// Handles a detection time without a packet (RFC 5880 §6.8.4): the neighbor's values are reset (§6.8.1,
    /// bfd.RemoteDiscr).
    fn expire(&mut self, ctx: &mut Context<'_>) {
        let reason =
            Reason::Expired { detection_time: self.detection_time(), multiplier: self.remote.multiplier };
        if matches!(self.state, State::Init | State::Up) {
            self.fail(ctx, Diagnostic::DetectionTimeExpired, reason);
        } else if self.state == State::Down {
            self.reason = reason;
        }
        // All variables are reset: a neighbor that accepted no packets may have been replaced by another one.
        self.remote = Remote::UNKNOWN;
        self.received_at = None;
        self.update_timers(ctx);
    }

    /// Returns the next packet that is due.
    pub(super) fn transmit(&mut self) -> Option<Datagram> {
        let (poll, final_) = if std::mem::take(&mut self.final_due) {
            // Never both bits (RFC 5880 §6.5).
            (false, true)
        } else if std::mem::take(&mut self.packet_due) {
            if self.poll == Poll::Pending {
                self.poll = Poll::Running;
            }
            (self.poll == Poll::Running, false)
        } else {
            return None;
        };
        self.counters.sent += 1;
        Some(Datagram {
            key: self.key,
            local: self.settings.source(self.key.local, self.source_port),
            remote: self.settings.destination(self.key.remote),
            ttl: TTL,
            bytes: self.packet(poll, final_).encode(),
        })
    }

    /// Returns a packet with the fields of RFC 5880 §6.8.7. Demand mode and echo are not offered. The C bit is clear, as
    /// BFD shares the fate of this process.
    fn packet(&self, poll: bool, final_: bool) -> ControlPacket {
        ControlPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            final_,
            control_plane_independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.tx.advertised,
            required_min_rx: self.rx.advertised,
            required_min_echo_rx: Duration::ZERO,
        }
    }

    /// Counts a packet from the neighbor's address that was discarded.
    pub(super) fn note_discard(&mut self, discard: Discard) {
        self.counters.discarded += 1;
        self.last_discard = Some(discard);
    }

    pub(super) fn set_send_error(&mut self, error: Option<String>) {
        self.send_error = error;
    }

    pub(super) fn report(&self, now: Instant) -> SessionReport {
        let known = self.remote.discriminator != 0;
        SessionReport {
            key: self.key,
            path: self.settings.path,
            state: self.state,
            since: now.saturating_duration_since(self.since),
            reason: self.reason,
            diagnostic: self.diagnostic,
            remote_state: known.then_some(self.remote.state),
            remote_diagnostic: known.then_some(self.remote.diagnostic),
            discriminator: self.discriminator,
            remote_discriminator: known.then_some(self.remote.discriminator),
            source_port: self.source_port,
            transmit_interval: self.transmit_interval(),
            receive_interval: known.then(|| self.receive_interval()),
            detection_time: known.then(|| self.detection_time()),
            polling: self.poll != Poll::Idle,
            sent: self.counters.sent,
            received: self.counters.received,
            discarded: self.counters.discarded,
            last_discard: self.last_discard.clone(),
            send_error: self.send_error.clone(),
            up_count: self.counters.ups,
            failure_count: self.counters.failures,
        }
    }
}
