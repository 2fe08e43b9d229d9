//! What an agent has to say in the cluster, as objects that can be compared.

use std::net::IpAddr;

use heliograph_cni::fnv1a;
use serde_json::Value;

/// A kind of object that an agent writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// BGPNode.
    Node,
    /// BGPSession.
    Session,
    /// BGPConfiguration; its status only, as of those below.
    Configuration,
    /// BGPFilter.
    Filter,
    /// BGPPeer.
    Peer,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "BGPNode",
            Self::Session => "BGPSession",
            Self::Configuration => "BGPConfiguration",
            Self::Filter => "BGPFilter",
            Self::Peer => "BGPPeer",
        }
    }

    /// Its name in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Node => "bgpnodes",
            Self::Session => "bgpsessions",
            Self::Configuration => "bgpconfigurations",
            Self::Filter => "bgpfilters",
            Self::Peer => "bgppeers",
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// An object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Which.
    pub key: Key,
    /// What it is about; hardly ever changes.
    pub spec: Value,
    /// How that stands.
    pub status: Value,
    /// As much of it as is told at once when it changes; the rest may wait.
    pub signal: String,
}

/// The longest name of an object (RFC 1123, as Kubernetes has it).
const LONGEST_NAME: usize = 253;

/// The name of the BGPSession of a node with a neighbour: the same each time, and no two have the same. An IPv6 address
/// is written in full, as no part of a name may be empty.
pub fn session_name(node: &str, peer: IpAddr) -> String {
    let address = match peer {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    let room = LONGEST_NAME - address.len() - 1;
    if node.len() <= room {
        return format!("{node}-{address}");
    }
    // Of a name that long the end is exchanged for a sum of the whole.
    let sum = format!("{:016x}", fnv1a(node));
    let kept: String = node.chars().take(room - sum.len() - 1).collect();
    format!("{}-{sum}-{address}", kept.trim_end_matches(['.', '-']))
}

/// Who we are among those who write (at most 128 characters long). Where two long names become the same it does no
/// harm: no two agents write the same object.
pub fn field_manager(node: &str) -> String {
    format!("heliograph-{node}").chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sessions_are_valid_and_differ() {
        let long = |end: &str| format!("{}{end}", "n".repeat(253 - end.len()));
        let cases = [
            ("a", "192.0.2.1", "a-192.0.2.1"),
            ("a.example", "192.0.2.1", "a.example-192.0.2.1"),
            ("a", "fd00::1", "a-fd00-0-0-0-0-0-0-1"),
            ("a", "2001:db8::", "a-2001-db8-0-0-0-0-0-0"),
        ];
        for (node, peer, name) in cases {
            assert_eq!(session_name(node, peer.parse().unwrap()), name);
        }
        let mut seen = std::collections::BTreeSet::new();
        for node in ["a".into(), "a-1".into(), long("x"), long("y"), long(".z"), "x.y".repeat(60)] {
            for peer in [
                "192.0.2.1",
                "1.192.0.2",
                "fd00::1",
                "fd00::2",
                "::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ] {
                let name = session_name(&node, peer.parse().unwrap());
                assert!(name.len() <= 253, "{name}");
                let valid = |label: &str| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.chars().all(|c| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit())
                };
                assert!(name.split('.').all(valid), "{name}");
                assert!(seen.insert(name), "{node} {peer}");
            }
        }
    }

    #[test]
    fn a_field_manager_is_not_too_long() {
        assert_eq!(field_manager("rack1-a"), "heliograph-rack1-a");
        assert_eq!(field_manager(&"n".repeat(253)).len(), 128);
    }
}
