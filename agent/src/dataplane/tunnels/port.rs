//! The part of the kernel that the plane uses: links, and the reverse path filter.

use super::{Device, DeviceForm};
use crate::dataplane::{Tunnel, TunnelKind, sysctls};
use crate::netlink::error::{Cause, KernelError, KernelResult};
use crate::netlink::socket::Socket;
use heliograph_cni::IpFamily;
use heliograph_cni::codec::{Message, find, text, u32_at};
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// Message types (RTM_…) and flags (NLM_F_…).
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const REQUEST: u16 = 1;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// Attributes of a link (IFLA_…, IFLA_INFO_…, IFLA_IPTUN_…).
const NAME: u16 = 3;
const MTU: u16 = 4;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const TUNNEL_PROTOCOL: u16 = 9;
const TUNNEL_COLLECT_METADATA: u16 = 19;
/// The flag of a link that is administratively up (IFF_UP).
const UP: u32 = 1;
/// The length of `struct ifinfomsg` in octets.
const LINK_HEADER: usize = 16;

/// The part of the kernel that the plane uses, or a fake in tests. `what` names the change in errors.
pub trait Port {
    /// Returns the device with a tunnel's name, if there is one.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn find(&mut self, tunnel: Tunnel) -> KernelResult<Option<Device>>;

    /// Creates a device, up and `external`.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn create(&mut self, what: &str, tunnel: Tunnel, mtu: u32) -> KernelResult<()>;

    /// Sets the MTU of a device, and sets it up.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn adjust(&mut self, what: &str, index: u32, mtu: u32) -> KernelResult<()>;

    /// Deletes a device; one that doesn't exist any more is no error.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn remove(&mut self, what: &str, index: u32) -> KernelResult<()>;

    /// Turns the reverse path filter of a device off.
    ///
    /// # Errors
    /// The sysctl can't be read or written.
    fn disable_filter(&mut self, tunnel: Tunnel) -> KernelResult<()>;
}

/// The links of the network namespace of the thread that opened the socket.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn open() -> KernelResult<Self> {
        Ok(Self { socket: Socket::open(NETLINK_ROUTE)? })
    }
}

