//! The forwarding of an agent: segments of next hops, the desired state of the kernel, and the plugin's files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use heliograph_bgp::io::BestRoutes;
use heliograph_cni::node::NodeFile;
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use crate::cni::{CniError, Installer};
use crate::intent::{Node, Snapshot};
use crate::kernel::desired::{Desired, Segment};
use crate::kernel::watch::Hint;
use crate::kernel::{Kernel, KernelResult};
use crate::plan::{self, ForwardingPlan, SegmentVerdict, Underlays};
use crate::reconcile::{Reconciler, Summary};

/// The state of forwarding between two syncs.
pub struct Forwarding<K> {
    reconciler: Reconciler<K>,
    installer: Installer,
    installer_problem: Option<String>,
    plan: ForwardingPlan,
    summary: Summary,
    programmings: u64,
    programming_time: Duration,
    segments: BTreeMap<IpAddr, Segment>,
    underlays: Underlays,
    /// Set if next hops and addresses have to be looked up again.
    stale: bool,
    /// The problems of the last look-ups.
    lookup_problems: Vec<String>,
}

impl<K: Kernel> Forwarding<K> {
    /// Makes the forwarding for a kernel and the CNI plugin's files; changes nothing yet.
    pub fn new(kernel: K, installer: Installer) -> Self {
        Self {
            reconciler: Reconciler::new(kernel),
            installer,
            installer_problem: None,
            plan: ForwardingPlan::default(),
            summary: Summary::default(),
            programmings: 0,
            programming_time: Duration::ZERO,
            segments: BTreeMap::new(),
            underlays: Underlays::new(),
            stale: true,
            lookup_problems: Vec::new(),
        }
    }

    /// Returns whether the kernel has Heliograph's routes, which an earlier run installed.
    ///
    /// # Errors
    /// The kernel can't be read.
    pub async fn has_routes(&self) -> KernelResult<bool> {
        Ok(!self.reconciler.kernel().dump().await?.routes.is_empty())
    }

    /// Handles a hint that the kernel changed.
    pub fn hint(&mut self, hint: Hint) {
        self.stale |= hint.underlay;
        self.reconciler.invalidate(hint.underlay);
    }

    /// Makes the next sync read everything again.
    pub fn resync(&mut self) {
        self.hint(Hint { underlay: true, own_objects: true });
    }

    /// Returns the time of the next retry.
    pub fn next_retry(&self) -> Option<Instant> {
        self.reconciler.next_retry().map(Instant::from_std)
    }

    /// Reconciles the kernel and updates the plugin's files. `in_sync`: the intent is the present one, not the last good one.
    pub async fn sync(&mut self, snapshot: &Snapshot, node: &str, best: &BestRoutes, in_sync: bool) {
        let this = snapshot.node(node);
        let addresses = this.map(|node| node.addresses.clone()).unwrap_or_default();
        self.look_up(&addresses, best).await;
        self.plan = plan::desired(snapshot, node, &best.routes, &self.segments, &self.underlays);
        // Everything of a node that was removed from the intent is deleted, but not because of the last good intent.
        let may_delete = if this.is_some() { best.synced } else { in_sync };
        self.reconciler.set_desired(self.plan.desired.clone(), may_delete);
        let start = Instant::now();
        let before = self.summary.changes + self.summary.failures;
        self.summary = self.reconciler.run(start.into_std()).await;
        if self.summary.changes + self.summary.failures != before {
            self.programmings += 1;
            self.programming_time += start.elapsed();
        }
        self.update_plugin_files(snapshot, this, in_sync);
    }

    /// Writes the files that the CNI plugin and the container runtime read, or removes them.
    fn update_plugin_files(&mut self, snapshot: &Snapshot, this: Option<&Node>, in_sync: bool) {
        let result = match this.filter(|node| !node.pod_cidrs.is_empty()) {
            Some(node) => match plan::pod_mtu(snapshot, node, &self.underlays) {
                Some(mtu) => self.install_plugin_files(node, mtu),
                // No interface has the address, perhaps for a moment only: the files stay as they are.
                None => return,
            },
            None if in_sync => self.installer.uninstall(),
            None => return,
        };
        let problem = result.err().map(|error| error.to_string());
        if problem.is_some() && problem != self.installer_problem {
            tracing::warn!("{}", problem.as_deref().unwrap_or_default());
        }
        self.installer_problem = problem;
    }

    fn install_plugin_files(&self, node: &Node, mtu: u32) -> Result<bool, CniError> {
        let file = NodeFile::new(&*node.name, node.pod_cidrs.clone(), mtu, node.addresses.clone());
        let ready = node.pod_cidrs.iter().all(|cidr| self.reconciler.installed(cidr));
        self.installer.install(&file, ready)
    }

    /// Looks up the segments of next hops and the interfaces of the node's addresses, if they are not known or stale.
    async fn look_up(&mut self, addresses: &[IpAddr], best: &BestRoutes) {
        let stale = std::mem::take(&mut self.stale);
        let next_hops = plan::next_hops(&best.routes);
        if stale {
            self.lookup_problems.clear();
        }
        self.segments.retain(|next_hop, _| next_hops.contains(next_hop));
        for next_hop in next_hops {
            if !stale && self.segments.contains_key(&next_hop) {
                continue;
            }
            match self.reconciler.kernel().segment(next_hop).await {
                Ok(segment) => {
                    self.segments.insert(next_hop, segment);
                }
                // The former result stays: routes must not be deleted because the kernel is short of memory.
                Err(error) => self.failed_lookup(error.to_string()),
            }
        }
        self.underlays.retain(|address, _| addresses.contains(address));
        for address in addresses {
            if !stale && self.underlays.contains_key(address) {
                continue;
            }
            match self.reconciler.kernel().underlay(*address).await {
                Ok(underlay) => {
                    self.underlays.insert(*address, underlay.mtu);
                }
                Err(error) => {
                    self.underlays.remove(address);
                    self.failed_lookup(error.to_string());
                }
            }
        }
    }

    fn failed_lookup(&mut self, error: String) {
        // Looked up again at the next sync.
        self.stale = true;
        if !self.lookup_problems.contains(&error) {
            self.lookup_problems.push(error);
        }
    }

    /// Returns the state of the kernel at the last sync.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Returns the number of syncs that changed the kernel, and their total time.
    pub fn programmings(&self) -> (u64, Duration) {
        (self.programmings, self.programming_time)
    }

    /// Returns the segment verdicts by next hop.
    pub fn verdicts(&self) -> &BTreeMap<IpAddr, SegmentVerdict> {
        &self.plan.verdicts
    }

    /// Returns the reason for which the best route to a prefix must not be installed.
    pub fn rejection(&self, prefix: &IpNetwork) -> Option<&str> {
        self.plan.rejected.get(prefix).map(String::as_str)
    }

    /// Returns whether the desired route to a prefix is installed.
    pub fn installed(&self, prefix: &IpNetwork) -> bool {
        self.reconciler.installed(prefix)
    }

    /// Returns the reason for which the plugin's files could not be written.
    pub fn plugin_problem(&self) -> Option<&str> {
        self.installer_problem.as_deref()
    }

    /// Returns all problems.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.plan.problems.iter().chain(&self.lookup_problems).chain(&self.installer_problem)
    }
}

/// Removes Heliograph's objects from a kernel; returns the state after that.
pub async fn purge<K: Kernel>(kernel: K) -> Summary {
    let mut reconciler = Reconciler::new(kernel);
    reconciler.set_desired(Desired::default(), true);
    reconciler.run(Instant::now().into_std()).await
}

#[cfg(test)]
mod tests;
