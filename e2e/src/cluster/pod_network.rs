//! The network of the pods: Heliograph, or static routes where it is the cluster itself that is looked at.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::node::{CONFIGURATIONS, PLUGINS};
use super::{Cluster, Kubectl, network};
use crate::lab::binary;

/// The pod network of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PodNetwork {
    /// Heliograph, as anybody installs it: its manifest is applied.
    #[default]
    Heliograph,
    /// Our CNI plugin and static routes put in place by hand: no agent.
    Static,
    /// Nobody: nodes stay NotReady until somebody is applied.
    None,
}

/// The manifests that a person applies to a cluster.
pub const MANIFEST: &str = include_str!("../../../manifests/install.yaml");

impl Cluster {
    /// Gives the cluster its network.
    ///
    /// # Errors
    /// When it cannot be applied.
    pub fn apply_network(&self, network: PodNetwork) -> Result<()> {
        match network {
            PodNetwork::None => Ok(()),
            PodNetwork::Static => self.route_statically(),
            PodNetwork::Heliograph => self.apply(MANIFEST).map(drop),
        }
    }

    /// Does an agent's work once by hand: plugin, configuration, `node.json`, and a route to every other node.
    fn route_statically(&self) -> Result<()> {
        let plugin = binary("heliograph-cni")?;
        let nodes = self.pod_networks()?;
        for (place, networks) in &nodes {
            let node = self.node(&place.name())?;
            std::fs::copy(&plugin, node.path(&format!("{PLUGINS}/heliograph-cni")))
                .with_context(|| format!("cannot copy {}", plugin.display()))?;
            let mine = json!({
                "version": 1, "node": place.name(), "podCIDRs": networks, "mtu": 1500,
                "addresses": place.addresses(),
            });
            node.write("/run/heliograph/node.json", &mine.to_string())?;
            let others = nodes.iter().filter(|(other, _)| other != place);
            let routes = others.flat_map(|(other, networks)| {
                // A node in another rack is no neighbor: without a tunnel its pods are the router's to find.
                let near = other.rack == place.rack;
                networks.iter().filter(move |_| near).map(|network| network::route(network, *other, ""))
            });
            node.ip(&routes.collect::<Vec<_>>())?;
            // Last, and whole: this is what makes the node Ready.
            let list = json!({
                "cniVersion": "1.0.0", "name": "heliograph",
                "plugins": [
                    { "type": "heliograph-cni", "runDir": "/run/heliograph" },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            });
            node.write(&format!("{CONFIGURATIONS}/10-heliograph.conflist"), &list.to_string())?;
        }
        Ok(())
    }
}
