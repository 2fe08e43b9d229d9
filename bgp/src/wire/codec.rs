//! Encoding and decoding of messages of every type.

use bytes::{BufMut, BytesMut};

use super::{
    Error, Family, FamilySet, Frame, HEADER, MAX_MESSAGE, Message, MessageType, Notification, Refresh, code,
    open, update,
};

/// The negotiated parameters that change the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec {
    /// Both sent the 4-octet AS capability: AS_PATH and AGGREGATOR carry 4 octets an AS (RFC 6793 §4).
    pub four_octet_as: bool,
    /// The largest message that may be sent, in octets: 4096 (RFC 4271 §4), or 65535 to peers that take it (RFC 8654).
    pub max_message: usize,
    /// The peer is in another AS: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from it are discarded (RFC 7606 §7.5, §7.9,
    /// §7.10). Concerns decoding only: all attributes are encoded.
    pub external: bool,
    /// Both agreed that IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The families whose NLRI have Path Identifiers (RFC 7911 §3).
    pub path_ids: PathIds,
}

/// The families whose NLRI carry Path Identifiers, for each direction (RFC 7911 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathIds {
    /// In messages that the peer sends.
    pub receive: FamilySet,
    /// In messages that we send.
    pub send: FamilySet,
}

impl PathIds {
    /// No families.
    pub const NONE: Self = Self { receive: FamilySet::NONE, send: FamilySet::NONE };
}

impl Codec {
    /// The parameters before OPENs are exchanged.
    pub const DEFAULT: Self = Self {
        four_octet_as: false,
        max_message: MAX_MESSAGE,
        external: false,
        extended_next_hop: false,
        path_ids: PathIds::NONE,
    };
}

impl Default for Codec {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Decodes the message in a frame. NLRI of families other than the negotiated `families` are ignored (RFC 4760 §7), and so
/// are requests to refresh them (RFC 2918 §4).
///
/// # Errors
/// An error that ends the session, with the NOTIFICATION to send. Lesser faults are in [`super::Update::faults`].
pub fn decode(frame: &Frame, codec: &Codec, families: &[Family]) -> Result<Message, Error> {
    let body = &frame.body[..];
    // The framer has checked the lengths, but a frame may be made elsewhere.
    let bad_length = || {
        let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
        let reason = format!("a message of type {} cannot be {length} octets long", frame.kind.name());
        Error::new(code::HEADER, 2, &length.to_be_bytes(), reason)
    };
    Ok(match frame.kind {
        MessageType::Open => Message::Open(open::decode(body)?),
        MessageType::Update => Message::Update(update::decode(body, codec, families)?),
        MessageType::Notification => {
            Message::Notification(Notification::decode(body).ok_or_else(bad_length)?)
        }
        MessageType::Keepalive if body.is_empty() => Message::Keepalive,
        MessageType::Keepalive => return Err(bad_length()),
        MessageType::RouteRefresh => {
            // RFC 2918 §3: the third octet is reserved; RFC 7313 §3.2 defines it for peers that agreed on that RFC.
            let [high, low, subtype, safi] = *<&[u8; 4]>::try_from(body).map_err(|_| bad_length())?;
            let family = Family::from_codes(u16::from_be_bytes([high, low]), safi);
            let family = family.filter(|family| families.contains(family));
            Message::RouteRefresh(family, Refresh::from_octet(subtype))
        }
    })
}

/// Appends a message to `out`. An UPDATE that does not fit one message becomes several, withdrawals first. A route whose
/// attributes leave no room for its prefix is left out, and so is a reach without attributes.
pub fn encode(message: &Message, codec: &Codec, out: &mut BytesMut) {
    match message {
        Message::Open(open) => framed(MessageType::Open, out, |out| open::encode(open, out)),
        Message::Update(update) => update::encode(update, codec, out),
        Message::Notification(notification) => {
            framed(MessageType::Notification, out, |out| notification.encode(out));
        }
        Message::Keepalive => framed(MessageType::Keepalive, out, |_| ()),
        Message::RouteRefresh(family, refresh) => framed(MessageType::RouteRefresh, out, |out| {
            let (afi, safi) = family.map_or((0, 0), Family::codes);
            out.put_u16(afi);
            out.put_slice(&[refresh.octet(), safi]);
        }),
    }
}

/// Appends a header (RFC 4271 §4.1) and the output of `body`.
pub(super) fn framed(kind: MessageType, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&[0xff; 16]);
    out.put_slice(&[0, 0, kind.octet()]);
    body(out);
    set_u16(out, start + 16, out.len() - start);
}

/// Fills in a length field that was left empty at `at`.
pub(super) fn set_u16(out: &mut BytesMut, at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
