//! The real kernel, by netlink and /proc/sys, in the network namespace of the thread that opens it.

use super::error::{Cause, KernelError, KernelResult};
use super::message::{self, Devices, DumpedRoute, netlink_family};
use super::netlink::Netlink;
use super::watch::Changes;
use super::{
    Actual, Change, DeviceForm, IpFamily, Kernel, METRIC, Segment, Underlay, segment, sysctl, table, tunnel,
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use nix::errno::Errno;
use std::net::IpAddr;

/// The kernel of this node.
#[derive(Debug, Clone)]
pub struct Linux {
    pub(super) netlink: Netlink,
}

/// The name and MTU of an interface.
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mtu: u32,
}

impl Linux {
    /// Opens a connection to the kernel. Needs a tokio runtime with I/O and time, on which its driver runs.
    pub fn open() -> KernelResult<Self> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// Subscribes to hints that the kernel changed. Subscribe before the first dump, so that no change is missed.
    pub fn changes(&self) -> KernelResult<Changes> {
        Changes::subscribe(self.netlink.port())
    }

    /// Returns an interface by its index.
    pub(super) async fn link(&self, index: u32) -> KernelResult<Link> {
        let what = format!("look up interface {index}");
        let mut request = LinkMessage::default();
        request.header.index = index;
        let answer = self.netlink.get(&what, RouteNetlinkMessage::GetLink(request)).await?;
        let RouteNetlinkMessage::NewLink(link) = answer else {
            return Err(KernelError::from_cause(what, Cause::Unexpected(format!("{answer:?}"))));
        };
        let mut found = Link { name: String::new(), mtu: 0 };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name = name,
                LinkAttribute::Mtu(mtu) => found.mtu = mtu,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns a global address of this node on an interface.
    pub(super) async fn address_on(&self, oif: u32, family: IpFamily) -> KernelResult<Option<IpAddr>> {
        let addresses = self.addresses(family).await?;
        let on_link = addresses.iter().filter(|address| address.header.index == oif);
        let global = on_link.filter(|address| address.header.scope == AddressScope::Universe);
        Ok(global.filter_map(own_address).next())
    }

    async fn addresses(&self, family: IpFamily) -> KernelResult<Vec<AddressMessage>> {
        let mut request = AddressMessage::default();
        request.header.family = netlink_family(family);
        let answers =
            self.netlink.dump("read this node's addresses", RouteNetlinkMessage::GetAddress(request));
        let addresses = answers.await?.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Returns the routes of the main table; none in a family that the kernel doesn't support.
    pub(super) async fn main_table(&self, family: IpFamily) -> KernelResult<Vec<RouteMessage>> {
        let mut request = RouteMessage::default();
        request.header.address_family = netlink_family(family);
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let what = format!("read the {family} routes");
        let answers = match self.netlink.dump(&what, RouteNetlinkMessage::GetRoute(request)).await {
            Err(error)
                if family == IpFamily::V6
                    && matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) =>
            {
                return Ok(Vec::new());
            }
            answers => answers?,
        };
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.address_family == netlink_family(family) => {
                Some(route)
            }
            _ => None,
        });
        Ok(routes.collect())
    }

    /// Reads the tunnel devices into `actual`; returns the indices of those that Heliograph's routes can use.
    async fn dump_devices(&self, actual: &mut Actual) -> KernelResult<Devices> {
        let mut devices = Devices::new();
        for family in IpFamily::ALL {
            if let Some((index, device)) = tunnel::find(&self.netlink, family).await? {
                if device.form == DeviceForm::External {
                    devices.insert(family, index);
                }
                actual.tunnels.insert(family, device);
            }
        }
        Ok(devices)
    }

    /// Makes one change.
    async fn apply_one(&self, change: &Change) -> KernelResult<()> {
        let what = change.to_string();
        match change {
            Change::Forward(family) => sysctl::forward(*family),
            Change::PutTable(rules) => table::put(&what, rules),
            Change::DeleteTable => table::delete(&what),
            Change::PutTunnel { family, mtu } => tunnel::put(&self.netlink, what, *family, *mtu).await,
            Change::DeleteTunnel(family) => tunnel::delete(&self.netlink, what, *family).await,
            Change::AddRoute(..)
            | Change::ReplaceRoute(..)
            | Change::DeleteRoute(_)
            | Change::DeleteStray(_) => {
                self.apply_routes(std::slice::from_ref(change)).await.pop().unwrap_or(Ok(()))
            }
        }
    }

    /// Makes changes to routes, many with one send.
    async fn apply_routes(&self, changes: &[Change]) -> Vec<KernelResult<()>> {
        let devices = match self.dump_devices(&mut Actual::default()).await {
            Ok(devices) => devices,
            Err(error) => return changes.iter().map(|_| Err(error.clone())).collect(),
        };
        // A route that can't be encoded gets its error at once; the others are sent to the kernel in order.
        let mut results = Vec::with_capacity(changes.len());
        let mut requests = Vec::with_capacity(changes.len());
        for change in changes {
            match request(change, &devices) {
                Ok((message, flags)) => {
                    requests.push((change.to_string(), message, flags));
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut answers = self.netlink.change_all(requests).await.into_iter();
        let fill = |(change, result): (&Change, Option<KernelResult<()>>)| {
            result.unwrap_or_else(|| interpret(change, answers.next().unwrap_or(Ok(()))))
        };
        changes.iter().zip(results).map(fill).collect()
    }
}

impl Kernel for Linux {
    async fn dump(&self) -> KernelResult<Actual> {
        let mut actual = Actual { table: table::dump()?, ..Actual::default() };
        let devices = self.dump_devices(&mut actual).await?;
        for family in IpFamily::ALL {
            if sysctl::forwards(family)? {
                actual.forwarding.insert(family);
            }
            for route in self.main_table(family).await? {
                match message::decode(&route, &devices) {
                    Some(DumpedRoute::Ours(prefix, held)) => {
                        actual.routes.insert(prefix, held);
                    }
                    Some(DumpedRoute::Stray(stray)) => {
                        actual.strays.insert(stray);
                    }
                    Some(DumpedRoute::Foreign(prefix, foreign)) => actual.add_foreign(prefix, foreign),
                    None => {}
                }
            }
        }
        Ok(actual)
    }

    async fn apply(&self, changes: &[Change]) -> Vec<KernelResult<()>> {
        let mut results = Vec::with_capacity(changes.len());
        for run in changes.chunk_by(|a, b| a.is_route() && b.is_route()) {
            match run {
                [single] => results.push(self.apply_one(single).await),
                routes => results.extend(self.apply_routes(routes).await),
            }
        }
        results
    }

    async fn segment(&self, next_hop: IpAddr) -> KernelResult<Segment> {
        segment::locate(self, next_hop).await
    }

    async fn underlay(&self, local: IpAddr) -> KernelResult<Underlay> {
        let addresses = self.addresses(IpFamily::of(local)).await?;
        let Some(address) = addresses.iter().find(|address| own_address(address) == Some(local)) else {
            return Err(KernelError::new(
                format!("find the interface of {local}"),
                Cause::Unexpected("no interface of this node has that address".to_owned()),
                "check that the Node's InternalIP is an address of this machine (ip address), and that --node names \
                 this machine",
            ));
        };
        let oif = address.header.index;
        let link = self.link(oif).await?;
        Ok(Underlay { oif, name: link.name, mtu: link.mtu })
    }
}

/// Returns this node's own address: with a point-to-point peer that is the attribute `local`.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => own = Some(*address),
            _ => {}
        }
    }
    own
}

