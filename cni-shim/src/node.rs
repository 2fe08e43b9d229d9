//! `node.json`: what the agent tells the plugin about this node. The agent writes it, the plugin reads it at every
//! ADD, so pods start while the agent is restarting.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::files;

/// The only format of `node.json` there is so far; it grows by fields, and the number changes only when an older
/// reader would do harm.
pub const VERSION: u32 = 1;

/// The file's name inside the run directory.
pub const FILE_NAME: &str = "node.json";

/// The smallest MTU IPv6 works with (RFC 8200 §5).
const IPV6_MINIMUM_MTU: u32 = 1280;
/// The smallest MTU IPv4 works with (RFC 791 §3.2).
const IPV4_MINIMUM_MTU: u32 = 68;
/// What a veth takes.
const MAXIMUM_MTU: u32 = 65535;

/// The content of `node.json`. Fields it doesn't know are ignored: the plugin may be older than the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// Format of the file, [`VERSION`].
    pub version: u32,
    /// The node's name in Kubernetes.
    pub node: String,
    /// What pods get their addresses from, IPv4 and IPv6: one address a family, from the first CIDR of the family
    /// that has one left.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of the pods' interfaces, in bytes: the underlay's less what a tunnel may take.
    pub mtu: u32,
    /// The node's own addresses, for people who read the file.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// Why `node.json` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// There is no file: the agent hasn't written it yet.
    #[error(
        "{path} is not there: the Heliograph agent has not written it yet (it does so once it knows this node's \
         pod CIDRs; see `heliograph status`)"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there but can't be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Not the JSON it should be.
    #[error("{path} is not a node file: {source}; the agent writes it anew when it starts")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A format this plugin doesn't know.
    #[error(
        "{path} has version {found}, this plugin reads version {VERSION}: install the plugin that came with the agent"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },
    /// JSON of the right shape that can't be right.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What can't be.
        problem: String,
    },
    /// The file could not be put in place.
    #[error("write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl NodeFile {
    /// A file of the current version.
    pub fn new(node: impl Into<String>, pod_cidrs: Vec<IpNetwork>, mtu: u32, addresses: Vec<IpAddr>) -> Self {
        Self { version: VERSION, node: node.into(), pod_cidrs, mtu, addresses }
    }

    /// Where the file is for a run directory.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(FILE_NAME)
    }

    /// Reads and checks `run_dir/node.json`.
    ///
    /// # Errors
    /// [`NodeFileError`], with [`NodeFileError::Missing`] kept apart: that one passes by itself.
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

    /// Writes `run_dir/node.json` in one step, making the directory if need be. A reader sees the old file or the
    /// new one.
    ///
    /// # Errors
    /// [`NodeFileError::Invalid`] if what is to be written makes no sense, [`NodeFileError::Write`] otherwise.
    pub fn write(&self, run_dir: &Path) -> Result<(), NodeFileError> {
        let path = Self::path(run_dir);
        self.validate().map_err(|problem| NodeFileError::Invalid { path: path.clone(), problem })?;
        let write = || {
            std::fs::create_dir_all(run_dir)?;
            let mut bytes = serde_json::to_vec(self)?;
            bytes.push(b'\n');
            files::replace(&path, &bytes, true)
        };
        write().map_err(|source| NodeFileError::Write { path: path.clone(), source })
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, NodeFileError> {
        // The version first: a newer file may have another shape, and then that is what to say.
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
        let (minimum, why) = match self.pod_cidrs.iter().any(IpNetwork::is_ipv6) {
            true => (IPV6_MINIMUM_MTU, "IPv6 needs"),
            false => (IPV4_MINIMUM_MTU, "IPv4 needs"),
        };
        if self.mtu < minimum {
            return Err(format!("mtu {} is too small: {why} at least {minimum}", self.mtu));
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
    fn the_format_is_the_agreed_one() {
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
    fn a_newer_agents_fields_are_tolerated() {
        let file = decode(r#"{"version":1,"node":"a","podCIDRs":[],"mtu":1500,"later":{"x":1}}"#).unwrap();
        assert!(file.addresses.is_empty());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let file = NodeFile::new("a", vec!["fd00::/64".parse().unwrap()], 1280, vec![]);
        file.write(&run_dir).unwrap();
        assert_eq!(NodeFile::load(&run_dir).unwrap(), file);
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
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
