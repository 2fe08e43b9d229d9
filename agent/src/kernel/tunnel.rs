//! The tunnel devices: one per family, `external`, so that the remote end is in each route and not in the device.

use super::error::{Cause, KernelError, KernelResult};
use super::netlink::Netlink;
use super::{Device, DeviceForm, IpFamily, sysctl};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{IpProtocol, RouteNetlinkMessage};
use nix::errno::Errno;

/// Returns the name of the tunnel device with this family of the outer header.
pub(crate) fn device_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "heliograph4",
        IpFamily::V6 => "heliograph6",
    }
}

/// Returns whether a tunnel device has this name.
pub(super) fn is_device_name(name: &str) -> bool {
    IpFamily::ALL.into_iter().any(|family| device_name(family) == name)
}

/// Returns the kernel's name for the kind of the device.
fn device_kind(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ipip",
        IpFamily::V6 => "ip6tnl",
    }
}

/// Returns the device of a family with its index, if there is one of its name.
pub(super) async fn find(netlink: &Netlink, family: IpFamily) -> KernelResult<Option<(u32, Device)>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(device_name(family).to_owned()));
    let what = format!("look for interface {}", device_name(family));
    match netlink.get(&what, RouteNetlinkMessage::GetLink(request)).await {
        Ok(RouteNetlinkMessage::NewLink(link)) => {
            let mut device = decode(family, &link);
            device.filters_sources = sysctl::filters_sources(device_name(family))?;
            Ok(Some((link.header.index, device)))
        }
        Ok(other) => Err(KernelError::from_cause(what, Cause::Unexpected(format!("{other:?}")))),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Decodes a device with one of Heliograph's names.
fn decode(family: IpFamily, link: &LinkMessage) -> Device {
    let mut mtu = 0;
    let mut kind = None;
    let mut external = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::LinkInfo(parts) => {
                for part in parts {
                    match part {
                        LinkInfo::Kind(value) => kind = Some(value.to_string()),
                        LinkInfo::Data(InfoData::IpTunnel(settings)) => {
                            external = settings.contains(&InfoIpTunnel::CollectMetadata);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let form = match kind {
        Some(kind) if kind == device_kind(family) && external => DeviceForm::External,
        Some(kind) if kind == device_kind(family) => DeviceForm::Bound,
        Some(kind) => DeviceForm::Foreign(kind),
        None => DeviceForm::Foreign("device without a kind".to_owned()),
    };
    Device { form, mtu, up: link.header.flags.contains(LinkFlags::Up), filters_sources: false }
}

/// Creates the device, or corrects an existing one. A correct one is not deleted even for a moment, as the kernel would
/// delete all routes through it.
pub(super) async fn put(netlink: &Netlink, what: String, family: IpFamily, mtu: u32) -> KernelResult<()> {
    match find(netlink, family).await? {
        None => create(netlink, &what, family, mtu).await?,
        Some((index, device)) => match device.form {
            DeviceForm::Foreign(kind) => return Err(conflict(what, family, &kind)),
            DeviceForm::Bound => {
                remove(netlink, &what, index).await?;
                create(netlink, &what, family, mtu).await?;
            }
            DeviceForm::External if device.mtu != mtu || !device.up => {
                adjust(netlink, &what, index, mtu).await?;
            }
            DeviceForm::External => {}
        },
    }
    // The filter is for IPv4 packets, which the IPv6 tunnel transports too: so it is off for both devices.
    sysctl::disable_rp_filter(device_name(family))
}

/// Deletes the device, if there is one. A foreign device is not deleted.
pub(super) async fn delete(netlink: &Netlink, what: String, family: IpFamily) -> KernelResult<()> {
    match find(netlink, family).await? {
        Some((_, Device { form: DeviceForm::Foreign(_), .. })) | None => Ok(()),
        Some((index, _)) => remove(netlink, &what, index).await,
    }
}

/// Returns the error for a foreign device with one of Heliograph's names.
pub fn conflict(what: String, family: IpFamily, kind: &str) -> KernelError {
    let name = device_name(family);
    KernelError::new(
        what,
        Cause::Conflict(format!("the interface {name} is of kind {kind} and not Heliograph's")),
        format!("rename or remove it (ip link set {name} name NEWNAME), or set encapsulation: Never"),
    )
}

async fn create(netlink: &Netlink, what: &str, family: IpFamily, mtu: u32) -> KernelResult<()> {
    let (kind, settings) = match family {
        IpFamily::V4 => (InfoKind::IpIp, vec![InfoIpTunnel::CollectMetadata]),
        // Protocol 0 is mode `any`: the tunnel transports IPv4 and IPv6.
        IpFamily::V6 => (
            InfoKind::Ip6Tnl,
            vec![InfoIpTunnel::CollectMetadata, InfoIpTunnel::Protocol(IpProtocol::from(0))],
        ),
    };
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(device_name(family).to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(InfoData::IpTunnel(settings))]),
    ];
    let made = netlink.change(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).await;
    let kind = device_kind(family);
    let module = match family {
        IpFamily::V4 => "ipip",
        IpFamily::V6 => "ip6_tunnel",
    };
    made.map_err(|error| match error.errno() {
        Some(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EAFNOSUPPORT) => error.with_remedy(format!(
            "the kernel has no {kind} tunnels: load the module (modprobe {module}), or set encapsulation: Never"
        )),
        Some(Errno::EEXIST) => error.with_remedy(format!(
            "the kernel allows one external {kind} device per namespace; find the other (ip -d link show type {kind}) \
             and remove it, or set encapsulation: Never"
        )),
        _ => error,
    })
}

async fn adjust(netlink: &Netlink, what: &str, index: u32, mtu: u32) -> KernelResult<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::Mtu(mtu));
    netlink.change(what, RouteNetlinkMessage::SetLink(link), 0).await
}

async fn remove(netlink: &Netlink, what: &str, index: u32) -> KernelResult<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    match netlink.change(what, RouteNetlinkMessage::DelLink(link), 0).await {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(parts: Vec<LinkInfo>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::Mtu(1480), LinkAttribute::LinkInfo(parts)];
        link
    }

    #[test]
    fn only_an_external_tunnel_of_the_right_kind_is_accepted() {
        let external = InfoData::IpTunnel(vec![InfoIpTunnel::Ttl(0), InfoIpTunnel::CollectMetadata]);
        let bound = InfoData::IpTunnel(vec![InfoIpTunnel::Ttl(64)]);
        let form =
            |kind, data| decode(IpFamily::V4, &link(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])).form;
        assert_eq!(form(InfoKind::IpIp, external.clone()), DeviceForm::External);
        assert_eq!(form(InfoKind::IpIp, bound), DeviceForm::Bound);
        assert_eq!(form(InfoKind::SitTun, external), DeviceForm::Foreign("sit".to_owned()));
        assert!(matches!(decode(IpFamily::V4, &link(vec![])).form, DeviceForm::Foreign(_)));
    }
}
