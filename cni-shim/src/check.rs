//! The verb CHECK: compares the present state with the result of ADD.

use std::net::IpAddr;

use crate::attachment::Attachment;
use crate::config::Config;
use crate::error::{CniError, code};
use crate::net::{Link, Mac, Net, NetError, Side};
use crate::plan::gateway_for;
use crate::result::{Interface, Success};
use crate::store::Store;
use crate::{IpFamily, ROUTE_PROTOCOL};

/// Compares `prevResult`, the address store and the kernel, and reports all differences in one error.
pub(crate) fn check(net: &mut dyn Net, config: &Config, attachment: &Attachment) -> Result<(), CniError> {
    let Some(expected) = &config.prev_result()? else {
        let details = "CHECK compares with the result of ADD, which the runtime must pass as prevResult";
        return Err(CniError::new(code::INVALID_CONFIG, "CHECK without prevResult", details));
    };
    let mut problems = Vec::new();
    check_store(config, attachment, expected, &mut problems)?;
    check_kernel(net, attachment, expected, &mut problems)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(CniError::new(code::CHECK_FAILED, format!("{attachment} is not as ADD left it"), problems.join("; ")))
}

fn check_store(
    config: &Config,
    attachment: &Attachment,
    expected: &Success,
    problems: &mut Vec<String>,
) -> Result<(), CniError> {
    let store = Store::open(&config.run_dir)?;
    let Some(record) = store.find(attachment) else {
        problems.push("no address is reserved for it".into());
        return Ok(());
    };
    for ip in expected.pod_addresses(&attachment.ifname) {
        let address = ip.address.ip();
        if !record.addresses.contains(&address) {
            problems.push(format!("{address} is not reserved for it"));
        }
    }
    for address in &record.addresses {
        if !expected.pod_addresses(&attachment.ifname).any(|ip| ip.address.ip() == *address) {
            problems.push(format!("{address} is reserved for it but not in prevResult"));
        }
    }
    Ok(())
}

fn check_kernel(
    net: &mut dyn Net,
    attachment: &Attachment,
    expected: &Success,
    problems: &mut Vec<String>,
) -> Result<(), NetError> {
    let host_name = attachment.host_interface();
    let interface = |name: &str, in_pod: bool| {
        expected.interfaces.iter().find(move |i| i.name == name && i.sandbox.is_empty() != in_pod)
    };
    let pod = check_link(net, Side::Pod, &attachment.ifname, interface(&attachment.ifname, true), problems)?;
    let host = check_link(net, Side::Host, &host_name, interface(&host_name, false), problems)?;
    // Without both ends everything else is missing too: one message is clearer than ten.
    let (Some(pod), Some(host)) = (pod, host) else {
        return Ok(());
    };
    for ip in expected.pod_addresses(&attachment.ifname) {
        let address = ip.address.ip();
        if !net.has_address(Side::Pod, pod.index, address)? {
            problems.push(format!("{} in the pod lacks the address {address}", pod.name));
        }
        check_host_route(net, &host, address, problems)?;
        check_default_route(net, &pod, address, expected, problems)?;
        check_neighbor(net, Side::Host, &host, address, pod.mac, problems)?;
        check_neighbor(net, Side::Pod, &pod, gateway_for(address), host.mac, problems)?;
    }
    Ok(())
}

fn check_link(
    net: &mut dyn Net,
    side: Side,
    name: &str,
    expected: Option<&Interface>,
    problems: &mut Vec<String>,
) -> Result<Option<Link>, NetError> {
    let Some(expected) = expected else {
        problems.push(format!("prevResult has no interface {name} in {side}"));
        return Ok(None);
    };
    let Some(link) = net.link(side, name)? else {
        problems.push(format!("interface {name} is gone from {side}"));
        return Ok(None);
    };
    if !link.up {
        problems.push(format!("{name} in {side} is down"));
    }
    let expected_mac: Option<Mac> = expected.mac.parse().ok();
    if let (Some(wanted), Some(found)) = (expected_mac, link.mac)
        && wanted != found
    {
        problems.push(format!("{name} in {side} has the MAC {found} instead of {wanted}"));
    }
    if let Some(wanted) = expected.mtu
        && wanted != link.mtu
    {
        problems.push(format!("{name} in {side} has MTU {} instead of {wanted}", link.mtu));
    }
    Ok(Some(link))
}

fn check_host_route(
    net: &mut dyn Net,
    host: &Link,
    address: IpAddr,
    problems: &mut Vec<String>,
) -> Result<(), NetError> {
    match net.host_route(address)? {
        None => problems.push(format!("the host's route to {address} is missing")),
        Some(route) if route.interface != Some(host.index) || route.protocol != ROUTE_PROTOCOL => {
            problems.push(format!("the host's route to {address} is not the one through {}", host.name));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Checks the default route if `prevResult` still contains it: a later plugin of the chain may have replaced it.
fn check_default_route(
    net: &mut dyn Net,
    pod: &Link,
    address: IpAddr,
    expected: &Success,
    problems: &mut Vec<String>,
) -> Result<(), NetError> {
    let gateway = gateway_for(address);
    if !expected.routes.iter().any(|route| route.dst.prefix() == 0 && route.gw == Some(gateway)) {
        return Ok(());
    }
    let ours = |route: &crate::net::Route| {
        route.prefix_len == 0 && route.gateway == Some(gateway) && route.interface == Some(pod.index)
    };
    if !net.pod_routes(IpFamily::of(address))?.iter().any(ours) {
        problems.push(format!("the pod's default route via {gateway} is missing"));
    }
    Ok(())
}

fn check_neighbor(
    net: &mut dyn Net,
    side: Side,
    on: &Link,
    address: IpAddr,
    wanted: Option<Mac>,
    problems: &mut Vec<String>,
) -> Result<(), NetError> {
    match net.neighbor(side, on.index, address)? {
        None => problems.push(format!("the permanent neighbor entry for {address} is missing in {side}")),
        Some(found) if Some(found) != wanted => {
            problems.push(format!("the neighbor entry for {address} in {side} has the stale MAC {found}"));
        }
        Some(_) => {}
    }
    Ok(())
}
