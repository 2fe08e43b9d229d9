//! `node.json`: the facts about this node that the plugin needs. The agent writes the file, the plugin reads it at every
//! ADD, so pods start while the agent restarts.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::IpFamily;

/// The version of the format of `node.json`. New fields don't change it; a change that breaks older readers does.
pub const VERSION: u32 = 1;

/// The file's name in the run directory.
pub const FILE_NAME: &str = "node.json";

/// The smallest MTU IPv6 works with (RFC 8200 §5).
const IPV6_MINIMUM_MTU: u32 = 1280;
/// The smallest MTU IPv4 works with (RFC 791 §3.2).
const IPV4_MINIMUM_MTU: u32 = 68;
/// The largest MTU of a veth.
const MAXIMUM_MTU: u32 = 65535;

/// The content of `node.json`. Unknown fields are ignored: the plugin may be older than the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// The version of the format, [`VERSION`].
    pub version: u32,
    /// The node's name in Kubernetes.
    pub node: String,
    /// The CIDRs from which pods get addresses, IPv4 and IPv6: one address per family, from the first CIDR of the
    /// family with a free address.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// The MTU of the pods' interfaces, in bytes: the underlay's minus the tunnel's overhead.
    pub mtu: u32,
    /// The node's own addresses, for people who read the file.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The reason for which `node.json` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// The file does not exist: the agent hasn't written it yet.
    #[error(
        "{path} does not exist: the Heliograph agent has not written it yet (it writes it when this node has pod \
         CIDRs; see `heliograph status`)"
    )]
    Missing {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file exists but can't be read.
    #[error("read {path}: {source}")]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// The content is not the expected JSON.
    #[error("{path} is not a node file: {source}; restart the agent, which writes it again")]
    Decode {
        /// The path of the file.
        path: PathBuf,
        /// The position and kind of the mistake.
        source: serde_json::Error,
    },
    /// The version of the format is not supported.
    #[error(
        "{path} has version {found}, this plugin supports version {VERSION}: install the plugin of the agent's version"
    )]
    Version {
        /// The path of the file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
    },
    /// A value is invalid.
    #[error("{path}: {problem}")]
    Invalid {
        /// The path of the file.
        path: PathBuf,
        /// The invalid value.
        problem: String,
    },
}

impl NodeFile {
    /// Makes a file of the current version.
    pub fn new(node: impl Into<String>, pod_cidrs: Vec<IpNetwork>, mtu: u32, addresses: Vec<IpAddr>) -> Self {
        Self { version: VERSION, node: node.into(), pod_cidrs, mtu, addresses }
    }

    /// Returns the path of the file in a run directory.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(FILE_NAME)
    }

    /// Reads and checks `run_dir/node.json`.
    ///
    /// # Errors
    /// [`NodeFileError::Missing`] if there is no file yet, another [`NodeFileError`] if it can't be used.
    pub fn load(run_dir: &Path) -> Result<Self, NodeFileError> {
        let path = Self::path(run_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(NodeFileError::Missing { path });
            }
            Err(source) => return Err(NodeFileError::Read { path, source }),
        };
        Self::decode(&bytes, &path)
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, NodeFileError> {
        // The version first: a newer file may have another form, and then the version is the error to report.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let decode_error = |source| NodeFileError::Decode { path: path.to_owned(), source };
        let Version { version } = serde_json::from_slice(bytes).map_err(decode_error)?;
        if version != VERSION {
            return Err(NodeFileError::Version { path: path.to_owned(), found: version });
        }
        let file: Self = serde_json::from_slice(bytes).map_err(decode_error)?;
        file.validate().map_err(|problem| NodeFileError::Invalid { path: path.to_owned(), problem })?;
        Ok(file)
    }

    fn validate(&self) -> Result<(), String> {
        if self.node.is_empty() {
            return Err("node is empty: it must be the node's name".into());
        }
        let (family, minimum) = match self.pod_cidrs.iter().any(IpNetwork::is_ipv6) {
            true => (IpFamily::V6, IPV6_MINIMUM_MTU),
            false => (IpFamily::V4, IPV4_MINIMUM_MTU),
        };
        if self.mtu < minimum {
            return Err(format!("mtu {} is too small: {family} needs at least {minimum}", self.mtu));
        }
        if self.mtu > MAXIMUM_MTU {
            return Err(format!("mtu {} is too large: a veth takes at most {MAXIMUM_MTU}", self.mtu));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> Result<NodeFile, NodeFileError> {
        NodeFile::decode(json.as_bytes(), Path::new("/run/heliograph/node.json"))
    }

    #[test]
    fn the_format_is_stable() {
        let file = NodeFile::new(
            "rack1-a",
            vec!["10.244.1.0/24".parse().unwrap()],
            1480,
            vec!["172.20.1.11".parse().unwrap()],
        );
        let json = r#"{"version":1,"node":"rack1-a","podCIDRs":["10.244.1.0/24"],"mtu":1480,"addresses":["172.20.1.11"]}"#;
        assert_eq!(serde_json::to_string(&file).unwrap(), json);
        assert_eq!(decode(json).unwrap(), file);
    }

    #[test]
    fn a_newer_agents_fields_are_ignored() {
        let file = decode(r#"{"version":1,"node":"a","podCIDRs":[],"mtu":1500,"later":{"x":1}}"#).unwrap();
        assert!(file.addresses.is_empty());
    }

    #[test]
    fn a_file_is_loaded_from_the_run_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = NodeFile::new("a", vec!["fd00::/64".parse().unwrap()], 1280, vec![]);
        std::fs::write(NodeFile::path(folder.path()), serde_json::to_vec(&file).unwrap()).unwrap();
        assert_eq!(NodeFile::load(folder.path()).unwrap(), file);
    }

    #[test]
    fn errors_name_the_file_and_the_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let missing = NodeFile::load(folder.path()).unwrap_err();
        assert!(matches!(missing, NodeFileError::Missing { .. }));
        assert!(missing.to_string().contains("node.json"), "{missing}");

        let cases = [
            ("{", "not a node file"),
            (r#"{"version":2,"shape":"other"}"#, "version 2"),
            (r#"{"version":1,"node":"","podCIDRs":[],"mtu":1500}"#, "node is empty"),
            (r#"{"version":1,"node":"a","podCIDRs":["10.0.0.0/33"],"mtu":1500}"#, "10.0.0.0/33"),
            (r#"{"version":1,"node":"a","podCIDRs":["fd00::/64"],"mtu":1279}"#, "at least 1280"),
            (r#"{"version":1,"node":"a","podCIDRs":[],"mtu":70000}"#, "at most 65535"),
        ];
        for (json, expected) in cases {
            let text = decode(json).unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains("/run/heliograph/node.json"), "{json}: {text}");
        }
    }
}
