//! Telling a peer all again, between a mark where that begins and one where it ends (RFC 7313 §4).

use bytes::BytesMut;

use super::Speaker;
use crate::rib::PeerId;
use crate::wire::{self, Codec, Family, Message, Refresh};

/// How far that is for one peer.
#[derive(Debug, Default)]
pub(super) struct Refreshing {
    /// Asked for and not begun.
    wanted: Vec<Family>,
    /// Begun and not ended.
    begun: Vec<Family>,
}

impl Refreshing {
    pub(super) fn want(&mut self, family: Family) {
        if !self.wanted.contains(&family) {
            self.wanted.push(family);
        }
    }

    /// Whether there is a mark to send once all else is. None begins before our End-of-RIB, which waits while we gather
    /// routes after a restart (RFC 7313 §4).
    pub(super) fn due(&self, restarting: bool) -> bool {
        !self.begun.is_empty() || (!self.wanted.is_empty() && !restarting)
    }
}

impl Speaker {
    /// Appends the marks that are due now that nothing else waits. What a refresh tells follows by itself.
    pub(super) fn refresh(&mut self, id: PeerId, out: &mut BytesMut) {
        let restarting = self.sync.restarting();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.refresh.due(restarting)) else { return };
        if self.rib.pending(id) {
            return;
        }
        let mut mark = |family, refresh| {
            wire::encode(&Message::RouteRefresh(Some(family), refresh), &Codec::DEFAULT, out);
        };
        for family in peer.refresh.begun.drain(..) {
            mark(family, Refresh::End);
        }
        if restarting {
            return;
        }
        for family in std::mem::take(&mut peer.refresh.wanted) {
            mark(family, Refresh::Begin);
            peer.refresh.begun.push(family);
            self.rib.refresh(id, family);
        }
    }
}
