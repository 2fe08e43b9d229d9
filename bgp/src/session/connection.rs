//! One TCP connection of a session: its framer, its pending messages and its timers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::ConnId;
use super::negotiation::Negotiated;
use crate::report::SessionState;
use crate::wire::{self, Codec, Framer, Message, MessageType, Notification};

/// The longest time to wait for the peer's OPEN: "a large value", 4 minutes suggested (RFC 4271 §8.2.2).
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// The longest time in which a last NOTIFICATION can be sent before the connection is closed.
const CLOSING: Duration = Duration::from_secs(5);

/// The default SendHoldTime, in which the peer must take what we send: 8 minutes, or twice the hold time if that is longer
/// (RFC 9687 §3.2).
const SEND_HOLD: Duration = Duration::from_secs(480);

/// The progress of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// A NOTIFICATION is pending; everything received is ignored.
    Closing,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

impl Stage {
    /// Returns the state of RFC 4271 §8.2.2.
    pub(super) fn state(self) -> SessionState {
        match self {
            Self::Closing => SessionState::Idle,
            Self::Connecting => SessionState::Connect,
            Self::OpenSent => SessionState::OpenSent,
            Self::OpenConfirm => SessionState::OpenConfirm,
            Self::Established => SessionState::Established,
        }
    }

    /// Returns whether a message of this type may be received in this stage (RFC 4271 §8.2.2).
    pub(super) fn admits(self, kind: MessageType) -> bool {
        use MessageType::{Keepalive, Notification, Open, RouteRefresh, Update};
        match self {
            Self::Closing | Self::Connecting => false,
            Self::OpenSent => matches!(kind, Open | Notification),
            Self::OpenConfirm => matches!(kind, Keepalive | Notification),
            Self::Established => matches!(kind, Keepalive | Notification | Update | RouteRefresh),
        }
    }

    /// Returns the subcode for a message that may not be received in this stage (RFC 6608 §3).
    pub(super) fn fsm_error(self) -> u8 {
        match self {
            Self::Closing | Self::Connecting => 0,
            Self::OpenSent => 1,
            Self::OpenConfirm => 2,
            Self::Established => 3,
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    /// Opened by us.
    pub(super) outgoing: bool,
    pub(super) stage: Stage,
    /// Our address, once connected.
    pub(super) local: Option<IpAddr>,
    pub(super) negotiated: Option<Negotiated>,
    /// The hold timer; in `Closing`, the end of the time for the NOTIFICATION.
    pub(super) expires: Option<Instant>,
    pub(super) keepalive_at: Option<Instant>,
    /// The SendHoldTimer (RFC 9687 §3).
    pub(super) send_hold_at: Option<Instant>,
    pub(super) framer: Framer,
    pub(super) unsent: BytesMut,
}

impl Connection {
    /// Creates a connection that we are about to open.
    pub(super) fn outgoing(id: ConnId) -> Self {
        Self {
            id,
            outgoing: true,
            stage: Stage::Connecting,
            local: None,
            negotiated: None,
            expires: None,
            keepalive_at: None,
            send_hold_at: None,
            framer: Framer::new(),
            unsent: BytesMut::new(),
        }
    }

    /// Creates a connection that the peer opened.
    pub(super) fn incoming(id: ConnId) -> Self {
        Self { outgoing: false, ..Self::outgoing(id) }
    }

    /// Sends our OPEN on a connection that is established at the TCP level (RFC 4271 §8.2.2, Event 16 and 17).
    pub(super) fn opened(&mut self, now: Instant, local: IpAddr, open: wire::Open) {
        self.local = Some(local);
        self.stage = Stage::OpenSent;
        self.expires = Some(now + OPEN_HOLD);
        self.send(&Message::Open(open));
    }

    /// Continues after the peer's OPEN was accepted (RFC 4271 §8.2.2, Event 19).
    pub(super) fn confirmed(&mut self, now: Instant, negotiated: Negotiated, keepalive: Option<Duration>) {
        self.stage = Stage::OpenConfirm;
        self.send(&Message::Keepalive);
        // Our OPEN offered extended messages, and the peer may rely on it (RFC 8654 §4).
        self.framer.extend();
        if negotiated.enhanced_refresh {
            self.framer.enhance_refresh();
        }
        self.negotiated = Some(negotiated);
        self.keepalive_at = keepalive.map(|interval| now + interval);
        self.restart_hold_timer(now);
    }

    /// Restarts the hold timer. Without a hold time, the time limit for the OPEN also covers the first KEEPALIVE.
    pub(super) fn restart_hold_timer(&mut self, now: Instant) {
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |negotiated| negotiated.hold);
        if !hold.is_zero() {
            self.expires = Some(now + hold);
        } else if self.stage == Stage::Established {
            self.expires = None;
        }
    }

    /// Restarts the SendHoldTimer, as the socket has taken all that was pending. The timer runs only if the hold timer does:
    /// without KEEPALIVEs there may be nothing to send for any length of time.
    pub(super) fn restart_send_hold_timer(&mut self, now: Instant, configured: Option<Duration>) {
        if self.stage != Stage::Established {
            return;
        }
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |negotiated| negotiated.hold);
        let send_hold = configured.unwrap_or_else(|| SEND_HOLD.max(2 * hold));
        self.send_hold_at = (!hold.is_zero()).then(|| now + send_hold);
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: &Message) {
        let codec = self.negotiated.as_ref().map_or_else(Codec::default, |negotiated| negotiated.codec);
        wire::encode(message, &codec, &mut self.unsent);
    }

    /// Queues a NOTIFICATION, after which the connection is closed.
    pub(super) fn close_with(&mut self, now: Instant, notification: Notification) {
        self.send(&Message::Notification(notification));
        self.stage = Stage::Closing;
        self.expires = Some(now + CLOSING);
        self.keepalive_at = None;
        self.send_hold_at = None;
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expires.into_iter().chain(self.keepalive_at).chain(self.send_hold_at).min()
    }
}
