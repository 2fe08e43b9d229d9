//! The verbs: from the environment and standard input to the printed result.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use crate::IpFamily;
use crate::args::{Command, invalid};
use crate::attachment::{Attachment, is_host_interface};
use crate::check::check;
use crate::config::{Config, NEWEST_VERSION, Version, version_text};
use crate::error::{CniError, code};
use crate::net::{Mac, Net, Side};
use crate::netlink::Kernel;
use crate::node::NodeFile;
use crate::plan::{Failure, Veth, Wiring, execute, gateway_for, host_network, plan};
use crate::result::{Interface, Ip, Route, Success};
use crate::store::{Store, StoreError};

/// Runs the plugin: reads the verb from the environment and the configuration from standard input, prints the
/// result or the error on standard output. The exit code is 0 on success and 1 otherwise.
pub fn run() -> ExitCode {
    let mut version = NEWEST_VERSION;
    let (text, exit) = match perform(&mut version) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version.as_str()), ExitCode::FAILURE),
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => exit,
        // The runtime didn't get the result; it treats that as a failure and calls DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Executes the verb. `version` is set as soon as it is decoded, so that errors are printed in it.
fn perform(version: &mut Version) -> Result<String, CniError> {
    let command = Command::from_env(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))?;
    let stdin = read_stdin()?;
    if command == Command::Version {
        return Ok(versions(&stdin));
    }
    let config = Config::decode(&stdin)?;
    *version = config.version;
    match command {
        Command::Add(attachment, netns) => {
            config.reject_unsupported()?;
            let node = NodeFile::load(&config.run_dir)?;
            let result = add(&mut kernel(&netns)?, &config, &node, &attachment, &netns)?;
            Ok(result.to_json(config.version))
        }
        Command::Del(attachment) => {
            del(&mut Kernel::host_only()?, &config.run_dir, &attachment)?;
            Ok(String::new())
        }
        Command::Check(attachment, netns) => {
            since(Version::V0_4_0, config.version, "CHECK")?;
            check(&mut kernel(&netns)?, &config, &attachment)?;
            Ok(String::new())
        }
        Command::Gc => {
            since(Version::V1_1_0, config.version, "GC")?;
            gc(&mut Kernel::host_only()?, &config)?;
            Ok(String::new())
        }
        Command::Status => {
            since(Version::V1_1_0, config.version, "STATUS")?;
            config.reject_unsupported()?;
            status(&config.run_dir)?;
            Ok(String::new())
        }
        Command::Version => unreachable!("answered above"),
    }
}

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    let mut stdin = io::stdin().lock();
    if !stdin.is_terminal() {
        let read = stdin.read_to_end(&mut bytes);
        read.map_err(|e| CniError::new(code::IO, "standard input can't be read", e.to_string()))?;
    }
    Ok(bytes)
}

fn kernel(netns: &Path) -> Result<Kernel, CniError> {
    let unusable =
        |e: io::Error| invalid("CNI_NETNS", &format!("open network namespace {}: {e}", netns.display()));
    Ok(Kernel::with_pod(netns).map_err(unusable)??)
}

fn since(first: Version, asked: Version, verb: &str) -> Result<(), CniError> {
    if asked >= first {
        return Ok(());
    }
    Err(CniError::new(
        code::INCOMPATIBLE_VERSION,
        format!("CNI version {asked} has no {verb}"),
        format!("{verb} is part of the specification since {first}"),
    ))
}

/// Returns the result of VERSION. It contains the requested version, even if that is not supported.
fn versions(stdin: &[u8]) -> String {
    let asked = version_text(stdin).unwrap_or_else(|| NEWEST_VERSION.to_string());
    serde_json::json!({"cniVersion": asked, "supportedVersions": Version::ALL.map(Version::as_str)})
        .to_string()
}

fn add(
    net: &mut dyn Net,
    config: &Config,
    node: &NodeFile,
    attachment: &Attachment,
    netns: &Path,
) -> Result<Success, CniError> {
    let before = config.prev_result()?.unwrap_or_default();
    if net.link(Side::Pod, &attachment.ifname)?.is_some() {
        return Err(CniError::new(
            code::ALREADY_ATTACHED,
            format!("the container already has an interface {}", attachment.ifname),
            format!("{attachment} exists in {}; call DEL before another ADD", netns.display()),
        ));
    }
    // An ADD that was killed may have left it: the pod's end is not in this namespace.
    let host_name = attachment.host_interface();
    net.delete_host_link(&host_name)?;

    let addresses = reserve(net, config, node, attachment)?;
    let result = random_macs().and_then(|[host_mac, pod_mac]| {
        let veth = Veth { host_name, host_mac, pod_name: attachment.ifname.clone(), pod_mac, mtu: node.mtu };
        let wiring = Wiring { veth, addresses };
        execute(net, &plan(&wiring)).map(|()| wiring).map_err(SetUpError::Plan)
    });
    match result {
        Ok(wiring) => Ok(success(before, config, &wiring, netns)),
        Err(failure) => Err(abort_add(config, attachment, failure)),
    }
}

fn reserve(
    net: &mut dyn Net,
    config: &Config,
    node: &NodeFile,
    attachment: &Attachment,
) -> Result<Vec<IpAddr>, CniError> {
    let mut store = Store::open(&config.run_dir)?;
    let in_kernel = |address| net.host_route(address).map(|route| route.is_some());
    Ok(store.reserve(attachment, &node.pod_cidrs, in_kernel)?)
}

