//! One TCP connection of a session: what is read, what is to be sent, and its timers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::ConnId;
use super::negotiation::Negotiated;
use crate::wire::{self, Codec, Framer, Message, MessageType, Notification};

/// How long a peer may take over its OPEN: "a large value", 4 minutes suggested (RFC 4271 §8.2.2).
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// How long we try to hand over a last NOTIFICATION before the connection is closed all the same.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a peer may take nothing of what we have to say: 8 minutes, or twice the hold time where that is longer
/// (RFC 9687 §3.2).
const SEND_HOLD: Duration = Duration::from_secs(480);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// A NOTIFICATION is to be sent, nothing else counts any more.
    Closing,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

impl Stage {
    /// Whether a message of this type has a place here (RFC 4271 §8.2.2).
    pub(super) fn admits(self, kind: MessageType) -> bool {
        use MessageType::{Keepalive, Notification, Open, RouteRefresh, Update};
        match self {
            Self::Closing | Self::Connecting => false,
            Self::OpenSent => matches!(kind, Open | Notification),
            Self::OpenConfirm => matches!(kind, Keepalive | Notification),
            Self::Established => matches!(kind, Keepalive | Notification | Update | RouteRefresh),
        }
    }

    /// The subcode for a message that has no place here (RFC 6608 §3).
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
    /// We opened it.
    pub(super) outgoing: bool,
    pub(super) stage: Stage,
    /// Our address on it, once connected.
    pub(super) local: Option<IpAddr>,
    pub(super) negotiated: Option<Negotiated>,
    /// When it is given up: the hold timer, or in `Closing` our patience.
    pub(super) expires: Option<Instant>,
    pub(super) keepalive_at: Option<Instant>,
    /// SendHoldTimer (RFC 9687 §3).
    pub(super) send_hold_at: Option<Instant>,
    pub(super) framer: Framer,
    pub(super) unsent: BytesMut,
}

impl Connection {
    /// One that we are about to open.
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

    /// One that the peer opened.
    pub(super) fn incoming(id: ConnId) -> Self {
        Self { outgoing: false, ..Self::outgoing(id) }
    }

    /// The connection stands: our OPEN goes out (RFC 4271 §8.2.2, Event 16 and 17).
    pub(super) fn opened(&mut self, now: Instant, local: IpAddr, open: wire::Open) {
        self.local = Some(local);
        self.stage = Stage::OpenSent;
        self.expires = Some(now + OPEN_HOLD);
        self.send(&Message::Open(open));
    }

    /// The peer's OPEN is accepted (RFC 4271 §8.2.2, Event 19).
    pub(super) fn confirmed(&mut self, now: Instant, negotiated: Negotiated, keepalive: Option<Duration>) {
        self.stage = Stage::OpenConfirm;
        self.send(&Message::Keepalive);
        // We said so in our OPEN, and the peer may rely on it (RFC 8654 §4).
        self.framer.extend();
        if negotiated.enhanced_refresh {
            self.framer.enhance_refresh();
        }
        self.negotiated = Some(negotiated);
        self.keepalive_at = keepalive.map(|interval| now + interval);
        self.heard(now);
    }

    /// Starts the hold timer again. Without one a peer still has no longer for its first KEEPALIVE than for its OPEN.
    pub(super) fn heard(&mut self, now: Instant) {
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |negotiated| negotiated.hold);
        if !hold.is_zero() {
            self.expires = Some(now + hold);
        } else if self.stage == Stage::Established {
            self.expires = None;
        }
    }

    /// The socket took all that it was given before: starts the SendHoldTimer again. It runs only where KEEPALIVEs do, as
    /// without them there may be nothing to send for any time.
    pub(super) fn taken(&mut self, now: Instant, configured: Option<Duration>) {
        if self.stage != Stage::Established {
            return;
        }
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |negotiated| negotiated.hold);
        let patience = configured.unwrap_or_else(|| SEND_HOLD.max(2 * hold));
        self.send_hold_at = (!hold.is_zero()).then(|| now + patience);
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: &Message) {
        let codec = self.negotiated.as_ref().map_or_else(Codec::default, |negotiated| negotiated.codec);
        wire::encode(message, &codec, &mut self.unsent);
    }

    /// Says why, and closes once that is sent.
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
