//! Long-lived graceful restart (RFC 9494) in the tables.
//!
//! A route is long-lived stale if it has the community LLGR_STALE, whether we attached it after the peer's restart time or
//! another speaker did (§4.3). So no state is needed besides the attributes: the route is advertised again with the
//! community, and replaced when the peer is back and sends it again.

use super::intern::Interned;
use super::sweep::Task;
use super::table::{Path, PathAttributes};
use super::{PeerId, Rib};
use crate::wire::{Attributes, Family, Prefix};

/// The community of a long-lived stale route (RFC 9494 §3.2).
pub(crate) const LLGR_STALE: u32 = 0xFFFF_0006;
/// The community of a route that must not become long-lived stale (RFC 9494 §3.3).
const NO_LLGR: u32 = 0xFFFF_0007;

/// Returns whether a route is long-lived stale.
pub(crate) fn is_stale(attributes: &Attributes) -> bool {
    attributes.communities.contains(&LLGR_STALE)
}

/// Adds LLGR_STALE.
pub(crate) fn attach(attributes: &mut Attributes) {
    add(attributes, LLGR_STALE);
}

/// Adds a community at its place in the order.
pub(crate) fn add(attributes: &mut Attributes, community: u32) {
    if let Err(at) = attributes.communities.binary_search(&community) {
        attributes.communities.insert(at, community);
    }
}

impl Rib {
    /// Makes the peer's stale paths of a family long-lived stale, or drops those with NO_LLGR (RFC 9494 §4.2). Called when
    /// the peer has not come back within its restart time.
    pub(crate) fn long_lived(&mut self, id: PeerId, family: Family) {
        self.sweep(id, family, Task::LongLived);
    }

    /// Makes a stale path long-lived stale, or drops it.
    pub(super) fn make_long_lived_stale(&mut self, prefix: Prefix, path: Path) {
        let communities = &path.shared.attributes.communities;
        if communities.contains(&LLGR_STALE) {
            return;
        }
        if communities.contains(&NO_LLGR) {
            return self.withdraw(prefix, path.source);
        }
        let same = self.work.last_long_lived.take().filter(|(before, _)| *before == path.shared);
        let (before, shared) =
            same.unwrap_or_else(|| (path.shared.clone(), self.with_llgr_stale(&path.shared)));
        self.put(prefix, Path { shared: shared.clone(), ..path });
        self.work.last_long_lived = Some((before, shared));
    }

    fn with_llgr_stale(&mut self, path: &PathAttributes) -> Interned<PathAttributes> {
        let mut attributes = path.attributes.clone();
        attach(&mut attributes);
        self.attributes.intern(PathAttributes { attributes, next_hop: path.next_hop })
    }
}
