//! A naive model of the tables after the RFCs: it keeps the received paths only and computes everything else from them each
//! time, at any cost. It shares no code with the tables that it is compared with.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// RFC 9494 §3.2 and §3.3.
pub(crate) const LLGR_STALE: u32 = 0xFFFF_0006;
pub(crate) const NO_LLGR: u32 = 0xFFFF_0007;

type Route = (Attributes, NextHop);

/// A path that was received and not withdrawn.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub route: Route,
    pub stale: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub peers: BTreeMap<u8, Peer>,
    pub up: BTreeSet<u8>,
    /// By destination, peer and Path Identifier.
    pub received: BTreeMap<(Prefix, u8, Option<u32>), Received>,
    pub networks: BTreeMap<Prefix, Option<IpAddr>>,
}

/// A path that takes part in the decision; `from` is `None` for an originated one.
#[derive(Clone, Debug)]
struct Choice {
    from: Option<u8>,
    path_id: Option<u32>,
    attributes: Attributes,
    next_hop: Option<NextHop>,
}

impl Model {
    pub(crate) fn down(&mut self, n: u8, keep: &[Family]) {
        if !self.up.remove(&n) {
            return;
        }
        self.received.retain(|(prefix, from, _), _| *from != n || keep.contains(&prefix.family()));
        for family in [V4, V6] {
            self.mark_stale(n, family);
        }
    }

    pub(crate) fn mark_stale(&mut self, n: u8, family: Family) {
        for ((prefix, from, _), path) in &mut self.received {
            path.stale |= *from == n && prefix.family() == family;
        }
    }

    /// RFC 9494 §4.2.
    pub(crate) fn long_lived(&mut self, n: u8, family: Family) {
        let concerned =
            |prefix: &Prefix, from: u8, path: &Received| from == n && prefix.family() == family && path.stale;
        self.received.retain(|(prefix, from, _), path| {
            let communities = &path.route.0.communities;
            let marked = communities.contains(&LLGR_STALE);
            !concerned(prefix, *from, path) || marked || !communities.contains(&NO_LLGR)
        });
        for ((prefix, from, _), path) in &mut self.received {
            let marked = path.route.0.communities.contains(&LLGR_STALE);
            if !marked && concerned(prefix, *from, path) {
                path.route.0.communities.push(LLGR_STALE);
                path.route.0.communities.sort();
            }
        }
    }

    pub(crate) fn drop_stale(&mut self, n: u8, family: Option<Family>) {
        self.received.retain(|(prefix, from, _), path| {
            *from != n || !path.stale || family.is_some_and(|family| family != prefix.family())
        });
    }

    pub(crate) fn is_eligible(&self, prefix: &Prefix, n: u8, received: &Received) -> bool {
        let (attributes, next_hop) = &received.route;
        let peer = &self.peers[&n];
        let external = peer.kind == PeerKind::External;
        let ases: Vec<u32> = ases(&attributes.as_path);
        let first = match attributes.as_path.0.first() {
            Some(Segment::Sequence(numbers)) => numbers.first().copied(),
            _ => None,
        };
        let looped = ases.contains(&OURS)
            || (!external && attributes.originator_id == Some(identity().router_id))
            || (!external && attributes.cluster_list.contains(&identity().cluster_id));
        let next_hop_fits = next_hop.address.is_ipv4() == prefix.address().is_ipv4()
            && !next_hop.address.is_unspecified()
            && next_hop.address != peer.local_address;
        !looped && next_hop_fits && (!external || first == Some(peer.asn)) && peer.import.accepts(prefix)
    }

