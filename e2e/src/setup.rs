//! Installs what the lab needs and the machine has not, saying what and why. Debian and its kin only.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cleanup;
use crate::cluster::binaries::Binaries;
use crate::uml;

/// A Debian package: its name, and what it is for.
type Package = (&'static str, &'static str);

const LAB: [Package; 2] =
    [("iproute2", "builds and looks at the lab's networks"), ("nftables", "shows the agents' filter rules")];
const INTEROP: [Package; 6] = [
    ("bird2", "a BGP peer of the interoperability tests"),
    ("frr", "a BGP peer of the interoperability tests"),
    ("gobgpd", "a BGP peer of the interoperability tests"),
    ("openbgpd", "a BGP peer of the interoperability tests"),
    ("iputils-ping", "goes through the tunnels in the kernel's tests"),
    ("prometheus", "scrapes the agents, and its promtool judges their metrics"),
];
/// What Kubernetes' tests call in their pods.
const CONFORMANCE: [Package; 5] = [
    ("bind9-dnsutils", "asks the cluster's DNS in Kubernetes' tests"),
    ("conntrack", "looks at connections in Kubernetes' tests"),
    ("curl", "asks Services in Kubernetes' tests"),
    ("wget", "asks Services in Kubernetes' tests"),
    ("netcat-openbsd", "connects to ports in Kubernetes' tests"),
];
const CLUSTER: [Package; 6] = [
    ("busybox-static", "what the cluster's test pods run"),
    ("containerd", "runs the pods of the cluster's nodes"),
    ("containernetworking-plugins", "the loopback plugin that containerd calls"),
    ("etcd-server", "keeps what the cluster's API server knows"),
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

/// Prepares the machine for demos, and with `tests` for all end-to-end tests too.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn setup(tests: bool) -> Result<()> {
    need_root()?;
    install(&LAB)?;
    if tests {
        install(&INTEROP)?;
        setup_cluster()?;
        install(&CONFORMANCE)?;
        Binaries::conformance(&mut |step| println!("setup: {step}"))?;
    }
    if uml::has_ipip()? {
        println!("setup: this kernel has ipip, the labs run on it directly");
        return Ok(());
    }
    println!("setup: this kernel has no ipip, the labs run in User-mode Linux");
    if !uml::is_cached().unwrap_or(false) {
        install(&KERNEL)?;
    }
    let print = &mut |step: &str| println!("setup: {step}");
    let kernel = match uml::kernel(print) {
        Ok(kernel) => kernel,
        // The cached one did not boot, and building another takes more than was there.
        Err(error) => {
            if install(&KERNEL)? == 0 {
                return Err(error);
            }
            uml::kernel(print)?
        }
    };
    println!("setup: User-mode Linux kernel {}", kernel.display());
    Ok(())
}

/// Prepares the machine for the one-machine Kubernetes: packages, and Kubernetes itself, built once.
///
/// # Errors
/// When something is missing and can be neither installed nor built.
pub fn setup_cluster() -> Result<()> {
    need_root()?;
    install(&LAB)?;
    install(&CLUSTER)?;
    Binaries::cluster(&mut |step| println!("setup: {step}")).map(drop)
}

fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab builds networks and needs root: run it with sudo");
    }
    Ok(())
}

/// Installs those of the packages that are not there yet, and tells how many that were.
fn install(packages: &[Package]) -> Result<usize> {
    let missing: Vec<_> = packages.iter().filter(|(name, _)| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    for (name, what_for) in &missing {
        println!("setup: {name} is missing: {what_for}");
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this is no Debian: install what gives you {} and run this again", names.join(", "));
    }
    let _quiet = NoServices::declare()?;
    println!("setup: apt-get install {}", names.join(" "));
    apt_get(&["update"])?;
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(&names);
    apt_get(&words)?;
    Ok(names.len())
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("cannot run apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`apt-get {}` failed: {}", words.join(" "), said.trim());
    }
    Ok(())
}

/// While it lives, packages do not start services: a developer's machine is no router. Debian asks this file
/// (invoke-rc.d(8)); one that is there already is somebody's decision and stays as it is.
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
                open.write_all(b"#!/bin/sh\n# Put here by `heliograph-lab setup` while it installs packages.\nexit 101\n")?;
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
