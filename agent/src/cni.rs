//! What makes the container runtime call the shim, and the shim know its node: `node.json` and the conflist, each put
//! in place in one step and only when its content changes. Configurations of others are never touched.

use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::disk;

/// The shim's picture of this node, in the run directory.
pub const NODE_FILE: &str = "node.json";
/// What the container runtime finds the network by, in the CNI configuration directory.
pub const CONFLIST_FILE: &str = "10-heliograph.conflist";
/// The versions of the CNI specification that the shim speaks and that are worth a choice, the newest last. Runtimes that
/// know several choose among these; others, such as containerd 1.6, take the first and refuse what they don't know.
const CNI_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// Why a file could not be put in place or taken away.
#[derive(Debug, Error)]
#[error("{what} {path}: {error}; see that the directory is there and that the agent may write to it")]
pub struct CniError {
    /// What was tried.
    what: &'static str,
    /// On which file.
    path: PathBuf,
    /// What came back.
    error: io::Error,
}

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    run_dir: PathBuf,
    conf_dir: PathBuf,
    /// Our plugin, and the folder where the runtime looks for plugins.
    plugin: Option<(PathBuf, PathBuf)>,
}

/// Name of the plugin's program.
pub const PLUGIN: &str = "heliograph-cni";

/// The reference plugin that makes a pod's `hostPort` work, which most nodes have.
const PORT_MAP: &str = "portmap";

/// The plugin that lies beside the program that runs.
pub fn plugin_beside_us() -> PathBuf {
    let ours = std::env::current_exe().unwrap_or_default();
    ours.with_file_name(PLUGIN)
}

impl Installer {
    /// An installer for these directories (`/run/heliograph` and `/etc/cni/net.d` on a real node).
    pub fn new(run_dir: impl Into<PathBuf>, conf_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into(), conf_dir: conf_dir.into(), plugin: None }
    }

    /// Has the plugin `program` put into the runtime's folder `bin_dir` before the conflist names it. It stays there when
    /// the conflist goes: pods that are still there have to be taken down with it.
    #[must_use]
    pub fn with_plugin(self, program: impl Into<PathBuf>, bin_dir: impl Into<PathBuf>) -> Self {
        Self { plugin: Some((program.into(), bin_dir.into())), ..self }
    }

    /// Path of the node file.
    pub fn node_file(&self) -> PathBuf {
        self.run_dir.join(NODE_FILE)
    }

    /// Path of the conflist.
    pub fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST_FILE)
    }

    /// Puts `node` (a `heliograph_cni::node::NodeFile`) in place, then, if pods can be wired (`ready`), the conflist:
    /// from then on the runtime counts the node as ready, so it comes last. A conflist that is there stays when the
    /// node isn't ready for a moment. Whether anything was written.
    pub fn install<N: Serialize>(&self, node: &N, ready: bool) -> Result<bool, CniError> {
        let mut written = put(&self.node_file(), &encoded(node, &self.node_file())?)?;
        if let Some((program, folder)) = &self.plugin {
            written |= put_program(program, &folder.join(PLUGIN))?;
        }
        if ready {
            written |= put(&self.conflist(), &self.conflist_content()?)?;
        }
        Ok(written)
    }

    /// Takes the conflist away, then the node file: this node isn't in the cluster any more. Whether anything was there.
    pub fn withdraw(&self) -> Result<bool, CniError> {
        let conflist = remove(&self.conflist())?;
        let node = remove(&self.node_file())?;
        Ok(conflist || node)
    }

    /// A conflist must not name a plugin that isn't there: every pod would fail for the sake of a few host ports.
    fn maps_ports(&self) -> bool {
        self.plugin.as_ref().is_some_and(|(_, folder)| folder.join(PORT_MAP).is_file())
    }

    fn conflist_content(&self) -> Result<Vec<u8>, CniError> {
        let mut plugins = vec![serde_json::json!({"type": PLUGIN, "runDir": self.run_dir})];
        let mut versions = &CNI_VERSIONS[..];
        if self.maps_ports() {
            plugins.push(serde_json::json!({"type": PORT_MAP, "capabilities": {"portMappings": true}}));
            // All plugins of a list are spoken to in one version, and many a node's portmap knows no newer one.
            versions = &CNI_VERSIONS[..1];
        }
        let conflist = serde_json::json!({
            "cniVersion": CNI_VERSIONS[0],
            "cniVersions": versions,
            "name": "heliograph",
            "plugins": plugins,
        });
        encoded(&conflist, &self.conflist())
    }
}

fn encoded<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, CniError> {
    let mut content = serde_json::to_vec_pretty(value).map_err(|error| CniError {
        what: "encode",
        path: path.to_owned(),
        error: error.into(),
    })?;
    content.push(b'\n');
    Ok(content)
}

/// Copies a program in one step, unless the same is there, by size and time of change. One that runs goes on running.
fn put_program(program: &Path, path: &Path) -> Result<bool, CniError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |error| CniError { what, path, error }
    };
    let source = std::fs::metadata(program).map_err(failed("read the CNI plugin", program))?;
    let modified = |metadata: &std::fs::Metadata| metadata.modified().ok();
    let same =
        |there: &std::fs::Metadata| there.len() == source.len() && modified(there) == modified(&source);
    if std::fs::metadata(path).is_ok_and(|there| same(&there)) {
        return Ok(false);
    }
    let content = std::fs::read(program).map_err(failed("read the CNI plugin", program))?;
    disk::replace(path, &content, 0o755, modified(&source)).map_err(failed("write", path))?;
    tracing::info!(path = %path.display(), "plugin written");
    Ok(true)
}

