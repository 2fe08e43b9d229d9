//! What the tables hold, in words. Made when somebody asks; nothing of it is stored.

use std::fmt::Write;
use std::net::IpAddr;

use super::best::{self, Candidate, Step};
use super::family::FAMILIES;
use super::group::Obstacle;
use super::import::Refusal;
use super::table::{Entry, Path};
use super::{Peer, PeerId, Rib, Withheld};
use crate::config::Filter;
use crate::report::{BestRoute, PathReport};
use crate::wire::{AsPath, Origin, Segment};

impl Rib {
    /// The best paths that were learned, sorted by prefix; our own networks are not among them.
    pub fn best_routes(&self) -> Vec<BestRoute> {
        let entries = FAMILIES.into_iter().flat_map(|family| self.tables[family].occupied());
        let mut routes: Vec<BestRoute> = entries
            .filter_map(|(_, entry)| {
                let path = entry.best()?;
                let peer = self.neighbors.origin(path.source)?.address;
                let next_hop = path.shared.next_hop?.address;
                Some(BestRoute { prefix: entry.prefix, next_hop, peer })
            })
            .collect();
        routes.sort_unstable();
        routes
    }

    /// Every path, sorted by prefix and then best first, each with the reason why it is best or why not.
    pub fn paths(&self) -> Vec<PathReport> {
        let entries = FAMILIES.into_iter().flat_map(|family| self.tables[family].occupied());
        let mut entries: Vec<&Entry> = entries.map(|(_, entry)| entry).collect();
        entries.sort_unstable_by_key(|entry| entry.prefix);
        entries.into_iter().flat_map(|entry| self.paths_to(entry)).collect()
    }

    /// What a peer should be told but cannot be, with the reason, sorted by prefix.
    pub fn withheld(&self, id: PeerId) -> Vec<Withheld> {
        let mut all = Vec::new();
        for family in FAMILIES {
            let Some(group) = self.hearing(id, family) else { continue };
            let withheld = group.withheld_from(id, &self.tables[family]).into_iter();
            all.extend(
                withheld.map(|(prefix, why)| Withheld { prefix, reason: self.explain_obstacle(id, why) }),
            );
        }
        all.sort_unstable_by_key(|withheld| withheld.prefix);
        all
    }

    fn paths_to<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = PathReport> + 'a {
        let mut paths: Vec<&Path> = entry.paths.as_slice().iter().collect();
        // The best is first already; those behind it lie as they came.
        let skip = usize::from(entry.best().is_some());
        paths[skip..].sort_unstable_by_key(|path| {
            (path.refusal.is_some(), self.address(path), self.neighbors.1.path_id(path.source))
        });
        let candidates: Vec<Candidate> = paths
            .iter()
            .filter(|path| path.refusal.is_none())
            .map(|path| Candidate::new(path, &self.neighbors))
            .collect();
        paths.into_iter().map(move |path| self.path_report(entry, path, &candidates))
    }

    fn address(&self, path: &Path) -> Option<IpAddr> {
        self.neighbors.origin(path.source).map(|peer| peer.address)
    }

    fn path_report(&self, entry: &Entry, path: &Path, candidates: &[Candidate]) -> PathReport {
        let attributes = &path.shared.attributes;
        PathReport {
            prefix: entry.prefix,
            next_hop: path.shared.next_hop.map(|next_hop| next_hop.address),
            peer: self.address(path),
            path_id: self.neighbors.1.path_id(path.source),
            best: entry.best().is_some_and(|best| best.source == path.source),
            stale: path.stale,
            reason: match path.refusal {
                Some(refusal) => self.explain_refusal(entry, path, refusal),
                None => explain_rank(path, candidates),
            },
            local_pref: best::local_pref(attributes),
            med: best::med(attributes),
            as_path: as_path(&attributes.as_path),
            originator: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
        }
    }

    fn explain_refusal(&self, entry: &Entry, path: &Path, refusal: Refusal) -> String {
        let identity = &self.identity;
        let attributes = &path.shared.attributes;
        let peer_asn = self.neighbors.origin(path.source).map_or(0, |peer| peer.asn);
        let next_hop = path.shared.next_hop.map_or("none".into(), |next_hop| next_hop.address.to_string());
        match refusal {
            Refusal::FirstAs => match best::neighbor_as(&attributes.as_path) {
                Some(first) => format!("AS_PATH begins with AS {first}, not with the peer's AS {peer_asn}"),
                None => format!("AS_PATH does not begin with the peer's AS {peer_asn}"),
            },
            Refusal::AsLoop => format!("AS loop: our AS {} in AS_PATH", identity.asn),
            Refusal::Leak => {
                let by = attributes.only_to_customer.unwrap_or_default();
                format!(
                    "route leak: marked by AS {by} as only for customers, AS {peer_asn} must not send it here"
                )
            }
            Refusal::Originator => {
                format!("reflection loop: ORIGINATOR_ID {} is our router id", identity.router_id)
            }
            Refusal::Cluster => {
                format!("reflection loop: our cluster id {} in CLUSTER_LIST", identity.cluster_id)
            }
            Refusal::NextHopOurs => format!("next hop {next_hop} is our own address"),
            Refusal::NextHopUnusable => {
                format!("next hop {next_hop} is no host's address or not of the family of {}", entry.prefix)
            }
            Refusal::Filter => self.explain_filter(entry, path),
        }
    }

    fn explain_filter(&self, entry: &Entry, path: &Path) -> String {
        match self.neighbors.origin(path.source) {
            Some(Peer { import: Filter::Rules(policy), kind, .. }) => {
                let evaluation = policy.evaluate(&path.shared.route(Some(*kind), &entry.prefix));
                format!("import policy: {}", evaluation.reason())
            }
            _ => "import filter".into(),
        }
    }

    fn explain_obstacle(&self, id: PeerId, obstacle: Obstacle) -> String {
        match obstacle {
            Obstacle::TooLarge { needed, max } => format!(
                "too large: the message would take {needed} octets and the peer takes {max}; shorten its AS_PATH or \
                 drop communities where they are added"
            ),
            Obstacle::NoNextHop => {
                let peer = self.neighbors.0.get(&id).map(|neighbor| &neighbor.peer);
                let local = peer.map_or("unknown".into(), |peer| peer.local_address.to_string());
                format!(
                    "no next hop of the prefix's family: our address on the session is {local}; configure a next hop \
                     for the network, or peer over an address of that family"
                )
            }
        }
    }
}

