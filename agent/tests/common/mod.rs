//! A private network namespace for a test, with the real `ip` and `nft` to check it independently of the tested code.
#![allow(dead_code, missing_docs)]

pub mod place;

use heliograph_agent::dataplane::{Dataplane, Hop, Linux, NatOutgoing, Route, Summary, Tunnel};
use heliograph_agent::netlink::Hint;
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs a test in its own network namespace, on its own thread: a namespace belongs to a thread, and /proc, netlink and
/// child processes use that of their thread. Needs root; without it the test fails with a clear message.
pub fn in_namespace<F, T>(test: F)
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()>,
{
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("make a network namespace: these tests need root (sudo -E cargo test)");
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command that must succeed, and returns what it prints.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Creates two connected interfaces: `up0` with addresses of the underlay, and its peer, both up.
pub fn underlay() -> u32 {
    sh("ip link add up0 type veth peer name up1 && ip link set up1 up && ip link set up0 up");
    sh("ip address add 192.0.2.1/24 dev up0");
    sh("ip -6 address add 2001:db8::1/64 dev up0 nodad");
    sh(&once_local("2001:db8::1"));
    index("up0")
}

/// Returns a shell command that waits until an IPv6 address is usable: the kernel adds the route to it later.
pub fn once_local(address: &str) -> String {
    let look = format!("ip -6 route show table local | grep -q 'local {address} '");
    format!("for i in $(seq 500); do if {look}; then exit; fi; sleep 0.01; done; exit 1")
}

pub fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

pub fn at(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn direct(via: &str, oif: u32) -> Hop {
    Hop::Direct { via: ip(via), oif }
}

pub fn tunnel(remote: &str) -> Hop {
    tunnel_from("192.0.2.1", remote)
}

pub fn tunnel_from(local: &str, remote: &str) -> Hop {
    let tunnel = Tunnel::ipip(IpFamily::of(ip(remote)));
    Hop::Tunnel { tunnel, remote: ip(remote), local: ip(local) }
}

/// The desired state of all planes.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub routes: BTreeMap<IpNetwork, Route>,
    /// The tunnel devices, with their MTU.
    pub tunnels: BTreeMap<Tunnel, u32>,
    pub allowed_tunnel_sources: BTreeSet<IpAddr>,
    pub nat_outgoing: Option<NatOutgoing>,
}

pub fn routes(list: &[(&str, Route)]) -> Desired {
    Desired {
        routes: list.iter().map(|(prefix, route)| (at(prefix), route.clone())).collect(),
        ..Desired::default()
    }
}

pub fn with_tunnel4(mut desired: Desired, sources: &[&str]) -> Desired {
    desired.tunnels = [(Tunnel::ipip(IpFamily::V4), 1480)].into();
    desired.allowed_tunnel_sources = sources.iter().map(|source| ip(source)).collect();
    desired
}

/// The planes of the present namespace.
pub struct Kernel {
    pub dataplane: Dataplane<Linux>,
    desired: BTreeSet<IpNetwork>,
}

impl Kernel {
    pub fn open() -> Self {
        Self { dataplane: Dataplane::open().unwrap(), desired: BTreeSet::new() }
    }

    fn set_desired(&mut self, desired: &Desired) {
        let dataplane = &mut self.dataplane;
        for prefix in self.desired.iter().filter(|prefix| !desired.routes.contains_key(prefix)) {
            dataplane.routes.set(*prefix, None);
        }
        for (prefix, route) in &desired.routes {
            dataplane.routes.set(*prefix, Some(Arc::new(route.clone())));
        }
        self.desired = desired.routes.keys().copied().collect();
        for tunnel in Tunnel::ALL {
            dataplane.tunnels.set(tunnel, desired.tunnels.get(&tunnel).copied());
        }
        let sources = &desired.allowed_tunnel_sources;
        dataplane.set_guard((!sources.is_empty()).then(|| sources.clone()));
        dataplane.set_nat(desired.nat_outgoing.clone());
        for family in IpFamily::ALL {
            let forwards = self.desired.iter().any(|prefix| IpFamily::of_network(prefix) == family);
            dataplane.sysctls.set(family, forwards);
        }
        dataplane.permit_deleting(true);
    }

    /// Reads the kernel again and applies `desired`; deletes all other objects of Heliograph.
    pub fn apply(&mut self, desired: &Desired) -> Summary {
        self.set_desired(desired);
        self.dataplane.invalidate(&Hint::Everything);
        self.run()
    }

    /// Makes all changes, and goes on with what has to be done at once.
    pub fn run(&mut self) -> Summary {
        let now = Instant::now();
        loop {
            self.dataplane.run(now);
            if self.dataplane.next_retry().is_none_or(|due| due > now) {
                return self.dataplane.report();
            }
        }
    }

    /// Calls [`Kernel::apply`], which must succeed.
    pub fn apply_in_sync(&mut self, desired: &Desired) {
        let summary = self.apply(desired);
        assert!(
            summary.in_sync,
            "{summary:#?}\n{}",
            sh("ip -d route show proto 104; ip -d -6 route show proto 104; ip -d link")
        );
    }

    /// Applies `desired`, which must change nothing: the kernel holds exactly that.
    pub fn check_held(desired: &Desired, why: &str) {
        let mut after = Self::open();
        let summary = after.apply(desired);
        assert!(summary.in_sync && summary.changes == 0, "{why}: {summary:#?}");
    }
}

/// Waits until the condition holds; fails after some seconds.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "timeout: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
