//! Packets that flow while a test does something to a cluster.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::Cluster;
use heliograph_e2e::netns::NetNs;
use heliograph_e2e::probe::PingStream;

use super::kubernetes::addresses;

/// Pings from the first node's pod to those of two other nodes, over both families, and to others.
pub struct Streams {
    running: Vec<(String, PingStream)>,
    from: NetNs,
    to: Vec<IpAddr>,
}

impl Streams {
    /// Starts them; the pods are those of [`super::kubernetes::everywhere`].
    pub fn start(cluster: &Cluster, more: &[IpAddr]) -> Result<Self> {
        let pods = cluster.wait_pods_ready("app=everywhere", 3)?;
        let on = |node: &str| pods.iter().find(|pod| pod["spec"]["nodeName"] == node).cloned();
        let from = on("n1").context("no pod on n1")?;
        let from = cluster.pod_netns(from["metadata"]["name"].as_str().unwrap_or_default())?;
        let others = [on("n2").context("no pod on n2")?, on("n3").context("no pod on n3")?];
        let to = addresses(&others).into_iter().flat_map(|(_, addresses)| addresses);
        let mut to = to.map(|address| Ok(address.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
        to.extend(more);
        let mut streams = Self { running: Vec::new(), from, to };
        streams.go()?;
        Ok(streams)
    }

    fn go(&mut self) -> Result<()> {
        for to in &self.to {
            self.running.push((to.to_string(), PingStream::start(&self.from, *to)?));
        }
        Ok(())
    }

    /// Ends them, sees that every ping of them was answered, and starts others.
    pub fn lost_nothing(&mut self, what: &str) -> Result<()> {
        let mut sent = 0;
        for (to, stream) in std::mem::take(&mut self.running) {
            let found = stream.stop()?;
            ensure!(found.lost.is_empty(), "{what}: to {to}: {found:?}");
            sent += found.sent;
        }
        println!("{what}: {sent} pings, none lost");
        self.go()
    }
}