    fn choices(&self, prefix: &Prefix) -> Vec<Choice> {
        let own = self.networks.get(prefix).map(|next_hop| Choice {
            from: None,
            path_id: None,
            attributes: Attributes::local(),
            next_hop: next_hop.map(|address| NextHop { address, link_local: None }),
        });
        let eligible = |((p, n, _), received): &(&(Prefix, u8, _), &Received)| {
            p == prefix && self.is_eligible(p, *n, received)
        };
        let received = self.received.iter().filter(eligible);
        let received = received.map(|((_, n, path_id), Received { route: (attributes, next_hop), .. })| {
            let mut attributes = attributes.clone();
            if self.peers[n].kind == PeerKind::External {
                attributes.local_pref = None;
                attributes.originator_id = None;
                attributes.cluster_list.clear();
            }
            Choice { from: Some(*n), path_id: *path_id, attributes, next_hop: Some(*next_hop) }
        });
        own.into_iter().chain(received).collect()
    }

    /// RFC 4271 §9.1.2.2 to the letter: each step removes what is worse than something that is still there.
    fn best_of(&self, choices: &[Choice]) -> Option<Choice> {
        let mut left = choices.to_vec();
        keep_least(&mut left, |choice| choice.from.is_some());
        keep_least(&mut left, |choice| choice.attributes.communities.contains(&LLGR_STALE));
        keep_least(&mut left, |choice| std::cmp::Reverse(choice.attributes.local_pref.unwrap_or(100)));
        keep_least(&mut left, |choice| {
            let lengths = choice.attributes.as_path.0.iter().map(|segment| match segment {
                Segment::Sequence(numbers) => numbers.len(),
                Segment::Set(_) => 1,
            });
            lengths.sum::<usize>()
        });
        keep_least(&mut left, |choice| choice.attributes.origin);
        let before = left.clone();
        left.retain(|m| !before.iter().any(|n| neighbor(n) == neighbor(m) && med(n) < med(m)));
        keep_least(&mut left, |choice| {
            choice.from.is_some_and(|n| self.peers[&n].kind != PeerKind::External)
        });
        keep_least(&mut left, |choice| {
            choice.from.map(|n| choice.attributes.originator_id.unwrap_or(self.peers[&n].router_id))
        });
        keep_least(&mut left, |choice| choice.attributes.cluster_list.len());
        keep_least(&mut left, |choice| choice.from.map(|n| self.peers[&n].address));
        keep_least(&mut left, |choice| choice.path_id);
        assert!(left.len() <= 1);
        left.pop()
    }

    fn best(&self, prefix: &Prefix) -> Option<Choice> {
        self.best_of(&self.choices(prefix))
    }

    /// Returns the paths to a prefix in order: each is the best of those left.
    fn ranked(&self, prefix: &Prefix) -> Vec<Choice> {
        let mut left = self.choices(prefix);
        let mut ranked = Vec::new();
        while let Some(best) = self.best_of(&left) {
            left.retain(|choice| (choice.from, choice.path_id) != (best.from, best.path_id));
            ranked.push(best);
        }
        ranked
    }

    fn prefixes(&self) -> BTreeSet<Prefix> {
        self.received.keys().map(|(prefix, ..)| *prefix).chain(self.networks.keys().copied()).collect()
    }

    pub(crate) fn best_routes(&self) -> Vec<(Prefix, IpAddr, IpAddr)> {
        let best = self.prefixes().into_iter().filter_map(|prefix| Some((prefix, self.best(&prefix)?)));
        best.filter_map(|(prefix, best)| {
            Some((prefix, best.next_hop?.address, self.peers[&best.from?].address))
        })
        .collect()
    }

    /// Returns everything that peer `n` should have in families without Path Identifiers.
    pub(crate) fn export(&self, n: u8) -> BTreeMap<Prefix, Route> {
        let best = |prefix| {
            let best = self.best(&prefix).filter(|best| best.from != Some(n))?;
            Some((prefix, self.exported(n, &prefix, best)?))
        };
        self.prefixes_for(n, false).into_iter().filter_map(best).collect()
    }