/// Writes the file in one step, unless it already says the same; whether it was written.
fn put(path: &Path, content: &[u8]) -> Result<bool, CniError> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    disk::replace(path, content, 0o644, None).map_err(|error| CniError {
        what: "write",
        path: path.to_owned(),
        error,
    })?;
    tracing::info!(path = %path.display(), "written");
    Ok(true)
}

fn remove(path: &Path) -> Result<bool, CniError> {
    let was_there =
        disk::remove(path).map_err(|error| CniError { what: "remove", path: path.to_owned(), error })?;
    if was_there {
        tracing::info!(path = %path.display(), "removed");
    }
    Ok(was_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    fn folder() -> (tempfile::TempDir, Installer) {
        let folder = tempfile::tempdir().unwrap();
        let installer = Installer::new(folder.path().join("run"), folder.path().join("net.d"));
        (folder, installer)
    }

    fn node(mtu: u32) -> Value {
        json!({"version": 1, "node": "rack1-a", "podCIDRs": ["10.244.1.0/24"], "mtu": mtu, "addresses": []})
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_conflist_comes_only_when_ready_and_then_stays() {
        let (_folder, installer) = folder();
        assert!(installer.install(&node(1480), false).unwrap());
        assert_eq!(read(&installer.node_file()), node(1480));
        assert!(!installer.conflist().exists());
        assert!(installer.install(&node(1480), true).unwrap());
        let conflist = read(&installer.conflist());
        assert_eq!(conflist["cniVersion"], "1.0.0");
        assert_eq!(conflist["cniVersions"], json!(["1.0.0", "1.1.0"]));
        assert_eq!(conflist["plugins"][0]["type"], "heliograph-cni");
        assert_eq!(conflist["plugins"][0]["runDir"], json!(installer.run_dir));
        installer.install(&node(1480), false).unwrap();
        assert!(installer.conflist().exists());
    }

    #[test]
    fn unchanged_content_is_not_written_again() {
        let (_folder, installer) = folder();
        installer.install(&node(1480), true).unwrap();
        let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
        let before = (inode(installer.node_file()), inode(installer.conflist()));
        assert!(!installer.install(&node(1480), true).unwrap());
        assert_eq!((inode(installer.node_file()), inode(installer.conflist())), before);
        assert!(installer.install(&node(1400), true).unwrap());
        assert_eq!(read(&installer.node_file())["mtu"], 1400);
        assert_eq!(inode(installer.conflist()), before.1);
    }

    #[test]
    fn withdrawing_leaves_others_alone_and_is_idempotent() {
        let (_folder, installer) = folder();
        installer.install(&node(1480), true).unwrap();
        let foreign = installer.conf_dir.join("10-other.conflist");
        std::fs::write(&foreign, "{}").unwrap();
        assert!(installer.withdraw().unwrap());
        assert!(!installer.withdraw().unwrap());
        let left = |folder: &Path| {
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!(left(&installer.conf_dir), ["10-other.conflist"]);
        assert!(left(&installer.run_dir).is_empty(), "no unfinished file stays either");
    }

    #[test]
    fn the_plugin_comes_before_the_conflist_and_follows_upgrades() {
        let (folder, installer) = folder();
        let program = folder.path().join("new");
        let bin_dir = folder.path().join("bin");
        let installer = installer.with_plugin(&program, &bin_dir);
        let error = installer.install(&node(1480), true).unwrap_err();
        assert!(error.to_string().contains("CNI plugin"), "{error}");
        assert!(!installer.conflist().exists(), "a conflist must not name a plugin that isn't there");
        for content in ["one", "two"] {
            std::fs::write(&program, content).unwrap();
            assert!(installer.install(&node(1480), true).unwrap());
            let there = bin_dir.join(PLUGIN);
            assert_eq!(std::fs::read_to_string(&there).unwrap(), content);
            assert_eq!(std::fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o755);
            assert!(!installer.install(&node(1480), true).unwrap(), "not written again");
        }
        installer.withdraw().unwrap();
        assert!(bin_dir.join(PLUGIN).exists(), "pods that are still there need it");
    }

    #[test]
    fn host_ports_work_where_their_plugin_is() {
        let (folder, installer) = folder();
        let (program, bin_dir) = (folder.path().join("new"), folder.path().join("bin"));
        std::fs::write(&program, "ours").unwrap();
        let installer = installer.with_plugin(&program, &bin_dir);
        installer.install(&node(1480), true).unwrap();
        let alone = read(&installer.conflist());
        assert_eq!(alone["plugins"].as_array().map(Vec::len), Some(1));

        std::fs::write(bin_dir.join("portmap"), "theirs").unwrap();
        assert!(installer.install(&node(1480), true).unwrap());
        let both = read(&installer.conflist());
        assert_eq!(both["plugins"][0], alone["plugins"][0]);
        assert_eq!(both["plugins"][1]["type"], "portmap");
        assert_eq!(both["plugins"][1]["capabilities"]["portMappings"], true);
        assert_eq!(both["cniVersions"], json!(["1.0.0"]), "what older plugins know");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run"), "a file").unwrap();
        let installer = Installer::new(folder.path().join("run"), folder.path().join("net.d"));
        let error = installer.install(&node(1480), true).unwrap_err();
        assert!(error.to_string().contains("run/node.json"), "{error}");
        assert!(!installer.conflist().exists(), "no conflist without a node file");
    }
}
