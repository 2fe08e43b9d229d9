//! Heliograph as people get it, on a whole Kubernetes in two racks: pods reach each other through IPIP where a router is
//! between their nodes, and as they are where none is.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use common::{LATER, print_duration};
use heliograph_e2e::cluster::network::{Place, Topology};
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::workload::{addresses, all_reach, everywhere};
use heliograph_e2e::cluster::{self, Cluster, Kubectl, Spec, bgp};
use heliograph_e2e::probe::PingStream;
use heliograph_e2e::sniff::Sniffer;
use heliograph_e2e::uml::{as_root, with_ipip_and};
use heliograph_e2e::wait::wait_until;
use serde_json::Value;

/// Two in each rack, so that there are pairs of either kind.
const NODES: usize = 4;
/// The memory for all of it, in MiB: every node has its images in memory, and runs them there.
const MEMORY: u64 = 6 << 10;

#[test]
fn every_pod_reaches_every_other_in_two_racks() {
    let spec = || Spec { nodes: NODES, topology: Topology::TwoRacks, ..Spec::for_test() };
    as_root(|| cluster::prepare(&spec()));
    with_ipip_and(MEMORY, "every_pod_reaches_every_other_in_two_racks", || {
        let begun = Instant::now();
        let cluster = Cluster::up(spec())?;
        print_duration("control plane and kubelets", begun);
        cluster.apply_network(PodNetwork::Heliograph)?;
        cluster.wait_nodes_ready()?;
        print_duration("all nodes Ready", begun);
        cluster.wait_pods_ready("app.kubernetes.io/name=heliograph", NODES)?;
        cluster.apply(&everywhere())?;
        let pods = Pods(cluster.wait_pods_ready("app=everywhere", NODES)?);
        print_duration("all pods Ready", begun);

        pods.all_go_the_right_way(&cluster)?;
        print_duration("every pair in a mesh", begun);
        wait_for_objects(&cluster, &[("Mesh", 12)])?;

        let streams = pods.streams(&cluster)?;
        cluster.kubectl(&["label", "node", "n1", "n3", bgp::REFLECTOR])?;
        cluster.apply(&bgp::configuration(&bgp::reflectors()))?;
        // One in each rack: both clients with both of them, and these with each other.
        wait_for_objects(&cluster, &[("Reflector", 4), ("Client", 4), ("Mesh", 2)])?;
        print_duration("reflectors", begun);
        pods.all_go_the_right_way(&cluster)?;
        print_duration("every pair with reflectors", begun);
        cluster.apply(&bgp::configuration(&bgp::full_mesh()))?;
        wait_for_objects(&cluster, &[("Mesh", 12)])?;
        print_duration("a mesh again", begun);
        for (what, stream) in streams {
            let found = stream.stop()?;
            println!("reflectors on and off: {} pings {what}, {} lost", found.sent, found.lost.len());
            ensure!(found.lost.is_empty(), "{what}: {found:?}");
        }
        for kind in ["nodes", "bgpnodes", "bgpsessions"] {
            println!("$ kubectl get {kind}\n{}", cluster.kubectl(&["get", kind])?);
        }
        cluster.down()
    });
}

/// One pod on each node.
struct Pods(Vec<Value>);

impl Pods {
    /// (place, name, addresses) of each.
    fn all(&self, cluster: &Cluster) -> Result<Vec<(Place, String, Vec<IpAddr>)>> {
        let places = cluster.places();
        let of = |(pod, (name, addresses)): (&Value, (String, Vec<String>))| {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            let place = places.iter().find(|place| place.name() == node).context("a pod on no node")?;
            let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
            Ok((*place, name, addresses))
        };
        self.0.iter().zip(addresses(&self.0)).map(of).collect()
    }

