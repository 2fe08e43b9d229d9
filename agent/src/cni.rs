//! The installation of the CNI plugin: its binary, `node.json`, and the conflist by which the container runtime finds the
//! plugin. Each file is replaced in one step and only if its content changes. Foreign configurations are never touched.

use heliograph_cni::PLUGIN_NAME;
use heliograph_cni::node::NodeFile;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::disk;

/// The name of the conflist in the CNI configuration directory. Runtimes use the first file in lexical order.
const CONFLIST_FILE: &str = "10-heliograph.conflist";
/// The versions of the CNI specification in the conflist, the newest last. Newer runtimes choose the newest that they
/// support. Others, such as containerd 1.6, use `cniVersion`, which is the first, and reject versions that they don't
/// support.
const CNI_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The reason for which a file could not be written or removed.
#[derive(Debug, Error)]
#[error("{what} {path}: {error}; check that the directory exists and that the agent may write to it")]
pub struct CniError {
    /// The operation.
    what: &'static str,
    /// The file.
    path: PathBuf,
    /// The cause.
    error: io::Error,
}

/// The installer of the plugin's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    run_dir: PathBuf,
    conf_dir: PathBuf,
    /// The plugin's binary, and the folder in which the runtime finds plugins.
    plugin: Option<(PathBuf, PathBuf)>,
}

/// The name of the reference plugin for a pod's `hostPort`, which most nodes have.
const PORT_MAP: &str = "portmap";

/// Returns the path of the plugin in the folder of the running program.
pub fn bundled_plugin() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(PLUGIN_NAME)
}

impl Installer {
    /// Makes an installer for these directories (`/run/heliograph` and `/etc/cni/net.d` on a real node).
    pub fn new(run_dir: impl Into<PathBuf>, conf_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into(), conf_dir: conf_dir.into(), plugin: None }
    }

    /// Installs also the plugin `program`, in the runtime's folder `bin_dir`, before the conflist. It stays there when the
    /// conflist is removed: the runtime needs it to remove the existing pods.
    #[must_use]
    pub fn with_plugin(self, program: impl Into<PathBuf>, bin_dir: impl Into<PathBuf>) -> Self {
        Self { plugin: Some((program.into(), bin_dir.into())), ..self }
    }

    /// Returns the path of `node.json`.
    pub fn node_file(&self) -> PathBuf {
        NodeFile::path(&self.run_dir)
    }

    /// Returns the path of the conflist.
    pub fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST_FILE)
    }

    /// Writes `node.json`, then the plugin, and last, if pods can start (`ready`), the conflist: with it the runtime reports
    /// the node as ready. An existing conflist stays while the node isn't ready. Returns whether anything was written.
    pub fn install(&self, node: &NodeFile, ready: bool) -> Result<bool, CniError> {
        let mut written = write(&self.node_file(), &encoded(node, &self.node_file())?)?;
        if let Some((program, folder)) = &self.plugin {
            written |= write_program(program, &folder.join(PLUGIN_NAME))?;
        }
        if ready {
            written |= write(&self.conflist(), &self.conflist_content()?)?;
        }
        Ok(written)
    }

    /// Removes the conflist, then `node.json`, when this node isn't in the cluster any more. Returns whether they existed.
    pub fn uninstall(&self) -> Result<bool, CniError> {
        let conflist = remove(&self.conflist())?;
        let node = remove(&self.node_file())?;
        Ok(conflist || node)
    }

    /// Returns whether `portmap` is installed. A conflist with a missing plugin would make every pod fail.
    fn has_port_map(&self) -> bool {
        self.plugin.as_ref().is_some_and(|(_, folder)| folder.join(PORT_MAP).is_file())
    }

    fn conflist_content(&self) -> Result<Vec<u8>, CniError> {
        let mut plugins = vec![serde_json::json!({"type": PLUGIN_NAME, "runDir": self.run_dir})];
        let mut versions = &CNI_VERSIONS[..];
        if self.has_port_map() {
            plugins.push(serde_json::json!({"type": PORT_MAP, "capabilities": {"portMappings": true}}));
            // The runtime calls all plugins of a list in one version, and older versions of portmap support no newer one.
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

/// Encodes a value as JSON for a file.
fn encoded<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, CniError> {
    let mut content = serde_json::to_vec_pretty(value).map_err(|error| CniError {
        what: "encode",
        path: path.to_owned(),
        error: error.into(),
    })?;
    content.push(b'\n');
    Ok(content)
}

/// Copies a program in one step, unless the file has its size and modification time. A running one continues.
fn write_program(program: &Path, path: &Path) -> Result<bool, CniError> {
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
    tracing::info!(path = %path.display(), "plugin installed");
    Ok(true)
}

/// Writes a file in one step, unless it has that content; returns whether it was written.
fn write(path: &Path, content: &[u8]) -> Result<bool, CniError> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    disk::replace(path, content, 0o644, None).map_err(|error| CniError {
        what: "write",
        path: path.to_owned(),
        error,
    })?;
    tracing::info!(path = %path.display(), "file written");
    Ok(true)
}

/// Removes a file; returns whether it existed.
fn remove(path: &Path) -> Result<bool, CniError> {
    let existed =
        disk::remove(path).map_err(|error| CniError { what: "remove", path: path.to_owned(), error })?;
    if existed {
        tracing::info!(path = %path.display(), "file removed");
    }
    Ok(existed)
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

    fn node(mtu: u32) -> NodeFile {
        NodeFile::new("rack1-a", vec!["10.244.1.0/24".parse().unwrap()], mtu, vec![])
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_conflist_comes_only_when_ready_and_then_stays() {
        let (_folder, installer) = folder();
        assert!(installer.install(&node(1480), false).unwrap());
        assert_eq!(NodeFile::load(&installer.run_dir).unwrap(), node(1480));
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
    fn uninstalling_leaves_foreign_files_and_is_idempotent() {
        let (_folder, installer) = folder();
        installer.install(&node(1480), true).unwrap();
        let foreign = installer.conf_dir.join("10-other.conflist");
        std::fs::write(&foreign, "{}").unwrap();
        assert!(installer.uninstall().unwrap());
        assert!(!installer.uninstall().unwrap());
        let left = |folder: &Path| {
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!(left(&installer.conf_dir), ["10-other.conflist"]);
        assert!(left(&installer.run_dir).is_empty(), "no temporary file is left either");
    }

    #[test]
    fn the_plugin_comes_before_the_conflist_and_follows_upgrades() {
        let (folder, installer) = folder();
        let program = folder.path().join("new");
        let bin_dir = folder.path().join("bin");
        let installer = installer.with_plugin(&program, &bin_dir);
        let error = installer.install(&node(1480), true).unwrap_err();
        assert!(error.to_string().contains("CNI plugin"), "{error}");
        assert!(!installer.conflist().exists(), "a conflist must not name a missing plugin");
        for content in ["one", "two"] {
            std::fs::write(&program, content).unwrap();
            assert!(installer.install(&node(1480), true).unwrap());
            let there = bin_dir.join(PLUGIN_NAME);
            assert_eq!(std::fs::read_to_string(&there).unwrap(), content);
            assert_eq!(std::fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o755);
            assert!(!installer.install(&node(1480), true).unwrap(), "not written again");
        }
        installer.uninstall().unwrap();
        assert!(bin_dir.join(PLUGIN_NAME).exists(), "existing pods need it");
    }

    #[test]
    fn host_ports_work_if_their_plugin_is_installed() {
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
        assert_eq!(both["cniVersions"], json!(["1.0.0"]), "the version that older plugins support");
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
