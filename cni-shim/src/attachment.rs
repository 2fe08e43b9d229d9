//! The attachment: one interface of one container in one network (CNI 1.1, section 1).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::fnv1a;

/// The prefix of the names of the host ends of all pods' veth pairs.
pub const HOST_INTERFACE_PREFIX: &str = "hg";

/// The number of hex digits after the prefix.
const HASH_DIGITS: usize = 12;

/// An attachment. CNI 1.1 (section 3) guarantees that the pair is unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

impl Attachment {
    pub fn host_interface(&self) -> String {
        host_interface(&self.container_id, &self.ifname)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// Returns the name of the host end of the veth pair for interface `ifname` of container `container_id`: `hg` and
/// twelve hex digits. It depends on nothing else, so DEL finds the interface even without the address store.
pub fn host_interface(container_id: &str, ifname: &str) -> String {
    // The separator can't occur in a container id, so two different pairs never give the same bytes.
    // The names of existing interfaces must not change with the build, so the hash must not either.
    let hash = fnv1a([container_id.as_bytes(), &[0], ifname.as_bytes()].concat());
    let folded = (hash >> 48) ^ (hash & 0xffff_ffff_ffff);
    format!("{HOST_INTERFACE_PREFIX}{folded:0width$x}", width = HASH_DIGITS)
}

/// Returns whether `name` has the form that [`host_interface`] returns.
pub fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_INTERFACE_PREFIX).is_some_and(|digits| {
        digits.len() == HASH_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_short_and_distinct() {
        // Pinned: after a change, an upgrade would no longer find the interfaces of running pods.
        assert_eq!(host_interface("abc", "eth0"), "hg4ae81be84f2c");
        assert_ne!(host_interface("abc", "eth0"), host_interface("abc", "eth1"));
        assert_ne!(host_interface("abce", "th0"), host_interface("abc", "eth0"));
        let name = host_interface(&"f".repeat(64), "eth0");
        assert!(name.len() <= 15 && is_host_interface(&name), "{name}");
    }

    #[test]
    fn foreign_names_are_recognized() {
        for name in
            ["hg", "hg0", "hg00000000000g", "hg0000000000000", "eth0", "HG000000000000", "hgABCDEF012345"]
        {
            assert!(!is_host_interface(name), "{name}");
        }
    }
}
