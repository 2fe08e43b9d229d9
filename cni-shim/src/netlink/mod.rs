//! The implementation of [`Net`] by blocking rtnetlink sockets, one in each of the two namespaces.

mod requests;
mod socket;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use self::socket::{NetlinkError, Socket};
use crate::IpFamily;
use crate::codec::Message;
use crate::namespace::Namespace;
use crate::net::{Link, Mac, Net, NetError, Route, Side};
use crate::plan::Step;

/// The kernel that the plugin runs on.
#[derive(Debug)]
pub(crate) struct Kernel {
    host: Socket,
    pod: Option<Pod>,
    /// The indices of interfaces that steps have used. Each look-up waits for the kernel's lock on interfaces, which is
    /// held for long while pods are deleted.
    indexes: BTreeMap<(Side, String), u32>,
}

#[derive(Debug)]
struct Pod {
    namespace: Namespace,
    socket: Socket,
}

impl Kernel {
    /// Opens the host's namespace only, for verbs that need no other.
    pub fn host_only() -> Result<Self, NetError> {
        let host = Socket::open().map_err(|e| NetError::new("open a netlink socket", e))?;
        Ok(Self { host, pod: None, indexes: BTreeMap::new() })
    }

    /// Opens the host's and the pod's namespace. The outer error is that of opening `netns`.
    pub fn with_pod(netns: &Path) -> io::Result<Result<Self, NetError>> {
        let namespace = Namespace::open(netns)?;
        let socket = namespace.enter(Socket::open)?;
        Ok(Self::host_only().and_then(|kernel| {
            let socket =
                socket.map_err(|e| NetError::new("open a netlink socket in the pod's namespace", e))?;
            Ok(Self { pod: Some(Pod { namespace, socket }), ..kernel })
        }))
    }

    fn pod(&mut self) -> io::Result<&mut Pod> {
        self.pod.as_mut().ok_or_else(|| io::Error::other("this verb has no pod namespace"))
    }

    fn socket(&mut self, side: Side) -> io::Result<&mut Socket> {
        Ok(match side {
            Side::Host => &mut self.host,
            Side::Pod => &mut self.pod()?.socket,
        })
    }

    fn request(&mut self, side: Side, message: Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.socket(side)?.request(message)
    }

