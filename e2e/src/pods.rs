//! Pods, made as a container runtime makes them: a network namespace, then the CNI plugin with its configuration.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::lab::{Lab, Node};
use crate::netns::NetNs;

/// The network configuration the agent writes.
const CONFLIST: &str = "/etc/cni/net.d/10-heliograph.conflist";
/// The runtimes' folder of plugins.
const PLUGINS: &str = "/opt/cni/bin";

/// A pod: a network namespace that the shim has wired.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The node it is on.
    pub node: String,
    /// The container id.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
    /// Its interface's link-layer address.
    pub mac: String,
    /// Its network namespace.
    pub netns: NetNs,
    /// The shim's answer to ADD, which a runtime keeps for CHECK and DEL.
    pub result: Value,
}

/// A CNI error: what the plugin printed on a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// The verb that failed.
    pub verb: String,
    /// The code of the CNI specification.
    pub code: u64,
    /// All that was printed.
    pub output: String,
}

impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CNI {} failed with code {}: {}", self.verb, self.code, self.output)
    }
}

impl std::error::Error for CniError {}

impl Lab {
    /// Adds a pod to a node.
    ///
    /// # Errors
    /// [`CniError`] when the shim refuses; anything else when the call itself is not possible.
    pub fn add_pod(&self, node: &str, id: &str) -> Result<Pod> {
        let node = self.node(node);
        let name = format!("cni-{id}");
        node.run(["ip", "netns", "add", &name])?;
        node.run(["ip", "-n", &name, "link", "set", "lo", "up"])?;
        let netns = NetNs::open(&node.path(&netns_path(id)))?;
        let result = call(node, "ADD", id, None)?;
        let address = result["ips"][0]["address"].as_str().context("no address in the result")?;
        let address = address.split('/').next().unwrap_or(address);
        let mac = (result["interfaces"].as_array().into_iter().flatten())
            .find(|i| i["sandbox"].as_str().is_some_and(|s| !s.is_empty()))
            .and_then(|i| i["mac"].as_str())
            .with_context(|| format!("no interface with a MAC in the sandbox: {result}"))?;
        Ok(Pod {
            node: node.name().into(),
            id: id.into(),
            address: address.parse().with_context(|| format!("`{address}` is no address"))?,
            mac: mac.into(),
            netns,
            result,
        })
    }

    /// CHECK: is the pod still wired as it was?
    ///
    /// # Errors
    /// [`CniError`] when it is not.
    pub fn check_pod(&self, pod: &Pod) -> Result<()> {
        call(self.node(&pod.node), "CHECK", &pod.id, Some(&pod.result)).map(|_| ())
    }

    /// DEL, and then the namespace goes.
    ///
    /// # Errors
    /// [`CniError`] when the shim refuses.
    pub fn delete_pod(&self, pod: Pod) -> Result<()> {
        let node = self.node(&pod.node);
        call(node, "DEL", &pod.id, Some(&pod.result))?;
        node.run(["ip", "netns", "delete", &format!("cni-{}", pod.id)]).map(|_| ())
    }
}

fn netns_path(id: &str) -> String {
    format!("/run/netns/cni-{id}")
}

/// Calls every plugin of the network configuration, as the CNI specification's section 3 wants it.
fn call(node: Node<'_>, verb: &str, id: &str, added: Option<&Value>) -> Result<Value> {
    let file = node.path(CONFLIST);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("node {}: no network configuration {CONFLIST}", node.name()))?;
    let list: Value =
        serde_json::from_str(&text).with_context(|| format!("{CONFLIST} is no JSON: {text}"))?;
    let plugins = list["plugins"].as_array().context("the configuration has no plugins")?;
    let backwards = verb == "DEL";
    let order: Vec<_> = if backwards { plugins.iter().rev().collect() } else { plugins.iter().collect() };
    let mut result = added.cloned();
    for plugin in order {
        let mut config = plugin.clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        if let Some(previous) = &result {
            config["prevResult"] = previous.clone();
        }
        let kind = plugin["type"].as_str().context("a plugin without a type")?;
        let answer = call_plugin(node, verb, id, kind, &config)?;
        if verb == "ADD" {
            result = Some(answer);
        }
    }
    Ok(result.unwrap_or(Value::Null))
}

fn call_plugin(node: Node<'_>, verb: &str, id: &str, kind: &str, config: &Value) -> Result<Value> {
    let program = Path::new(PLUGINS).join(kind);
    let netns = netns_path(id);
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", netns.as_str()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", PLUGINS),
    ];
    let output = node.output_with([&program], &env, config.to_string().as_bytes())?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(if stdout.is_empty() { json!({}) } else { serde_json::from_str(&stdout)? });
    }
    let answer: Value = serde_json::from_str(&stdout).unwrap_or_default();
    let printed = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    match answer["code"].as_u64() {
        Some(code) => Err(CniError { verb: verb.into(), code, output: printed }.into()),
        None => bail!("{kind} {verb} ended with {} and no CNI error: {printed}", output.status),
    }
}
