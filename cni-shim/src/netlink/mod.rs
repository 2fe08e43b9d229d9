//! The kernel's network through blocking rtnetlink sockets, one in each of the two namespaces.

mod codec;
mod requests;
mod socket;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use self::codec::Message;
use self::socket::{NetlinkError, Socket};
use crate::namespace::Namespace;
use crate::net::{Link, Mac, Net, NetError, Route, Side};
use crate::plan::Step;

/// The kernel the plugin runs on.
#[derive(Debug)]
pub(crate) struct Kernel {
    host: Socket,
    pod: Option<Pod>,
    /// Numbers of interfaces met while carrying out steps. Every look-up waits for the kernel's one lock on
    /// interfaces, which a node that deletes pods holds for long.
    indexes: BTreeMap<(Side, String), u32>,
}

#[derive(Debug)]
struct Pod {
    namespace: Namespace,
    socket: Socket,
}

impl Kernel {
    /// For verbs that need the host's namespace only.
    pub fn host_only() -> Result<Self, NetError> {
        let host = Socket::open().map_err(|e| NetError::new("open a netlink socket", e))?;
        Ok(Self { host, pod: None, indexes: BTreeMap::new() })
    }

    /// For verbs that need the pod's namespace too. The outer error says what is wrong with `netns`.
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

    fn ask(&mut self, side: Side, message: Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.socket(side)?.request(message)
    }

    fn find(&mut self, side: Side, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.ask(side, requests::get_link(name)) {
            Ok(payloads) => Ok(payloads.iter().find_map(|payload| requests::read_link(payload))),
            Err(refusal) if refusal.errno() == libc::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
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

    fn set_sysctl(&mut self, side: Side, path: &str, value: &str) -> io::Result<()> {
        // /proc/sys/net shows the namespace of the thread that looks.
        let written = match side {
            Side::Host => write_sysctl(path, value),
            Side::Pod => self.pod()?.namespace.enter(|| write_sysctl(path, value))?,
        };
        match written {
            // A kernel without IPv6 has nothing to be told about it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.contains("/ipv6/") => Ok(()),
            other => other,
        }
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), NetlinkError> {
        let (side, message) = match step {
            Step::Sysctl { side, interface, family, key, value } => {
                return Ok(self.set_sysctl(*side, &sysctl_path(family, interface, key), value)?);
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
            Step::Neighbour { side, interface, address, mac } => {
                (*side, requests::add_neighbour(self.index(*side, interface)?, *address, *mac))
            }
        };
        self.ask(side, message).map(drop)
    }
}

/// Where the kernel shows a per-interface setting. A name may hold a dot, so the path is made, not translated.
fn sysctl_path(family: &str, interface: &str, key: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/{key}")
}

/// Without asking for the file to be made: where it is missing that would be "permission denied".
fn write_sysctl(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn failed(tried: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetError {
    move |refusal| NetError { tried: tried.into(), source: refusal.error, message: refusal.message }
}

impl Net for Kernel {
    fn apply(&mut self, step: &Step) -> Result<(), NetError> {
        self.carry_out(step).map_err(failed(step.to_string()))
    }

    fn delete_host_link(&mut self, name: &str) -> Result<bool, NetError> {
        self.indexes.clear();
        match self.ask(Side::Host, requests::delete_link(name)) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.errno() == libc::ENODEV => Ok(false),
            Err(refusal) => Err(failed(format!("delete interface {name}"))(refusal)),
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
        let payloads = match self.ask(Side::Host, requests::look_up(address)) {
            Ok(payloads) => payloads,
            // No route, or one that answers with an error itself, like the blackhole of the node's CIDR.
            Err(refusal)
                if matches!(
                    refusal.errno(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES
                ) =>
            {
                return Ok(None);
            }
            Err(refusal) => {
                return Err(failed(format!("look up the host's route to {address}"))(refusal));
            }
        };
        let route = payloads.iter().find_map(|payload| requests::read_route(payload));
        Ok(route.filter(|route| route.prefix_len == requests::bits(address)))
    }

    fn has_address(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<bool, NetError> {
        let dump = self
            .socket(side)
            .map_err(NetlinkError::from)
            .and_then(|s| s.dump(|| requests::dump_addresses(address)));
        let payloads = dump.map_err(failed(format!("list the addresses of {side}")))?;
        Ok(payloads.iter().any(|payload| requests::read_address(payload) == Some((interface, address))))
    }

    fn pod_routes(&mut self, family_of: IpAddr) -> Result<Vec<Route>, NetError> {
        let dump = self
            .pod()
            .map_err(NetlinkError::from)
            .and_then(|p| p.socket.dump(|| requests::dump_routes(family_of)));
        let payloads = dump.map_err(failed("list the pod's routes"))?;
        let main = u32::from(libc::RT_TABLE_MAIN);
        let routes = payloads.iter().filter_map(|payload| requests::read_route(payload));
        Ok(routes.filter(|route| route.table == main).collect())
    }

    fn neighbour(&mut self, side: Side, interface: u32, address: IpAddr) -> Result<Option<Mac>, NetError> {
        match self.ask(side, requests::get_neighbour(interface, address)) {
            Ok(payloads) => {
                Ok(payloads.iter().find_map(|payload| requests::read_permanent_neighbour(payload)))
            }
            Err(refusal) if matches!(refusal.errno(), libc::ENOENT | libc::ENODEV) => Ok(None),
            Err(refusal) => Err(failed(format!("look for neighbour {address} in {side}"))(refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipv6_is_not_told_about_it() {
        let mut kernel = Kernel::host_only().unwrap();
        let missing = |family| sysctl_path(family, "no-such-if", "forwarding");
        kernel.set_sysctl(Side::Host, &missing("ipv6"), "1").unwrap();
        let error = kernel.set_sysctl(Side::Host, &missing("ipv4"), "1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_not_there_is_none_not_an_error() {
        let mut kernel = Kernel::host_only().unwrap();
        assert_eq!(kernel.link(Side::Host, "no-such-if").unwrap(), None);
        assert!(!kernel.delete_host_link("no-such-if").unwrap_or(false));
        assert!(kernel.host_links().unwrap().iter().any(|link| link.name == "lo"));
        assert!(kernel.has_address(Side::Host, 0, "192.0.2.1".parse().unwrap()).is_ok_and(|has| !has));
        let error = kernel.link(Side::Pod, "eth0").unwrap_err().to_string();
        assert!(error.contains("eth0 in the pod"), "{error}");
    }
}
