//! Somebody's cluster, such as one of kind or k3s, which `KUBECONFIG` leads to: nothing but kubectl is to be had there.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::binaries::Binaries;
use super::kubectl::{Kubectl, is_ready};
use super::{bgp, workload};

/// The namespace of the tests' pods.
const NAMESPACE: &str = "heliograph-test";
/// The label of a BGPConfiguration that tests make.
const MADE_BY_TESTS: (&str, &str) = ("app.kubernetes.io/managed-by", "heliograph-tests");
/// The label of Heliograph's namespace which allows tests to change this Heliograph.
pub const WELCOME: &str = "heliograph.io/tests=welcome";
/// The label that tests put on nodes.
pub const NODE_LABEL: &str = "heliograph.io/test-reflector";
/// The intent that a person gives to Heliograph.
const INTENT: [&str; 2] = ["bgpconfigurations.heliograph.io", "bgppeers.heliograph.io"];

/// A kubeconfig with all that the present context needs, without other files.
const FLATTENED: [&str; 5] = ["config", "view", "--raw", "--flatten", "--minify"];

/// The cluster that `KUBECONFIG` leads to.
#[derive(Debug)]
pub struct Elsewhere {
    kubectl: PathBuf,
    /// Its own copy: objects without a namespace go to the tests' own.
    kubeconfig: NamedTempFile,
}

impl Elsewhere {
    /// The one that `KUBECONFIG` names, if it is set.
    ///
    /// # Errors
    /// When there is no kubectl, nor one to be built.
    pub fn from_env() -> Result<Option<Self>> {
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let installed = Command::new("kubectl").args(["version", "--client"]).output();
        let kubectl = match installed {
            Ok(output) if output.status.success() => "kubectl".into(),
            _ => Binaries::cluster(&mut |step| println!("cluster: {step}"))?.path("kubectl"),
        };
        // Readable for us only, as it holds keys.
        let copy = NamedTempFile::new().context("cannot make a file")?;
        let text = output(Command::new(&kubectl).env("KUBECONFIG", &kubeconfig).args(FLATTENED))?;
        std::fs::write(copy.path(), text)
            .with_context(|| format!("cannot write {}", copy.path().display()))?;
        let cluster = Self { kubectl, kubeconfig: copy };
        cluster.kubectl(&["config", "set-context", "--current", "--namespace", NAMESPACE])?;
        Ok(Some(cluster))
    }

    /// Takes the cluster for a test, if it may be taken: it has no pod network yet, or a Heliograph that is [`WELCOME`] to
    /// them and that no person has configured. `KUBECONFIG` is easily set to a cluster that people live on.
    ///
    /// # Errors
    /// When it is such a cluster, or does not answer.
    pub fn take(self) -> Result<Taken> {
        let nodes = self.list(&["nodes"])?;
        ensure!(!nodes.is_empty(), "the cluster of KUBECONFIG has no nodes");
        if self.has_heliograph()? {
            self.is_welcome()?;
            self.is_unconfigured()?;
        } else if let Some(ready) = nodes.iter().find(|node| is_ready(node)) {
            bail!(
                "node {} of the cluster of KUBECONFIG is Ready: it has a pod network, and these tests would install \
                 another. Make a cluster without one (kind: `networking: {{disableDefaultCNI: true}}`; k3s: \
                 `--flannel-backend=none --disable-network-policy`), or unset KUBECONFIG",
                ready["metadata"]["name"]
            );
        }
        // From here on what a test leaves is removed, and so is what one left that was killed.
        let taken = Taken(self);
        taken.0.tidy()?;
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        taken.0.apply(&namespace.to_string())?;
        Ok(taken)
    }

    fn has_heliograph(&self) -> Result<bool> {
        let there = ["-n", workload::NAMESPACE, "--ignore-not-found", "-o", "name"];
        Ok(!self.kubectl(&[&["get", "daemonset", "heliograph"][..], &there].concat())?.is_empty())
    }

    /// One that runs by its defaults may be anybody's.
    fn is_welcome(&self) -> Result<()> {
        let welcome = self.kubectl(&["get", "namespaces", "-l", WELCOME, "-o", "name"])?;
        let ours = workload::NAMESPACE;
        ensure!(
            welcome.lines().any(|name| name == format!("namespace/{ours}")),
            "the cluster of KUBECONFIG has a Heliograph, which these tests would restart and change. To allow it: \
             by `kubectl label namespace {ours} {WELCOME}`; otherwise unset KUBECONFIG"
        );
        Ok(())
    }

    fn is_unconfigured(&self) -> Result<()> {
        let (label, value) = MADE_BY_TESTS;
        for kind in INTENT {
            let objects = self.kubectl(&["get", kind, "-l", &format!("{label}!={value}"), "-o", "name"])?;
            ensure!(
                objects.is_empty(),
                "somebody has configured Heliograph on the cluster of KUBECONFIG, and these tests would change that: \
                 {}. Delete what is there, or unset KUBECONFIG",
                objects.trim().replace('\n', ", ")
            );
        }
        Ok(())
    }

    /// Removes what tests make. Heliograph stays, and a BGPConfiguration with the values that are in force without one: deleting it
    /// would change nothing, but agents would complain.
    fn tidy(&self) -> Result<()> {
        if self.has_heliograph()? {
            let (label, value) = MADE_BY_TESTS;
            let made = self.kubectl(&["get", INTENT[0], "-l", &format!("{label}={value}"), "-o", "name"])?;
            if !made.is_empty() {
                self.apply(&configuration(&bgp::full_mesh())?)?;
            }
            self.kubectl(&["label", "namespace", workload::NAMESPACE, WELCOME, "--overwrite"])?;
        }
        self.kubectl(&["label", "nodes", "--all", &format!("{NODE_LABEL}-")])?;
        self.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]).map(drop)
    }
}

/// The BGPConfiguration with these fields, as the tests make it.
///
/// # Errors
/// When it can't be read back as JSON.
pub fn configuration(fields: &Value) -> Result<String> {
    let (label, value) = MADE_BY_TESTS;
    let mut object: Value = serde_json::from_str(&bgp::configuration(fields))?;
    object["metadata"]["labels"] = json!({ label: value });
    Ok(object.to_string())
}

/// A cluster that a test may change. Dropping it removes what the test made there, but for Heliograph.
#[derive(Debug)]
pub struct Taken(Elsewhere);

impl Kubectl for Taken {
    fn kubectl_with(&self, words: &[&str], document: Option<&str>) -> Result<String> {
        self.0.kubectl_with(words, document)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Err(error) = self.0.tidy() {
            eprintln!("what the tests made is left on the cluster of KUBECONFIG: {error:#}");
        }
    }
}

/// With whatever rights `KUBECONFIG` gives, in the tests' own namespace unless another is named.
impl Kubectl for Elsewhere {
    fn kubectl_with(&self, words: &[&str], document: Option<&str>) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig.path()).args(words);
        let mut input = tempfile::tempfile().context("cannot make a file")?;
        input.write_all(document.unwrap_or_default().as_bytes())?;
        input.rewind()?;
        output(command.stdin(input))
    }
}

/// Returns the output of a program.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
