//! Looking into a running cluster: its pods' networks, its agents, and routers beside its nodes.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::machine::Machine;
use super::network;
use super::{BESIDE, Cluster, Kubectl, node};
use crate::lab::binary;
use crate::netns::NetNs;

impl Cluster {
    /// The network namespace of a running pod of the namespace `default`.
    ///
    /// # Errors
    /// When there is no such pod, or it doesn't run.
    pub fn pod_netns(&self, pod: &str) -> Result<NetNs> {
        let pod = self.kubectl_json(&["get", "pod", pod])?;
        let node = self.node(pod["spec"]["nodeName"].as_str().context("it is on no node")?)?;
        let container = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let container = container.trim_start_matches("containerd://");
        let tasks = node.run(["ctr", "--namespace", "k8s.io", "tasks", "list"])?;
        let line = tasks.lines().find(|line| !container.is_empty() && line.starts_with(container));
        let pid = line.and_then(|line| line.split_whitespace().nth(1));
        let pid =
            pid.with_context(|| format!("no container `{container}` runs on {}:\n{tasks}", node.name()))?;
        NetNs::open(&node.path(&format!("/proc/{pid}/ns/net")))
    }

    /// Returns the output of `heliograph status` on a node, run there as a person would.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn agent_status(&self, node: &str) -> Result<Value> {
        let program = binary("heliograph")?;
        let text =
            self.node(node)?.run([program.as_os_str(), "status".as_ref(), "-o".as_ref(), "json".as_ref()])?;
        serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
    }

    /// Puts a machine on the segment of the first rack that is no node, such as a router; once a cluster.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_machine(&mut self, name: &str) -> Result<()> {
        if !self.others.is_empty() {
            bail!("there is one already");
        }
        self.others.push(Machine::up(node::plan(name, &[]), &self.spec.logs())?);
        self.remember(true)?;
        network::join_as(name, BESIDE, &self.others[0], &self.switch)
    }

    /// A machine that was added.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.others
            .iter()
            .find(|machine| machine.name() == name)
            .with_context(|| format!("there is no {name}"))
    }
}
