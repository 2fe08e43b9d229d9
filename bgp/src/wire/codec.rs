//! One entrance each way, for whatever type of message.

use bytes::BytesMut;

use super::{Error, Family, Frame, MAX_MESSAGE, Message};

/// What two speakers agreed on in their OPENs, as far as it changes how bytes are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec {
    /// Both sent the 4-octet AS capability: AS_PATH and AGGREGATOR carry 4 octets an AS (RFC 6793 §4).
    pub four_octet_as: bool,
    /// The largest message that may be sent, in octets: 4096 (RFC 4271 §4).
    pub max_message: usize,
    /// The peer is in another AS: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from it are discarded (RFC 7606 §7.5,
    /// §7.9, §7.10). Matters to reading only: what is written is what the attributes hold.
    pub external: bool,
}

impl Default for Codec {
    /// What holds until both OPENs are in.
    fn default() -> Self {
        Self { four_octet_as: false, max_message: MAX_MESSAGE, external: false }
    }
}

/// Reads the message in a frame. NLRI of families other than the negotiated `families` are ignored (RFC 4760 §7), and so
/// are requests to refresh them (RFC 2918 §4).
///
/// # Errors
/// What costs the session, with the NOTIFICATION to answer; lesser faults are in [`super::Update::faults`].
pub fn decode(_frame: &Frame, _codec: &Codec, _families: &[Family]) -> Result<Message, Error> {
    unimplemented!()
}

/// Appends a message to `out`. An UPDATE that does not fit one message becomes several, withdrawals first; a route
/// whose attributes leave no room for its prefix is left out.
pub fn encode(_message: &Message, _codec: &Codec, _out: &mut BytesMut) {
    unimplemented!()
}
