//! Bytes as they come from a stream ⇒ whole messages with a valid header (RFC 4271 §4.1, §6.1).

use bytes::{Bytes, BytesMut};

use super::{Error, HEADER, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, code};

/// The type octet of a message (RFC 4271 §4.1, RFC 2918 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 1
    Open,
    /// 2
    Update,
    /// 3
    Notification,
    /// 4
    Keepalive,
    /// 5
    RouteRefresh,
}

impl MessageType {
    fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// The octet that stands for it.
    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// Its name, as RFCs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        }
    }

    /// Whether a message of this type may be `length` octets long, header included (RFC 4271 §6.1).
    fn admits(self, length: usize) -> bool {
        match self {
            Self::Open => length >= 29,
            Self::Update => length >= 23,
            Self::Notification => length >= 21,
            Self::Keepalive => length == HEADER,
            // RFC 2918 §3
            Self::RouteRefresh => length == 23,
        }
    }
}

/// One message: its header is checked and taken off, its body not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: MessageType,
    /// All that follows the header.
    pub body: Bytes,
}

/// Cuts a byte stream into messages, however it was chunked.
///
/// Holds what was pushed and not yet taken out: whoever takes all frames out after each push never has more than that
/// push and one incomplete message in it.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    extended: bool,
    enhanced_refresh: bool,
}

impl Framer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes messages of up to 65535 octets from now on (RFC 8654 §4).
    pub fn extend(&mut self) {
        self.extended = true;
    }

    /// Answers a ROUTE-REFRESH of a wrong length as RFC 7313 §5 asks from now on.
    pub fn enhance_refresh(&mut self) {
        self.enhanced_refresh = true;
    }

    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Octets pushed and not yet taken out.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes the next message out; `None` until it is complete.
    ///
    /// # Errors
    /// A header that RFC 4271 §6.1 refuses. The stream is lost then: every later call fails alike.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would not say whether the end is an error"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let (kind, length) = self.check(header)?;
        if self.buffer.len() < length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(length);
        let body = message.split_off(HEADER).freeze();
        Ok(Some(Frame { kind, body }))
    }

    /// Checks a header in the order of RFC 4271 §6.1; gives the type and the length of the whole message.
    fn check(&self, header: &[u8; HEADER]) -> Result<(MessageType, usize), Error> {
        let [marker @ .., high, low, octet] = header;
        if marker != &[0xff; 16] {
            let reason = "the marker of a message header is not all ones";
            return Err(Error::new(code::HEADER, 1, &[], reason.into()));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let bad_length = |reason| Err(Error::new(code::HEADER, 2, &[*high, *low], reason));
        let kind = MessageType::from_octet(*octet);
        // RFC 8654 §4: OPEN and KEEPALIVE stay small.
        let small = matches!(kind, Some(MessageType::Open | MessageType::Keepalive));
        let max = if self.extended && !small { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE };
        if !(HEADER..=max).contains(&length) {
            return bad_length(format!("a message claims {length} octets; {HEADER} to {max} are allowed"));
        }
        let Some(kind) = kind else {
            return Err(Error::new(code::HEADER, 3, &[*octet], format!("message type {octet} is unknown")));
        };
        if !kind.admits(length) {
            let reason = format!("a message of type {kind:?} cannot be {length} octets long");
            if self.enhanced_refresh && kind == MessageType::RouteRefresh {
                return Err(Error::new(code::ROUTE_REFRESH, 1, header, reason));
            }
            return bad_length(reason);
        }
        Ok((kind, length))
    }
}
