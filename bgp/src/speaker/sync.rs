//! Synchronization: the receipt of all neighbors' routes after a start (RFC 4724 §4.1).

use std::time::Instant;

use super::{Event, Speaker};

/// The progress of synchronization.
#[derive(Debug)]
pub(super) struct Sync {
    restarting: bool,
    /// The Selection_Deferral_Timer; `None` once synchronized.
    deadline: Option<Instant>,
}

impl Sync {
    pub(super) fn new(restarting: bool, deadline: Instant) -> Self {
        Self { restarting, deadline: Some(deadline) }
    }

    pub(super) fn done(&self) -> bool {
        self.deadline.is_none()
    }

    /// Returns whether the R bit is set in OPENs.
    pub(super) fn restarting(&self) -> bool {
        self.restarting
    }

    /// Returns whether the F bit is set in OPENs: this node forwards by routes that peers may still have of it, from the
    /// run before, or from this one once it is synchronized. A node that has just booted forwards nothing.
    pub(super) fn forwarding(&self) -> bool {
        self.restarting || self.done()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Speaker {
    /// Returns whether End-of-RIB of every neighbor was received. A neighbor that is restarting itself waits for ours, so
    /// it is not waited for (RFC 4724 §4.1).
    pub(super) fn all_end_of_rib(&self) -> bool {
        self.by_address.values().filter_map(|id| self.peers.get(id)).all(|peer| {
            let restarting = peer.session.negotiated().is_some_and(|negotiated| negotiated.peer_restarting());
            peer.session.end_of_rib_received() || restarting
        })
    }

    /// Ends synchronization. RFC 4724 §4.1 defers all advertisements until now. We defer only the End-of-RIB, on which
    /// peers remove the paths that were not advertised again.
    pub(super) fn end_sync(&mut self) {
        let deferred = self.sync.restarting;
        self.sync = Sync { restarting: false, deadline: None };
        self.events.push_back(Event::RoutesChanged);
        if !deferred {
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
