//! A private network namespace for a test, with the real `ip` and `nft` to check it independently of the tested code.
#![allow(dead_code, missing_docs)]

pub mod place;

use heliograph_agent::kernel::linux::Linux;
use heliograph_agent::kernel::{Desired, Hop, Route, TunnelDevice, Tunnels};
use heliograph_agent::reconcile::{Reconciler, Summary};
use ipnetwork::IpNetwork;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
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
    Hop::Tunnel { remote: ip(remote), local: ip("192.0.2.1") }
}

pub fn routes(list: &[(&str, Route)]) -> Desired {
    Desired {
        routes: list.iter().map(|(prefix, route)| (at(prefix), route.clone())).collect(),
        ..Desired::default()
    }
}

pub fn with_tunnel4(mut desired: Desired, local: &str, sources: &[&str]) -> Desired {
    desired.tunnels =
        Tunnels { v4: Some(TunnelDevice { local: local.parse().unwrap(), mtu: 1480 }), v6: None };
    desired.allowed_tunnel_sources = sources.iter().map(|source| ip(source)).collect();
    desired
}

/// Reads the kernel again and applies `desired`; deletes all other objects of Heliograph.
pub async fn apply(reconciler: &mut Reconciler<Linux>, desired: &Desired) -> Summary {
    reconciler.set_desired(desired.clone(), true);
    reconciler.invalidate(true);
    reconciler.run(Instant::now()).await
}

/// Calls [`apply`], which must succeed.
pub async fn apply_in_sync(reconciler: &mut Reconciler<Linux>, desired: &Desired) {
    let summary = apply(reconciler, desired).await;
    assert!(
        summary.in_sync,
        "{summary:#?}\n{}",
        sh("ip -d route show proto 104; ip -d -6 route show proto 104")
    );
}

/// Waits until the condition holds; fails after some seconds.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "timeout: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
