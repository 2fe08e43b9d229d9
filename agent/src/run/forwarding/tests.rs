//! Tests of restarts, removed nodes and failed look-ups, on a fake kernel.

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

/// A fake kernel with segments that the test sets.
#[derive(Clone, Default)]
struct TestKernel {
    fake: Fake,
    /// The segments by next hop; the look-up of others fails.
    segments: Arc<Mutex<BTreeMap<IpAddr, Segment>>>,
}

impl TestKernel {
    fn set_segment(&self, next_hop: &str, segment: Segment) {
        self.segments.lock().unwrap().insert(ip(next_hop), segment);
    }

    fn routes(&self) -> Vec<String> {
        self.fake.state().actual.routes.keys().map(ToString::to_string).collect()
    }
}

impl Kernel for TestKernel {
    async fn dump(&self) -> KernelResult<Actual> {
        self.fake.dump().await
    }

    async fn apply(&self, changes: &[Change]) -> Vec<KernelResult<()>> {
        self.fake.apply(changes).await
    }

    async fn segment(&self, next_hop: IpAddr) -> KernelResult<Segment> {
        let found = self.segments.lock().unwrap().get(&next_hop).cloned();
        found.ok_or_else(|| KernelError::from_cause(format!("look up {next_hop}"), Cause::NoAnswer))
    }

    async fn underlay(&self, local: IpAddr) -> KernelResult<Underlay> {
        match local == ip(OWN) {
            true => Ok(Underlay { oif: 2, name: "eth1".into(), mtu: 1500 }),
            false => Err(KernelError::from_cause(format!("find {local}"), Cause::NoAnswer)),
        }
    }
}

fn direct() -> Segment {
    Segment::Direct { oif: 2, name: "eth1".into(), source: ip(OWN) }
}

struct TestNode {
    kernel: TestKernel,
    forwarding: Forwarding<TestKernel>,
    folder: tempfile::TempDir,
    snapshot: Snapshot,
}

impl TestNode {
    fn new() -> Self {
        let kernel = TestKernel::default();
        kernel.set_segment("172.20.1.12", direct());
        let folder = tempfile::tempdir().unwrap();
        let snapshot = cluster([node("a", OWN, "10.244.1.0/24"), node("b", "172.20.1.12", "10.244.2.0/24")]);
        Self { forwarding: Self::start(&kernel, &folder), kernel, folder, snapshot }
    }

    fn start(kernel: &TestKernel, folder: &tempfile::TempDir) -> Forwarding<TestKernel> {
        Forwarding::new(kernel.clone(), Installer::new(folder.path().join("run"), folder.path().join("cni")))
    }

    /// Replaces the process by a new one.
    fn restart(&mut self) {
        self.forwarding = Self::start(&self.kernel, &self.folder);
    }

    async fn sync(&mut self, best: BestRoutes, in_sync: bool) -> Vec<String> {
        self.forwarding.sync(&self.snapshot, "a", &best, in_sync).await;
        self.kernel.routes()
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
async fn a_restart_keeps_routes_until_peers_have_sent_all() {
    let mut this = TestNode::new();
    assert!(!this.forwarding.has_routes().await.unwrap());
    assert_eq!(this.sync(best(&[TO_B], true), true).await, ["10.244.1.0/24", "10.244.2.0/24"]);
    assert!(this.conflist());

    this.restart();
    assert!(this.forwarding.has_routes().await.unwrap());
    assert_eq!(this.sync(best(&[], false), true).await, ["10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(this.sync(best(&[], true), true).await, ["10.244.1.0/24"], "now the route is withdrawn");
}

#[tokio::test]
async fn a_removed_node_is_purged_but_not_by_the_last_good_intent() {
    let mut this = TestNode::new();
    this.sync(best(&[TO_B], true), true).await;
    this.snapshot.remove("a");
    assert_eq!(
        this.sync(best(&[], false), false).await.len(),
        2,
        "the last good intent is no reason to purge"
    );
    assert!(this.conflist());
    assert_eq!(this.sync(best(&[], false), true).await, [""; 0]);
    assert!(!this.conflist());
    let left = this.kernel.fake.state().actual.clone();
    assert_eq!((left.tunnels.len(), left.table), (0, Default::default()));

    this.snapshot.insert(node("a", OWN, "10.244.1.0/24"));
    assert_eq!(this.sync(best(&[TO_B], true), true).await.len(), 2);
    assert!(this.conflist());
}

#[tokio::test]
async fn a_failed_look_up_deletes_no_route() {
    let mut this = TestNode::new();
    this.sync(best(&[TO_B], true), true).await;
    this.kernel.segments.lock().unwrap().clear();
    this.forwarding.resync();
    assert_eq!(this.sync(best(&[TO_B], true), true).await.len(), 2);
    assert_eq!(this.forwarding.problems().count(), 1);

    let unreachable = Segment::Unreachable { error: "Network is unreachable".into() };
    this.kernel.set_segment("172.20.1.12", unreachable);
    assert_eq!(
        this.sync(best(&[TO_B], true), true).await,
        ["10.244.1.0/24"],
        "looked up again, with success"
    );
    assert_eq!(this.forwarding.problems().count(), 0);
}

#[tokio::test]
async fn a_changed_segment_is_applied_after_a_hint() {
    let mut this = TestNode::new();
    this.sync(best(&[TO_B], true), true).await;
    let routed = Segment::Routed { gateway: ip("172.20.1.1"), oif: 2, name: "eth1".into(), source: ip(OWN) };
    this.kernel.set_segment("172.20.1.12", routed);
    let reachability = |node: &TestNode| node.forwarding.verdicts()[&ip("172.20.1.12")].reachability;
    this.sync(best(&[TO_B], true), true).await;
    assert_eq!(reachability(&this), plan::Reachability::Direct, "there was no hint");
    this.forwarding.hint(Hint { underlay: true, own_objects: false });
    this.sync(best(&[TO_B], true), true).await;
    assert_eq!(reachability(&this), plan::Reachability::Tunnel);
    assert!(this.forwarding.installed(&TO_B.0.parse().unwrap()));
}

#[tokio::test]
async fn there_is_no_conflist_before_the_kernel_is_ready() {
    let mut this = TestNode::new();
    this.snapshot.node_mut("a").addresses = vec![ip("172.20.1.99")];
    this.sync(best(&[], true), true).await;
    assert!(!this.conflist(), "the address is on no interface, so the MTU isn't known");
    assert!(this.forwarding.problems().any(|problem| problem.contains("on no interface")));
}
