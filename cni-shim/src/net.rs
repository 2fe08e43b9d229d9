//! The kernel operations that the plugin needs, as a trait. [`crate::netlink`] implements it; tests use a faulty fake.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use crate::IpFamily;
use crate::plan::Step;

/// An end of the veth pair, and with it a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Side {
    Host,
    Pod,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the host",
            Self::Pod => "the pod",
        })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mac(pub [u8; 6]);

impl Mac {
    /// Makes a locally administered unicast address of any six bytes.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & !0b01) | 0b10;
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = u8::from_str_radix(parts.next().ok_or(())?, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Self(bytes)) }
    }
}

/// An interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    /// `veth`, for example; empty for hardware.
    pub kind: String,
}

/// A route as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub prefix_len: u8,
    pub destination: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
    pub interface: Option<u32>,
    pub protocol: u8,
    pub table: u32,
}

/// A request that the kernel rejected.
#[derive(Debug, thiserror::Error)]
#[error("{tried}: {source}{}{}", message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default(), remedy(source))]
pub(crate) struct NetError {
    /// The operation, and the object it was for.
    pub tried: String,
    /// The error that the kernel returned.
    pub source: io::Error,
    /// The kernel's explanation (extended ACK), if it gave one.
    pub message: Option<String>,
}

impl NetError {
    pub fn new(tried: impl Into<String>, source: io::Error) -> Self {
        Self { tried: tried.into(), source, message: None }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; the plugin needs CAP_NET_ADMIN and CAP_SYS_ADMIN: it must run as root"
        }
        Some(libc::EOPNOTSUPP) => "; this kernel lacks the feature (CONFIG_VETH, CONFIG_IPV6?)",
        _ => "",
    }
}

/// The kernel's network configuration, as far as this plugin needs it. One value is used for one verb on one pod.
pub(crate) trait Net {
    /// Executes one step of a plan.
    fn apply(&mut self, step: &Step) -> Result<(), NetError>;

    /// Deletes an interface of the host with everything that depends on it; returns whether it existed.
    fn delete_host_link(&mut self, name: &str) -> Result<bool, NetError>;

    /// Returns the interface of that name, if there is one.
    fn link(&mut self, side: Side, name: &str) -> Result<Option<Link>, NetError>;

    /// Returns all interfaces of the host.
    fn host_links(&mut self) -> Result<Vec<Link>, NetError>;

    /// Returns the host's route to exactly this address (/32 or /128), local addresses included, if there is one.
    fn host_route(&mut self, address: IpAddr) -> Result<Option<Route>, NetError>;

    /// Returns whether the interface has the address.
    fn has_address(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<bool, NetError>;

    /// Returns the pod's routes of a family in the main table.
    fn pod_routes(&mut self, family: IpFamily) -> Result<Vec<Route>, NetError>;

    /// Returns the MAC of the permanent neighbor entry for the address, if there is one.
    fn neighbor(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<Option<Mac>, NetError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_local_unicast_and_read_back() {
        for byte in 0..=255 {
            let mac = Mac::local([byte, 1, 2, 3, 4, 0xff]);
            assert_eq!(mac.0[0] & 0b11, 0b10);
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        for bad in ["", "02:00", "02:00:00:00:00:00:00", "02:00:00:00:00:zz"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
