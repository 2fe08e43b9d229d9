//! A byte stream is cut into messages with a valid header (RFC 4271 §4.1, §6.1).

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

    /// Returns the type octet.
    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// Returns the name, as RFCs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        }
    }

    /// Returns whether a message of this type may have `length` octets, header included (RFC 4271 §6.1).
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

/// One message, with a valid header, and its body not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: MessageType,
    /// The octets after the header.
    pub body: Bytes,
}

/// Cuts a byte stream, in chunks of any size, into messages.
///
/// It holds the octets that were pushed and not yet returned in a frame. A caller that takes all frames after each push
/// never leaves more than one incomplete message in it.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    extended: bool,
    enhanced_refresh: bool,
}

impl Framer {
    /// Creates an empty framer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Permits messages of up to 65535 octets from now on (RFC 8654 §4).
    pub fn extend(&mut self) {
        self.extended = true;
    }

    /// Returns the error of RFC 7313 §5 for a ROUTE-REFRESH of a wrong length from now on.
    pub fn enhance_refresh(&mut self) {
        self.enhanced_refresh = true;
    }

    /// Adds received octets.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the number of octets that were pushed and not yet returned in a frame.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the next message; `None` until it is complete.
    ///
    /// # Errors
    /// A header that is invalid by RFC 4271 §6.1. The stream cannot be read any further: every later call fails alike.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not distinguish the end from an error"
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

    /// Checks a header in the order of RFC 4271 §6.1. Returns the type and the length of the whole message.
    fn check(&self, header: &[u8; HEADER]) -> Result<(MessageType, usize), Error> {
        let [marker @ .., high, low, octet] = header;
        if marker != &[0xff; 16] {
            let reason = "the marker of a message header is not all ones";
            return Err(Error::new(code::HEADER, 1, &[], reason.into()));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let bad_length = |reason| Err(Error::new(code::HEADER, 2, &[*high, *low], reason));
        let kind = MessageType::from_octet(*octet);
        // RFC 8654 §4: OPEN and KEEPALIVE have at most 4096 octets, whatever was negotiated.
        let small = matches!(kind, Some(MessageType::Open | MessageType::Keepalive));
        let max = if self.extended && !small { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE };
        if !(HEADER..=max).contains(&length) {
            return bad_length(format!("a message claims {length} octets; {HEADER} to {max} are allowed"));
        }
        let Some(kind) = kind else {
            return Err(Error::new(code::HEADER, 3, &[*octet], format!("message type {octet} is unknown")));
        };
        if !kind.admits(length) {
            let reason = format!("a message of type {} cannot be {length} octets long", kind.name());
            if self.enhanced_refresh && kind == MessageType::RouteRefresh {
                return Err(Error::new(code::ROUTE_REFRESH, 1, header, reason));
            }
            return bad_length(reason);
        }
        Ok((kind, length))
    }
}
