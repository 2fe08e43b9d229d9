//! The Adj-RIB-Out of an update group: one advertisement for each slot.

use bytes::Bytes;

use super::PeerId;
use super::intern::Interned;
use super::table::{Slot, Source};
use crate::wire::NextHop;

/// The content of an UPDATE without prefixes, encoded for the wire. It is interned: the same allocation is the same
/// content.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Encoded {
    pub block: Bytes,
    pub next_hop: NextHop,
}

/// The encoded attributes and next hop of a prefix, and the peer that its path was learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertisement {
    pub encoded: Interned<Encoded>,
    pub source: Source,
}

/// Returns what a peer is sent for an advertisement: nothing if the path was learned from it (split horizon).
pub(crate) fn sent_to(advertisement: Option<&Advertisement>, id: PeerId) -> Option<&Interned<Encoded>> {
    let advertisement = advertisement.filter(|advertisement| advertisement.source != Source::from(id));
    advertisement.map(|advertisement| &advertisement.encoded)
}

/// The advertisements by slot, in two columns: 12 octets for each instead of 16.
#[derive(Debug, Default)]
pub(crate) struct AdjRibOut {
    encoded: Vec<Option<Interned<Encoded>>>,
    sources: Vec<Source>,
}

impl AdjRibOut {
    /// Returns all slots that ever had an advertisement.
    pub(crate) fn slots(&self) -> std::ops::Range<Slot> {
        0..self.encoded.len() as Slot
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<Advertisement> {
        let (encoded, source) = self.columns(slot)?;
        Some(Advertisement { encoded: encoded.clone(), source })
    }

    /// Returns what a peer is sent for a slot; see [`sent_to`].
    pub(crate) fn sent_to(&self, id: PeerId, slot: Slot) -> Option<&Interned<Encoded>> {
        let (encoded, source) = self.columns(slot)?;
        (source != Source::from(id)).then_some(encoded)
    }

    fn columns(&self, slot: Slot) -> Option<(&Interned<Encoded>, Source)> {
        let at = slot as usize;
        Some((self.encoded.get(at)?.as_ref()?, *self.sources.get(at)?))
    }

    /// Removes an advertisement and returns it.
    pub(crate) fn take(&mut self, slot: Slot) -> Option<Advertisement> {
        let at = slot as usize;
        Some(Advertisement { encoded: self.encoded.get_mut(at)?.take()?, source: *self.sources.get(at)? })
    }

    /// Adds an advertisement to an empty slot.
    pub(crate) fn put(&mut self, slot: Slot, advertisement: Advertisement) {
        let at = slot as usize;
        if at >= self.encoded.len() {
            self.encoded.resize(at + 1, None);
            self.sources.resize(at + 1, Source::LOCAL);
        }
        self.encoded[at] = Some(advertisement.encoded);
        self.sources[at] = advertisement.source;
    }
}
