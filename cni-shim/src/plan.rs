//! How a pod is wired: a pure plan of steps, and their execution with undo.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::net::{Mac, Net, NetError, Side};

/// The pods' IPv4 next hop. No interface has it: the pod has a permanent neighbour entry for it.
pub(crate) const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The pods' IPv6 next hop, likewise.
pub(crate) const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// What the plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wiring {
    pub veth: Veth,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
}

/// A veth pair, one end here and the other in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Veth {
    pub host_name: String,
    pub host_mac: Mac,
    pub pod_name: String,
    pub pod_mac: Mac,
    pub mtu: u32,
}

impl Veth {
    pub fn name(&self, side: Side) -> &str {
        match side {
            Side::Host => &self.host_name,
            Side::Pod => &self.pod_name,
        }
    }
}

/// One change to the kernel. Interfaces are named, not numbered: numbers exist only after the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    CreateVeth(Veth),
    /// Sets `net.FAMILY.conf.INTERFACE.KEY`.
    Sysctl {
        side: Side,
        interface: String,
        family: &'static str,
        key: &'static str,
        value: &'static str,
    },
    Up {
        side: Side,
        interface: String,
    },
    /// Gives the pod's end its address, as a /32 or /128.
    PodAddress {
        interface: String,
        address: IpAddr,
    },
    /// The host's route to the pod.
    HostRoute {
        interface: String,
        address: IpAddr,
    },
    /// The pod's only route.
    DefaultRoute {
        interface: String,
        gateway: IpAddr,
    },
    /// A permanent neighbour entry.
    Neighbour {
        side: Side,
        interface: String,
        address: IpAddr,
        mac: Mac,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth(veth) => {
                write!(
                    f,
                    "create veth {} with its peer {} in the pod, MTU {}",
                    veth.host_name, veth.pod_name, veth.mtu
                )
            }
            Self::Sysctl { side, interface, family, key, value } => {
                write!(f, "set net.{family}.conf.{interface}.{key}={value} in {side}")
            }
            Self::Up { side, interface } => write!(f, "bring {interface} up in {side}"),
            Self::PodAddress { interface, address } => {
                write!(f, "add {address} to {interface} in the pod")
            }
            Self::HostRoute { interface, address } => {
                write!(f, "add the host's route to {address} through {interface}")
            }
            Self::DefaultRoute { interface, gateway } => {
                write!(f, "add the pod's default route via {gateway} through {interface}")
            }
            Self::Neighbour { side, interface, address, mac } => {
                write!(f, "add neighbour {address} at {mac} to {interface} in {side}")
            }
        }
    }
}