impl Port for Links {
    fn find(&mut self, tunnel: Tunnel) -> KernelResult<Option<Device>> {
        let what = format!("look for interface {tunnel}");
        let mut request = link(GET_LINK, 0, 0, false);
        request.attribute_text(NAME, tunnel.device_name());
        match self.socket.get(&what, request) {
            Ok(answer) => {
                let mut device = decode(tunnel, &answer).ok_or_else(|| {
                    KernelError::from_cause(what, Cause::Unexpected("a short answer".to_owned()))
                })?;
                device.filters_sources = sysctls::filters_sources(tunnel.device_name())?;
                Ok(Some(device))
            }
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self, what: &str, tunnel: Tunnel, mtu: u32) -> KernelResult<()> {
        self.socket.change(what, creation(tunnel, mtu)).map_err(|error| creation_error(error, tunnel))
    }

    fn adjust(&mut self, what: &str, index: u32, mtu: u32) -> KernelResult<()> {
        let mut request = link(NEW_LINK, 0, index, true);
        request.attribute_u32(MTU, mtu);
        self.socket.change(what, request)
    }

    fn remove(&mut self, what: &str, index: u32) -> KernelResult<()> {
        match self.socket.change(what, link(DELETE_LINK, 0, index, false)) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    fn disable_filter(&mut self, tunnel: Tunnel) -> KernelResult<()> {
        sysctls::disable_rp_filter(tunnel.device_name())
    }
}

/// Begins a message about a link (`struct ifinfomsg`).
fn link(kind: u16, flags: u16, index: u32, up: bool) -> Message {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&UP.to_ne_bytes());
        header[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    Message::new(kind, REQUEST | flags, &header)
}

fn creation(tunnel: Tunnel, mtu: u32) -> Message {
    let mut request = link(NEW_LINK, CREATE | EXCLUSIVE, 0, true);
    request.attribute_text(NAME, tunnel.device_name());
    request.attribute_u32(MTU, mtu);
    request.nested(INFO, |info| {
        info.attribute_text(INFO_KIND, tunnel.device_kind());
        info.nested(INFO_DATA, |data| match tunnel.kind {
            TunnelKind::Ipip => {
                data.attribute(TUNNEL_COLLECT_METADATA, &[]);
                if tunnel.family == IpFamily::V6 {
                    // Protocol 0 is mode `any`: the tunnel transports IPv4 and IPv6.
                    data.attribute(TUNNEL_PROTOCOL, &[0]);
                }
            }
        });
    });
    request
}

fn creation_error(error: KernelError, tunnel: Tunnel) -> KernelError {
    let kind = tunnel.device_kind();
    match error.errno() {
        Some(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EAFNOSUPPORT) => error.with_remedy(format!(
            "the kernel has no {kind} tunnels: load the module (modprobe {}), or set encapsulation: Never",
            tunnel.module()
        )),
        Some(Errno::EEXIST) => error.with_remedy(format!(
            "the kernel allows one external {kind} device per namespace; find the other (ip -d link show type {kind}) \
             and remove it, or set encapsulation: Never"
        )),
        _ => error,
    }
}

/// Decodes a device with one of Heliograph's names.
fn decode(tunnel: Tunnel, answer: &[u8]) -> Option<Device> {
    let index = u32_at(answer, 4)?;
    let flags = u32_at(answer, 8)?;
    let attributes = answer.get(LINK_HEADER..)?;
    let info = find(attributes, INFO).unwrap_or_default();
    let external = find(info, INFO_DATA).is_some_and(|data| find(data, TUNNEL_COLLECT_METADATA).is_some());
    let form = match find(info, INFO_KIND).map(text) {
        Some(kind) if kind == tunnel.device_kind() && external => DeviceForm::External,
        Some(kind) if kind == tunnel.device_kind() => DeviceForm::Bound,
        Some(kind) => DeviceForm::Foreign(kind),
        None => DeviceForm::Foreign("device without a kind".to_owned()),
    };
    let mtu = find(attributes, MTU).and_then(|mtu| u32_at(mtu, 0)).unwrap_or(0);
    Some(Device { index, form, mtu, up: flags & UP != 0, filters_sources: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliograph_cni::codec::HEADER;

    const TUNNEL: Tunnel = Tunnel::ipip(IpFamily::V4);

    fn form(kind: Option<&str>, external: bool) -> DeviceForm {
        let mut message = link(NEW_LINK, 0, 7, true);
        message.attribute_u32(MTU, 1480);
        message.nested(INFO, |info| {
            if let Some(kind) = kind {
                info.attribute_text(INFO_KIND, kind);
            }
            info.nested(INFO_DATA, |data| {
                data.attribute(4, &[64]);
                if external {
                    data.attribute(TUNNEL_COLLECT_METADATA, &[]);
                }
            });
        });
        let device = decode(TUNNEL, &message.finish(1)[HEADER..]).unwrap();
        assert_eq!((device.index, device.mtu, device.up), (7, 1480, true));
        device.form
    }

    #[test]
    fn only_an_external_tunnel_of_the_right_kind_is_accepted() {
        assert_eq!(form(Some("ipip"), true), DeviceForm::External);
        assert_eq!(form(Some("ipip"), false), DeviceForm::Bound);
        assert_eq!(form(Some("sit"), true), DeviceForm::Foreign("sit".to_owned()));
        assert!(matches!(form(None, false), DeviceForm::Foreign(_)));
        let created = creation(TUNNEL, 1480).finish(1);
        assert_eq!(decode(TUNNEL, &created[HEADER..]).unwrap().form, DeviceForm::External);
        assert_eq!(decode(TUNNEL, &[0; 7]), None);
    }
}
