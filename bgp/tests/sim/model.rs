//! The routes that every speaker must hold once the network is quiet: derived from the running nodes, their connections and
//! their configuration by the rules of RFC 4456, independently of any message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use heliograph_bgp::Prefix;
use heliograph_bgp::policy::{Action, Condition, Modification, Policy, PrefixMatch, Rule};
use heliograph_bgp::report::{BestRoute, SessionState};
use heliograph_bgp::{Filter, Neighbor};

use crate::network::{Network, NodeId};

/// A time longer than a hold time, the longest pause between connection attempts and the exchange of routes together.
const SETTLED: Duration = Duration::from_secs(200);

/// The LOCAL_PREF of routes without preference.
const USUAL: u32 = 100;

/// A rule of one side of a session for some prefixes; all others are accepted unchanged.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// The prefixes are rejected.
    Hide(Prefix),
    /// The prefixes are preferred to the same from others. On import, by nodes that advertise to nobody else.
    Prefer(Prefix),
}

impl Choice {
    fn passes(self, prefix: &Prefix) -> bool {
        !matches!(self, Self::Hide(hidden) if hidden.contains(prefix))
    }

    fn local_pref(self, prefix: &Prefix) -> u32 {
        if matches!(self, Self::Prefer(preferred) if preferred.contains(prefix)) { 2 * USUAL } else { USUAL }
    }

    /// Returns the rule as a filter.
    pub fn filter(self) -> Filter {
        let (within, modifications, action) = match self {
            Self::Hide(within) => (within, Vec::new(), Some(Action::Reject)),
            Self::Prefer(within) => (within, vec![Modification::LocalPref(2 * USUAL)], None),
        };
        let range = PrefixMatch::new(within, within.length(), 32);
        let rule = Rule::default()
            .conditions([Condition::Prefix(vec![range])])
            .modifications(modifications)
            .action(action);
        Filter::Rules(Policy::new(vec![rule], Action::Accept).expect("the rule is sound"))
    }
}

/// The rules, by the node that has one and its peer.
pub type Choices = BTreeMap<(NodeId, NodeId), Choice>;

/// The configuration of the nodes beyond their topology.
#[derive(Debug, Default)]
pub struct Policies {
    pub import: Choices,
    pub export: Choices,
}

/// A path that a node learned from a peer.
#[derive(Clone, Debug)]
struct Path {
    from: NodeId,
    local_pref: u32,
    clusters: Vec<Ipv4Addr>,
}

/// Returns the routes that each running node must hold; `None` for those that do not run.
pub fn expected(network: &Network, policies: &Policies) -> Vec<Option<Vec<BestRoute>>> {
    let sessions: Vec<BTreeMap<NodeId, bool>> =
        (0..network.len()).map(|node| sessions(network, node)).collect();
    let mut routes: Vec<_> = (0..network.len()).map(|node| network.is_up(node).then(Vec::new)).collect();
    for origin in (0..network.len()).filter(|node| network.is_up(*node)) {
        for originated in &network.config(origin).networks {
            let prefix = originated.prefix;
            let paths = spread(network, policies, &sessions, origin, &prefix);
            for (node, from) in paths {
                let (next_hop, peer) = (network.address(origin).into(), network.address(from).into());
                routes[node]
                    .as_mut()
                    .expect("sessions are with those who run")
                    .push(BestRoute::new(prefix, next_hop, peer));
            }
        }
    }
    for routes in routes.iter_mut().flatten() {
        routes.sort_unstable();
    }
    routes
}

/// Returns the peers that a node has sessions with, and whether each is its client.
fn sessions(network: &Network, node: NodeId) -> BTreeMap<NodeId, bool> {
    if !network.is_up(node) {
        return BTreeMap::new();
    }
    let peers = network.config(node).neighbors.iter().filter_map(|n| Some((network.node_at(n.address)?, n)));
    let stands = |peer: &NodeId, _: &Neighbor| {
        network.is_up(*peer) && !network.are_cut(node, *peer) && network.has_peer(*peer, node)
    };
    peers.filter(|(peer, n)| stands(peer, n)).map(|(peer, n)| (peer, n.reflector_client)).collect()
}

