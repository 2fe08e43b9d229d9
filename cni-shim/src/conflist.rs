//! The network configuration list through which the container runtime finds the plugin.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::NEWEST_VERSION;
use crate::files;

/// The network's name: the same on every node.
pub const NETWORK_NAME: &str = "heliograph";

/// The plugin's name, and with it the file name of its binary.
pub const PLUGIN_TYPE: &str = "heliograph-cni";

/// The list's file name. Runtimes take the first in lexical order.
pub const FILE_NAME: &str = "10-heliograph.conflist";

/// A CNI network configuration list with this plugin alone in it (CNI 1.1, section 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflist {
    /// Version of the CNI specification that runtime and plugin are to speak.
    pub cni_version: String,
    /// The network's name, [`NETWORK_NAME`].
    pub name: String,
    /// The chain of plugins.
    pub plugins: Vec<Plugin>,
}

/// This plugin's entry in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// Name of the binary, [`PLUGIN_TYPE`].
    #[serde(rename = "type")]
    pub plugin_type: String,
    /// Where the plugin finds `node.json` and keeps its address store.
    pub run_dir: PathBuf,
}

impl Conflist {
    /// The list for an agent whose run directory is `run_dir`, in the newest CNI version the plugin speaks.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            cni_version: NEWEST_VERSION.to_string(),
            name: NETWORK_NAME.into(),
            plugins: vec![Plugin { plugin_type: PLUGIN_TYPE.into(), run_dir: run_dir.into() }],
        }
    }

    /// Writes `cni_conf_dir/10-heliograph.conflist` in one step. Runtimes watch the directory and count the node
    /// as ready for pods from then on: write it last.
    ///
    /// # Errors
    /// What the kernel answered; the path is [`Conflist::path`].
    pub fn write(&self, cni_conf_dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(cni_conf_dir)?;
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        files::replace(&Self::path(cni_conf_dir), &bytes, true)
    }

    /// Where the list is for a CNI configuration directory.
    pub fn path(cni_conf_dir: &Path) -> PathBuf {
        cni_conf_dir.join(FILE_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_what_a_runtime_expects() {
        let folder = tempfile::tempdir().unwrap();
        Conflist::new("/run/heliograph").write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("10-heliograph.conflist")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"cniVersion": "1.1.0", "name": "heliograph",
                "plugins": [{"type": "heliograph-cni", "runDir": "/run/heliograph"}]})
        );
    }
}
