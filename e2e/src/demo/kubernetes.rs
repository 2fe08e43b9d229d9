//! The demonstration on a whole Kubernetes: one `kubectl apply`, and then all that operators do and fear, while packets
//! flow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::progress::Progress;
use crate::cluster::pod_network::PodNetwork;
use crate::cluster::workload::{self, Streams};
use crate::cluster::{Cluster, Kubectl, Spec, bgp};
use crate::wait::wait_until;

/// The timeout for a step on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The number of pings of a stream after all agents have noticed that the API server is away.
const AWAY: usize = 500;

/// Shows it and gives the exit status.
pub(super) fn show() -> Result<i32> {
    let progress = Progress::new();
    progress.phase("a whole Kubernetes: control plane and three nodes, in network namespaces");
    let cluster = Cluster::up(Spec { nodes: 3, ..Spec::for_test() })?;
    let mut story = Story { cluster: &cluster, progress, pings: 0 };
    let reached = story.one_apply()?;
    story.under_a_stream()?;
    let pings = story.pings;
    story.progress.phase("taking the cluster down");
    story.progress.end();
    cluster.down()?;
    println!("demo: {reached} pairs reached over IPv4 and IPv6, {pings} pings through all of it, 0 lost");
    Ok(0)
}

struct Story<'a> {
    cluster: &'a Cluster,
    progress: Progress,
    /// Answered so far.
    pings: usize,
}

impl Story<'_> {
    /// From no network to pods that reach each other. Gives how many pairs there are.
    fn one_apply(&mut self) -> Result<usize> {
        let begun = Instant::now();
        self.progress.phase("kubectl apply -f manifests/install.yaml");
        self.cluster.apply_network(PodNetwork::Heliograph)?;
        self.progress.phase("waiting until the nodes are Ready");
        self.cluster.wait_nodes_ready()?;
        let ready = begun.elapsed();
        self.print("kubectl get nodes", &["get", "nodes"])?;
        self.progress.phase("starting a DaemonSet and a Deployment");
        self.cluster.apply(&workload::everywhere())?;
        self.cluster.apply(&workload::somewhere(2))?;
        let pods = self.cluster.wait_pods_ready("app in (everywhere, somewhere)", 5)?;
        self.progress.phase("pinging every pod from every pod");
        let reached = workload::all_reach(self.cluster, &pods)?;
        let words = ["get", "pods", "-o", "wide"];
        self.print("kubectl get pods -o wide", &words)?;
        println!(
            "nodes Ready {:.1} s after `kubectl apply`, {reached} of {reached} pairs reached",
            ready.as_secs_f64()
        );
        Ok(reached)
    }

    /// A step that must not lose a packet.
    fn under_a_stream(&mut self) -> Result<()> {
        let mut streams = Streams::start(self.cluster, &[])?;
        self.step(&mut streams, "kubectl rollout restart daemonset/heliograph", Self::an_upgrade)?;
        self.step(&mut streams, "from the mesh to a route reflector", Self::reflectors_on)?;
        self.print("kubectl get bgpsessions", &["get", "bgpsessions"])?;
        self.step(&mut streams, "back to the mesh", Self::reflectors_off)?;
        self.step(&mut streams, "the API server is away, and comes back", Self::an_outage)?;
        for kind in ["bgpnodes", "bgpsessions"] {
            self.print(&format!("kubectl get {kind}"), &["get", kind])?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        streams: &mut Streams,
        what: &str,
        run: impl FnOnce(&Self, &Streams) -> Result<()>,
    ) -> Result<()> {
        self.progress.phase(what);
        let begun = Instant::now();
        run(self, streams).with_context(|| what.to_owned())?;
        let pings = streams.lost_nothing(what)?;
        self.pings += pings;
        self.progress.end();
        println!("{what}: {:.1} s, {pings} pings, 0 lost", begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn an_upgrade(&self, _: &Streams) -> Result<()> {
        let rollout = |verb, more: &[&str]| {
            let words =
                [&["-n", workload::NAMESPACE, "rollout", verb, "daemonset/heliograph"], more].concat();
            self.cluster.kubectl(&words)
        };
        rollout("restart", &[])?;
        rollout("status", &["--timeout=240s"])?;
        self.wait_for_sessions(&[("Mesh", 6)])
    }

    fn reflectors_on(&self, _: &Streams) -> Result<()> {
        self.cluster.kubectl(&["label", "node", "n1", bgp::REFLECTOR])?;
        self.configure(bgp::reflectors())?;
        self.wait_for_sessions(&[("Client", 2), ("Reflector", 2)])
    }

    fn reflectors_off(&self, _: &Streams) -> Result<()> {
        self.configure(bgp::full_mesh())?;
        self.wait_for_sessions(&[("Mesh", 6)])
    }

    fn an_outage(&self, streams: &Streams) -> Result<()> {
        self.cluster.stop_api_server()?;
        self.wait_for_store("has not noticed yet", |status| {
            ensure!(status["store"]["connected"] == false, "{}", status["store"]);
            Ok(())
        })?;
        streams.wait_for(AWAY)?;
        self.cluster.start_api_server()?;
        self.wait_for_store("has not caught up yet", |status| {
            ensure!(status["store"]["connected"] == true, "{}", status["store"]);
            ensure!(status["intent"]["inSync"] == true, "{}", status["intent"]);
            Ok(())
        })
    }

    /// Waits until the status of every node's agent is as wanted.
    fn wait_for_store(&self, not_yet: &str, look: impl Fn(&Value) -> Result<()>) -> Result<()> {
        for place in self.cluster.places() {
            let missing = format!("{} {not_yet}", place.name());
            wait_until(TIMEOUT, &missing, || {
                self.progress.update(&missing);
                look(&self.cluster.agent_status(&place.name())?)
            })?;
        }
        Ok(())
    }

    /// All nodes are on one segment: no tunnels, so that it makes no difference whether the kernel has any.
    fn configure(&self, mut fields: Value) -> Result<()> {
        fields["encapsulation"] = "Never".into();
        self.cluster.apply(&bgp::configuration(&fields)).map(drop)
    }

    /// Waits until kubectl lists this number of sessions of these roles and no others.
    fn wait_for_sessions(&self, wanted: &[(&str, usize)]) -> Result<()> {
        wait_until(TIMEOUT, "all sessions in kubectl's list", || {
            self.progress.update("sessions are coming and going");
            bgp::sessions_are(self.cluster, wanted)
        })
    }

    fn print(&self, command: &str, words: &[&str]) -> Result<()> {
        let output = self.cluster.kubectl(words)?;
        self.progress.end();
        println!("\n$ {command}\n{}\n", output.trim_end());
        Ok(())
    }
}
