//! Answers to a refresh request: the routes again, between BoRR and EoRR (RFC 7313 §4).

use bytes::BytesMut;

use super::Speaker;
use crate::rib::PeerId;
use crate::wire::{self, Codec, Family, Message, Refresh};

/// The progress of the refreshes that a peer requested.
#[derive(Debug, Default)]
pub(super) struct RefreshState {
    /// Families whose refresh has not begun.
    requested: Vec<Family>,
    /// Families whose refresh has begun and not ended.
    begun: Vec<Family>,
}

impl RefreshState {
    pub(super) fn request(&mut self, family: Family) {
        if !self.requested.contains(&family) {
            self.requested.push(family);
        }
    }

    /// Returns whether a BoRR or EoRR is to be sent after the pending routes. No refresh begins before our End-of-RIB,
    /// which is deferred after a restart (RFC 7313 §4).
    pub(super) fn due(&self, restarting: bool) -> bool {
        !self.begun.is_empty() || (!self.requested.is_empty() && !restarting)
    }
}

impl Speaker {
    /// Appends the BoRR and EoRR that are due, if no route is pending. The routes of a refresh that begins become pending.
    /// Returns whether anything was appended.
    pub(super) fn refresh(&mut self, id: PeerId, out: &mut BytesMut) -> bool {
        let restarting = self.sync.restarting();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.refresh.due(restarting)) else {
            return false;
        };
        if self.rib.pending(id) {
            return false;
        }
        let mut append = |family, refresh| {
            wire::encode(&Message::RouteRefresh(Some(family), refresh), &Codec::DEFAULT, out);
        };
        for family in peer.refresh.begun.drain(..) {
            append(family, Refresh::End);
        }
        if restarting {
            return true;
        }
        for family in std::mem::take(&mut peer.refresh.requested) {
            append(family, Refresh::Begin);
            peer.refresh.begun.push(family);
            self.rib.refresh(id, family);
        }
        true
    }
}
