//! What a restart, a lost node and a failing look-up do to routes: on a kernel that is only remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use heliograph_bgp::report::BestRoute;

use super::*;
use crate::kernel::error::Cause;
use crate::kernel::fake::Fake;
use crate::kernel::{Actual, Change, KernelError, Underlay};
use crate::plan::testing::{cluster, ip, node};

const OWN: &str = "172.20.1.11";

/// A kernel that is remembered, with next hops that are where the test says.
#[derive(Clone, Default)]
struct Ground {
    fake: Fake,
    /// A next hop that isn't listed can't be looked up.
    segments: Arc<Mutex<BTreeMap<IpAddr, Segment>>>,
}

impl Ground {
    fn place(&self, next_hop: &str, segment: Segment) {
        self.segments.lock().unwrap().insert(ip(next_hop), segment);
    }

    fn routes(&self) -> Vec<String> {
        self.fake.state().actual.routes.keys().map(ToString::to_string).collect()
    }
}

impl Kernel for Ground {
    async fn dump(&self) -> KernelResult<Actual> {
        self.fake.dump().await
    }

    async fn apply(&self, changes: &[Change]) -> Vec<KernelResult<()>> {
        self.fake.apply(changes).await
    }

    async fn segment(&self, next_hop: IpAddr) -> KernelResult<Segment> {
        let found = self.segments.lock().unwrap().get(&next_hop).cloned();
        found.ok_or_else(|| KernelError::from_cause(format!("look up {next_hop}"), Cause::Silent))
    }

    async fn underlay(&self, local: IpAddr) -> KernelResult<Underlay> {
        match local == ip(OWN) {
            true => Ok(Underlay { oif: 2, name: "eth1".into(), mtu: 1500 }),
            false => Err(KernelError::from_cause(format!("find {local}"), Cause::Silent)),
        }
    }
}

fn direct() -> Segment {
    Segment::Direct { oif: 2, name: "eth1".into(), source: ip(OWN) }
}

struct Bench {
    ground: Ground,
    forwarding: Forwarding<Ground>,
    folder: tempfile::TempDir,
    snapshot: Snapshot,
}

impl Bench {
    fn new() -> Self {
        let ground = Ground::default();
        ground.place("172.20.1.12", direct());
        let folder = tempfile::tempdir().unwrap();
        let snapshot = cluster([node("a", OWN, "10.244.1.0/24"), node("b", "172.20.1.12", "10.244.2.0/24")]);
        Self { forwarding: Self::start(&ground, &folder), ground, folder, snapshot }
    }

    fn start(ground: &Ground, folder: &tempfile::TempDir) -> Forwarding<Ground> {
        Forwarding::new(ground.clone(), Installer::new(folder.path().join("run"), folder.path().join("cni")))
    }

    /// The process ends and another begins.
    fn restart(&mut self) {
        self.forwarding = Self::start(&self.ground, &self.folder);
    }

    async fn look(&mut self, best: BestRoutes, sure: bool) -> Vec<String> {
        self.forwarding.look(&self.snapshot, "a", &best, sure).await;
        self.ground.routes()
    }

    fn conflist(&self) -> bool {
        self.folder.path().join("cni/10-heliograph.conflist").exists()
    }
}

fn best(routes: &[(&str, &str)], synced: bool) -> BestRoutes {
    let route =
        |(to, via): &(&str, &str)| BestRoute::new(to.parse::<IpNetwork>().unwrap().into(), ip(via), ip(via));
    BestRoutes::new(routes.iter().map(route).collect(), synced)
}

const TO_B: (&str, &str) = ("10.244.2.0/24", "172.20.1.12");

#[tokio::test]
async fn a_restart_keeps_routes_until_peers_have_told_all() {
    let mut bench = Bench::new();
    assert!(!bench.forwarding.holds_routes().await.unwrap());
    assert_eq!(bench.look(best(&[TO_B], true), true).await, ["10.244.1.0/24", "10.244.2.0/24"]);
    assert!(bench.conflist());

    bench.restart();
    assert!(bench.forwarding.holds_routes().await.unwrap());
    assert_eq!(bench.look(best(&[], false), true).await, ["10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(bench.look(best(&[], true), true).await, ["10.244.1.0/24"], "now it is known to be gone");
}

#[tokio::test]
async fn a_node_that_left_is_purged_but_not_on_old_intent() {
    let mut bench = Bench::new();
    bench.look(best(&[TO_B], true), true).await;
    bench.snapshot.nodes.remove("a");
    assert_eq!(bench.look(best(&[], false), false).await.len(), 2, "old intent is no reason to purge");
    assert!(bench.conflist());
    assert_eq!(bench.look(best(&[], false), true).await, [""; 0]);
    assert!(!bench.conflist());
    let left = bench.ground.fake.state().actual.clone();
    assert_eq!((left.tunnels.len(), left.table), (0, Default::default()));

    bench.snapshot.nodes.insert("a".into(), node("a", OWN, "10.244.1.0/24"));
    assert_eq!(bench.look(best(&[TO_B], true), true).await.len(), 2);
    assert!(bench.conflist());
}

#[tokio::test]
async fn a_look_up_that_fails_takes_no_route_away() {
    let mut bench = Bench::new();
    bench.look(best(&[TO_B], true), true).await;
    bench.ground.segments.lock().unwrap().clear();
    bench.forwarding.distrust();
    assert_eq!(bench.look(best(&[TO_B], true), true).await.len(), 2);
    assert_eq!(bench.forwarding.problems().count(), 1);

    let unreachable = Segment::Unreachable { error: "Network is unreachable".into() };
    bench.ground.place("172.20.1.12", unreachable);
    assert_eq!(bench.look(best(&[TO_B], true), true).await, ["10.244.1.0/24"], "asked again, and answered");
    assert_eq!(bench.forwarding.problems().count(), 0);
}

#[tokio::test]
async fn a_next_hop_that_moves_is_followed_on_a_hint() {
    let mut bench = Bench::new();
    bench.look(best(&[TO_B], true), true).await;
    let routed = Segment::Routed { gateway: ip("172.20.1.1"), oif: 2, name: "eth1".into(), source: ip(OWN) };
    bench.ground.place("172.20.1.12", routed);
    let verdict = |bench: &Bench| bench.forwarding.verdicts()[&ip("172.20.1.12")].verdict;
    bench.look(best(&[TO_B], true), true).await;
    assert_eq!(verdict(&bench), plan::Reachability::Direct, "nothing hinted at it");
    bench.forwarding.hint(Hint { underlay: true, ours: false });
    bench.look(best(&[TO_B], true), true).await;
    assert_eq!(verdict(&bench), plan::Reachability::Tunnel);
    assert!(bench.forwarding.installed(&TO_B.0.parse().unwrap()));
}

#[tokio::test]
async fn nothing_is_offered_to_the_runtime_before_the_kernel_is_ready() {
    let mut bench = Bench::new();
    bench.snapshot.nodes.get_mut("a").unwrap().addresses = vec![ip("172.20.1.99")];
    bench.look(best(&[], true), true).await;
    assert!(!bench.conflist(), "the address is on no interface, so the MTU isn't known");
    assert!(bench.forwarding.problems().any(|problem| problem.contains("on no interface")));
}
