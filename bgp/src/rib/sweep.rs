//! Changes of a peer's paths that are made a few at a time, see [`super::work`].

use super::bits::Bits;

/// A change of a peer's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Remove them.
    Drop,
    /// Make them stale.
    MakeStale,
    /// Remove those that are stale.
    DropStale,
    /// Make those that are stale long-lived stale, or remove them (RFC 9494 §4.2).
    LongLived,
    /// Check them again, after the filter, properties of the peer or our identity changed.
    Recheck,
    /// Repeat decision and export of their prefixes, after the relation to the peer changed.
    Redecide,
}

/// A task that was not carried out for all of a peer's paths of a family.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub(super) task: Task,
    /// The slots that are left. The peer has paths to them all the time.
    pub(super) left: Bits,
}
