//! From a full mesh to reflectors and back while the cluster runs, without the loss of a route: new sessions are established
//! before old ones end, so there is a step with both. Each node takes each step at a time of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use heliograph_bgp::Config;

use crate::cluster::{ASN, config, mesh, neighbor};
use crate::model::{Policies, keep_all, learned, quiet};
use crate::network::{Network, NodeId, Seed};

const SECOND: Duration = Duration::from_secs(1);

/// The topology of a step.
#[derive(Clone, Copy, Debug)]
enum Topology {
    Mesh,
    Both,
    Reflected,
}

/// A cluster whose last `reflectors` nodes are, or become, reflectors.
struct Switch {
    nodes: usize,
    reflectors: usize,
    /// The reflectors are nodes like others; else they are not part of the mesh, and originate nothing.
    in_mesh: bool,
}

impl Switch {
    fn is_reflector(&self, node: NodeId) -> bool {
        node >= self.nodes - self.reflectors
    }

    /// Returns a node's neighbors.
    fn config(&self, node: NodeId, topology: Topology) -> Config {
        let meshed = |node| self.in_mesh || !self.is_reflector(node);
        let in_mesh = |other| meshed(node) && meshed(other);
        let reflects = |other| self.is_reflector(node) || self.is_reflector(other);
        let peers = (0..self.nodes).filter(|other| *other != node).filter(|other| match topology {
            Topology::Mesh => in_mesh(*other),
            Topology::Both => in_mesh(*other) || reflects(*other),
            Topology::Reflected => reflects(*other),
        });
        let is_client = |other| {
            !matches!(topology, Topology::Mesh) && self.is_reflector(node) && !self.is_reflector(other)
        };
        let neighbors = peers.map(|other| neighbor(other, ASN).reflector_client(is_client(other)));
        let mut config = config(node, ASN).neighbors(neighbors);
        config.networks.retain(|_| meshed(node));
        config
    }

    /// Takes all nodes one step further, each within a second.
    fn step(&self, network: &mut Network, topology: Topology) {
        // A reflector outside of the mesh forwards nothing, and has no routes to lose.
        let apart: BTreeSet<NodeId> =
            (0..self.nodes).filter(|node| !self.in_mesh && self.is_reflector(*node)).collect();
        let mut order: Vec<NodeId> = (0..self.nodes).collect();
        network.rng.shuffle(&mut order);
        for node in order {
            let pause = SECOND.mul_f64(2.0 * network.rng.f64() / self.nodes as f64);
            keep_all(network, pause, &apart, "on the way");
            let before = learned(network, node);
            network.set_config(node, self.config(node, topology));
            let after = learned(network, node);
            assert!(
                before == after || apart.contains(&node),
                "node {node}, to {topology:?}: {before:?}, {after:?}"
            );
        }
        keep_all(network, 20 * SECOND, &apart, "on the way");
        quiet(network, &Policies::default(), &format!("the step to {topology:?}"));
    }

    fn there_and_back(&self, seed: u64) {
        let mut network = Network::new(seed);
        mesh(&mut network, self.nodes);
        for node in 0..self.nodes {
            network.set_config(node, self.config(node, Topology::Mesh));
            network.start(node, false);
        }
        quiet(&mut network, &Policies::default(), "the start");
        for topology in [Topology::Both, Topology::Reflected, Topology::Both, Topology::Mesh] {
            self.step(&mut network, topology);
        }
    }
}

#[test]
fn to_reflectors_of_their_own_and_back_without_a_lost_route() {
    for default in 0..20 {
        let seed = Seed::new(3000 + default);
        Switch { nodes: 20, reflectors: 2, in_mesh: false }.there_and_back(seed.0);
    }
}

#[test]
fn to_reflectors_among_the_nodes_and_back_without_a_lost_route() {
    for default in 0..20 {
        let seed = Seed::new(3100 + default);
        Switch { nodes: 20, reflectors: 2, in_mesh: true }.there_and_back(seed.0);
    }
}