/// Returns the nodes that learn a prefix of `origin`, and the peer of each: in rounds, as each reflector on the way makes
/// CLUSTER_LIST one longer. Of paths that are otherwise equal the shortest list wins, then the lowest peer address
/// (RFC 4456 §9).
fn spread(
    network: &Network,
    policies: &Policies,
    sessions: &[BTreeMap<NodeId, bool>],
    origin: NodeId,
    prefix: &Prefix,
) -> BTreeMap<NodeId, NodeId> {
    let mut all: BTreeMap<NodeId, Vec<Path>> = BTreeMap::new();
    let mut decided = BTreeSet::from([origin]);
    let mut senders = vec![(origin, None)];
    while !senders.is_empty() {
        let mut reached: BTreeMap<NodeId, Path> = BTreeMap::new();
        for (sender, path) in senders {
            for &to in
                sessions[sender].keys().filter(|to| may_advertise(sessions, sender, path.as_ref(), **to))
            {
                let received = transfer(network, policies, (sender, to), path.as_ref(), prefix);
                let Some(received) = received.filter(|_| to != origin) else { continue };
                all.entry(to).or_default().push(received.clone());
                if !decided.contains(&to) {
                    let best = reached.entry(to).or_insert_with(|| received.clone());
                    if network.address(received.from) < network.address(best.from) {
                        *best = received;
                    }
                }
            }
        }
        decided.extend(reached.keys());
        senders = reached.into_iter().map(|(node, path)| (node, Some(path))).collect();
    }
    let rank = |path: &Path| (u32::MAX - path.local_pref, path.clusters.len(), network.address(path.from));
    let best = |paths: Vec<Path>| paths.into_iter().min_by_key(rank).map(|path| path.from);
    all.into_iter().filter_map(|(node, paths)| Some((node, best(paths)?))).collect()
}

/// Returns whether a path is advertised by RFC 4456 §6: a client's to all others, another internal peer's to clients only,
/// an originated one (no path) to all.
fn may_advertise(
    sessions: &[BTreeMap<NodeId, bool>],
    sender: NodeId,
    path: Option<&Path>,
    to: NodeId,
) -> bool {
    let client = |peer: NodeId| sessions[sender].get(&peer) == Some(&true);
    path.is_none_or(|path| path.from != to && (client(path.from) || client(to)))
}

/// Returns a path after its way over one session; `None` if it does not arrive, or is rejected.
fn transfer(
    network: &Network,
    policies: &Policies,
    (from, to): (NodeId, NodeId),
    path: Option<&Path>,
    prefix: &Prefix,
) -> Option<Path> {
    let (export, import) = (policies.export.get(&(from, to)), policies.import.get(&(to, from)));
    if ![export, import].into_iter().flatten().all(|choice| choice.passes(prefix)) {
        return None;
    }
    let cluster = |node| network.config(node).cluster_id.unwrap_or(network.config(node).router_id);
    let mut clusters = path.map_or(Vec::new(), |path| path.clusters.clone());
    if path.is_some() {
        clusters.insert(0, cluster(from));
    }
    // RFC 4456 §8
    let looped = clusters.contains(&cluster(to));
    let local_pref = import.map_or(USUAL, |choice| choice.local_pref(prefix));
    (!looped).then_some(Path { from, local_pref, clusters })
}

/// Runs the network until every speaker holds the routes of the model, and nothing is in flight.
pub fn quiet(network: &mut Network, policies: &Policies, after: &str) {
    let expected = expected(network, policies);
    let start = network.now;
    while let Some(reason) = unlike(network, &expected) {
        assert!(network.now - start < SETTLED, "not quiet {SETTLED:?} after {after}: {reason}");
        network.run_for(Duration::from_secs(1));
    }
}

/// Runs the network; no node but `except` may lose a prefix that it has now, even for a moment.
pub fn keep_all(network: &mut Network, time: Duration, except: &BTreeSet<NodeId>, meanwhile: &str) {
    let watched = |network: &Network, node| !except.contains(&node) && network.is_up(node);
    let held: Vec<_> =
        (0..network.len()).map(|node| watched(network, node).then(|| learned(network, node))).collect();
    let until = network.now + time;
    network.watch(time, |network, node| {
        let Some(held) = &held[node] else { return };
        let now = learned(network, node);
        let lost = held.iter().find(|prefix| now.binary_search(prefix).is_err());
        assert!(
            lost.is_none(),
            "{meanwhile}: node {node} lost {lost:?} {:?} before the end",
            until - network.now
        );
    });
}

/// Returns the prefixes that a node has learned, sorted.
pub fn learned(network: &Network, node: NodeId) -> Vec<Prefix> {
    network.speaker(node).best_routes().iter().map(|route| route.prefix).collect()
}

/// Returns a difference between a node and the model.
fn unlike(network: &Network, expected: &[Option<Vec<BestRoute>>]) -> Option<String> {
    expected.iter().enumerate().find_map(|(node, expected)| {
        let (expected, learned) = (expected.as_ref()?, network.speaker(node).best_routes());
        if learned != *expected {
            let missing = expected.iter().find(|route| !learned.contains(route));
            let surplus = learned.iter().find(|route| !expected.contains(route));
            return Some(format!("node {node}: missing {missing:?}, should not have {surplus:?}"));
        }
        // An established session and no stale path: otherwise the tables match by chance.
        let sessions = network.speaker(node).sessions(network.now);
        let stands = |address| {
            network.node_at(address).is_some_and(|peer| network.is_up(peer) && !network.are_cut(node, peer))
        };
        let odd = sessions
            .iter()
            .find(|s| s.stale > 0 || (s.state == SessionState::Established) != stands(s.address));
        odd.map(|s| {
            format!("node {node}, session with {}: {:?}, {} stale, {}", s.address, s.state, s.stale, s.reason)
        })
    })
}
