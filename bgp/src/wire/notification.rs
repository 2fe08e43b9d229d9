//! NOTIFICATIONs, the errors that cause them, and the names of their codes (RFC 4271 §4.5, RFC 4486, RFC 9003).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{HEADER, MAX_MESSAGE, Notification};

/// The most octets of data that we send: enough to find the cause, and too little to be misused as an echo.
const MAX_DATA: usize = 64;

/// Error codes (RFC 4271 §4.5, RFC 7313 §5, RFC 9687 §3).
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error.
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of the OPEN Message Error (RFC 4271 §6.2, RFC 5492 §5).
pub mod open_error {
    /// Unspecific: an optional parameter is malformed.
    pub const UNSPECIFIC: u8 = 0;
    /// Unsupported Version Number.
    pub const VERSION: u8 = 1;
    /// Bad Peer AS.
    pub const PEER_AS: u8 = 2;
    /// Bad BGP Identifier.
    pub const IDENTIFIER: u8 = 3;
    /// Unsupported Optional Parameter.
    pub const PARAMETER: u8 = 4;
    /// Unacceptable Hold Time.
    pub const HOLD_TIME: u8 = 6;
    /// Unsupported Capability.
    pub const CAPABILITY: u8 = 7;
    /// Role Mismatch (RFC 9234 §4.2).
    pub const ROLE: u8 = 11;
}

/// Subcodes of Cease (RFC 4486 §3, RFC 8538 §4, RFC 9384 §3).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const SHUTDOWN: u8 = 2;
    /// Peer De-configured.
    pub const DECONFIGURED: u8 = 3;
    /// Administrative Reset.
    pub const RESET: u8 = 4;
    /// Connection Rejected.
    pub const REJECTED: u8 = 5;
    /// Other Configuration Change.
    pub const CONFIG_CHANGE: u8 = 6;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Out of Resources.
    pub const RESOURCES: u8 = 8;
    /// Hard Reset.
    pub const HARD_RESET: u8 = 9;
    /// BFD Down.
    pub const BFD_DOWN: u8 = 10;
}

/// An error that ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// The NOTIFICATION to send before the connection is closed.
    pub notification: Notification,
    /// The error, as text.
    pub reason: String,
}

impl Error {
    /// Creates an error that is answered with this code, subcode and data.
    pub(super) fn new(code: u8, subcode: u8, data: &[u8], reason: String) -> Self {
        Self { notification: Notification::with_data(code, subcode, data), reason }
    }
}

impl Notification {
    /// Creates a NOTIFICATION without data.
    pub fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Bytes::new() }
    }

    /// Creates a NOTIFICATION with data, of which the first 64 octets are kept.
    pub fn with_data(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: Bytes::copy_from_slice(capped(data)) }
    }

    /// Creates a Cease with a message for the operator of the peer (RFC 9003 §2), cut to 255 octets.
    pub fn with_message(subcode: u8, message: &str) -> Self {
        let end = (0..=message.len().min(255)).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        let text = message.get(..end).unwrap_or_default();
        let mut data = BytesMut::with_capacity(1 + end);
        if !text.is_empty() {
            data.put_u8(end as u8);
            data.put_slice(text.as_bytes());
        }
        Self { code: code::CEASE, subcode, data: data.freeze() }
    }

    /// Wraps the NOTIFICATION in a Hard Reset: routes are not to be kept (RFC 8538 §3.1).
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_slice(&[self.code, self.subcode]);
        data.put_slice(&self.data);
        Self { code: code::CEASE, subcode: cease::HARD_RESET, data: data.freeze() }
    }

    /// Returns whether it is a Hard Reset, after which no routes are kept (RFC 8538 §3.1).
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (code::CEASE, cease::HARD_RESET)
    }

    /// Returns the NOTIFICATION inside a Hard Reset (RFC 8538 §3.1); `None` for all others, and if its data is too short.
    pub fn hard_reset_reason(&self) -> Option<Self> {
        let inner = self.is_hard_reset().then(|| Self::decode(&self.data))??;
        // A Hard Reset within another adds nothing, and must not be unwrapped without end.
        (!inner.is_hard_reset()).then_some(inner)
    }

    /// Returns the message of the peer's operator about a shutdown or reset (RFC 9003 §2), made safe to print; `None` if
    /// there is none, or its length field is wrong.
    pub fn shutdown_message(&self) -> Option<String> {
        if self.code != code::CEASE || !matches!(self.subcode, cease::SHUTDOWN | cease::RESET) {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let length = reader.u8()?;
        let text = reader.take(usize::from(length))?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).chars().map(printable).collect())
    }

    /// Decodes the body of a NOTIFICATION. Unknown codes are kept as they are: a NOTIFICATION is never answered (RFC 4271
    /// §6.4).
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (code, subcode) = (reader.u8()?, reader.u8()?);
        Some(Self { code, subcode, data: Bytes::copy_from_slice(reader.rest()) })
    }

    /// Encodes the body of a NOTIFICATION.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        // The data of a Cease is our own text; that of other errors may come from the peer.
        let most = if self.code == code::CEASE { MAX_MESSAGE - HEADER - 2 } else { MAX_DATA };
        out.put_slice(self.data.get(..most).unwrap_or(&self.data));
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self.code, self.subcode))?;
        if let Some(inner) = self.hard_reset_reason() {
            return write!(f, ": {inner}");
        }
        match self.shutdown_message() {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

fn capped(data: &[u8]) -> &[u8] {
    data.get(..MAX_DATA).unwrap_or(data)
}

/// Replaces characters by which a peer could manipulate terminals and logs: control characters, line breaks and those that
/// change the direction of text.
fn printable(c: char) -> char {
    let steers = c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}');
    if steers { char::REPLACEMENT_CHARACTER } else { c }
}

