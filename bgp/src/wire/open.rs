//! OPEN and its capabilities (RFC 4271 §4.2, RFC 5492, RFC 9072).

use super::{Capability, Family, GracefulRestart, Open};

impl Open {
    /// The families offered: IPv4 unicast where no multiprotocol capability was sent (RFC 4760 §8 adds to it only then).
    pub fn families(&self) -> Vec<Family> {
        let mut any = false;
        let mut families = Vec::new();
        for capability in &self.capabilities {
            match capability {
                Capability::Multiprotocol(family) => {
                    any = true;
                    if !families.contains(family) {
                        families.push(*family);
                    }
                }
                Capability::Other(MULTIPROTOCOL, _) => any = true,
                _ => {}
            }
        }
        if any { families } else { vec![Family::Ipv4Unicast] }
    }

    /// Whether the 4-octet AS capability was sent (RFC 6793 §3).
    pub fn four_octet_as(&self) -> bool {
        self.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)))
    }

    /// Whether the route refresh capability was sent (RFC 2918 §2).
    pub fn route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::RouteRefresh)
    }

    /// The graceful restart capability; the last one counts (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|c| match c {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }
}

const MULTIPROTOCOL: u8 = 1;
