//! The speaker as a client of BFD (RFC 5882): which BFD sessions its neighbors need, and the effect of their events.
//!
//! The BFD session of a neighbor starts when BGP is established for the first time, between the addresses of that
//! connection, and stays while the neighbor is configured. A neighbor that does not run BFD therefore costs one packet
//! per second, and a BFD session that never comes up does not hold BGP down.

use std::net::IpAddr;
use std::time::Instant;

use super::{Action, Speaker};
use crate::bfd::{Event, Key, Settings};
use crate::report::BfdReport;
use crate::rib::PeerId;

/// The BFD state of one neighbor.
#[derive(Debug, Default)]
pub(super) struct BfdClient {
    /// Our address on the last BGP session.
    local: Option<IpAddr>,
    /// The session that the last [`Action::SetBfd`] requested.
    requested: Option<(Key, Settings)>,
}

impl Speaker {
    /// Applies an event of a BFD session that [`Action::SetBfd`] requested. The caller first passes on everything that
    /// waits in its sockets: if the neighbor has closed the connection, it may be restarting, and the BFD event is no
    /// failure of the path.
    ///
    /// A failure ends the BGP session with Cease, BFD Down (RFC 9384). AdminDown is not a failure: BGP continues as if
    /// BFD were not configured (RFC 5882 §3.2).
    pub fn bfd_event(&mut self, now: Instant, event: &Event) {
        let Event::Down { key, reason, control_plane_independent, confirmed_at, .. } = event else { return };
        let Some(id) = self.by_address.get(&key.remote).copied() else { return };
        let requested = self.peers.get(&id).and_then(|peer| peer.bfd.requested);
        if requested.is_none_or(|(requested, _)| requested != *key) {
            return;
        }
        self.with_session(now, id, |session, ctx| {
            session.bfd_down(ctx, reason, *confirmed_at, *control_plane_independent);
        });
        self.settle(now);
    }

    /// Requests the BFD session of a neighbor whose BGP session was established from the address `local`.
    pub(super) fn start_bfd(&mut self, id: PeerId, local: IpAddr) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.bfd.local = Some(local);
        }
        self.update_bfd(id);
    }

    /// Requests the BFD session that the neighbor's configuration requires, if it differs from the current one.
    pub(super) fn update_bfd(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let neighbor = &peer.session.settings().neighbor;
        let key = peer.bfd.local.map(|local| Key::new(local, neighbor.address));
        self.request_bfd(id, key.zip(neighbor.bfd));
    }

    /// Requests the end of the neighbor's BFD session.
    pub(super) fn stop_bfd(&mut self, id: PeerId) {
        self.request_bfd(id, None);
    }

    fn request_bfd(&mut self, id: PeerId, desired: Option<(Key, Settings)>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let current = std::mem::replace(&mut peer.bfd.requested, desired);
        if current == desired {
            return;
        }
        let same_key = |key: Key| desired.is_some_and(|(desired, _)| desired == key);
        if let Some((session, _)) = current.filter(|(key, _)| !same_key(*key)) {
            self.actions.push_back(Action::SetBfd { session, settings: None });
        }
        if let Some((session, settings)) = desired {
            self.actions.push_back(Action::SetBfd { session, settings: Some(settings) });
        }
    }

    /// Returns the report of a neighbor's BFD session as far as the speaker has it; the driver fills in the rest once
    /// the session exists.
    pub(super) fn bfd_report(&self, id: PeerId) -> Option<BfdReport> {
        let peer = self.peers.get(&id)?;
        peer.session.settings().neighbor.bfd?;
        let reason = match peer.bfd.requested {
            Some((key, _)) => format!("a BFD session from {} is requested", key.local),
            None => "starts when BGP is established for the first time".into(),
        };
        Some(BfdReport::absent(reason))
    }
}
