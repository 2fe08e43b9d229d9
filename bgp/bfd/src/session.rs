//! One session: the state machine and the timers of RFC 5880 §6.8.
//!
//! Pure: every call takes the time in its [`Context`]. Packets are not queued but noted as due, and written when
//! somebody can send them, so they always tell the newest.

use std::time::{Duration, Instant};

use super::packet::{ControlPacket, Diagnostic, LENGTH, State};
use super::settings::{Key, Settings, TTL};
use super::{Datagram, Discard, Event, SessionReport};

/// While not up, nobody sends more often (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What a call may use, and where it leaves its news.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) rng: &'a mut fastrand::Rng,
    pub(super) events: &'a mut Vec<Event>,
}

/// What the neighbour last said of itself (RFC 5880 §6.8.1, the variables bfd.Remote*).
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
    /// Nothing heard yet; the initial values of RFC 5880 §6.8.1.
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
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

/// An interval of ours: what packets say, and what we go by until the neighbour has said that it knows.
#[derive(Clone, Copy, Debug)]
struct Interval {
    told: Duration,
    in_force: Duration,
}

impl Interval {
    fn of(interval: Duration) -> Self {
        Self { told: interval, in_force: interval }
    }
}

/// A Poll Sequence (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// There is news that no packet has borne yet: a Final that comes now answers an earlier Poll.
    Wanted,
    /// Packets with the newest parameters bear the Poll bit.
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
    remote: Remote,
    tx: Interval,
    rx: Interval,
    poll: Poll,
    heard_at: Option<Instant>,
    /// When the neighbour last said that it hears us.
    confirmed_at: Instant,
    sent_at: Option<Instant>,
    /// The interval that `send_at` was reckoned with.
    pace: Option<Duration>,
    send_at: Option<Instant>,
    detect_at: Option<Instant>,
    /// Removed; still tells the neighbour so until then.
    gone_at: Option<Instant>,
    packet_due: bool,
    final_due: bool,
    counters: Counters,
    last_discard: Option<String>,
    send_error: Option<String>,
    reason: String,
}

