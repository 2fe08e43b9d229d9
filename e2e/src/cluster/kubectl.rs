//! All that a person with kubectl can do to a cluster, whosever it is, and see of it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::wait::wait_while;

/// The timeout for a cluster's controllers, which act at once on an idle machine.
pub const TIMEOUT: Duration = Duration::from_secs(240);

/// A cluster that kubectl speaks to.
pub trait Kubectl {
    /// Runs kubectl, with a document as its standard input if there is one, and gives what it printed.
    ///
    /// # Errors
    /// When it fails; its standard error is in the message.
    fn kubectl_with(&self, words: &[&str], document: Option<&str>) -> Result<String>;

    /// Runs kubectl and gives what it printed.
    ///
    /// # Errors
    /// When it fails; its standard error is in the message.
    fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.kubectl_with(words, None)
    }

    /// `kubectl … -o json`, read.
    ///
    /// # Errors
    /// When it fails.
    fn kubectl_json(&self, words: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
    }

    /// The items of `kubectl get …`.
    ///
    /// # Errors
    /// When it fails.
    fn list(&self, words: &[&str]) -> Result<Vec<Value>> {
        let list = self.kubectl_json(&[&["get"], words].concat())?;
        list["items"].as_array().cloned().with_context(|| format!("this is no list: {list}"))
    }

    /// `kubectl apply` of documents in YAML or JSON.
    ///
    /// # Errors
    /// When it fails.
    fn apply(&self, documents: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], Some(documents))
    }

    /// Runs a command in a pod's first container.
    ///
    /// # Errors
    /// When it fails.
    fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], words].concat())
    }

    /// Returns whether all daemons of the cluster's nodes and control plane still run, as far as this can be seen: nobody
    /// need wait for what a daemon does that has ended.
    ///
    /// # Errors
    /// When one has ended.
    fn lives(&self) -> Result<()> {
        Ok(())
    }

    /// Waits until `count` nodes are Ready.
    ///
    /// # Errors
    /// When they are not in time; with the state of each.
    fn wait_ready_nodes(&self, count: usize) -> Result<()> {
        let ready = || {
            let ready = self.list(&["nodes"])?.iter().filter(|node| is_ready(node)).count();
            if ready == count {
                return Ok(());
            }
            self.watch_ready(&["nodes", "--all"]);
            bail!("{ready} of {count} Ready")
        };
        wait_while(|| self.lives(), TIMEOUT, "all nodes Ready", ready)
            .with_context(|| self.kubectl(&["describe", "nodes"]).unwrap_or_default())
    }

    /// Waits until all pods that a selector finds are Ready, at least `count`, and gives them.
    ///
    /// # Errors
    /// When they are not in time; with their state.
    fn wait_pods_ready(&self, selector: &str, count: usize) -> Result<Vec<Value>> {
        let ready = || {
            let pods = self.list(&["pods", "-A", "-l", selector])?;
            if pods.len() >= count && pods.iter().all(is_ready) {
                return Ok(pods);
            }
            self.watch_ready(&["pods", "-A", "-l", selector]);
            bail!("{} pods, {} Ready", pods.len(), pods.iter().filter(|p| is_ready(p)).count())
        };
        wait_while(|| self.lives(), TIMEOUT, &format!("{count} pods with {selector} Ready"), ready)
            .with_context(|| self.kubectl(&["describe", "pods", "-A", "-l", selector]).unwrap_or_default())
    }

    /// Waits for a while until these are Ready, whatever comes of it. To ask again and again would keep those who work
    /// at it from their work where there is one processor only.
    fn watch_ready(&self, what: &[&str]) {
        let _ = self.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=20s"], what].concat());
    }
}

/// Returns whether an object's condition Ready is True.
#[must_use]
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
