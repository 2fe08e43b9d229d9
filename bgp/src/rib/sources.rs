//! Numbers for who tells a path, where a peer tells several to one prefix (RFC 7911).
//!
//! A path must know its peer and its Path Identifier: 8 octets where a [`Path`](super::table::Path) has room for 4. Most
//! peers send no identifiers, and for those the peer's own number does. A peer and an identifier together are given a
//! number here instead, counted for as long as a path has it. So only peers that send identifiers cost anything: about 20
//! octets for each one that is in use, whether at one prefix or at a million.

use hashbrown::HashTable;

use super::PeerId;
use super::table::Source;
use crate::hash::Keyed;

#[derive(Debug)]
struct Known {
    peer: PeerId,
    path_id: u32,
    /// How many paths have it.
    paths: u32,
}

/// All peers with identifiers that are in use.
#[derive(Debug, Default)]
pub struct Sources {
    index: HashTable<u32>,
    hasher: Keyed,
    known: Vec<Known>,
    free: Vec<u32>,
}

impl Sources {
    fn get(&self, source: Source) -> Option<&Known> {
        self.known.get(source.index()? as usize)
    }

    /// The peer; `None` for ourselves.
    pub fn peer(&self, source: Source) -> Option<PeerId> {
        match source.index() {
            None => source.peer(),
            Some(_) => self.get(source).map(|known| known.peer),
        }
    }

    /// The Path Identifier that the peer gives the path, if any.
    pub fn path_id(&self, source: Source) -> Option<u32> {
        self.get(source).map(|known| known.path_id)
    }

    pub fn find(&self, peer: PeerId, path_id: u32) -> Option<Source> {
        let same = |index: &u32| {
            let known = &self.known[*index as usize];
            (known.peer, known.path_id) == (peer, path_id)
        };
        self.index.find(hash_of(&self.hasher, peer, path_id), same).copied().map(Source::indexed)
    }

    /// The number, given now if there is none. To be followed by [`Sources::hold`].
    pub fn claim(&mut self, peer: PeerId, path_id: u32) -> Source {
        if let Some(source) = self.find(peer, path_id) {
            return source;
        }
        let Self { index, hasher, known, free } = self;
        let new = Known { peer, path_id, paths: 0 };
        let at = match free.pop() {
            Some(at) => {
                known[at as usize] = new;
                at
            }
            None => {
                known.push(new);
                (known.len() - 1) as u32
            }
        };
        index.insert_unique(hash_of(hasher, peer, path_id), at, |at| {
            let Known { peer, path_id, .. } = known[*at as usize];
            hash_of(hasher, peer, path_id)
        });
        Source::indexed(at)
    }

    /// One path more has it.
    pub fn hold(&mut self, source: Source) {
        if let Some(known) = source.index().and_then(|at| self.known.get_mut(at as usize)) {
            known.paths += 1;
        }
    }

    /// One path less has it; without any the number may be given to another.
    pub fn release(&mut self, source: Source) {
        let Some(at) = source.index() else { return };
        let Some(known) = self.known.get_mut(at as usize) else { return };
        known.paths -= 1;
        if known.paths == 0 {
            let hash = hash_of(&self.hasher, known.peer, known.path_id);
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == at) {
                entry.remove();
                self.free.push(at);
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.free.len() == self.known.len()
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
    fn a_number_is_given_again_once_no_path_has_it() {
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
    fn peers_without_identifiers_are_their_own_numbers() {
        let sources = Sources::default();
        let source = Source::from(PeerId(3));
        assert_eq!((sources.peer(source), sources.path_id(source)), (Some(PeerId(3)), None));
        assert_eq!((sources.peer(Source::LOCAL), sources.path_id(Source::LOCAL)), (None, None));
    }
}
