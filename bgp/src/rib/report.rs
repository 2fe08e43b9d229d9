//! Reports: the contents of the tables with reasons, made on request.

use std::fmt::Write;
use std::net::IpAddr;

use super::best::{self, Candidate};
use super::family::FAMILIES;
use super::reason::{Comparison, Facts, PathReason, PolicyRejection, RejectReason, Rejection};
use super::table::{Entry, Path};
use super::{Neighbors, Peer, PeerId, Rib, Withheld};
use crate::config::Filter;
use crate::report::{BestRoute, PathReport};
use crate::wire::{AsPath, Prefix, Segment};

impl Rib {
    /// Returns the best paths that were learned, sorted by prefix. Originated networks are not among them.
    pub(crate) fn best_routes(&self) -> Vec<BestRoute> {
        let entries = FAMILIES.into_iter().flat_map(|family| self.tables[family].occupied());
        let mut routes: Vec<BestRoute> =
            entries.filter_map(|(_, entry)| best_route(entry, &self.neighbors)).collect();
        routes.sort_unstable();
        routes
    }

    /// Returns every path with its reason, sorted by prefix, the best path first.
    pub(crate) fn paths(&self) -> Vec<PathReport> {
        let entries = FAMILIES.into_iter().flat_map(|family| self.tables[family].occupied());
        let mut entries: Vec<&Entry> = entries.map(|(_, entry)| entry).collect();
        entries.sort_unstable_by_key(|entry| entry.prefix);
        entries.into_iter().flat_map(|entry| self.paths_to(entry)).collect()
    }

    /// Returns the paths to a prefix with their reasons, the best path first.
    pub(crate) fn paths_to_prefix(&self, prefix: &Prefix) -> impl Iterator<Item = PathReport> + '_ {
        let table = &self.tables[prefix.family()];
        table.find(prefix).into_iter().flat_map(move |slot| self.paths_to(table.entry(slot)))
    }

    /// Returns the selected paths that are not advertised to a peer although they should be, sorted by prefix.
    pub(crate) fn withheld(&self, id: PeerId) -> Vec<Withheld> {
        let mut all = Vec::new();
        for family in FAMILIES {
            let Some(group) = self.group(id, family) else { continue };
            all.extend(group.withheld_from(id, &self.tables[family]));
        }
        all.sort_unstable_by_key(|withheld| withheld.prefix);
        all
    }

    fn paths_to<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = PathReport> + 'a {
        let mut paths: Vec<&Path> = entry.paths.as_slice().iter().collect();
        // The best is first already; the order of the others depends on their arrival.
        let skip = usize::from(entry.best().is_some());
        paths[skip..].sort_unstable_by_key(|path| {
            (!path.is_eligible(), self.address(path), self.neighbors.sources().path_id(path.source))
        });
        let candidates = paths.iter().filter(|path| path.is_eligible());
        let ranking = Ranking::new(candidates.map(|path| Candidate::new(path, &self.neighbors)).collect());
        paths.into_iter().filter_map(move |path| self.path_report(entry, path, &ranking))
    }

    fn address(&self, path: &Path) -> Option<IpAddr> {
        self.neighbors.peer(path.source).map(|peer| peer.address)
    }

    fn path_report(&self, entry: &Entry, path: &Path, ranking: &Ranking) -> Option<PathReport> {
        let reason = match path.rejected {
            Some(reason) => PathReason::Rejected(self.rejection(entry, path, reason)),
            None => ranking.reason(&Candidate::new(path, &self.neighbors))?,
        };
        let attributes = &path.shared.attributes;
        Some(PathReport {
            prefix: entry.prefix,
            next_hop: path.shared.next_hop.map(|next_hop| next_hop.address),
            peer: self.address(path),
            path_id: self.neighbors.sources().path_id(path.source),
            best: entry.best().is_some_and(|best| best.source == path.source),
            stale: path.stale,
            reason,
            local_pref: best::local_pref(attributes),
            med: best::med(attributes),
            as_path: as_path(&attributes.as_path),
            originator: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
        })
    }

    fn rejection(&self, entry: &Entry, path: &Path, reason: RejectReason) -> Rejection {
        let attributes = &path.shared.attributes;
        let peer = self.neighbors.peer(path.source);
        let policy = match peer {
            Some(Peer { import: Filter::Rules(policy), kind, .. }) if reason == RejectReason::Filter => {
                let evaluation = policy.evaluate(&path.shared.route(Some(*kind), &entry.prefix));
                let rule = evaluation.rule.map(|rule| PolicyRejection::Rule(rule.name.clone()));
                Some(rule.unwrap_or(PolicyRejection::NoRule))
            }
            _ => None,
        };
        let facts = Facts {
            prefix: entry.prefix,
            asn: self.identity.asn,
            router_id: self.identity.router_id,
            cluster_id: self.identity.cluster_id,
            peer_asn: peer.map_or(0, |peer| peer.asn),
            first_as: best::neighbor_as(&attributes.as_path),
            only_to_customer: attributes.only_to_customer,
            next_hop: path.shared.next_hop.map(|next_hop| next_hop.address),
            policy,
        };
        Rejection { reason, facts: Box::new(facts) }
    }
}

/// Returns the best path to a prefix; `None` if there is none, or it is originated.
pub(crate) fn best_route(entry: &Entry, neighbors: &Neighbors) -> Option<BestRoute> {
    let path = entry.best()?;
    let peer = neighbors.peer(path.source)?.address;
    let next_hop = path.shared.next_hop?.address;
    Some(BestRoute { prefix: entry.prefix, next_hop, peer })
}

/// The eligible paths to a prefix as far as the reasons of their ranks depend on it.
struct Ranking {
    best: Option<Candidate>,
    second: Option<Candidate>,
    /// The best path of each neighboring AS.
    winners: Vec<Candidate>,
}

impl Ranking {
    fn new(candidates: Vec<Candidate>) -> Self {
        let all = || candidates.iter().copied();
        let best = best::select(all());
        let others = all().filter(|other| best.is_none_or(|best| other.source != best.source));
        Self { best, second: best::select(others), winners: best::group_winners(all()) }
    }

    /// Compares an eligible path with the best of the others if it is the best, else with a better one.
    fn reason(&self, this: &Candidate) -> Option<PathReason> {
        let best = self.best?;
        if best.source == this.source {
            return Some(match &self.second {
                None => PathReason::OnlyEligible {
                    originated: this.peer_address.is_none(),
                    long_lived_stale: this.long_lived_stale,
                },
                Some(second) => PathReason::Best(Comparison::new(this, second)),
            });
        }
        // A path may have lost by MED to one of the same neighboring AS that is not the best of all.
        let winner = self.winners.iter().find(|winner| winner.neighbor_as == this.neighbor_as);
        let better = winner.filter(|winner| winner.source != this.source).unwrap_or(&best);
        Some(PathReason::NotBest(Comparison::new(this, better)))
    }
}

/// Returns an AS_PATH in its usual notation: `64500 64501 {64502,64503}`.
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