impl Session {
    /// A session that sends its first packet at once.
    pub(super) fn new(
        now: Instant,
        key: Key,
        settings: Settings,
        source_port: u16,
        discriminator: u32,
    ) -> Self {
        let mut session = Self {
            key,
            settings,
            source_port,
            discriminator,
            state: State::Down,
            since: now,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNKNOWN,
            tx: Interval::of(settings.min_tx.max(SLOW)),
            rx: Interval::of(settings.min_rx),
            poll: Poll::Idle,
            heard_at: None,
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
            reason: format!("waiting to hear from {}", key.remote),
        };
        session.pace = session.wanted_pace();
        if settings.admin_down {
            session.state = State::AdminDown;
            session.diagnostic = Diagnostic::ADMIN_DOWN;
            session.reason = "held down by our configuration".into();
        }
        session
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn source_port(&self) -> u16 {
        self.source_port
    }

    /// Only before anything was sent: a session keeps its source port (RFC 5881 §4).
    pub(super) fn set_source_port(&mut self, port: u16) {
        self.source_port = port;
    }

    pub(super) fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// Removed, and here only to say so.
    pub(super) fn is_leaving(&self) -> bool {
        self.gone_at.is_some()
    }

    /// Removed, and has said so long enough.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }

    /// Takes other parameters. `path` and `interface` are as they were.
    pub(super) fn set(&mut self, ctx: &mut Context<'_>, settings: Settings) {
        let was = std::mem::replace(&mut self.settings, settings);
        match (was.admin_down, settings.admin_down) {
            (false, true) => self.hold_down(ctx, "held down by our configuration"),
            (true, false) => {
                let why = format!("no longer held down; waiting to hear from {}", self.key.remote);
                self.enter(ctx, State::Down, Diagnostic::NONE, why);
            }
            _ => self.offer(),
        }
        self.reckon(ctx);
    }

    /// The session is wanted no longer: the neighbour hears AdminDown for a detection time (RFC 5880 §6.8.16), so that
    /// it takes the silence that follows for no failure.
    pub(super) fn leave(&mut self, ctx: &mut Context<'_>) {
        if self.state != State::AdminDown {
            self.hold_down(ctx, "removed from our configuration");
        }
        let pace = self.tx.in_force.max(self.remote.min_rx);
        self.gone_at = Some(ctx.now + pace * u32::from(self.settings.multiplier));
        self.reckon(ctx);
    }

    fn hold_down(&mut self, ctx: &mut Context<'_>, why: &str) {
        if self.state == State::Up {
            ctx.events.push(Event::AdminDown { key: self.key, why: why.into() });
        }
        self.enter(ctx, State::AdminDown, Diagnostic::ADMIN_DOWN, why.into());
    }

    /// A packet came whose header holds, from where this session's come from (RFC 5880 §6.8.6, from "Set
    /// bfd.RemoteDiscr").
    pub(super) fn received(&mut self, ctx: &mut Context<'_>, packet: &ControlPacket) -> Result<(), Discard> {
        self.counters.received += 1;
        self.remote = Remote::of(packet);
        self.heard_at = Some(ctx.now);
        if packet.final_ && self.poll == Poll::Running {
            self.poll = Poll::Idle;
            self.tx.in_force = self.tx.told;
            self.rx.in_force = self.rx.told;
        }
        if self.state == State::AdminDown {
            self.reckon(ctx);
            return Err(Discard::AdminDown);
        }
        if matches!(packet.state, State::Init | State::Up) {
            self.confirmed_at = ctx.now;
        }
        self.follow(ctx, packet);
        // At once, whatever the timers and the state say (RFC 5880 §6.8.7).
        self.final_due |= packet.poll;
        self.reckon(ctx);
        Ok(())
    }

    /// The state machine (RFC 5880 §6.2, §6.8.6).
    fn follow(&mut self, ctx: &mut Context<'_>, packet: &ControlPacket) {
        let remote = self.key.remote;
        match (self.state, packet.state) {
            (State::Down, State::AdminDown) => {
                self.reason = format!("{remote} is held down administratively");
            }
            (was, State::AdminDown) => {
                let why = format!("{remote} was taken down administratively");
                // No failure: clients carry on as if there were no BFD (RFC 5882 §3.2).
                if was == State::Up {
                    ctx.events.push(Event::AdminDown { key: self.key, why: why.clone() });
                }
                self.enter(ctx, State::Down, Diagnostic::NEIGHBOR_DOWN, why);
            }
            (State::Down, State::Down) => {
                let why = format!("we hear {remote}, and wait for it to hear us");
                self.enter(ctx, State::Init, self.diagnostic, why);
            }
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => self.come_up(ctx),
            (State::Up, State::Down) => {
                let why = format!("{remote} says that its side is down: {}", packet.diagnostic.words());
                self.fail(ctx, Diagnostic::NEIGHBOR_DOWN, why);
            }
            _ => {}
        }
    }

    fn come_up(&mut self, ctx: &mut Context<'_>) {
        self.counters.ups += 1;
        ctx.events.push(Event::Up { key: self.key });
        self.enter(ctx, State::Up, Diagnostic::NONE, "both directions work".into());
    }

    fn fail(&mut self, ctx: &mut Context<'_>, diagnostic: Diagnostic, why: String) {
        // A client hears only of sessions that it could count on (RFC 5882 §3.2).
        if self.state == State::Up {
            self.counters.failures += 1;
            ctx.events.push(Event::Down {
                key: self.key,
                why: why.clone(),
                control_plane_independent: self.remote.control_plane_independent,
                heard: self.confirmed_at,
            });
        }
        self.enter(ctx, State::Down, diagnostic, why);
    }

    /// Changes the state and says so at once (RFC 5880 §6.8.7: packets whose contents differ need not wait).
    fn enter(&mut self, ctx: &mut Context<'_>, state: State, diagnostic: Diagnostic, why: String) {
        self.state = state;
        self.since = ctx.now;
        self.diagnostic = diagnostic;
        self.reason = why;
        self.offer();
        if self.wanted_pace().is_some() {
            self.send_at = Some(ctx.now);
            self.pace = self.wanted_pace();
        }
    }

    /// Offers the intervals that state and settings ask for, by a Poll Sequence where they are news (RFC 5880 §6.8.3).
    fn offer(&mut self) {
        let up = self.state == State::Up;
        let tx = if up { self.settings.min_tx } else { self.settings.min_tx.max(SLOW) };
        let rx = self.settings.min_rx;
        if (tx, rx) != (self.tx.told, self.rx.told) {
            self.poll = Poll::Wanted;
        }
        self.tx.told = tx;
        self.rx.told = rx;
        // While up, we send less often, or count on packets more often, only once the neighbour knows.
        if !up || tx < self.tx.in_force {
            self.tx.in_force = tx;
        }
        if !up || rx > self.rx.in_force {
            self.rx.in_force = rx;
        }
    }

    /// How often we are to send, before jitter; `None`: not of our own accord (RFC 5880 §6.8.7).
    fn wanted_pace(&self) -> Option<Duration> {
        let remote = &self.remote;
        let both_up = self.state == State::Up && remote.state == State::Up;
        let quiet = remote.demand && both_up && self.poll == Poll::Idle;
        (!quiet && !remote.min_rx.is_zero()).then(|| self.tx.in_force.max(remote.min_rx))
    }

    /// The multiple of the pace at which the neighbour must have been heard (RFC 5880 §6.8.4).
    fn detection_time(&self) -> Duration {
        self.receive_interval() * u32::from(self.remote.multiplier)
    }

    fn receive_interval(&self) -> Duration {
        self.rx.in_force.max(self.remote.desired_min_tx)
    }

    /// Sets both timers anew after anything they depend on may have changed. A shorter pace holds at once, reckoned
    /// from the last packet (RFC 5880 §6.8.3).
    pub(super) fn reckon(&mut self, ctx: &mut Context<'_>) {
        let pace = self.wanted_pace();
        if pace != self.pace {
            self.pace = pace;
            let sent_at = self.sent_at;
            self.send_at = pace.map(|pace| {
                let next = sent_at.map(|at| at + self.jittered(ctx.rng, pace));
                next.map_or(ctx.now, |next| next.max(ctx.now))
            });
        }
        self.detect_at = self.heard_at.map(|at| at + self.detection_time());
        self.send_if_due(ctx);
    }

    fn send_if_due(&mut self, ctx: &mut Context<'_>) {
        if self.send_at.is_some_and(|at| at <= ctx.now) {
            self.packet_due = true;
            self.sent_at = Some(ctx.now);
            self.send_at = self.pace.map(|pace| ctx.now + self.jittered(ctx.rng, pace));
        }
    }

    /// Up to a quarter less, drawn for each packet; at least a tenth less where a single lost packet counts (RFC 5880
    /// §6.8.7).
    fn jittered(&self, rng: &mut fastrand::Rng, pace: Duration) -> Duration {
        let most = if self.settings.multiplier == 1 { 0.9 } else { 1.0 };
        pace.mul_f64(0.75 + (most - 0.75) * rng.f64())
    }

    /// When [`Session::handle_timeout`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.send_at, self.detect_at, self.gone_at].into_iter().flatten().min()
    }