    /// Every ordered pair reaches over both families: between racks in a tunnel from node to node that the router sees,
    /// within a rack as it is, and never by way of the router.
    fn all_go_the_right_way(&self, cluster: &Cluster) -> Result<()> {
        let seen = Seen {
            switch: Sniffer::start(cluster.switch().net())?,
            router: Sniffer::start(cluster.router().net())?,
        };
        ensure!(all_reach(cluster, &self.0)? == NODES * (NODES - 1) * 2);
        // What was answered has passed; that a sniffer has not seen it counts when it has read that far.
        seen.switch.catch_up()?;
        seen.router.catch_up()?;
        let pods = self.all(cluster)?;
        let mut ways = BTreeMap::<&str, usize>::new();
        for (from, _, sources) in &pods {
            for (to, _, targets) in pods.iter().filter(|(to, ..)| to != from) {
                for (family, (source, target)) in sources.iter().zip(targets).enumerate() {
                    let nodes = (from.addresses()[family], to.addresses()[family]);
                    let way = seen
                        .way((*source, *target), nodes, from.rack == to.rack)
                        .with_context(|| format!("from {source} to {target}"))?;
                    *ways.entry(way).or_default() += 1;
                }
            }
        }
        println!("ways of packets: {ways:?}");
        ensure!(ways == BTreeMap::from([("direct", 8), ("tunnel", 16)]), "{ways:?}");
        seen.no_tunnel_within_a_rack(cluster)
    }

    /// Pings from the first rack to the second, over both families, between nodes that become clients of reflectors.
    fn streams(&self, cluster: &Cluster) -> Result<Vec<(String, PingStream)>> {
        let pods = self.all(cluster)?;
        let on = |number| pods.iter().find(|(place, ..)| place.number == number).context("no pod there");
        let (from, to) = (on(2)?, on(4)?);
        let netns = cluster.pod_netns(&from.1)?;
        let stream = |address: &IpAddr| {
            let what = format!("from {} to {address} on {}", from.0.name(), to.0.name());
            Ok((what, PingStream::start(&netns, *address)?))
        };
        to.2.iter().map(stream).collect()
    }
}

/// Packets between nodes, and between racks.
struct Seen {
    /// All of it.
    switch: Sniffer,
    /// Packets that leave their rack.
    router: Sniffer,
}

impl Seen {
    /// The way of packets of a pair of pods on two nodes, if it is as it should be.
    fn way(&self, pods: (IpAddr, IpAddr), nodes: (IpAddr, IpAddr), one_rack: bool) -> Result<&'static str> {
        let (switch, router) = (self.switch.traffic(pods.0, pods.1), self.router.traffic(pods.0, pods.1));
        let on_router = router.plain + router.tunnelled;
        if one_rack {
            ensure!(switch.plain > 0 && switch.tunnelled == 0 && on_router == 0, "{switch:?}, {router:?}");
            return Ok("direct");
        }
        ensure!(switch.plain == 0 && router.plain == 0 && router.tunnelled > 0, "{switch:?}, {router:?}");
        ensure!(router.outer.keys().eq([&nodes]), "not between {nodes:?}: {router:?}");
        Ok("tunnel")
    }

    /// Whoever's packet it is: a tunnel has its ends in two racks.
    fn no_tunnel_within_a_rack(&self, cluster: &Cluster) -> Result<()> {
        let places = cluster.places();
        let rack = |end: &IpAddr| places.iter().find(|p| p.addresses().contains(end)).map(|p| p.rack);
        for (pair, traffic) in self.switch.all() {
            for (from, to) in traffic.outer.keys() {
                let racks = (rack(from), rack(to));
                if !matches!(racks, (Some(from), Some(to)) if from != to) {
                    bail!("{pair:?} went in a tunnel from {from} to {to}, racks {racks:?}");
                }
            }
        }
        Ok(())
    }
}

/// Waits until kubectl lists exactly these sessions, by role, all established, and every node in
/// sync and has its tunnels.
fn wait_for_objects(cluster: &Cluster, wanted: &[(&str, usize)]) -> Result<()> {
    wait_until(LATER * 2, &format!("sessions {wanted:?}"), || {
        bgp::sessions_are(cluster, wanted)?;
        let nodes = cluster.list(&["bgpnodes"])?;
        ensure!(nodes.len() == NODES, "{} objects", nodes.len());
        for node in nodes {
            let status = &node["status"];
            // Both nodes of the other rack, over both families.
            ensure!(status["tunnels"] == 4 && status["inSync"] == true, "{node}");
        }
        Ok(())
    })
}
