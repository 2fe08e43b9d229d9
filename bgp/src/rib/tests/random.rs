//! Random operations on the tables, compared with the naive model.

use std::collections::BTreeMap;
use std::num::NonZeroU8;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::model::{LLGR_STALE, Model, NO_LLGR, Received};
use super::subscribers::Reader;
use super::*;
use crate::config::PrefixRange;
use crate::rib::best::{self, Candidate};
use crate::rib::table::Source;
use crate::wire::Origin;

const PREFIXES: [&str; 8] = [
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.2.0.0/16",
    "10.3.0.0/16",
    "10.4.0.0/16",
    "0.0.0.0/0",
    "2001:db8:1::/48",
    "2001:db8:2::/48",
];
const KINDS: [PeerKind; 6] = [
    PeerKind::Internal,
    PeerKind::Internal,
    PeerKind::Client,
    PeerKind::Client,
    PeerKind::External,
    PeerKind::External,
];

#[derive(Clone, Debug)]
enum Op {
    Advertise { n: u8, prefixes: Vec<&'static str>, path_id: u32, attributes: Attributes, via: u8 },
    Withdraw { n: u8, prefixes: Vec<&'static str>, path_id: u32 },
    Up(u8),
    Down(u8, Vec<Family>),
    DropStale(u8, Option<Family>),
    MarkStale(u8, Family),
    LongLived(u8, Family),
    Filters(u8, Filter, Filter),
    Networks(Vec<(&'static str, bool)>),
    Refresh(u8, Family),
    Pull(u8, usize),
    Subscribe,
    Unsubscribe(usize),
    Read(usize, usize),
    Work,
}

/// Returns the peers: two of each kind, the external ones in two ASes, the last one over IPv6. One of each kind has the
/// long-lived graceful restart capability. Some send or receive several paths to a prefix (RFC 7911).
fn peers() -> BTreeMap<u8, Peer> {
    let peers = (1..).zip(KINDS).map(|(n, kind)| {
        let asn = if n == 6 { THEIRS + 1 } else { peer(n, kind).asn };
        let local_address = if n == 6 { ip("2001:db8::254") } else { ip(LOCAL) };
        let (receive, send): (&[Family], &[Family]) = match n {
            1 => (&[], &[V4]),
            3 => (&[V4, V6], &[]),
            4 => (&[V4], &[V4, V6]),
            5 => (&[V4, V6], &[V4, V6]),
            _ => (&[], &[]),
        };
        let of = |families: &[Family]| families.iter().copied().collect();
        let usual = peer(n, kind);
        let codec = Codec { path_ids: PathIds { receive: of(receive), send: of(send) }, ..usual.codec };
        (n, Peer { asn, local_address, long_lived: n % 2 == 0, codec, paths: NonZeroU8::new(n - 1), ..usual })
    });
    peers.collect()
}

fn number() -> impl Strategy<Value = u8> {
    1..=KINDS.len() as u8
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![V4, V6])
}

fn prefixes() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(PREFIXES.to_vec(), 1..5)
}

fn filter() -> impl Strategy<Value = Filter> {
    let range = (select(PREFIXES.to_vec()), any::<bool>()).prop_map(|(text, longer)| {
        let within = prefix(text);
        let longest = if within.family() == V4 { 32 } else { 128 };
        PrefixRange { within, max_length: if longer { longest } else { within.length() } }
    });
    prop_oneof![Just(Filter::All), Just(Filter::nothing()), vec(range, 1..3).prop_map(Filter::Only)]
}

/// Returns attributes with few values each, so that ties are frequent. AS_PATH mostly begins with the peer's AS if `n` is
/// external.
fn sent_attributes(n: u8) -> impl Strategy<Value = Attributes> {
    let tail = select(vec![
        vec![],
        vec![Segment::Sequence(vec![7])],
        vec![Segment::Sequence(vec![8])],
        vec![Segment::Sequence(vec![7, 8])],
        vec![Segment::Set(vec![7, 8])],
        vec![Segment::Sequence(vec![THEIRS])],
        vec![Segment::Sequence(vec![8, OURS])],
    ]);
    let origin = prop_oneof![4 => Just(Origin::Igp), 1 => Just(Origin::Incomplete)];
    let med = select(vec![None, Some(0), Some(1), Some(2)]);
    let local_pref = select(vec![None, Some(100), Some(100), Some(200)]);
    let community = prop_oneof![
        6 => Just(vec![]),
        1 => (0xFFFF_FF00_u32..=0xFFFF_FF03).prop_map(|c| vec![c]),
        1 => subsequence(vec![LLGR_STALE, NO_LLGR, 0xFFFF_FF01], 1..=3),
    ];
    let originator = option::of(select(vec!["1.1.1.1", "10.0.0.3", "10.0.0.254"]));
    let clusters = vec(select(vec!["2.2.2.2", "3.3.3.3", "3.3.3.3", "10.0.0.253"]), 0..3);
    (tail, origin, med, local_pref, community, originator, clusters).prop_map(
        move |(tail, origin, med, local_pref, communities, originator, clusters)| Attributes {
            origin,
            as_path: path_from(n, tail),
            med,
            local_pref,
            communities: communities.into(),
            originator_id: originator.map(ip4),
            cluster_list: clusters.into_iter().map(ip4).collect(),
            ..Attributes::local()
        },
    )
}

fn path_from(n: u8, mut tail: Vec<Segment>) -> AsPath {
    let peer = &peers()[&n];
    if peer.kind == PeerKind::External {
        match tail.first_mut() {
            Some(Segment::Sequence(numbers)) if *numbers != [7] => numbers.insert(0, peer.asn),
            // A path that does not begin with the peer's AS.
            Some(Segment::Sequence(_)) => {}
            _ => tail.insert(0, Segment::Sequence(vec![peer.asn])),
        }
    }
    AsPath(tail)
}

fn op() -> impl Strategy<Value = Op> {
    let advertise = number().prop_flat_map(|n| {
        (prefixes(), 0..3_u32, sent_attributes(n), 0..4_u8).prop_map(
            move |(prefixes, path_id, attributes, via)| Op::Advertise {
                n,
                prefixes,
                path_id,
                attributes,
                via,
            },
        )
    });
    prop_oneof![
        12 => advertise,
        4 => (number(), prefixes(), 0..3_u32)
            .prop_map(|(n, prefixes, path_id)| Op::Withdraw { n, prefixes, path_id }),
        2 => number().prop_map(Op::Up),
        1 => (number(), subsequence(vec![V4, V6], 0..=2)).prop_map(|(n, keep)| Op::Down(n, keep)),
        1 => (number(), option::of(family())).prop_map(|(n, family)| Op::DropStale(n, family)),
        1 => (number(), family()).prop_map(|(n, family)| Op::MarkStale(n, family)),
        1 => (number(), family()).prop_map(|(n, family)| Op::LongLived(n, family)),
        1 => (number(), filter(), filter()).prop_map(|(n, i, e)| Op::Filters(n, i, e)),
        1 => (subsequence(PREFIXES.to_vec(), 0..4), any::<bool>()).prop_map(|(prefixes, given)| {
            Op::Networks(prefixes.into_iter().map(|prefix| (prefix, given)).collect())
        }),
        1 => (number(), family()).prop_map(|(n, family)| Op::Refresh(n, family)),
        6 => (number(), 1..300_usize).prop_map(|(n, limit)| Op::Pull(n, limit)),
        1 => Just(Op::Subscribe),
        1 => any::<usize>().prop_map(Op::Unsubscribe),
        6 => (any::<usize>(), 1..5_usize).prop_map(|(which, limit)| Op::Read(which, limit)),
        4 => Just(Op::Work),
    ]
}

/// Returns a prefix as peer `n` sends it, with or without an identifier.
fn nlri(n: u8, prefix: Prefix, path_id: u32) -> Nlri {
    let carries = peers()[&n].codec.path_ids.receive.contains(prefix.family());
    Nlri { prefix, path_id: carries.then_some(path_id) }
}

/// Returns a next hop that peer `n` sends: its own, a third party's, or sometimes ours.
fn via(n: u8, which: u8, family: Family) -> NextHop {
    let last = match which {
        0 | 1 => n,
        2 => 200,
        _ => 254,
    };
    next_hop(&match family {
        V4 => format!("10.0.0.{last}"),
        V6 => format!("2001:db8::{last}"),
    })
}

/// The tables, the model, and all receivers.
#[derive(Debug)]
struct World {
    rib: Rib,
    model: Model,
    receivers: BTreeMap<u8, Receiver>,
    readers: Vec<Reader>,
    refreshed: bool,
}

impl World {
    fn new(piece: usize) -> Self {
        let model = Model { peers: peers(), ..Model::default() };
        let receivers = model.peers.iter().map(|(n, peer)| (*n, receiver(peer))).collect();
        let mut world = Self {
            rib: Rib::with_piece(identity(), piece),
            model,
            receivers,
            readers: Vec::new(),
            refreshed: false,
        };
        for n in peers().into_keys().filter(|n| n % 2 == 1) {
            world.apply(Op::Up(n));
        }
        world
    }

    fn apply(&mut self, op: Op) {
        let Self { rib, model, receivers, readers, refreshed } = self;
        match op {
            Op::Advertise { n, prefixes, path_id, attributes, via: which } => {
                let mut update = Update { attributes: Some(attributes.clone()), ..Update::default() };
                for family in [V4, V6] {
                    let prefixes = prefixes.iter().map(|text| prefix(text));
                    let prefixes = prefixes.filter(|prefix| prefix.family() == family);
                    let prefixes: Vec<Nlri> = prefixes.map(|prefix| nlri(n, prefix, path_id)).collect();
                    let next_hop = via(n, which, family);
                    if model.up.contains(&n) {
                        let received = Received { route: (attributes.clone(), next_hop), stale: false };
                        let keyed =
                            prefixes.iter().map(|nlri| ((nlri.prefix, n, nlri.path_id), received.clone()));
                        model.received.extend(keyed);
                    }
                    update.reach.push(Reach { family, next_hop, prefixes });
                }
                rib.update(id(n), update);
            }
            Op::Withdraw { n, prefixes, path_id } => {
                let withdrawn: Vec<Nlri> =
                    prefixes.iter().map(|text| nlri(n, prefix(text), path_id)).collect();
                if model.up.contains(&n) {
                    model.received.retain(|(prefix, from, path_id), _| {
                        *from != n || !withdrawn.contains(&Nlri { prefix: *prefix, path_id: *path_id })
                    });
                }
                rib.update(id(n), Update { withdrawn, ..Update::default() });
            }
            Op::Up(n) => {
                if model.up.insert(n) {
                    rib.peer_up(id(n), model.peers[&n].clone());
                }
            }
            Op::Down(n, keep) => {
                model.down(n, &keep);
                rib.peer_down(id(n), &keep);
                receivers.insert(n, receiver(&model.peers[&n]));
            }
            Op::DropStale(n, family) => {
                model.drop_stale(n, family);
                rib.drop_stale(id(n), family);
            }
            Op::MarkStale(n, family) => {
                model.mark_stale(n, family);
                rib.mark_stale(id(n), family);
            }
            Op::LongLived(n, family) => {
                model.long_lived(n, family);
                rib.long_lived(id(n), family);
            }
            Op::Filters(n, import, export) => {
                rib.set_filters(id(n), import.clone(), export.clone());
                if let Some(peer) = model.peers.get_mut(&n) {
                    (peer.import, peer.export) = (import, export);
                }
            }
            Op::Networks(networks) => {
                let own = |given: bool, prefix: Prefix| {
                    given.then_some(if prefix.family() == V4 { ip("10.0.0.77") } else { ip("2001:db8::77") })
                };
                let networks: Vec<Network> = networks
                    .into_iter()
                    .map(|(text, given)| (prefix(text), given))
                    .map(|(prefix, given)| Network::new(prefix).next_hop(own(given, prefix)))
                    .collect();
                model.networks = networks.iter().map(|network| (network.prefix, network.next_hop)).collect();
                rib.set_networks(&networks);
            }
            Op::Refresh(n, family) => {
                *refreshed = true;
                rib.refresh(id(n), family);
            }
            Op::Pull(n, limit) => {
                if let Some(receiver) = receivers.get_mut(&n) {
                    receiver.pull(rib, n, limit);
                }
            }
            Op::Work => drop(rib.work()),
            Op::Subscribe => readers.push(Reader::new(rib)),
            Op::Unsubscribe(which) => {
                if !readers.is_empty() {
                    let reader = readers.swap_remove(which % readers.len());
                    rib.unsubscribe(reader.id());
                }
            }
            Op::Read(which, limit) => {
                let count = readers.len().max(1);
                if let Some(reader) = readers.get_mut(which % count) {
                    reader.read(rib, limit);
                }
            }
        }
    }

    /// Checks the reports of the tables, which must agree with the model whenever no work is left.
    fn check_tables(&self) {
        if self.rib.has_work() {
            return;
        }
        let best = self.rib.best_routes().into_iter();
        let best: Vec<_> = best.map(|route| (route.prefix, route.next_hop, route.peer)).collect();
        assert_eq!(best, self.model.best_routes());
        for n in self.model.peers.keys() {
            let of_peer = self.model.received.iter().filter(|((_, from, _), _)| from == n);
            let counts = self.rib.counts(id(*n));
            assert_eq!(counts.received, of_peer.clone().count());
            assert_eq!(counts.stale, of_peer.clone().filter(|(_, path)| path.stale).count());
            let eligible = of_peer.filter(|((prefix, ..), path)| self.model.is_eligible(prefix, *n, path));
            assert_eq!(counts.accepted, eligible.count());
        }
        let bests = self.rib.paths().into_iter().filter(|path| path.best && path.peer.is_some()).count();
        assert_eq!(bests, best.len());
    }

    /// Checks what every peer and subscriber has when nothing is pending.
    fn check_receivers(&mut self) {
        self.rib.finish();
        self.check_tables();
        self.readers.iter_mut().for_each(|reader| reader.finish(&mut self.rib));
        for (n, receiver) in &mut self.receivers {
            receiver.drain(&mut self.rib, *n);
            assert_eq!(receiver.routes, self.model.export(*n), "peer {n}");
            let paths = receiver.paths.iter().map(|((prefix, _), route)| (*prefix, route.clone()));
            assert_eq!(sorted(paths.collect()), sorted(self.model.export_several(*n)), "peer {n}");
            assert!(self.refreshed || receiver.redundant == 0, "peer {n}: {receiver:?}");
        }
    }

    /// Returns new tables with the same Adj-RIB-In, received in another order.
    fn rebuilt(&self, order: &[usize]) -> Rib {
        let mut rib = rib();
        for (n, peer) in &self.model.peers {
            rib.peer_up(id(*n), peer.clone());
        }
        let mut received: Vec<_> = self.model.received.iter().collect();
        received.sort_by_key(|(key, _)| order.get(usize::from(key.1) % order.len()));
        for ((prefix, n, path_id), Received { route: (attributes, next_hop), .. }) in received {
            let nlri = Nlri { prefix: *prefix, path_id: *path_id };
            let reach = Reach { family: prefix.family(), next_hop: *next_hop, prefixes: vec![nlri] };
            let attributes = Some(attributes.clone());
            rib.update(id(*n), Update { attributes, reach: vec![reach], ..Update::default() });
        }
        let networks = self.model.networks.iter();
        let networks: Vec<Network> =
            networks.map(|(prefix, next_hop)| Network::new(*prefix).next_hop(*next_hop)).collect();
        rib.set_networks(&networks);
        rib
    }
}

fn receiver(peer: &Peer) -> Receiver {
    let path_ids = PathIds { receive: peer.codec.path_ids.send, ..PathIds::NONE };
    Receiver { path_ids, ..Receiver::default() }
}

/// Returns the paths sorted, so that sets can be compared.
fn sorted(paths: Vec<(Prefix, (Attributes, NextHop))>) -> Vec<String> {
    let mut texts: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
    texts.sort();
    texts
}

fn without_staleness(rib: &Rib) -> Vec<PathReport> {
    rib.paths().into_iter().map(|path| PathReport { stale: false, ..path }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// After any operations, tables and receivers agree with the model, nothing was sent twice or without need, and neither
    /// the order of arrival nor the history makes a difference.
    #[test]
    fn any_operations_end_as_in_the_model(
        ops in vec(op(), 1..80),
        piece in prop_oneof![Just(1024), 1..4_usize],
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let mut world = World::new(piece);
        for op in ops {
            world.apply(op);
            // The speaker does so after each call.
            world.rib.take_changed();
            world.check_tables();
        }
        world.check_receivers();
        prop_assert_eq!(without_staleness(&world.rib), without_staleness(&world.rebuilt(&order)));
        // Without paths and networks the tables are empty.
        world.apply(Op::Networks(Vec::new()));
        for n in peers().into_keys() {
            world.apply(Op::Down(n, Vec::new()));
            world.apply(Op::DropStale(n, None));
        }
        world.check_receivers();
        prop_assert!(world.rib.is_empty());
    }

    /// Among paths from one neighboring AS, and among those of different ones, "better" is a total order.
    #[test]
    fn better_is_a_total_order(mut three in vec(candidate(), 3), same_neighbor: bool) {
        for (n, candidate) in (0..).zip(&mut three) {
            candidate.source = Source::from(PeerId(n));
            candidate.neighbor_as = Some(if same_neighbor { 1 } else { n });
        }
        let [a, b, c] = [three[0], three[1], three[2]];
        prop_assert!(a.beats(&b) != b.beats(&a));
        prop_assert!(!(a.beats(&b) && b.beats(&c)) || a.beats(&c));
    }

    /// Of paths from several neighboring ASes the same one is best in any order. It is the one that the steps of RFC 4271
    /// §9.1.2.2 leave, when each removes the paths that are worse than another one that is left.
    #[test]
    fn the_best_of_any_set_is_the_same_in_any_order(
        (paths, shuffled) in vec((candidate(), option::of(1..4_u32)), 1..9).prop_flat_map(|paths| {
            let paths: Vec<Candidate> = (0..).zip(paths).map(|(n, (candidate, neighbor_as))| {
                Candidate { source: Source::from(PeerId(n)), neighbor_as, ..candidate }
            }).collect();
            (Just(paths.clone()), Just(paths).prop_shuffle())
        }),
    ) {
        let best = best::select(paths.iter().copied());
        prop_assert_eq!(best, best::select(shuffled.into_iter()));
        prop_assert_eq!(best, by_elimination(paths.clone()));
        // A path that is not long-lived stale is never beaten by one that is, unless it is our own.
        let fresh = paths.iter().any(|path| !path.long_lived_stale);
        let own = best.is_some_and(|best| best.peer_address.is_none());
        prop_assert!(own || !fresh || best.is_some_and(|best| !best.long_lived_stale));
    }
}

/// RFC 4271 §9.1.2.2 with RFC 4456 §9 and RFC 9494 §4.4, step by step.
fn by_elimination(mut left: Vec<Candidate>) -> Option<Candidate> {
    fn least<K: Ord>(left: &mut Vec<Candidate>, key: impl Fn(&Candidate) -> K) {
        let least = left.iter().map(&key).min();
        left.retain(|path| Some(key(path)) == least);
    }
    least(&mut left, |path| path.peer_address.is_some());
    least(&mut left, |path| path.long_lived_stale);
    least(&mut left, |path| std::cmp::Reverse(path.local_pref));
    least(&mut left, |path| path.as_path_length);
    least(&mut left, |path| path.origin);
    let before = left.clone();
    left.retain(|path| {
        !before.iter().any(|other| other.neighbor_as == path.neighbor_as && other.med < path.med)
    });
    least(&mut left, |path| !path.external);
    least(&mut left, |path| path.identifier);
    least(&mut left, |path| path.cluster_list_length);
    least(&mut left, |path| path.peer_address);
    least(&mut left, |path| path.source);
    left.pop()
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let address = option::of((1..3_u8).prop_map(|n| IpAddr::from([10, 0, 0, n])));
    let head = (any::<bool>(), 1..3_u32, 0..2_usize, select(vec![Origin::Igp, Origin::Egp]), 0..3_u32);
    (head, any::<bool>(), 0..2_u32, 0..2_usize, address).prop_map(
        |(head, external, identifier, clusters, peer_address)| {
            let (long_lived_stale, local_pref, as_path_length, origin, med) = head;
            Candidate {
                source: Source::LOCAL,
                long_lived_stale,
                local_pref,
                as_path_length,
                origin,
                med,
                neighbor_as: None,
                external,
                identifier: identifier.into(),
                cluster_list_length: clusters,
                peer_address,
                path_id: None,
            }
        },
    )
}
