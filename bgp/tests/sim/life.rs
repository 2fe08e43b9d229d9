//! The life of a cluster behind two reflectors: partitions, reflectors lost and back, restarts, changes of policy. After each
//! event all speakers must converge on the model, and routes that must survive are present at every moment.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use heliograph_bgp::Filter;
use heliograph_bgp::Prefix;

use crate::cluster::{prefix, reflected};
use crate::model::{Choice, Policies, keep_all, learned, quiet};
use crate::network::{Network, NodeId, Seed};

const SECOND: Duration = Duration::from_secs(1);
const REFLECTORS: [NodeId; 2] = [0, 1];
/// The time for which routes of a node that left without a NOTIFICATION are kept (RFC 4724 §4.2).
const RESTART_TIME: Duration = Duration::from_secs(120);

struct Cluster {
    network: Network,
    policies: Policies,
}

impl Cluster {
    /// One in `sparse` nodes advertises a prefix; all learn them.
    fn start(seed: u64, nodes: usize, sparse: usize) -> Self {
        let mut network = Network::new(seed);
        if nodes > 100 {
            network.scale();
        }
        reflected(&mut network, nodes, REFLECTORS.len());
        for node in (0..nodes).filter(|node| node % sparse != 0) {
            network.set_config(node, network.config(node).clone().networks([]));
        }
        for node in 0..nodes {
            network.start(node, false);
            let pause = Duration::from_micros(network.rng.u64(..2_000_000 / nodes as u64));
            network.run_for(pause);
        }
        let mut cluster = Self { network, policies: Policies::default() };
        cluster.quiet("start");
        cluster
    }

    fn quiet(&mut self, after: &str) {
        quiet(&mut self.network, &self.policies, after);
    }

    fn keep_all(&mut self, time: Duration, except: &BTreeSet<NodeId>, meanwhile: &str) {
        keep_all(&mut self.network, time, except, meanwhile);
    }

    fn clients(&self) -> std::ops::Range<NodeId> {
        REFLECTORS.len()..self.network.len()
    }

    /// Returns about one client in `part`, at least one.
    fn some_clients(&mut self, part: usize) -> BTreeSet<NodeId> {
        let clients = self.clients();
        let count = (clients.len() / part).max(1);
        (0..count).map(|_| self.network.rng.usize(clients.clone())).collect()
    }

    fn kill(&mut self, nodes: &BTreeSet<NodeId>) {
        nodes.iter().for_each(|node| self.network.kill(*node));
    }

    /// Starts the nodes one after the other.
    fn restart(&mut self, nodes: &BTreeSet<NodeId>, restarting: bool) {
        nodes.iter().for_each(|node| self.network.start(*node, restarting));
    }
}

/// A part of the clients reaches neither reflector for longer than the hold time.
fn partition(cluster: &mut Cluster) {
    let apart = cluster.some_clients(10);
    let cut = |cluster: &mut Cluster, lost| {
        for (node, reflector) in apart.iter().flat_map(|node| REFLECTORS.map(|reflector| (*node, reflector)))
        {
            cluster.network.cut(node, reflector, lost);
        }
    };
    cut(cluster, true);
    cluster.quiet("a partition");
    assert!(apart.iter().all(|node| learned(&cluster.network, *node).is_empty()));
    cut(cluster, false);
    cluster.quiet("a partition healed");
}

/// A reflector fails, and comes back: its clients have the other one.
fn lose_one_reflector(cluster: &mut Cluster, lost: NodeId) {
    let but_its_own = cluster.network.config(lost).networks.clone();
    cluster.network.set_config(lost, cluster.network.config(lost).clone().networks([]));
    cluster.quiet("a reflector announces nothing");
    cluster.network.kill(lost);
    cluster.keep_all(RESTART_TIME + 10 * SECOND, &BTreeSet::new(), "a reflector is lost");
    cluster.quiet("a reflector is lost");
    cluster.network.start(lost, false);
    cluster.keep_all(30 * SECOND, &BTreeSet::from([lost]), "a reflector is back");
    let networks = but_its_own;
    cluster.network.set_config(lost, cluster.network.config(lost).clone().networks(networks));
    cluster.quiet("a reflector is back");
}

/// Both reflectors fail: their routes are kept for the restart time, and no longer.
fn lose_both_reflectors(cluster: &mut Cluster) {
    let both = BTreeSet::from(REFLECTORS);
    cluster.kill(&both);
    cluster.keep_all(RESTART_TIME - 10 * SECOND, &both, "both reflectors are lost");
    cluster.network.run_for(20 * SECOND);
    assert!(cluster.clients().all(|node| learned(&cluster.network, node).is_empty()));
    cluster.quiet("both reflectors are lost");
    cluster.restart(&both, false);
    cluster.quiet("both reflectors are back");
}

