//! An attachment: one interface of one container, what CNI calls add, check and delete on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the names of all host ends of pods' veths begin with.
pub const HOST_INTERFACE_PREFIX: &str = "hg";

const HASH_DIGITS: usize = 12;

/// Identity of an attachment: the pair CNI 1.1 (section 3) says is unique.
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

/// Name of the host's end of the veth for interface `ifname` of container `container_id`: `hg` and twelve hex
/// digits, the same at every call, so that DEL finds the interface even when every record of it is lost.
pub fn host_interface(container_id: &str, ifname: &str) -> String {
    // The separator can't occur in a container id, so no two pairs run together.
    let bytes = container_id.bytes().chain([0]).chain(ifname.bytes());
    let hash = fnv1a(bytes);
    let folded = (hash >> 48) ^ (hash & 0xffff_ffff_ffff);
    format!("{HOST_INTERFACE_PREFIX}{folded:0width$x}", width = HASH_DIGITS)
}

/// Whether `name` has the form [`host_interface`] gives.
pub fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_INTERFACE_PREFIX).is_some_and(|digits| {
        digits.len() == HASH_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// FNV-1a, 64 bit. The standard library's hasher may change between compilers; names in a running kernel may not.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_short_and_distinct() {
        // Pinned: a change would orphan the interfaces of running pods at an upgrade.
        assert_eq!(host_interface("abc", "eth0"), "hg4ae81be84f2c");
        assert_ne!(host_interface("abc", "eth0"), host_interface("abc", "eth1"));
        assert_ne!(host_interface("abce", "th0"), host_interface("abc", "eth0"));
        let name = host_interface(&"f".repeat(64), "eth0");
        assert!(name.len() <= 15 && is_host_interface(&name), "{name}");
    }

    #[test]
    fn foreign_names_are_told_apart() {
        for name in
            ["hg", "hg0", "hg00000000000g", "hg0000000000000", "eth0", "HG000000000000", "hgABCDEF012345"]
        {
            assert!(!is_host_interface(name), "{name}");
        }
    }
}
