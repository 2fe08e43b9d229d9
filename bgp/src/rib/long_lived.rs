//! Long-lived graceful restart (RFC 9494), as far as the tables have a part in it.
//!
//! A route is long-lived stale if it carries LLGR_STALE, whoever attached that: we, when its peer stayed away, or
//! somebody before us (§4.3). So it needs no mark of its own, and all that hangs on attributes follows by itself: it is
//! told again with the community, and replaced by what its peer tells when it is back.

use std::sync::Arc;

use super::table::{Path, PathAttributes};
use super::{PeerId, Rib};
use crate::wire::{Attributes, Family};

/// Kept for want of anything better (RFC 9494 §3.2).
pub const LLGR_STALE: u32 = 0xFFFF_0006;
/// Not to be kept so (RFC 9494 §3.3).
const NO_LLGR: u32 = 0xFFFF_0007;

/// Whether a route is the last resort.
pub fn is_stale(attributes: &Attributes) -> bool {
    attributes.communities.contains(&LLGR_STALE)
}

/// Makes it so.
pub fn attach(attributes: &mut Attributes) {
    add(attributes, LLGR_STALE);
}

/// Adds a community where its order has it.
pub fn add(attributes: &mut Attributes, community: u32) {
    if let Err(at) = attributes.communities.binary_search(&community) {
        attributes.communities.insert(at, community);
    }
}

impl Rib {
    /// The peer has been away for longer than its restart time: what is stale of a family becomes the last resort, or goes
    /// where it was told to (RFC 9494 §4.2).
    pub fn long_lived(&mut self, id: PeerId, family: Family) {
        let mut last: Option<(Arc<PathAttributes>, Arc<PathAttributes>)> = None;
        for (prefix, path) in self.paths_of(id, family) {
            if !path.stale || is_stale(&path.shared.attributes) {
                continue;
            }
            if path.shared.attributes.communities.contains(&NO_LLGR) {
                self.withdraw(prefix, path.source);
                continue;
            }
            // Paths with the same attributes come one after the other.
            let known = last.take().filter(|(before, _)| Arc::ptr_eq(before, &path.shared));
            let (before, shared) = known.unwrap_or_else(|| (path.shared.clone(), self.aged(&path.shared)));
            self.put(prefix, Path { shared: shared.clone(), ..path });
            last = Some((before, shared));
        }
    }

    fn aged(&mut self, path: &PathAttributes) -> Arc<PathAttributes> {
        let mut attributes = path.attributes.clone();
        attach(&mut attributes);
        self.attributes.intern(PathAttributes { attributes, next_hop: path.next_hop })
    }
}