/// Returns the name of an error, such as `Cease / Administrative Shutdown`, or its numbers. The names are those of the IANA
/// registry "BGP Error (Notification) Codes".
pub fn describe(code: u8, subcode: u8) -> String {
    let Some(name) = code_name(code) else { return format!("error code {code} / subcode {subcode}") };
    match (subcode_name(code, subcode), subcode) {
        (Some(sub), _) => format!("{name} / {sub}"),
        (None, 0) => name.to_owned(),
        (None, _) => format!("{name} / subcode {subcode}"),
    }
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER => "Hold Timer Expired",
        code::FSM => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        code::SEND_HOLD_TIMER => "Send Hold Timer Expired",
        _ => return None,
    })
}

fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (code::HEADER, 1) => "Connection Not Synchronized",
        (code::HEADER, 2) => "Bad Message Length",
        (code::HEADER, 3) => "Bad Message Type",
        (code::OPEN, open_error::VERSION) => "Unsupported Version Number",
        (code::OPEN, open_error::PEER_AS) => "Bad Peer AS",
        (code::OPEN, open_error::IDENTIFIER) => "Bad BGP Identifier",
        (code::OPEN, open_error::PARAMETER) => "Unsupported Optional Parameter",
        (code::OPEN, 5) => "Authentication Failure",
        (code::OPEN, open_error::HOLD_TIME) => "Unacceptable Hold Time",
        (code::OPEN, open_error::CAPABILITY) => "Unsupported Capability",
        (code::OPEN, open_error::ROLE) => "Role Mismatch",
        (code::UPDATE, 1) => "Malformed Attribute List",
        (code::UPDATE, 2) => "Unrecognized Well-known Attribute",
        (code::UPDATE, 3) => "Missing Well-known Attribute",
        (code::UPDATE, 4) => "Attribute Flags Error",
        (code::UPDATE, 5) => "Attribute Length Error",
        (code::UPDATE, 6) => "Invalid ORIGIN Attribute",
        (code::UPDATE, 7) => "AS Routing Loop",
        (code::UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, 9) => "Optional Attribute Error",
        (code::UPDATE, 10) => "Invalid Network Field",
        (code::UPDATE, 11) => "Malformed AS_PATH",
        (code::FSM, 1) => "Receive Unexpected Message in OpenSent State",
        (code::FSM, 2) => "Receive Unexpected Message in OpenConfirm State",
        (code::FSM, 3) => "Receive Unexpected Message in Established State",
        (code::CEASE, cease::MAX_PREFIXES) => "Maximum Number of Prefixes Reached",
        (code::CEASE, cease::SHUTDOWN) => "Administrative Shutdown",
        (code::CEASE, cease::DECONFIGURED) => "Peer De-configured",
        (code::CEASE, cease::RESET) => "Administrative Reset",
        (code::CEASE, cease::REJECTED) => "Connection Rejected",
        (code::CEASE, cease::CONFIG_CHANGE) => "Other Configuration Change",
        (code::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (code::CEASE, cease::RESOURCES) => "Out of Resources",
        (code::CEASE, cease::HARD_RESET) => "Hard Reset",
        (code::CEASE, cease::BFD_DOWN) => "BFD Down",
        (code::ROUTE_REFRESH, 1) => "Invalid Message Length",
        _ => return None,
    })
}
