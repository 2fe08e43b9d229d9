//! Which BFD sessions there are to be, and what follows from what they tell (RFC 5882).
//!
//! A BFD session begins with the first BGP session, between the same addresses, and stays for as long as the neighbour
//! is configured: so a neighbour without BFD costs nothing but a packet a second, and one that never comes up holds no
//! BGP session back.

use std::net::IpAddr;
use std::time::Instant;

use super::{Action, Speaker};
use crate::bfd::{Event, Key, Settings};
use crate::report::BfdReport;
use crate::rib::PeerId;

/// What is watched of a neighbour.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Our address on its last session.
    pub(super) local: Option<IpAddr>,
    /// What whoever drives BFD was told last.
    told: Option<(Key, Settings)>,
}

impl Speaker {
    /// A BFD session that [`Action::Watch`] asked for tells something. Whoever owns the sockets first hands in what waits
    /// in them: a connection that the neighbour has closed may be a restart, and is no failure.
    ///
    /// A failure ends the BGP session with Cease, BFD Down (RFC 9384). AdminDown is none: BGP goes on as if there were no
    /// BFD (RFC 5882 §3.2).
    pub fn bfd_event(&mut self, now: Instant, event: &Event) {
        let Event::Down { key, why, control_plane_independent, heard } = event else { return };
        let Some(id) = self.by_address.get(&key.remote).copied() else { return };
        let watched = self.peers.get(&id).and_then(|peer| peer.watching.told);
        if watched.is_none_or(|(watched, _)| watched != *key) {
            return;
        }
        self.with_session(now, id, |session, ctx| {
            session.neighbor_down(ctx, why, *heard, *control_plane_independent);
        });
        self.settle(now);
    }

    /// Asks for the BFD session that a neighbour should have, where that is another than it has.
    pub(super) fn watch(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let neighbor = &peer.session.settings().neighbor;
        let key = peer.watching.local.map(|local| Key { local, remote: neighbor.address });
        self.set_watch(id, key.zip(neighbor.bfd));
    }

    pub(super) fn unwatch(&mut self, id: PeerId) {
        self.set_watch(id, None);
    }

    fn set_watch(&mut self, id: PeerId, wanted: Option<(Key, Settings)>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let told = std::mem::replace(&mut peer.watching.told, wanted);
        if told == wanted {
            return;
        }
        if let Some((session, _)) = told.filter(|(key, _)| wanted.is_none_or(|(wanted, _)| wanted != *key)) {
            self.actions.push_back(Action::Watch { session, settings: None });
        }
        if let Some((session, settings)) = wanted {
            self.actions.push_back(Action::Watch { session, settings: Some(settings) });
        }
    }

    /// As far as is known here; whoever drives BFD knows more once there is a session.
    pub(super) fn bfd_report(&self, id: PeerId) -> Option<BfdReport> {
        let peer = self.peers.get(&id)?;
        peer.session.settings().neighbor.bfd?;
        let reason = match peer.watching.told {
            Some((key, _)) => format!("a BFD session from {} is asked for", key.local),
            None => "begins when BGP is established for the first time".into(),
        };
        Some(BfdReport::absent(reason))
    }
}
