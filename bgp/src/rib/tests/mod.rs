//! Tests of the tables as a whole. `model` is the naive model that random operations are compared with.

mod add_path;
mod decision;
mod export;
mod graceful;
mod import;
mod long_lived;
mod model;
mod next_hop;
mod outbound;
mod random;
mod scale;
mod subscribers;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bytes::{Buf, BytesMut};

use super::{Identity, Peer, PeerId, PeerKind, Rib};
use crate::config::{Filter, Network, NextHopMode};
use crate::report::PathReport;
use crate::wire::{
    AsPath, Attributes, Codec, Family, Framer, Message, NextHop, Nlri, PathIds, Prefix, Reach, Segment,
    Update, decode,
};

/// Our AS, and one of an external peer.
const OURS: u32 = 64512;
const THEIRS: u32 = 64600;
const LOCAL: &str = "10.0.0.254";
const V4: Family = Family::Ipv4Unicast;
const V6: Family = Family::Ipv6Unicast;

fn identity() -> Identity {
    Identity {
        asn: OURS,
        router_id: Ipv4Addr::new(10, 0, 0, 254),
        cluster_id: Ipv4Addr::new(10, 0, 0, 253),
        graceful_shutdown: false,
    }
}

fn rib() -> Rib {
    Rib::new(identity())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ip4(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn id(n: u8) -> PeerId {
    PeerId(n.into())
}

/// Returns peer number `n`, with address and router id 10.0.0.n.
fn peer(n: u8, kind: PeerKind) -> Peer {
    Peer {
        address: IpAddr::from([10, 0, 0, n]),
        router_id: Ipv4Addr::new(10, 0, 0, n),
        asn: if kind == PeerKind::External { THEIRS } else { OURS },
        kind,
        local_address: ip(LOCAL),
        local_asn: OURS,
        role: None,
        codec: Codec { four_octet_as: true, ..Codec::default() },
        families: vec![V4, V6],
        paths: None,
        long_lived: false,
        next_hop_mode: NextHopMode::Automatic,
        import: Filter::All,
        export: Filter::All,
    }
}

fn sequence(numbers: &[u32]) -> AsPath {
    match numbers {
        [] => AsPath::default(),
        _ => AsPath(vec![Segment::Sequence(numbers.to_vec())]),
    }
}

/// Returns the least attributes that a peer of that kind sends.
fn attributes(kind: PeerKind) -> Attributes {
    match kind {
        PeerKind::External => Attributes { as_path: sequence(&[THEIRS]), ..Attributes::local() },
        _ => Attributes { local_pref: Some(100), ..Attributes::local() },
    }
}

fn next_hop(text: &str) -> NextHop {
    NextHop { address: ip(text), link_local: None }
}

fn advertise(attributes: Attributes, via: &str, prefixes: &[&str]) -> Update {
    let prefixes: Vec<Nlri> = prefixes.iter().map(|text| prefix(text).into()).collect();
    let reach = Reach { family: prefixes[0].prefix.family(), next_hop: next_hop(via), prefixes };
    Update { attributes: Some(attributes), reach: vec![reach], ..Update::default() }
}

fn withdraw(prefixes: &[&str]) -> Update {
    Update { withdrawn: prefixes.iter().map(|text| prefix(text).into()).collect(), ..Update::default() }
}

fn network(text: &str, next_hop: Option<&str>) -> Network {
    Network::new(prefix(text)).next_hop(next_hop.map(ip))
}

impl Rib {
    /// Sets all originated networks.
    fn set_networks(&mut self, networks: &[Network]) {
        let present = self.networks().keys();
        let removed = present.filter(|prefix| networks.iter().all(|network| network.prefix != **prefix));
        let removed: Vec<Prefix> = removed.copied().collect();
        let differs = |network: &&Network| self.networks().get(&network.prefix) != Some(network);
        let set = networks.iter().filter(differs).cloned().collect();
        self.change_networks(&removed, set);
    }
}

/// Returns tables with peers of these kinds up, numbered from 1.
fn rib_with(kinds: &[PeerKind]) -> Rib {
    let mut rib = rib();
    for (n, kind) in (1..).zip(kinds) {
        rib.peer_up(id(n), peer(n, *kind));
    }
    rib
}

fn reports(rib: &Rib, text: &str) -> Vec<PathReport> {
    rib.paths().into_iter().filter(|path| path.prefix == prefix(text)).collect()
}

/// Returns the report on the path from peer `n`.
fn report(rib: &Rib, text: &str, n: u8) -> PathReport {
    let paths = reports(rib, text).into_iter();
    paths
        .into_iter()
        .find(|path| path.peer == Some(IpAddr::from([10, 0, 0, n])))
        .expect("a path from the peer")
}

/// The other end of a session, which has nothing but the messages.
#[derive(Debug, Default)]
struct Receiver {
    routes: BTreeMap<Prefix, (Attributes, NextHop)>,
    /// The paths with Path Identifiers, in families for which `path_ids` were negotiated.
    paths: BTreeMap<(Prefix, u32), (Attributes, NextHop)>,
    path_ids: PathIds,
    /// The numbers of messages, prefixes advertised and prefixes withdrawn, and the End-of-RIBs so far.
    messages: usize,
    advertised: usize,
    withdrawn: usize,
    ended: Vec<Family>,
    /// The number of advertisements of routes that it had, and withdrawals of routes that it had not.
    redundant: usize,
}

impl Receiver {
    /// Receives everything that is pending for the peer.
    fn drain(&mut self, rib: &mut Rib, n: u8) {
        while rib.pending(id(n)) {
            assert!(self.pull(rib, n, 65536) > 0, "pending but nothing to send");
        }
        assert_eq!(rib.counts(id(n)).advertised, self.routes.len() + self.paths.len());
    }

    /// Receives about `limit` octets.
    fn pull(&mut self, rib: &mut Rib, n: u8, limit: usize) -> usize {
        let mut out = BytesMut::new();
        let count = rib.pack(id(n), limit, &mut out);
        assert_eq!(count, out.len());
        let mut framer = Framer::new();
        framer.push(out.chunk());
        while let Some(frame) = framer.next().expect("well-formed frames") {
            let codec = Codec {
                four_octet_as: true,
                extended_next_hop: true,
                path_ids: self.path_ids,
                ..Codec::default()
            };
            let message = decode(&frame, &codec, &[V4, V6]).expect("a well-formed message");
            let Message::Update(update) = message else { panic!("only UPDATEs come from the tables") };
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            self.messages += 1;
            self.take(update);
        }
        assert_eq!(framer.buffered(), 0, "whole messages only");
        count
    }

    fn take(&mut self, update: Update) {
        self.ended.extend(update.end_of_rib);
        for Nlri { prefix, path_id } in update.withdrawn {
            self.withdrawn += 1;
            let before = match path_id {
                Some(path_id) => self.paths.remove(&(prefix, path_id)),
                None => self.routes.remove(&prefix),
            };
            self.redundant += usize::from(before.is_none());
        }
        for reach in update.reach {
            for Nlri { prefix, path_id } in reach.prefixes {
                let route = (update.attributes.clone().expect("a reach has attributes"), reach.next_hop);
                self.advertised += 1;
                let before = match path_id {
                    Some(path_id) => self.paths.insert((prefix, path_id), route.clone()),
                    None => self.routes.insert(prefix, route.clone()),
                };
                self.redundant += usize::from(before == Some(route));
            }
        }
    }
}

/// Returns a new receiver with everything that is pending for peer `n`.
fn receive_all(rib: &mut Rib, n: u8) -> Receiver {
    let mut receiver = Receiver::default();
    receiver.drain(rib, n);
    receiver
}
