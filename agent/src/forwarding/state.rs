//! The state of forwarding, as the forwarding thread reports it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

use crate::dataplane::Summary;
use crate::plan::{Reachability, SegmentVerdict, Underlays};

/// The state of forwarding at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardingState {
    /// The state of the kernel.
    pub kernel: Summary,
    /// The verdicts on the next hops of best routes, by address.
    pub next_hops: Arc<[SegmentVerdict]>,
    /// The numbers of learned best routes, by family and use.
    pub route_counts: BTreeMap<(IpFamily, RouteUse), usize>,
    /// The problems, each with a remedy.
    pub problems: Vec<String>,
    /// The MTU in bytes of the interfaces of this node's own addresses.
    pub mtus: Underlays,
    /// Every peer has sent all its routes, or the time for it is over.
    pub synced: bool,
    /// The node's own pod CIDRs whose routes are in the kernel.
    pub own_routes: Vec<IpNetwork>,
    /// The number of runs that changed the kernel.
    pub programmings: u64,
    /// The total time of these.
    pub programming_time: Duration,
}

/// The use of a best route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteUse {
    /// By the reachability of its next hop.
    By(Reachability),
    /// Not installed, although the next hop is reachable.
    Rejected,
}

/// The state of the best route to a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InKernel {
    /// The kernel has it.
    pub installed: bool,
    /// The reachability of its next hop. `None`: no packet takes it.
    pub reachability: Option<Reachability>,
    /// The reason for which it is not installed on purpose.
    pub reason: Option<String>,
}