    /// Returns everything that peer `n` should have in families with them, in no particular order.
    pub(crate) fn export_several(&self, n: u8) -> Vec<(Prefix, Route)> {
        let limit = self.peers[&n].paths.map_or(1, |limit| limit.get().into());
        let mut all = Vec::new();
        for prefix in self.prefixes_for(n, true) {
            let ranked = self.ranked(&prefix).into_iter();
            let exported =
                ranked.filter_map(|choice| Some((self.exported(n, &prefix, choice.clone())?, choice)));
            let sent = exported.take(limit).filter(|(_, choice)| choice.from != Some(n));
            all.extend(sent.map(|(route, _)| (prefix, route)));
        }
        all
    }

    fn prefixes_for(&self, n: u8, several: bool) -> BTreeSet<Prefix> {
        let mut prefixes = self.prefixes();
        let send = self.peers[&n].codec.path_ids.send;
        prefixes.retain(|prefix| self.up.contains(&n) && send.contains(prefix.family()) == several);
        prefixes
    }

    /// Returns a path as it is advertised to peers such as `n`, if it is.
    fn exported(&self, n: u8, prefix: &Prefix, best: Choice) -> Option<Route> {
        let to = &self.peers[&n];
        let from = best.from.map(|n| &self.peers[&n]);
        let outside = to.kind == PeerKind::External;
        let from_inside = from.is_some_and(|from| from.kind != PeerKind::External);
        let from_non_client = from.is_some_and(|from| from.kind == PeerKind::Internal);
        let has = |community: u32| best.attributes.communities.contains(&community);
        if !to.export.accepts(prefix)
            || (from_non_client && to.kind == PeerKind::Internal)
            || has(0xFFFF_FF02)
            || (outside && (has(0xFFFF_FF01) || has(0xFFFF_FF03)))
            || (outside && !to.long_lived && has(LLGR_STALE))
        {
            return None;
        }
        let last_resort = has(LLGR_STALE) && !to.long_lived;
        let same_family = to.local_address.is_ipv4() == prefix.address().is_ipv4();
        let ours = same_family.then_some(NextHop { address: to.local_address, link_local: None });
        let mut attributes = best.attributes;
        if outside {
            if attributes.as_path != AsPath::default() {
                attributes.med = None;
            }
            attributes.local_pref = None;
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            attributes.as_path = match attributes.as_path.0.as_slice() {
                [Segment::Sequence(numbers), rest @ ..] => {
                    let first = Segment::Sequence([&[OURS], numbers.as_slice()].concat());
                    AsPath([&[first], rest].concat())
                }
                rest => AsPath([&[Segment::Sequence(vec![OURS])], rest].concat()),
            };
        } else {
            attributes.local_pref = attributes.local_pref.or(Some(100));
        }
        if let (false, true, Some(from)) = (outside, from_inside, from) {
            attributes.originator_id = attributes.originator_id.or(Some(from.router_id));
            attributes.cluster_list.insert(0, identity().cluster_id);
        }
        if last_resort {
            attributes.local_pref = Some(0);
            attributes.communities.push(0xFFFF_FF01);
            attributes.communities.sort();
            attributes.communities.dedup();
        }
        let next_hop = match from {
            None => best.next_hop.or(ours),
            Some(_) if outside => ours,
            Some(_) if from_inside => best.next_hop,
            Some(_) => ours.or(best.next_hop),
        };
        Some((attributes, next_hop?))
    }
}

fn keep_least<K: Ord>(choices: &mut Vec<Choice>, key: impl Fn(&Choice) -> K) {
    if let Some(least) = choices.iter().map(&key).min() {
        choices.retain(|choice| key(choice) == least);
    }
}

fn med(choice: &Choice) -> u32 {
    choice.attributes.med.unwrap_or(0)
}

fn neighbor(choice: &Choice) -> u32 {
    match choice.attributes.as_path.0.first() {
        Some(Segment::Sequence(numbers)) => numbers[0],
        _ => OURS,
    }
}

fn ases(path: &AsPath) -> Vec<u32> {
    let numbers = path.0.iter().map(|segment| match segment {
        Segment::Sequence(numbers) | Segment::Set(numbers) => numbers.clone(),
    });
    numbers.flatten().collect()
}
