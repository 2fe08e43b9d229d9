//! The kernel's side of an agent: where next hops are, what should be installed, and the plugin's files.

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
use crate::plan::{self, Planned, SegmentVerdict, Underlays};
use crate::reconcile::{Reconciler, Summary};

/// What an agent keeps about its kernel between looks.
pub struct Forwarding<K> {
    reconciler: Reconciler<K>,
    installer: Installer,
    installer_problem: Option<String>,
    planned: Planned,
    summary: Summary,
    programmings: u64,
    programming_time: Duration,
    segments: BTreeMap<IpAddr, Segment>,
    underlays: Underlays,
    /// Next hops and addresses have to be looked up anew.
    stale: bool,
    /// Of the last look-ups.
    lookup_problems: Vec<String>,
}

impl<K: Kernel> Forwarding<K> {
    /// For a kernel and the CNI plugin's files; nothing is changed yet.
    pub fn new(kernel: K, installer: Installer) -> Self {
        Self {
            reconciler: Reconciler::new(kernel),
            installer,
            installer_problem: None,
            planned: Planned::default(),
            summary: Summary::default(),
            programmings: 0,
            programming_time: Duration::ZERO,
            segments: BTreeMap::new(),
            underlays: Underlays::new(),
            stale: true,
            lookup_problems: Vec::new(),
        }
    }

    /// Whether the kernel holds routes of ours: an earlier run left them, and packets follow them.
    ///
    /// # Errors
    /// The kernel can't be read.
    pub async fn holds_routes(&self) -> KernelResult<bool> {
        Ok(!self.reconciler.kernel().dump().await?.routes.is_empty())
    }

    /// Takes a hint that the kernel changed.
    pub fn hint(&mut self, hint: Hint) {
        self.stale |= hint.underlay;
        self.reconciler.look_again(hint.underlay);
    }

    /// Looks up everything anew next time, hint or not.
    pub fn distrust(&mut self) {
        self.hint(Hint { underlay: true, ours: true });
    }

    /// When something that failed is to be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.reconciler.next_retry().map(Instant::from_std)
    }

    /// Makes the kernel hold what it should. `sure`: what is in force is what is wanted now, not what was.
    pub async fn look(&mut self, snapshot: &Snapshot, node: &str, best: &BestRoutes, sure: bool) {
        let known = snapshot.nodes.get(node);
        let addresses = known.map(|node| node.addresses.clone()).unwrap_or_default();
        self.look_up(&addresses, best).await;
        self.planned = plan::desired(snapshot, node, &best.routes, &self.segments, &self.underlays);
        // A node that is gone from the intent has nothing to wait for; one that goes by old intent might be back.
        let may_delete = if known.is_some() { best.synced } else { sure };
        self.reconciler.want(self.planned.desired.clone(), may_delete);
        let start = Instant::now();
        let before = self.summary.changes + self.summary.failures;
        self.summary = self.reconciler.run(start.into_std()).await;
        if self.summary.changes + self.summary.failures != before {
            self.programmings += 1;
            self.programming_time += start.elapsed();
        }
        self.tell_plugin(snapshot, known, sure);
    }

    /// Keeps the files through which the CNI plugin and the container runtime know of this node.
    fn tell_plugin(&mut self, snapshot: &Snapshot, known: Option<&Node>, sure: bool) {
        let result = match known.filter(|node| !node.pod_cidrs.is_empty()) {
            Some(node) => match plan::pod_mtu(snapshot, node, &self.underlays) {
                Some(mtu) => self.offer(node, mtu),
                // The address is gone from its interface for a moment, or was never there: what stands stands.
                None => return,
            },
            None if sure => self.installer.withdraw(),
            None => return,
        };
        let problem = result.err().map(|error| error.to_string());
        if problem.is_some() && problem != self.installer_problem {
            tracing::warn!("{}", problem.as_deref().unwrap_or_default());
        }
        self.installer_problem = problem;
    }

    fn offer(&self, node: &Node, mtu: u32) -> Result<bool, CniError> {
        let file = NodeFile::new(&node.name, node.pod_cidrs.clone(), mtu, node.addresses.clone());
        let ready = node.pod_cidrs.iter().all(|cidr| self.reconciler.installed(cidr));
        self.installer.install(&file, ready)
    }

    /// Asks the kernel where the next hops and our own addresses are, as far as that isn't known already.
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
                // What was known stays: a kernel that is short of memory is no reason to drop routes.
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
        // Asked again at the next look.
        self.stale = true;
        if !self.lookup_problems.contains(&error) {
            self.lookup_problems.push(error);
        }
    }

    /// How the kernel stands.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// How often anything had to change in the kernel, and the time that took in all.
    pub fn programmings(&self) -> (u64, Duration) {
        (self.programmings, self.programming_time)
    }

    /// The verdicts on next hops.
    pub fn verdicts(&self) -> &BTreeMap<IpAddr, SegmentVerdict> {
        &self.planned.verdicts
    }

    /// Why the best route to a prefix is not installed on purpose.
    pub fn rejection(&self, prefix: &IpNetwork) -> Option<&str> {
        self.planned.refused.get(prefix).map(String::as_str)
    }

    /// Whether the kernel holds the route that is wanted to a prefix.
    pub fn installed(&self, prefix: &IpNetwork) -> bool {
        self.reconciler.installed(prefix)
    }

    /// Why the CNI plugin and the container runtime don't know of this node.
    pub fn plugin_problem(&self) -> Option<&str> {
        self.installer_problem.as_deref()
    }

    /// What is not as it should be.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.planned.problems.iter().chain(&self.lookup_problems).chain(&self.installer_problem)
    }
}

/// Removes everything of ours from a kernel; how it stands then.
pub async fn purge<K: Kernel>(kernel: K) -> Summary {
    let mut reconciler = Reconciler::new(kernel);
    reconciler.want(Desired::default(), true);
    reconciler.run(Instant::now().into_std()).await
}

#[cfg(test)]
mod tests;