/// Why a usable path is the best, or what the better one has over it.
fn explain_rank(path: &Path, candidates: &[Candidate]) -> String {
    let all = || candidates.iter().copied();
    let Some(this) = all().find(|candidate| candidate.source == path.source) else { return String::new() };
    let Some(best) = best::select(all()) else { return String::new() };
    if best.source == this.source {
        return match best::select(all().filter(|other| other.source != this.source)) {
            None if this.peer_address.is_none() => "best: we originate it".into(),
            None if this.long_lived_stale => {
                "best: the only usable path; long-lived stale, kept as a last resort".into()
            }
            None => "best: the only usable path".into(),
            Some(second) => format!("best: {}", difference(&this, &second)),
        };
    }
    // A path may have lost by MED to one of the same neighbouring AS that is not the best of all.
    let winners = best::group_winners(all());
    let winner = winners.into_iter().find(|winner| winner.neighbor_as == this.neighbor_as).unwrap_or(best);
    let better = if winner.source == this.source { best } else { winner };
    difference(&this, &better)
}

/// The step that told two paths apart, from the view of `this`.
fn difference(this: &Candidate, other: &Candidate) -> String {
    let (_, step) = this.compare(other);
    let via = other.peer_address.map_or("our own".into(), |address| format!("via {address}"));
    match step {
        Step::Local if this.peer_address.is_none() => format!("we originate it, before the path {via}"),
        Step::Local => "we originate the prefix ourselves".into(),
        Step::LongLived if this.long_lived_stale => format!("long-lived stale, unlike the path {via}"),
        Step::LongLived => format!("not long-lived stale, unlike the path {via}"),
        Step::LocalPref => ranked("LOCAL_PREF", this.local_pref, other.local_pref, &via),
        Step::AsPathLength => ranked("AS path length", this.as_path_length, other.as_path_length, &via),
        Step::Origin if this.origin < other.origin => {
            format!("better ORIGIN {} than {} {via}", origin(this.origin), origin(other.origin))
        }
        Step::Origin => format!("worse ORIGIN {} than {} {via}", origin(this.origin), origin(other.origin)),
        Step::Med => {
            let from = match this.neighbor_as {
                Some(asn) => format!("{via}, both from AS {asn}"),
                None => format!("{via}, both from our own AS"),
            };
            ranked("MED", this.med, other.med, &from)
        }
        Step::External if this.external => format!("learned by eBGP, by iBGP {via}"),
        Step::External => format!("learned by iBGP, by eBGP {via}"),
        Step::Identifier => ranked("router id", this.identifier, other.identifier, &via),
        Step::ClusterList => {
            ranked("CLUSTER_LIST length", this.cluster_list_length, other.cluster_list_length, &via)
        }
        Step::PeerAddress => match this.peer_address {
            Some(address) if this.peer_address < other.peer_address => {
                format!("lower peer address {address}, before {via}")
            }
            Some(address) => format!("higher peer address {address} than {via}"),
            None => String::new(),
        },
        Step::PathId => {
            let rank = if this.path_id < other.path_id { "lower" } else { "higher" };
            format!("{rank} path id {} than {} {via}", path_id(this.path_id), path_id(other.path_id))
        }
    }
}

fn path_id(path_id: Option<u32>) -> String {
    path_id.map_or("none".into(), |path_id| path_id.to_string())
}

fn ranked<T: Ord + std::fmt::Display>(what: &str, this: T, other: T, via: &str) -> String {
    if this < other {
        format!("lower {what} {this} < {other} than {via}")
    } else {
        format!("higher {what} {this} > {other} than {via}")
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "IGP",
        Origin::Egp => "EGP",
        Origin::Incomplete => "incomplete",
    }
}

/// `64500 64501 {64502,64503}`.
fn as_path(path: &AsPath) -> String {
    let mut text = String::new();
    for segment in &path.0 {
        let (numbers, separator, open, close) = match segment {
            Segment::Sequence(numbers) => (numbers, " ", "", ""),
            Segment::Set(numbers) => (numbers, ",", "{", "}"),
        };
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{space}{open}{}{close}", numbers.join(separator));
    }
    text
}
