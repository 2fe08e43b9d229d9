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
    /// Appends the messages that begin or end a refresh, if no route is pending, and marks the routes of a refresh that
    /// begins as pending. Returns whether it appended any.
    pub(super) fn refresh(&mut self, id: PeerId, out: &mut BytesMut) -> bool {
        let restarting = self.sync.restarting();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.refresh.due(restarting)) else {
            return false;
        };
        if self.rib.pending(id) {
            return false;
        }
        let mut mark = |family, refresh| {
            wire::encode(&Message::RouteRefresh(Some(family), refresh), &Codec::DEFAULT, out);
        };
        for family in peer.refresh.begun.drain(..) {
            mark(family, Refresh::End);
        }
        if restarting {
            return true;
        }
        for family in std::mem::take(&mut peer.refresh.wanted) {
            mark(family, Refresh::Begin);
            peer.refresh.begun.push(family);
            self.rib.refresh(id, family);
        }
        true
    }
}