/// Returns the request for a change to a route.
fn request(change: &Change, devices: &Devices) -> KernelResult<(RouteNetlinkMessage, u16)> {
    let write = |prefix, route, flags| match message::encode(prefix, route, devices) {
        Ok(message) => Ok((RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | flags)),
        Err(reason) => Err(encode_error(change.to_string(), &reason)),
    };
    match change {
        Change::AddRoute(prefix, route) => write(*prefix, route, NLM_F_EXCL),
        Change::ReplaceRoute(prefix, route) => write(*prefix, route, NLM_F_REPLACE),
        Change::DeleteRoute(prefix) => {
            Ok((RouteNetlinkMessage::DelRoute(message::encode_delete(*prefix, METRIC, 0)), 0))
        }
        Change::DeleteStray(stray) => {
            let message = message::encode_delete(stray.prefix, stray.metric, stray.tos);
            Ok((RouteNetlinkMessage::DelRoute(message), 0))
        }
        other => Err(KernelError::from_cause(other.to_string(), Cause::Unexpected("not a route".to_owned()))),
    }
}

fn encode_error(what: String, reason: &message::EncodeError) -> KernelError {
    let remedy = match reason {
        message::EncodeError::NoDevice(_) => "see the error of the tunnel device",
        message::EncodeError::WrongPayload { .. } => {
            "give both nodes an InternalIP of the prefix's family, or set encapsulation: Never"
        }
        message::EncodeError::MultipathTunnels(_) => "prefer one path (local preference)",
        _ => "check that both nodes have an InternalIP of that family",
    };
    KernelError::new(what, Cause::Unexpected(reason.to_string()), remedy)
}

/// Interprets the answer to a change: deleting a route that no longer exists succeeds, and some errors get a more specific
/// remedy.
fn interpret(change: &Change, answer: KernelResult<()>) -> KernelResult<()> {
    match (change, answer) {
        (Change::DeleteRoute(_) | Change::DeleteStray(_), Err(error))
            if matches!(error.errno(), Some(Errno::ESRCH | Errno::ENOENT)) =>
        {
            Ok(())
        }
        (Change::AddRoute(prefix, _), Err(error)) if error.errno() == Some(Errno::EEXIST) => Err(error
            .with_remedy(format!(
                "a foreign route {prefix} has Heliograph's metric {METRIC}; remove it or change its metric \
                 (ip route show {prefix})"
            ))),
        (_, answer) => answer,
    }
}
