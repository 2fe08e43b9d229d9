//! Our tunnel devices: one a family, `external`, so that the remote end is in each route and not in the device.

use super::error::{Cause, KernelError, KernelResult};
use super::netlink::Netlink;
use super::{Device, DeviceForm, IpFamily, sysctl};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{IpProtocol, RouteNetlinkMessage};
use nix::errno::Errno;

/// The device of a family with its index, if there is one under its name.
pub(super) async fn find(netlink: &Netlink, family: IpFamily) -> KernelResult<Option<(u32, Device)>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(family.device().to_owned()));
    let what = format!("look for interface {}", family.device());
    match netlink.get(&what, RouteNetlinkMessage::GetLink(question)).await {
        Ok(RouteNetlinkMessage::NewLink(link)) => {
            let mut device = describe(family, &link);
            device.filters_sources = sysctl::filters_sources(family.device())?;
            Ok(Some((link.header.index, device)))
        }
        Ok(other) => Err(KernelError::from_cause(what, Cause::Unexpected(format!("{other:?}")))),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a link message says about a device under one of our names.
fn describe(family: IpFamily, link: &LinkMessage) -> Device {
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
        Some(kind) if kind == family.device_kind() && external => DeviceForm::External,
        Some(kind) if kind == family.device_kind() => DeviceForm::Bound,
        Some(kind) => DeviceForm::Foreign(kind),
        None => DeviceForm::Foreign("device without a kind".to_owned()),
    };
    Device { form, mtu, up: link.header.flags.contains(LinkFlags::Up), filters_sources: false }
}

/// Makes the device, or corrects the one there is. One that is right is left as it is: taking it away for a moment
/// would take all routes over it away.
pub(super) async fn put(netlink: &Netlink, what: String, family: IpFamily, mtu: u32) -> KernelResult<()> {
    match find(netlink, family).await? {
        None => create(netlink, &what, family, mtu).await?,
        Some((index, device)) => match device.form {
            DeviceForm::Foreign(kind) => return Err(occupied(what, family, &kind)),
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
    // Packets in the IPv6 tunnel may be IPv4 too, and the filter is an IPv4 one: it is set on both devices.
    sysctl::let_sources_be(family.device())
}

/// Removes the device, also if there is none. Somebody else's is left.
pub(super) async fn delete(netlink: &Netlink, what: String, family: IpFamily) -> KernelResult<()> {
    match find(netlink, family).await? {
        Some((_, Device { form: DeviceForm::Foreign(_), .. })) | None => Ok(()),
        Some((index, _)) => remove(netlink, &what, index).await,
    }
}

/// The error for a device of our name that isn't ours.
pub fn occupied(what: String, family: IpFamily, kind: &str) -> KernelError {
    let name = family.device();
    KernelError::new(
        what,
        Cause::Occupied(format!("there is an interface {name} of kind {kind}, which isn't ours")),
        format!("rename or remove it (ip link set {name} name NEWNAME), or set encapsulation: Never"),
    )
}

async fn create(netlink: &Netlink, what: &str, family: IpFamily, mtu: u32) -> KernelResult<()> {
    let (kind, settings) = match family {
        IpFamily::V4 => (InfoKind::IpIp, vec![InfoIpTunnel::CollectMetadata]),
        // Protocol 0 is mode `any`: IPv4 and IPv6 inside.
        IpFamily::V6 => (
            InfoKind::Ip6Tnl,
            vec![InfoIpTunnel::CollectMetadata, InfoIpTunnel::Protocol(IpProtocol::from(0))],
        ),
    };
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(family.device().to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(InfoData::IpTunnel(settings))]),
    ];
    let made = netlink.change(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).await;
    let kind = family.device_kind();
    let module = match family {
        IpFamily::V4 => "ipip",
        IpFamily::V6 => "ip6_tunnel",
    };
    made.map_err(|error| match error.errno() {
        Some(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EAFNOSUPPORT) => error.with_remedy(format!(
            "the kernel has no {kind} tunnels: load the module (modprobe {module}), or set encapsulation: Never"
        )),
        Some(Errno::EEXIST) => error.with_remedy(format!(
            "the kernel takes one external {kind} device a namespace; find the other (ip -d link show type {kind}) \
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
    fn only_an_external_tunnel_of_the_right_kind_is_what_we_made() {
        let external = InfoData::IpTunnel(vec![InfoIpTunnel::Ttl(0), InfoIpTunnel::CollectMetadata]);
        let bound = InfoData::IpTunnel(vec![InfoIpTunnel::Ttl(64)]);
        let form =
            |kind, data| describe(IpFamily::V4, &link(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])).form;
        assert_eq!(form(InfoKind::IpIp, external.clone()), DeviceForm::External);
        assert_eq!(form(InfoKind::IpIp, bound), DeviceForm::Bound);
        assert_eq!(form(InfoKind::SitTun, external), DeviceForm::Foreign("sit".to_owned()));
        assert!(matches!(describe(IpFamily::V4, &link(vec![])).form, DeviceForm::Foreign(_)));
    }
}
