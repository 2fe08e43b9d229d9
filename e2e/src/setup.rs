//! Installs the packages that the lab needs and the machine lacks, and lists them with their purpose. For Debian and
//! its derivatives only.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cleanup;
use crate::cluster::binaries::Binaries;
use crate::uml;

/// A Debian package: its name and its purpose.
type Package = (&'static str, &'static str);

const LAB: [Package; 2] =
    [("iproute2", "builds and inspects the lab's networks"), ("nftables", "shows the agents' filter rules")];
const BGP: [Package; 5] = [
    ("bird2", "a BGP peer of the interoperability tests"),
    ("frr", "a BGP peer of the interoperability tests"),
    ("gobgpd", "a BGP peer of the interoperability tests"),
    ("openbgpd", "a BGP peer of the interoperability tests"),
    ("iputils-ping", "sends packets through routes and tunnels"),
];
const AGENT: [Package; 4] = [
    ("etcd-server", "the storage of the API server"),
    ("iputils-ping", "sends packets through routes and tunnels"),
    ("openssl", "makes the API server's keys"),
    ("prometheus", "scrapes the agents; its promtool checks their metrics"),
];
/// The programs that Kubernetes' tests run in their pods.
const CONFORMANCE: [Package; 5] = [
    ("bind9-dnsutils", "queries the cluster's DNS in Kubernetes' tests"),
    ("conntrack", "lists connections in Kubernetes' tests"),
    ("curl", "connects to Services in Kubernetes' tests"),
    ("wget", "connects to Services in Kubernetes' tests"),
    ("netcat-openbsd", "connects to ports in Kubernetes' tests"),
];
const CLUSTER: [Package; 6] = [
    ("busybox-static", "the program of the cluster's test pods"),
    ("containerd", "runs the pods of the cluster's nodes"),
    ("containernetworking-plugins", "the loopback plugin that containerd runs"),
    ("etcd-server", "the storage of the cluster's API server"),
    ("openssl", "makes the cluster's keys"),
    ("runc", "runs the pods of the cluster's nodes"),
];
const KERNEL: [Package; 8] = [
    (uml::SOURCE_PACKAGE, "the source of the User-mode Linux kernel"),
    ("make", "builds that kernel"),
    ("gcc", "builds that kernel"),
    ("flex", "builds that kernel"),
    ("bison", "builds that kernel"),
    ("bc", "builds that kernel"),
    ("libelf-dev", "builds that kernel"),
    ("xz-utils", "unpacks its source"),
];

/// The purpose that a machine is prepared for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// The lab: packages, and a kernel with ipip where the machine's has none.
    #[default]
    Demo,
    /// The tests of heliograph-bgp: other BGP daemons.
    Bgp,
    /// The tests of the agent: the lab, and an API server, built once.
    Agent,
    /// The one-machine Kubernetes: packages, and Kubernetes itself, built once.
    Cluster,
    /// All tests.
    Tests,
}

/// Prepares the machine.
///
/// # Errors
/// When something is missing and can be neither installed nor built.
pub fn setup(purpose: Purpose) -> Result<()> {
    need_root()?;
    let print = &mut |step: &str| println!("setup: {step}");
    let packages: &[&[Package]] = match purpose {
        Purpose::Demo => &[&LAB],
        Purpose::Bgp => &[&LAB, &BGP],
        Purpose::Agent => &[&LAB, &AGENT],
        Purpose::Cluster => &[&LAB, &CLUSTER],
        Purpose::Tests => &[&LAB, &BGP, &AGENT, &CLUSTER, &CONFORMANCE],
    };
    install(&packages.concat())?;
    if matches!(purpose, Purpose::Demo | Purpose::Agent | Purpose::Tests) {
        setup_kernel(print)?;
    }
    match purpose {
        Purpose::Demo | Purpose::Bgp => Ok(()),
        Purpose::Agent => Binaries::api_server(print).map(drop),
        Purpose::Cluster => Binaries::cluster(print).map(drop),
        Purpose::Tests => Binaries::conformance(print).map(drop),
    }
}

/// Builds a kernel with ipip where the machine's has none.
fn setup_kernel(print: &mut dyn FnMut(&str)) -> Result<()> {
    if uml::has_ipip()? {
        print("this kernel has ipip, the labs run on it directly");
        return Ok(());
    }
    print("this kernel has no ipip, the labs run in User-mode Linux");
    if !uml::is_cached().unwrap_or(false) {
        install(&KERNEL)?;
    }
    let kernel = match uml::kernel(print) {
        Ok(kernel) => kernel,
        // The cached one did not boot, and the packages for another are not all installed.
        Err(error) => {
            if install(&KERNEL)? == 0 {
                return Err(error);
            }
            uml::kernel(print)?
        }
    };
    print(&format!("User-mode Linux kernel {}", kernel.display()));
    Ok(())
}

fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("cannot prepare the lab: it builds networks and needs root. Run it with sudo");
    }
    Ok(())
}

/// Installs those of the packages that are missing, and returns their number.
fn install(packages: &[Package]) -> Result<usize> {
    let mut missing: Vec<_> = packages.iter().filter(|(name, _)| !is_installed(name)).collect();
    missing.sort_unstable();
    missing.dedup_by_key(|(name, _)| *name);
    if missing.is_empty() {
        return Ok(0);
    }
    for (name, purpose) in &missing {
        println!("setup: {name} is missing: {purpose}");
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "cannot install {}: this is no Debian. Install your system's packages with these programs, and run this again",
            names.join(", ")
        );
    }
    let _no_services = NoServices::declare()?;
    println!("setup: apt-get install {}", names.join(" "));
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&names);
    apt_get(&arguments)?;
    Ok(names.len())
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("cannot run apt-get")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`apt-get {}` failed: {}", arguments.join(" "), errors.trim());
    }
    Ok(())
}

/// A file that keeps packages from starting services while it exists (invoke-rc.d(8)): a developer's machine is no
/// router. A file that exists already is an administrator's decision and stays as it is.
struct NoServices(Option<(PathBuf, cleanup::Registered)>);

impl NoServices {
    fn declare() -> Result<Self> {
        let file = PathBuf::from("/usr/sbin/policy-rc.d");
        match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&file) {
            Ok(mut open) => {
                let on_interrupt = cleanup::register({
                    let file = file.clone();
                    move || drop(std::fs::remove_file(file))
                });
                open.write_all(
                    b"#!/bin/sh\n# Written by `heliograph-lab setup` while it installs packages.\nexit 101\n",
                )?;
                Ok(Self(Some((file, on_interrupt))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self(None)),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", file.display())),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some((file, _)) = &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}