/// Nodes that are back within the restart time cause no loss of a route.
fn restart_in_time(cluster: &mut Cluster, who: &BTreeSet<NodeId>, away: Duration) {
    cluster.kill(who);
    cluster.keep_all(away, who, "nodes are restarting");
    cluster.restart(who, true);
    cluster.keep_all(20 * SECOND, who, "restarted nodes gather routes");
    cluster.quiet("a restart");
}

/// The routes of nodes that are not are removed meanwhile.
fn restart_too_late(cluster: &mut Cluster) {
    let who = cluster.some_clients(20);
    cluster.kill(&who);
    cluster.network.run_for(RESTART_TIME);
    cluster.quiet("nodes stay away");
    cluster.restart(&who, true);
    cluster.quiet("nodes are back late");
}

/// Rules are added and removed on both sides of sessions, and no session is reset.
fn change_policy(cluster: &mut Cluster) {
    let ups = |network: &Network| -> Vec<u64> {
        let nodes = (0..network.len()).flat_map(|node| network.speaker(node).sessions(network.now));
        nodes.map(|session| session.established_count).collect()
    };
    let before = ups(&cluster.network);
    let mut policies = Policies::default();
    for client in cluster.some_clients(5) {
        let (part, reflector) = (part_of_all(cluster), REFLECTORS[cluster.network.rng.usize(..2)]);
        match cluster.network.rng.u8(..4) {
            0 => policies.import.insert((client, reflector), Choice::Hide(part)),
            1 => policies.import.insert((client, reflector), Choice::Prefer(part)),
            2 => policies.import.insert((reflector, client), Choice::Hide(part)),
            _ => policies.export.insert((reflector, client), Choice::Hide(part)),
        };
    }
    set_policies(cluster, policies);
    cluster.quiet("rules came");
    set_policies(cluster, Policies::default());
    cluster.quiet("rules went");
    assert_eq!(before, ups(&cluster.network), "no session was reset");
}

/// Returns 1 to 256 prefixes of nodes.
fn part_of_all(cluster: &mut Cluster) -> Prefix {
    let node = cluster.network.rng.usize(..cluster.network.len());
    let Prefix::V4(address, _) = prefix(node) else { unreachable!("the simulated network is IPv4") };
    Prefix::new(address.into(), cluster.network.rng.u8(16..=24)).expect("a valid length")
}

fn set_policies(cluster: &mut Cluster, policies: Policies) {
    let filter = |choice: Option<&Choice>| choice.map_or(Filter::All, |choice| choice.filter());
    for node in 0..cluster.network.len() {
        let mut config = cluster.network.config(node).clone();
        for neighbor in &mut config.neighbors {
            let peer = cluster.network.node_at(neighbor.address).expect("all neighbors are nodes");
            neighbor.import = filter(policies.import.get(&(node, peer)));
            neighbor.export = filter(policies.export.get(&(node, peer)));
        }
        if config != *cluster.network.config(node) {
            cluster.network.set_config(node, config);
        }
    }
    cluster.policies = policies;
}

/// Runs all of it, one after the other.
fn live(seed: u64, nodes: usize, sparse: usize) {
    let mut began = Instant::now();
    let mut cluster = Cluster::start(seed, nodes, sparse);
    let mut print = |what: &str, cluster: &Cluster| {
        if nodes > 100 {
            println!(
                "{what}: {:?} in reality, {} arrivals so far",
                began.elapsed(),
                cluster.network.delivered
            );
        }
        began = Instant::now();
    };
    print("start", &cluster);
    partition(&mut cluster);
    print("partition", &cluster);
    let lost = REFLECTORS[cluster.network.rng.usize(..2)];
    lose_one_reflector(&mut cluster, lost);
    print("one reflector lost", &cluster);
    lose_both_reflectors(&mut cluster);
    print("both reflectors lost", &cluster);
    let away = Duration::from_millis(cluster.network.rng.u64(200..40_000));
    let who = cluster.some_clients(20);
    restart_in_time(&mut cluster, &who, away);
    restart_in_time(&mut cluster, &BTreeSet::from([lost]), away);
    restart_in_time(&mut cluster, &BTreeSet::from(REFLECTORS), away);
    print("restarts", &cluster);
    restart_too_late(&mut cluster);
    print("late restarts", &cluster);
    change_policy(&mut cluster);
    print("policy", &cluster);
}

#[test]
fn two_thousand_speakers_live_through_all() {
    let seed = Seed::new(21);
    live(seed.0, 2000, 16);
}

/// Small networks are quick, so many are tested.
#[test]
fn small_clusters_live_through_all_from_many_seeds() {
    for default in 0..200 {
        let seed = Seed::new(2100 + default);
        live(seed.0, 12, 1);
    }
}
