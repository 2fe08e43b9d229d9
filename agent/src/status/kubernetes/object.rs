//! The objects that an agent writes, in a form that can be compared.

use std::net::IpAddr;

use heliograph_cni::fnv1a;
use serde_json::Value;

use crate::api::ObjectRef;

/// A desired object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind and name.
    pub key: ObjectRef,
    /// Its spec, which hardly ever changes.
    pub spec: Value,
    /// Its status.
    pub status: Value,
    /// The part of the status whose changes are written at once.
    pub signal: String,
}

/// The longest name of an object (a DNS subdomain of RFC 1123).
const MAX_NAME: usize = 253;

/// Returns the name of the BGPSession of a node with a neighbor: stable and unique. An IPv6 address is written in full, as no
/// part of a name may be empty.
pub fn session_name(node: &str, peer: IpAddr) -> String {
    let address = match peer {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    let room = MAX_NAME - address.len() - 1;
    if node.len() <= room {
        return format!("{node}-{address}");
    }
    // The end of a long name is replaced by a checksum of the whole name.
    let sum = format!("{:016x}", fnv1a(node));
    let kept: String = node.chars().take(room - sum.len() - 1).collect();
    format!("{}-{sum}-{address}", kept.trim_end_matches(['.', '-']))
}

/// Returns the field manager of a node's agent (at most 128 characters long). Two long names may become equal; that is
/// harmless, as no two agents write the same object.
pub fn field_manager(node: &str) -> String {
    format!("heliograph-{node}").chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sessions_are_valid_and_unique() {
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
