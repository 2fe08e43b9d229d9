//! The first feeds: when what was learned is the whole truth (RFC 4724 §4.1).

use std::time::Instant;

use super::{Event, Speaker};

/// How far the gathering of routes after a start is.
#[derive(Debug)]
pub(super) struct Sync {
    restarting: bool,
    /// Selection_Deferral_Timer; `None` once done.
    deadline: Option<Instant>,
}

impl Sync {
    pub(super) fn new(restarting: bool, deadline: Instant) -> Self {
        Self { restarting, deadline: Some(deadline) }
    }

    pub(super) fn done(&self) -> bool {
        self.deadline.is_none()
    }

    /// Whether peers are to be told that we have restarted.
    pub(super) fn restarting(&self) -> bool {
        self.restarting
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Speaker {
    /// Whether every neighbour has ended its first feed. One that is restarting itself waits for us in turn, and is not
    /// waited for (RFC 4724 §4.1).
    pub(super) fn feeds_ended(&self) -> bool {
        self.by_address.values().filter_map(|id| self.peers.get(id)).all(|peer| {
            let restarting = peer.session.negotiated().is_some_and(|negotiated| negotiated.peer_restarting());
            peer.session.feed_ended() || restarting
        })
    }

    /// All is gathered. The RFC would have us hold back our routes until now; we told them as they came and hold back
    /// only the End-of-RIB, on which alone peers drop what we did not tell them again.
    pub(super) fn end_of_sync(&mut self) {
        let held_back = self.sync.restarting;
        self.sync = Sync { restarting: false, deadline: None };
        self.events.push_back(Event::RoutesChanged);
        if !held_back {
            return;
        }
        for (id, peer) in &self.peers {
            let families = peer.session.negotiated().map(|negotiated| negotiated.families.clone());
            for family in families.into_iter().flatten() {
                self.rib.end_of_rib(*id, family);
            }
            self.ready.extend(peer.session.established());
        }
    }
}