/// The next hop of a pod for the family of `address`.
pub(crate) fn gateway_for(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

/// An address as the one-address network it is to the kernel.
pub(crate) fn host_network(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The steps that wire a pod, in order: sysctls before the interfaces come up, so that neither end listens to
/// router advertisements for even a moment; everything that needs a live interface after; the host's route last,
/// when the pod is ready for what comes through it.
pub(crate) fn plan(wiring: &Wiring) -> Vec<Step> {
    let veth = &wiring.veth;
    let mut steps = vec![Step::CreateVeth(veth.clone())];
    steps.extend(sysctls(wiring));
    for side in [Side::Host, Side::Pod] {
        steps.push(Step::Up { side, interface: veth.name(side).into() });
    }
    for &address in &wiring.addresses {
        let gateway = gateway_for(address);
        let pod = || veth.pod_name.clone();
        let host = || veth.host_name.clone();
        steps.extend([
            Step::PodAddress { interface: pod(), address },
            Step::Neighbour { side: Side::Pod, interface: pod(), address: gateway, mac: veth.host_mac },
            Step::DefaultRoute { interface: pod(), gateway },
            Step::Neighbour { side: Side::Host, interface: host(), address, mac: veth.pod_mac },
            Step::HostRoute { interface: host(), address },
        ]);
    }
    steps
}

fn sysctls(wiring: &Wiring) -> Vec<Step> {
    use Side::{Host, Pod};
    let mut settings = vec![
        // Pods are no routers: nobody's router advertisement may redirect them or the host (CVE-2020-10749).
        (Pod, "ipv6", "accept_ra", "0"),
        (Host, "ipv6", "accept_ra", "0"),
        // No link-local address on the host's end: pods reach the host by its own addresses only.
        (Host, "ipv6", "addr_gen_mode", "1"),
        // A pod sends from its own address: RFC 3704 §2.2, strict.
        (Host, "ipv4", "rp_filter", "1"),
        (Host, "ipv4", "forwarding", "1"),
    ];
    if wiring.addresses.iter().any(IpAddr::is_ipv6) {
        settings.push((Host, "ipv6", "forwarding", "1"));
        // Some runtimes make namespaces with IPv6 turned off.
        settings.push((Pod, "ipv6", "disable_ipv6", "0"));
    }
    let step = |(side, family, key, value)| Step::Sysctl {
        side,
        interface: wiring.veth.name(side).to_owned(),
        family,
        key,
        value,
    };
    settings.into_iter().map(step).collect()
}

/// Why a plan was not carried out, and whether that left something.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", undo.as_ref().map(|e| format!("; and undoing it failed too: {e}")).unwrap_or_default())]
pub(crate) struct Failure {
    pub cause: NetError,
    /// Set if something may be left in the kernel.
    pub undo: Option<NetError>,
}

/// Carries out the steps; at the first that fails, undoes what was done.
pub(crate) fn execute(net: &mut dyn Net, steps: &[Step]) -> Result<(), Failure> {
    for (at, step) in steps.iter().enumerate() {
        if let Err(cause) = net.apply(step) {
            // The failed step too: an error is no proof that nothing happened.
            return Err(Failure { cause, undo: undo(net, &steps[..=at]).err() });
        }
    }
    Ok(())
}

/// Undoes steps. All the others hang on the veth, and the kernel takes them away with it, on both sides.
fn undo(net: &mut dyn Net, steps: &[Step]) -> Result<(), NetError> {
    for step in steps.iter().rev() {
        match step {
            Step::CreateVeth(veth) => {
                net.delete_host_link(&veth.host_name)?;
            }
            Step::Sysctl { .. }
            | Step::Up { .. }
            | Step::PodAddress { .. }
            | Step::HostRoute { .. }
            | Step::DefaultRoute { .. }
            | Step::Neighbour { .. } => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring(addresses: &[&str]) -> Wiring {
        Wiring {
            veth: Veth {
                host_name: "hg000000000001".into(),
                host_mac: Mac([2, 0, 0, 0, 0, 1]),
                pod_name: "eth0".into(),
                pod_mac: Mac([2, 0, 0, 0, 0, 2]),
                mtu: 1480,
            },
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn position(steps: &[Step], what: impl Fn(&Step) -> bool) -> usize {
        steps.iter().position(what).expect("the step is in the plan")
    }

    #[test]
    fn the_plan_of_an_ipv4_pod() {
        let text: Vec<_> = plan(&wiring(&["10.244.1.2"])).iter().map(Step::to_string).collect();
        assert_eq!(
            text,
            [
                "create veth hg000000000001 with its peer eth0 in the pod, MTU 1480",
                "set net.ipv6.conf.eth0.accept_ra=0 in the pod",
                "set net.ipv6.conf.hg000000000001.accept_ra=0 in the host",
                "set net.ipv6.conf.hg000000000001.addr_gen_mode=1 in the host",
                "set net.ipv4.conf.hg000000000001.rp_filter=1 in the host",
                "set net.ipv4.conf.hg000000000001.forwarding=1 in the host",
                "bring hg000000000001 up in the host",
                "bring eth0 up in the pod",
                "add 10.244.1.2 to eth0 in the pod",
                "add neighbour 169.254.1.1 at 02:00:00:00:00:01 to eth0 in the pod",
                "add the pod's default route via 169.254.1.1 through eth0",
                "add neighbour 10.244.1.2 at 02:00:00:00:00:02 to hg000000000001 in the host",
                "add the host's route to 10.244.1.2 through hg000000000001",
            ]
        );
    }

    #[test]
    fn a_dual_stack_pod_gets_everything_twice_and_sysctls_come_before_up() {
        let steps = plan(&wiring(&["10.244.1.2", "fd00::2"]));
        let routes = steps.iter().filter(|s| matches!(s, Step::HostRoute { .. })).count();
        assert_eq!(routes, 2);
        let first_up = position(&steps, |s| matches!(s, Step::Up { .. }));
        assert!(steps[first_up..].iter().all(|s| !matches!(s, Step::Sysctl { .. })));
        let v6 = |s: &Step| matches!(s, Step::DefaultRoute { gateway, .. } if *gateway == GATEWAY_V6);
        assert!(position(&steps, v6) > first_up);
    }
}