    fn find(&mut self, side: Side, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.request(side, requests::get_link(name)) {
            Ok(payloads) => Ok(payloads.iter().find_map(|payload| requests::read_link(payload))),
            Err(error) if error.errno() == libc::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn index(&mut self, side: Side, name: &str) -> Result<u32, NetlinkError> {
        let key = (side, name.to_owned());
        if let Some(index) = self.indexes.get(&key) {
            return Ok(*index);
        }
        let link = self.find(side, name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        self.indexes.insert(key, link.index);
        Ok(link.index)
    }

    fn set_sysctl(
        &mut self,
        side: Side,
        family: IpFamily,
        interface: &str,
        key: &str,
        value: &str,
    ) -> io::Result<()> {
        // A name may contain a dot, so this is a path and not a sysctl's name that is translated.
        let path = format!("/proc/sys/net/{}/conf/{interface}/{key}", family.sysctl());
        // /proc/sys/net shows the namespace of the thread that opens it.
        let written = match side {
            Side::Host => write_sysctl(&path, value),
            Side::Pod => self.pod()?.namespace.enter(|| write_sysctl(&path, value))?,
        };
        match written {
            // A kernel without IPv6 has no sysctls for it, and needs none.
            Err(e) if e.kind() == io::ErrorKind::NotFound && family == IpFamily::V6 => Ok(()),
            other => other,
        }
    }

    fn execute(&mut self, step: &Step) -> Result<(), NetlinkError> {
        let (side, message) = match step {
            Step::Sysctl { side, interface, family, key, value } => {
                return Ok(self.set_sysctl(*side, *family, interface, key, value)?);
            }
            Step::CreateVeth(veth) => {
                let netns = self.pod()?.namespace.as_raw_fd();
                (Side::Host, requests::create_veth(veth, netns))
            }
            Step::Up { side, interface } => (*side, requests::set_up(self.index(*side, interface)?)),
            Step::PodAddress { interface, address } => {
                (Side::Pod, requests::add_address(self.index(Side::Pod, interface)?, *address))
            }
            Step::HostRoute { interface, address } => {
                (Side::Host, requests::add_host_route(self.index(Side::Host, interface)?, *address))
            }
            Step::DefaultRoute { interface, gateway } => {
                (Side::Pod, requests::add_default_route(self.index(Side::Pod, interface)?, *gateway))
            }
            Step::Neighbor { side, interface, address, mac } => {
                (*side, requests::add_neighbor(self.index(*side, interface)?, *address, *mac))
            }
        };
        self.request(side, message).map(drop)
    }
}

/// Writes a sysctl. Without O_CREAT, with which a missing file would be "permission denied".
fn write_sysctl(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn failed(tried: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetError {
    move |error| NetError { tried: tried.into(), source: error.error, message: error.message }
}

impl Net for Kernel {
    fn apply(&mut self, step: &Step) -> Result<(), NetError> {
        self.execute(step).map_err(failed(step.to_string()))
    }

    fn delete_host_link(&mut self, name: &str) -> Result<bool, NetError> {
        self.indexes.clear();
        match self.request(Side::Host, requests::delete_link(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == libc::ENODEV => Ok(false),
            Err(error) => Err(failed(format!("delete interface {name}"))(error)),
        }
    }

    fn link(&mut self, side: Side, name: &str) -> Result<Option<Link>, NetError> {
        self.find(side, name).map_err(failed(format!("look for interface {name} in {side}")))
    }

    fn host_links(&mut self) -> Result<Vec<Link>, NetError> {
        let payloads = self.host.dump(requests::dump_links).map_err(failed("list the host's interfaces"))?;
        Ok(payloads.iter().filter_map(|payload| requests::read_link(payload)).collect())
    }

    fn host_route(&mut self, address: IpAddr) -> Result<Option<Route>, NetError> {
        let payloads = match self.request(Side::Host, requests::look_up(address)) {
            Ok(payloads) => payloads,
            // No route, or one for which the look-up returns an error, like the blackhole of the node's CIDR.
            Err(error)
                if matches!(
                    error.errno(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(failed(format!("look up the host's route to {address}"))(error));
            }
        };
        let route = payloads.iter().find_map(|payload| requests::read_route(payload));
        Ok(route.filter(|route| route.prefix_len == IpFamily::of(address).bits()))
    }

    fn has_address(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<bool, NetError> {
        let dump = self
            .socket(side)
            .map_err(NetlinkError::from)
            .and_then(|s| s.dump(|| requests::dump_addresses(IpFamily::of(address))));
        let payloads = dump.map_err(failed(format!("list the addresses of {side}")))?;
        Ok(payloads.iter().any(|payload| requests::read_address(payload) == Some((interface, address))))
    }

    fn pod_routes(&mut self, family: IpFamily) -> Result<Vec<Route>, NetError> {
        let dump = self
            .pod()
            .map_err(NetlinkError::from)
            .and_then(|p| p.socket.dump(|| requests::dump_routes(family)));
        let payloads = dump.map_err(failed("list the pod's routes"))?;
        let main = u32::from(libc::RT_TABLE_MAIN);
        let routes = payloads.iter().filter_map(|payload| requests::read_route(payload));
        Ok(routes.filter(|route| route.table == main).collect())
    }

    fn neighbor(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<Option<Mac>, NetError> {
        match self.request(side, requests::get_neighbor(interface, address)) {
            Ok(payloads) => {
                Ok(payloads.iter().find_map(|payload| requests::read_permanent_neighbor(payload)))
            }
            Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for neighbor {address} in {side}"))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sysctl_of_ipv6_is_no_error() {
        let mut kernel = Kernel::host_only().unwrap();
        let mut set = |family| kernel.set_sysctl(Side::Host, family, "no-such-if", "forwarding", "1");
        set(IpFamily::V6).unwrap();
        let error = set(IpFamily::V4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_missing_object_is_none_and_no_error() {
        let mut kernel = Kernel::host_only().unwrap();
        assert_eq!(kernel.link(Side::Host, "no-such-if").unwrap(), None);
        assert!(!kernel.delete_host_link("no-such-if").unwrap_or(false));
        assert!(kernel.host_links().unwrap().iter().any(|link| link.name == "lo"));
        assert!(kernel.has_address(Side::Host, 0, "192.0.2.1".parse().unwrap()).is_ok_and(|has| !has));
        let error = kernel.link(Side::Pod, "eth0").unwrap_err().to_string();
        assert!(error.contains("eth0 in the pod"), "{error}");
    }
}
