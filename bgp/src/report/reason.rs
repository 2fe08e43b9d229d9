//! Reasons for the states of sessions, as values; `Display` makes a sentence of them.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::time::Duration;

use super::{SessionState, WithheldReason};
use crate::wire::{self, Family, Prefix, describe};

/// The most octets of text from a peer or the kernel in a reason, as histories keep them.
const MAX_TEXT: usize = 160;

/// The reason for the state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionReason {
    /// The session was not started.
    NotStarted,
    /// The neighbor is passive: it has to connect.
    Passive,
    /// A connection is being opened.
    #[non_exhaustive]
    Connecting {
        /// The neighbor's address.
        address: IpAddr,
        /// Its port.
        port: u16,
    },
    /// OPEN was sent, and the peer's is missing.
    OpenSent,
    /// OPENs were exchanged, and the peer's KEEPALIVE is missing.
    OpenConfirm,
    /// The session is established.
    Established,
    /// The session is established, and some selected paths cannot be advertised.
    #[non_exhaustive]
    Withheld {
        /// The number of these paths.
        count: usize,
        /// The prefix of the first one.
        prefix: Prefix,
        /// Its reason.
        reason: WithheldReason,
    },
    /// An error ended the session, or keeps it from being established.
    Error(SessionError),
    /// This speaker stopped the session.
    Stopped(StopReason),
}

/// An error of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// The neighbor could not be connected to.
    #[non_exhaustive]
    ConnectFailed {
        /// The neighbor's address.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// The error of the kernel.
        error: String,
    },
    /// The connection was lost.
    #[non_exhaustive]
    ConnectionLost {
        /// The state that the connection had reached.
        state: SessionState,
        /// The error of the kernel.
        error: String,
    },
    /// The peer sent no OPEN before the hold timer expired.
    NoOpen,
    /// Nothing was received for the hold time (RFC 4271 §6.5).
    #[non_exhaustive]
    HoldTimerExpired {
        /// The negotiated hold time.
        hold_time: Duration,
    },
    /// The peer read nothing for the send hold time (RFC 9687).
    SendHoldTimerExpired,
    /// The peer sent a NOTIFICATION.
    NotificationReceived(Notification),
    /// The peer violated the protocol, and received a NOTIFICATION.
    #[non_exhaustive]
    NotificationSent {
        /// The NOTIFICATION.
        notification: Notification,
        /// The violation.
        reason: String,
    },
    /// The routes of an UPDATE were withdrawn because of a malformed attribute; the session goes on (RFC 7606 §2).
    #[non_exhaustive]
    TreatedAsWithdraw {
        /// The type code of the attribute.
        attribute: u8,
        /// The error in it.
        reason: String,
    },
    /// The peer opened a new connection while the old one was established (RFC 4724 §5).
    PeerRestarted,
    /// The BFD session with the neighbor failed (RFC 5882).
    #[cfg(feature = "bfd")]
    #[non_exhaustive]
    BfdDown {
        /// The reason of BFD.
        reason: crate::bfd::Reason,
    },
    /// The peer sent more prefixes than its limit.
    PrefixLimit(PrefixCount),
}

/// The reason why this speaker stopped a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The neighbor was removed from the configuration.
    Removed,
    /// The listen range of the neighbor was removed from the configuration.
    RangeRemoved,
    /// A change of the neighbor's configuration needs a new session.
    NeighborChanged,
    /// Our AS number or BGP Identifier changed.
    IdentityChanged,
    /// The speaker was shut down.
    Shutdown,
}

/// A NOTIFICATION (RFC 4271 §4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode.
    pub subcode: u8,
    /// The code and subcode are those inside a Hard Reset (RFC 8538 §3.1).
    pub hard_reset: bool,
    /// The message of the operator, with unprintable characters replaced (RFC 9003).
    pub message: Option<String>,
}

/// The number of prefixes of a family received from a peer, with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixCount {
    /// The address family.
    pub family: Family,
    /// The number of prefixes.
    pub count: usize,
    /// The limit.
    pub max: u32,
}

/// A condition that needs attention before it becomes an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The peer approaches its prefix limit.
    PrefixLimit(PrefixCount),
}

impl SessionError {
    pub(crate) fn connect_failed(address: IpAddr, port: u16, error: &str) -> Self {
        Self::ConnectFailed { address, port, error: shortened(error) }
    }

    pub(crate) fn connection_lost(state: SessionState, error: &str) -> Self {
        Self::ConnectionLost { state, error: shortened(error) }
    }

    pub(crate) fn notification_received(notification: &wire::Notification) -> Self {
        Self::NotificationReceived(notification.into())
    }

    pub(crate) fn notification_sent(error: &wire::Error) -> Self {
        let notification = (&error.notification).into();
        Self::NotificationSent { notification, reason: shortened(&error.reason) }
    }