enum SetUpError {
    Random(io::Error),
    Plan(Failure),
}

/// Releases the address after a failed ADD, unless the kernel may still route to the pod; returns the error to report.
fn abort_add(config: &Config, attachment: &Attachment, failure: SetUpError) -> CniError {
    let mut error = match &failure {
        SetUpError::Random(e) => {
            CniError::new(code::IO, "no random bytes for the MAC addresses", e.to_string())
        }
        SetUpError::Plan(failure) => {
            let msg = format!("the kernel rejected a step of the pod's set-up: {}", failure.cause.tried);
            CniError::new(code::KERNEL, msg, failure.to_string())
        }
    };
    if matches!(&failure, SetUpError::Plan(Failure { undo: Some(_), .. })) {
        error.details.push_str("; the address stays reserved until DEL");
    } else if let Err(e) = Store::open(&config.run_dir).and_then(|mut store| store.release(attachment)) {
        error.details.push_str(&format!("; the address was not released: {e}"));
    }
    error
}

fn random_macs() -> Result<[Mac; 2], SetUpError> {
    let mut bytes = [0; 12];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(SetUpError::Random)?;
    let [a, b, c, d, e, f, rest @ ..] = bytes;
    Ok([Mac::local([a, b, c, d, e, f]), Mac::local(rest)])
}

/// Returns the result of ADD, appended to that of an earlier plugin of the chain if there was one.
fn success(before: Success, config: &Config, wiring: &Wiring, netns: &Path) -> Success {
    let mut result = before;
    let Wiring { veth, addresses } = wiring;
    let interface = |name: &str, mac: Mac, sandbox: String| Interface {
        name: name.into(),
        mac: mac.to_string(),
        mtu: Some(veth.mtu),
        sandbox,
        ..Interface::default()
    };
    result.interfaces.push(interface(&veth.host_name, veth.host_mac, String::new()));
    result.interfaces.push(interface(&veth.pod_name, veth.pod_mac, netns.display().to_string()));
    let index = result.interfaces.len() - 1;
    for &address in addresses {
        let gateway = gateway_for(address);
        let default_route = match IpFamily::of(address) {
            IpFamily::V4 => "0.0.0.0/0",
            IpFamily::V6 => "::/0",
        };
        result.ips.push(Ip {
            address: host_network(address),
            gateway: Some(gateway),
            interface: Some(index),
            other: Default::default(),
        });
        result.routes.push(Route {
            dst: default_route.parse().expect("a constant prefix"),
            gw: Some(gateway),
            other: Default::default(),
        });
    }
    if config.dns.is_some() {
        result.dns.clone_from(&config.dns);
    }
    result
}

/// Removes everything that ADD created and that still exists. The interface comes first: while it exists, its address
/// is in use.
fn del(net: &mut dyn Net, run_dir: &Path, attachment: &Attachment) -> Result<(), CniError> {
    net.delete_host_link(&attachment.host_interface())?;
    match Store::open(run_dir) {
        Ok(mut store) => {
            store.release(attachment)?;
        }
        // A store that can't be read has no allocation to release; the next ADD reports the error.
        Err(error) => {
            eprintln!("heliograph-cni: DEL of {attachment} found no usable address store: {error}")
        }
    }
    Ok(())
}

/// Removes everything that belongs to no valid attachment: interfaces first, then allocations. Continues after an error
/// and reports all errors at the end.
fn gc(net: &mut dyn Net, config: &Config) -> Result<(), CniError> {
    let valid = config.valid_attachments.as_ref().ok_or_else(|| {
        CniError::new(
            code::INVALID_CONFIG,
            "GC without cni.dev/valid-attachments",
            "without the list of valid attachments all pods would lose their network; pass an empty list if that is intended",
        )
    })?;
    let valid_interfaces: BTreeSet<String> = valid.iter().map(Attachment::host_interface).collect();
    let mut errors = Vec::new();
    let mut kept = BTreeSet::new();
    for link in net.host_links()? {
        let ours = link.kind == "veth" && is_host_interface(&link.name);
        if !ours || valid_interfaces.contains(&link.name) {
            continue;
        }
        if let Err(e) = net.delete_host_link(&link.name) {
            errors.push(e.to_string());
            kept.insert(link.name);
        }
    }
    let stale = |a: &Attachment| !valid.contains(a) && !kept.contains(&a.host_interface());
    if let Err(e) = release_all(&config.run_dir, stale) {
        errors.push(e.to_string());
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(CniError::new(code::KERNEL, "not everything stale could be removed", errors.join("; ")))
}

fn release_all(run_dir: &Path, stale: impl Fn(&Attachment) -> bool) -> Result<(), StoreError> {
    let mut store = Store::open(run_dir)?;
    let attachments = store.records().map(|record| &record.attachment);
    let stale: Vec<Attachment> = attachments.filter(|a| stale(a)).cloned().collect();
    stale.iter().try_for_each(|attachment| store.release(attachment).map(drop))
}

/// Returns an error if an ADD would fail for lack of `node.json` or of a free address.
fn status(run_dir: &Path) -> Result<(), CniError> {
    let ready = || -> Result<(), CniError> {
        let node = NodeFile::load(run_dir)?;
        Ok(Store::open(run_dir)?.exhausted(&node.pod_cidrs)?)
    };
    ready().map_err(|e| CniError::new(code::NOT_AVAILABLE, e.msg, e.details))
}

#[cfg(test)]
#[path = "verbs_tests.rs"]
mod tests;
