//! Prefix limits of neighbors (RFC 4486 §4).

use std::time::Instant;

use super::{Event, Speaker};
use crate::report::{PrefixCount, SessionError, Warning};
use crate::rib::PeerId;
use crate::wire::{Family, Notification, cease, code};

impl Speaker {
    /// Issues a warning when the peer approaches its limit, and ends the session when it exceeds it.
    pub(super) fn check_limit(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let neighbor = &peer.session.settings().neighbor;
        let (Some(limit), Some((address, name))) = (neighbor.prefix_limit, self.label(id)) else { return };
        let counts = neighbor.families.iter().map(|family| (*family, self.rib.received(id, *family)));
        let Some((family, count)) = counts.max_by_key(|(_, count)| *count) else { return };
        let counted = PrefixCount { family, count, max: limit.max };
        if count > limit.max as usize {
            let notification = exceeded(family, limit.max);
            self.with_session(now, id, |session, ctx| {
                session.suspend(ctx, notification, SessionError::PrefixLimit(counted), limit.restart);
            });
        } else if count as u64 >= limit.warns_at() && !peer.warned {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.warned = true;
            }
            let warning = Warning::PrefixLimit(counted);
            self.events.push_back(Event::Warning { address, name, warning });
        }
    }
}

/// Returns a Cease with the family and the limit in its data (RFC 4486 §4).
fn exceeded(family: Family, max: u32) -> Notification {
    let (afi, safi) = family.codes();
    let mut data = [0; 7];
    data[..2].copy_from_slice(&afi.to_be_bytes());
    data[2] = safi;
    data[3..].copy_from_slice(&max.to_be_bytes());
    Notification::with_data(code::CEASE, cease::MAX_PREFIXES, &data)
}
