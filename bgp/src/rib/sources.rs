//! Numbers for the sources of paths with Path Identifiers (RFC 7911).
//!
//! Such a path belongs to a peer and an identifier: 8 octets, where a [`Path`](super::table::Path) has room for 4. Most
//! peers send no identifiers; the source of their paths is the peer's number. A pair of peer and identifier gets a number
//! here, which is counted for as long as a path has it. The cost is about 20 octets for each pair in use, however many
//! prefixes have it.

use hashbrown::HashTable;

use super::PeerId;
use super::table::Source;
use crate::hash::Keyed;

/// A peer and a Path Identifier in use.
#[derive(Debug)]
struct Pair {
    peer: PeerId,
    path_id: u32,
    /// The number of paths that have it.
    paths: u32,
}

/// The pairs of peer and Path Identifier in use.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    index: HashTable<u32>,
    hasher: Keyed,
    pairs: Vec<Pair>,
    free: Vec<u32>,
}

impl Sources {
    fn get(&self, source: Source) -> Option<&Pair> {
        self.pairs.get(source.index()? as usize)
    }

    /// Returns the peer; `None` for originated paths.
    pub(crate) fn peer(&self, source: Source) -> Option<PeerId> {
        match source.index() {
            None => source.peer(),
            Some(_) => self.get(source).map(|pair| pair.peer),
        }
    }

    /// Returns the Path Identifier received with the path, if any.
    pub(crate) fn path_id(&self, source: Source) -> Option<u32> {
        self.get(source).map(|pair| pair.path_id)
    }

    /// Returns the source of a peer's paths with an identifier, if there are such paths.
    pub(crate) fn find(&self, peer: PeerId, path_id: u32) -> Option<Source> {
        let same = |index: &u32| {
            let pair = &self.pairs[*index as usize];
            (pair.peer, pair.path_id) == (peer, path_id)
        };
        self.index.find(hash_of(&self.hasher, peer, path_id), same).copied().map(Source::indexed)
    }

    /// Returns the source of a peer's paths with an identifier, which is added if there is none. A call of
    /// [`Sources::hold`] must follow.
    pub(crate) fn claim(&mut self, peer: PeerId, path_id: u32) -> Source {
        if let Some(source) = self.find(peer, path_id) {
            return source;
        }
        let Self { index, hasher, pairs, free } = self;
        let new = Pair { peer, path_id, paths: 0 };
        let at = match free.pop() {
            Some(at) => {
                pairs[at as usize] = new;
                at
            }
            None => {
                pairs.push(new);
                (pairs.len() - 1) as u32
            }
        };
        index.insert_unique(hash_of(hasher, peer, path_id), at, |at| {
            let Pair { peer, path_id, .. } = pairs[*at as usize];
            hash_of(hasher, peer, path_id)
        });
        Source::indexed(at)
    }

    /// Counts one more path of the source.
    pub(crate) fn hold(&mut self, source: Source) {
        if let Some(pair) = source.index().and_then(|at| self.pairs.get_mut(at as usize)) {
            pair.paths += 1;
        }
    }

    /// Counts one path less; the number is free when there are none left.
    pub(crate) fn release(&mut self, source: Source) {
        let Some(at) = source.index() else { return };
        let Some(pair) = self.pairs.get_mut(at as usize) else { return };
        pair.paths -= 1;
        if pair.paths == 0 {
            let hash = hash_of(&self.hasher, pair.peer, pair.path_id);
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == at) {
                entry.remove();
                self.free.push(at);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty() && self.free.len() == self.pairs.len()
    }
}

fn hash_of(hasher: &Keyed, peer: PeerId, path_id: u32) -> u64 {
    use std::hash::BuildHasher;
    hasher.hash_one(u64::from(peer.0) << 32 | u64::from(path_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_reused_when_no_path_has_it() {
        let mut sources = Sources::default();
        let (one, other) = (PeerId(1), PeerId(2));
        let first = sources.claim(one, 7);
        sources.hold(first);
        sources.hold(first);
        let second = sources.claim(other, 7);
        sources.hold(second);
        assert_ne!(first, second);
        assert_eq!((sources.peer(first), sources.path_id(first)), (Some(one), Some(7)));
        sources.release(first);
        assert_eq!((sources.find(one, 7), sources.claim(one, 7)), (Some(first), first));
        sources.release(first);
        assert_eq!(sources.find(one, 7), None);
        assert_eq!(sources.claim(one, 8), first);
        sources.hold(first);
        sources.release(first);
        sources.release(second);
        assert!(sources.is_empty());
    }

    #[test]
    fn the_source_of_a_peer_without_identifiers_is_its_number() {
        let sources = Sources::default();
        let source = Source::from(PeerId(3));
        assert_eq!((sources.peer(source), sources.path_id(source)), (Some(PeerId(3)), None));
        assert_eq!((sources.peer(Source::LOCAL), sources.path_id(Source::LOCAL)), (None, None));
    }
}
