//! The set-up of an attachment: a pure plan of steps, and their execution with undo.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::IpFamily;
use crate::net::{Mac, Net, NetError, Side};

/// The pods' IPv4 next hop. No interface has it: the pod has a permanent neighbor entry for it.
pub(crate) const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The pods' IPv6 next hop, likewise.
pub(crate) const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The input of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wiring {
    pub veth: Veth,
    /// The pod's addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
}

/// A veth pair: one end in the host's namespace, the other in the pod's.
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

/// One change to the kernel. It names interfaces, as their indices exist only after the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Creates the veth pair.
    CreateVeth(Veth),
    /// Sets the sysctl `net.FAMILY.conf.INTERFACE.KEY`.
    Sysctl { side: Side, interface: String, family: IpFamily, key: &'static str, value: &'static str },
    /// Brings an interface up.
    Up { side: Side, interface: String },
    /// Adds the address to the pod's end, as a /32 or /128.
    PodAddress { interface: String, address: IpAddr },
    /// Adds the host's route to the pod.
    HostRoute { interface: String, address: IpAddr },
    /// Adds the pod's only route.
    DefaultRoute { interface: String, gateway: IpAddr },
    /// Adds a permanent neighbor entry.
    Neighbor { side: Side, interface: String, address: IpAddr, mac: Mac },
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
                write!(f, "set net.{}.conf.{interface}.{key}={value} in {side}", family.sysctl())
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
            Self::Neighbor { side, interface, address, mac } => {
                write!(f, "add neighbor {address} at {mac} to {interface} in {side}")
            }
        }
    }
}

/// Returns the next hop of a pod for the family of `address`.
pub(crate) fn gateway_for(address: IpAddr) -> IpAddr {
    match IpFamily::of(address) {
        IpFamily::V4 => GATEWAY_V4,
        IpFamily::V6 => GATEWAY_V6,
    }
}

/// Returns an address as a network of one address.
pub(crate) fn host_network(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// Returns the steps that set up an attachment, in order. Sysctls come before the interfaces are up, so that neither end
/// ever accepts a router advertisement. The host's route comes last, when the pod is ready for packets.
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
            Step::Neighbor { side: Side::Pod, interface: pod(), address: gateway, mac: veth.host_mac },
            Step::DefaultRoute { interface: pod(), gateway },
            Step::Neighbor { side: Side::Host, interface: host(), address, mac: veth.pod_mac },
            Step::HostRoute { interface: host(), address },
        ]);
    }
    steps
}

fn sysctls(wiring: &Wiring) -> Vec<Step> {
    use IpFamily::{V4, V6};
    use Side::{Host, Pod};
    let mut settings = vec![
        // Without this, a router advertisement from a pod could redirect the host or another pod (CVE-2020-10749).
        (Pod, V6, "accept_ra", "0"),
        (Host, V6, "accept_ra", "0"),
        // No link-local address on the host's end: pods reach the host by its own addresses only.
        (Host, V6, "addr_gen_mode", "1"),
        // A pod sends from its own address only: RFC 3704 §2.2, strict.
        (Host, V4, "rp_filter", "1"),
        (Host, V4, "forwarding", "1"),
    ];
    if wiring.addresses.iter().any(IpAddr::is_ipv6) {
        settings.push((Host, V6, "forwarding", "1"));
        // Some runtimes create namespaces with IPv6 turned off.
        settings.push((Pod, V6, "disable_ipv6", "0"));
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

/// The failure of a plan.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", undo.as_ref().map(|e| format!("; undoing it failed too: {e}")).unwrap_or_default())]
pub(crate) struct Failure {
    pub cause: NetError,
    /// The failure of the undo: if there is one, something may be left in the kernel.
    pub undo: Option<NetError>,
}

/// Executes the steps; if one fails, undoes those that were executed.
pub(crate) fn execute(net: &mut dyn Net, steps: &[Step]) -> Result<(), Failure> {
    for (at, step) in steps.iter().enumerate() {
        if let Err(cause) = net.apply(step) {
            // The failed step too: it may have had an effect in spite of the error.
            return Err(Failure { cause, undo: undo(net, &steps[..=at]).err() });
        }
    }
    Ok(())
}

/// Undoes steps. All others depend on the veth pair, and the kernel removes them with it, on both sides.
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
            | Step::Neighbor { .. } => {}
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
                "add neighbor 169.254.1.1 at 02:00:00:00:00:01 to eth0 in the pod",
                "add the pod's default route via 169.254.1.1 through eth0",
                "add neighbor 10.244.1.2 at 02:00:00:00:00:02 to hg000000000001 in the host",
                "add the host's route to 10.244.1.2 through hg000000000001",
            ]
        );
    }

    #[test]
    fn a_dual_stack_pod_gets_everything_for_both_families_and_sysctls_come_before_up() {
        let steps = plan(&wiring(&["10.244.1.2", "fd00::2"]));
        let routes = steps.iter().filter(|s| matches!(s, Step::HostRoute { .. })).count();
        assert_eq!(routes, 2);
        let first_up = position(&steps, |s| matches!(s, Step::Up { .. }));
        assert!(steps[first_up..].iter().all(|s| !matches!(s, Step::Sysctl { .. })));
        let v6 = |s: &Step| matches!(s, Step::DefaultRoute { gateway, .. } if *gateway == GATEWAY_V6);
        assert!(position(&steps, v6) > first_up);
    }
}