    pub(crate) fn treated_as_withdraw(fault: &wire::Fault) -> Self {
        Self::TreatedAsWithdraw { attribute: fault.attribute, reason: shortened(&fault.reason) }
    }
}

impl From<&wire::Notification> for Notification {
    fn from(notification: &wire::Notification) -> Self {
        let inner = notification.hard_reset_reason();
        let hard_reset = inner.is_some();
        let notification = inner.as_ref().unwrap_or(notification);
        let message = notification.shutdown_message().map(|message| shortened(&message));
        Self { code: notification.code, subcode: notification.subcode, hard_reset, message }
    }
}

impl From<SessionError> for SessionReason {
    fn from(error: SessionError) -> Self {
        Self::Error(error)
    }
}

impl From<StopReason> for SessionReason {
    fn from(reason: StopReason) -> Self {
        Self::Stopped(reason)
    }
}

impl Display for SessionReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("not started"),
            Self::Passive => f.write_str("passive: waiting for the peer to connect"),
            Self::Connecting { address, port } => write!(f, "connecting to {address} port {port}"),
            Self::OpenSent => f.write_str("connected, OPEN sent: waiting for the peer's"),
            Self::OpenConfirm => f.write_str("OPENs exchanged: waiting for the peer's KEEPALIVE"),
            Self::Established => f.write_str("established"),
            Self::Withheld { count, prefix, reason } => {
                write!(f, "{count} routes withheld, such as {prefix}: {reason}")
            }
            Self::Error(error) => error.fmt(f),
            Self::Stopped(reason) => reason.fmt(f),
        }
    }
}

impl Display for SessionError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectFailed { address, port, error } => {
                write!(f, "connecting to {address} port {port}: {error}")
            }
            Self::ConnectionLost { state: SessionState::Established, error } => f.write_str(error),
            Self::ConnectionLost { state, error } => write!(f, "{error}, in {state}"),
            Self::NoOpen => f.write_str("hold timer expired: the peer sent no OPEN"),
            Self::HoldTimerExpired { hold_time } => {
                write!(f, "hold timer expired: nothing received for {} s", hold_time.as_secs())
            }
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired: the peer reads nothing"),
            Self::NotificationReceived(notification) => write!(f, "the peer sent: {notification}"),
            Self::NotificationSent { notification, reason } => {
                write!(f, "we sent: {notification} ({reason})")
            }
            Self::TreatedAsWithdraw { attribute, reason } => {
                write!(f, "UPDATE treated as withdrawal: attribute {attribute}: {reason}")
            }
            Self::PeerRestarted => f.write_str("the peer restarted: it opened a new connection"),
            #[cfg(feature = "bfd")]
            Self::BfdDown { reason } => write!(f, "BFD failed: {reason}"),
            Self::PrefixLimit(count) => count.fmt(f),
        }
    }
}

impl Display for StopReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed from the configuration",
            Self::RangeRemoved => "its range was removed",
            Self::NeighborChanged => "the neighbor's configuration changed",
            Self::IdentityChanged => "our AS number or identifier changed",
            Self::Shutdown => "shut down",
        })
    }
}

impl Display for Notification {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.hard_reset {
            write!(f, "{}: ", describe(wire::code::CEASE, wire::cease::HARD_RESET))?;
        }
        f.write_str(&describe(self.code, self.subcode))?;
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

impl Display for PrefixCount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} prefixes received, {} are allowed", self.count, self.family, self.max)
    }
}

impl Display for Warning {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrefixLimit(count) => count.fmt(f),
        }
    }
}

/// Returns the start of a text, cut at a character boundary.
fn shortened(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_reset_shows_its_reason() {
        let inner = wire::Notification::with_message(wire::cease::SHUTDOWN, "maintenance");
        let expected = "Cease / Hard Reset: Cease / Administrative Shutdown (maintenance)";
        for notification in [inner.clone(), inner.clone().into_hard_reset()] {
            assert_eq!(Notification::from(&notification).to_string(), notification.to_string());
        }
        let reset = Notification::from(&inner.into_hard_reset());
        assert_eq!(reset.to_string(), expected);
        assert_eq!((reset.code, reset.subcode), (wire::code::CEASE, wire::cease::SHUTDOWN));
    }

    #[test]
    fn states_have_the_names_of_the_rfc() {
        let names = SessionState::ALL.map(SessionState::as_str);
        assert_eq!(names, ["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"]);
        assert!(SessionState::ALL.is_sorted());
        let error = SessionError::connection_lost(SessionState::OpenSent, "reset");
        assert_eq!(SessionReason::from(error).to_string(), "reset, in OpenSent");
    }
}