    /// Timers that are due. The detection time comes first, so that a packet due now tells of it.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        if self.detect_at.is_some_and(|at| at <= ctx.now) {
            self.expire(ctx);
        }
        self.send_if_due(ctx);
    }

    /// A detection time without a packet (RFC 5880 §6.8.4): the neighbour is forgotten (§6.8.1, bfd.RemoteDiscr).
    fn expire(&mut self, ctx: &mut Context<'_>) {
        let why = format!(
            "nothing heard from {} for {:?}, {} times the interval agreed on",
            self.key.remote,
            self.detection_time(),
            self.remote.multiplier
        );
        if matches!(self.state, State::Init | State::Up) {
            self.fail(ctx, Diagnostic::EXPIRED, why);
        } else if self.state == State::Down {
            self.reason = why;
        }
        // The other variables go too: a neighbour that wanted no packets may be another one by now.
        self.remote = Remote::UNKNOWN;
        self.heard_at = None;
        self.reckon(ctx);
    }

    /// The next packet that is due.
    pub(super) fn transmit(&mut self) -> Option<Datagram> {
        let (poll, final_) = if std::mem::take(&mut self.final_due) {
            // Never with both bits (RFC 5880 §6.5).
            (false, true)
        } else if std::mem::take(&mut self.packet_due) {
            if self.poll == Poll::Wanted {
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
            bytes: self.packet(poll, final_),
        })
    }

    /// RFC 5880 §6.8.7, field by field. Demand mode and echoes are not offered; BFD runs in this process, so it goes
    /// when the control plane does.
    fn packet(&self, poll: bool, final_: bool) -> [u8; LENGTH] {
        let packet = ControlPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            final_,
            control_plane_independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.tx.told,
            required_min_rx: self.rx.told,
            required_min_echo_rx: Duration::ZERO,
        };
        packet.encode()
    }

    /// Notes a packet that came from the neighbour's address and could not be taken.
    pub(super) fn note_discard(&mut self, discard: &Discard) {
        self.counters.discarded += 1;
        self.last_discard = Some(discard.to_string());
    }

    pub(super) fn set_send_error(&mut self, error: Option<String>) {
        self.send_error = error;
    }

    pub(super) fn report(&self, now: Instant) -> SessionReport {
        let known = self.remote.discriminator != 0;
        SessionReport {
            local: self.key.local,
            remote: self.key.remote,
            path: self.settings.path,
            state: self.state,
            since: now.saturating_duration_since(self.since),
            reason: self.reason.clone(),
            diagnostic: self.diagnostic,
            remote_state: known.then_some(self.remote.state),
            remote_diagnostic: known.then_some(self.remote.diagnostic),
            discriminator: self.discriminator,
            remote_discriminator: known.then_some(self.remote.discriminator),
            source_port: self.source_port,
            transmit_interval: self.wanted_pace(),
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
