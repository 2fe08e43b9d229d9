//! The tunnels between nodes on different segments.

use heliograph_cni::IpFamily;
use std::fmt;

/// The kind of a tunnel: the outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003, RFC 2473).
    Ipip,
}

/// A tunnel: there is at most one device for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// The kind of the outer header.
    pub kind: TunnelKind,
    /// The family of the outer header.
    pub family: IpFamily,
}

impl Tunnel {
    /// All tunnels.
    pub const ALL: [Self; 2] = [Self::ipip(IpFamily::V4), Self::ipip(IpFamily::V6)];

    /// Returns the tunnel by IP in IP with this family of the outer header.
    pub const fn ipip(family: IpFamily) -> Self {
        Self { kind: TunnelKind::Ipip, family }
    }

    /// Returns the tunnel whose device has this name.
    pub fn by_device(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tunnel| tunnel.device_name() == name)
    }

    /// Returns the name of the device.
    pub const fn device_name(self) -> &'static str {
        match (self.kind, self.family) {
            (TunnelKind::Ipip, IpFamily::V4) => "heliograph4",
            (TunnelKind::Ipip, IpFamily::V6) => "heliograph6",
        }
    }

    /// Returns the kernel's name for the kind of the device.
    pub const fn device_kind(self) -> &'static str {
        match (self.kind, self.family) {
            (TunnelKind::Ipip, IpFamily::V4) => "ipip",
            (TunnelKind::Ipip, IpFamily::V6) => "ip6tnl",
        }
    }

    /// Returns the kernel module that has the device.
    pub const fn module(self) -> &'static str {
        match (self.kind, self.family) {
            (TunnelKind::Ipip, IpFamily::V4) => "ipip",
            (TunnelKind::Ipip, IpFamily::V6) => "ip6_tunnel",
        }
    }

    /// Returns the length of the outer header in octets: the MTU of the device is the underlay's minus this.
    pub const fn overhead(self) -> u32 {
        match (self.kind, self.family) {
            (TunnelKind::Ipip, IpFamily::V4) => 20,
            (TunnelKind::Ipip, IpFamily::V6) => 40,
        }
    }

    /// Returns the IP protocol numbers that the device decapsulates, which the guard drops if they don't come from a node.
    /// The device with an IPv4 outer header doesn't accept protocol 41: that may be a foreign 6in4 tunnel.
    pub const fn protocols(self) -> &'static [u8] {
        match (self.kind, self.family) {
            (TunnelKind::Ipip, IpFamily::V4) => &[4],
            (TunnelKind::Ipip, IpFamily::V6) => &[4, 41],
        }
    }

    /// Returns whether the device transports packets of a family. The one with an IPv4 outer header transports IPv4 only.
    pub const fn transports(self, payload: IpFamily) -> bool {
        !matches!((self.kind, self.family, payload), (TunnelKind::Ipip, IpFamily::V4, IpFamily::V6))
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.device_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_has_a_device_of_its_own() {
        for tunnel in Tunnel::ALL {
            assert_eq!(Tunnel::by_device(tunnel.device_name()), Some(tunnel));
        }
        assert_eq!(Tunnel::by_device("eth0"), None);
    }
}
