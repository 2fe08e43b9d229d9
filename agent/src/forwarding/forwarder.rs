//! The forwarding of a node as a state machine: learned routes and intent in, desired state of the planes out.
//!
//! Everything is worked out again only for what moved: a route changes the entry of its prefix, a link the next hops over
//! it, and a Node the next hops at its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

use super::learned::{LearnedRoutes, Origin};
use super::state::{ForwardingState, InKernel, RouteUse};
use crate::dataplane::nat::NatOutgoing;
use crate::dataplane::routes::{RoutePort, Routes};
use crate::dataplane::{Dataplane, Ports, Route, Summary, Tunnel};
use crate::intent::{Node, Snapshot};
use crate::netlink::{Hint, KernelResult};
use crate::plan::{
    self, Inside, OriginRule, Reachability, Resolver, SegmentVerdict, Tunnels, Underlays, allowed_sources,
};
use crate::underlay::{Questions, Underlay};

/// The intent as forwarding needs it.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The snapshot in force, with what is retained during a topology change.
    pub snapshot: Arc<Snapshot>,
    /// The intent is the present one, not the last good one.
    pub in_sync: bool,
}

/// A change of the best route to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The next hop and the peer of the best route now. `None`: there is none.
    pub route: Option<(IpAddr, IpAddr)>,
}

/// The plan that follows from the intent for this node, whatever its routes are.
#[derive(Debug)]
struct NodePlan {
    snapshot: Arc<Snapshot>,
    this: Arc<Node>,
    inside: Inside,
    resolver: Resolver,
    tunnels: Tunnels,
    problems: Vec<String>,
}

/// The forwarding of a node.
pub struct Forwarder<P: Ports, Q> {
    node: String,
    dataplane: Dataplane<P>,
    underlay: Underlay<Q>,
    learned: LearnedRoutes,
    /// Every peer has sent all its routes, or the time for it is over.
    synced: bool,
    intent: Option<Intent>,
    plan: Option<NodePlan>,
    origin: OriginRule,
    /// Networks that only nodes' routes show to be in the cluster.
    learned_inside: BTreeSet<IpNetwork>,
    /// The intent changed since the last run.
    replan: bool,
    /// The prefixes whose route is to be computed.
    changed: BTreeSet<IpNetwork>,
    /// The MTU in bytes of the interfaces of this node's own addresses.
    mtus: Underlays,
    summary: Summary,
    programmings: u64,
    programming_time: Duration,
    verdicts: Arc<[SegmentVerdict]>,
    /// `verdicts` is out of date.
    verdicts_changed: bool,
    /// The content of guard or NAT outgoing may have changed.
    sets_changed: bool,
}

impl<R: RoutePort, P: Ports<Routes = Routes<R>>, Q: Questions> Forwarder<P, Q> {
    /// Returns the forwarding of a node; changes nothing yet.
    pub fn new(node: String, dataplane: Dataplane<P>, underlay: Underlay<Q>) -> Self {
        Self {
            node,
            dataplane,
            underlay,
            learned: LearnedRoutes::default(),
            synced: false,
            intent: None,
            plan: None,
            origin: OriginRule::default(),
            learned_inside: BTreeSet::new(),
            replan: false,
            changed: BTreeSet::new(),
            mtus: Underlays::new(),
            summary: Summary::default(),
            programmings: 0,
            programming_time: Duration::ZERO,
            verdicts: Arc::default(),
            verdicts_changed: false,
            sets_changed: false,
        }
    }

    /// Sets the intent.
    pub fn set_intent(&mut self, intent: Intent) {
        let same = self.intent.as_ref().is_some_and(|former| Arc::ptr_eq(&former.snapshot, &intent.snapshot));
        self.replan |= !same;
        self.intent = Some(intent);
    }

    /// Applies changes of best routes. `synced`: every peer has sent all its routes, or the time for it is over.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = RouteChange>, synced: bool) {
        self.synced = synced;
        for RouteChange { prefix, route } in changes {
            let mut inside = false;
            let changed = match route {
                Some((next_hop, peer)) => {
                    let origin = self.origin(&prefix, next_hop, peer);
                    inside = origin.from_node;
                    self.learned.insert(prefix, next_hop, peer, origin)
                }
                None => self.learned.remove(&prefix),
            };
            if changed {
                self.changed.insert(prefix);
                inside &= self.plan.as_ref().is_some_and(|plan| plan.inside.lacks(&prefix));
                self.sets_changed |= match inside {
                    true => self.learned_inside.insert(prefix),
                    false => self.learned_inside.remove(&prefix),
                };
            }
        }
    }

    /// Removes all learned routes: the speaker was replaced, and sends all of its routes anew.
    pub fn forget_routes(&mut self) {
        let prefixes: Vec<IpNetwork> = self.learned.prefixes().collect();
        let gone = prefixes.into_iter().map(|prefix| RouteChange { prefix, route: None });
        self.apply(gone, false);
    }

    fn origin(&self, prefix: &IpNetwork, next_hop: IpAddr, peer: IpAddr) -> Origin {
        let from_node = self.origin.is_from_node(next_hop, peer);
        Origin { from_node, of_cluster: from_node && self.origin.is_to_inferred_node(prefix, next_hop) }
    }

    /// Handles hints that something changed.
    pub fn hint(&mut self, hint: &Hint) {
        self.underlay.invalidate(hint);
        self.dataplane.invalidate(hint);
    }

    /// Returns whether the kernel has Heliograph's routes, which an earlier run installed. Reads the kernel.
    ///
    /// # Errors
    /// The kernel can't be read.
    pub fn has_routes(&mut self, now: Instant) -> KernelResult<bool> {
        self.dataplane.run(now);
        self.summary = self.dataplane.report();
        Ok(self.summary.routes > 0)
    }

    /// Returns the time of the next retry, at which [`Forwarder::run`] has to be called.
    pub fn next_retry(&mut self) -> Option<Instant> {
        self.dataplane.next_retry()
    }

    /// Brings the kernel into the desired state, as far as possible now.
    pub fn run(&mut self, now: Instant) {
        let Some(intent) = self.intent.clone() else { return };
        let this = intent.snapshot.nodes.get(self.node.as_str()).cloned();
        let mut resolve = self.learned.take_unresolved();
        // A next hop that became a node, or ceased to be one, is an accepted source of tunnelled packets or not.
        self.sets_changed |= !resolve.is_empty();
        let mtus_changed = self.look_up(this.as_deref(), &mut resolve);
        let replan = std::mem::take(&mut self.replan);
        match this {
            Some(this) if replan || mtus_changed || self.plan.is_none() => {
                resolve.extend(self.plan_node(&intent.snapshot, &this));
                // The rule for the origin of routes may have changed with the intent.
                resolve.extend(self.learned.take_unresolved());
            }
            Some(_) => {}
            None => self.plan_nothing(),
        }
        self.update_routes(resolve);
        self.update_sets();
        self.set_forwarding();
        // Everything of a node that was removed from the intent is deleted, but not because of the last good intent.
        let may_delete = if self.plan.is_some() { self.synced } else { intent.in_sync };
        self.dataplane.permit_deleting(may_delete);
        let start = Instant::now();
        self.dataplane.run(now);
        let summary = self.dataplane.report();
        if summary.changes + summary.failures != self.summary.changes + self.summary.failures {
            self.programmings += 1;
            self.programming_time += start.elapsed();
        }
        self.summary = summary;
    }

    /// Looks up what is not known of the underlay: the interfaces of the node's own addresses, and the segments of next hops.
    /// Adds the next hops whose segment changed. Returns whether an MTU changed.
    fn look_up(&mut self, this: Option<&Node>, resolve: &mut BTreeSet<IpAddr>) -> bool {
        for address in self.learned.release_unused() {
            self.underlay.remove_next_hop(address);
            self.verdicts_changed = true;
        }
        resolve.iter().for_each(|address| self.underlay.add_next_hop(*address));
        let addresses = this.map(|node| node.addresses.as_slice()).unwrap_or_default();
        self.underlay.set_addresses(addresses);
        resolve.extend(self.underlay.look_up().next_hops);
        let mtu = |address: &IpAddr| Some((*address, self.underlay.interface(*address)?.mtu));
        let mtus: Underlays = addresses.iter().filter_map(mtu).collect();
        let changed = mtus != self.mtus;
        self.mtus = mtus;
        changed
    }

    /// Plans for this node. Returns the next hops to resolve.
    fn plan_node(&mut self, snapshot: &Arc<Snapshot>, this: &Arc<Node>) -> BTreeSet<IpAddr> {
        let mut problems = Vec::new();
        let tunnels = plan::tunnels(snapshot, this, &self.mtus, &mut problems);
        let resolver = Resolver::new(snapshot, this, tunnels.clone());
        let inside = Inside::of(snapshot);
        let former = self.plan.take();
        let own = former.as_ref().map(|former| former.this.pod_cidrs.clone()).unwrap_or_default();
        let resolve = match former.as_ref().and_then(|former| resolver.changed_owners(&former.resolver)) {
            Some(owners) => {
                // A host route to a Node's address is rejected.
                let hosts = owners.iter().map(|address| IpNetwork::from(*address));
                self.changed.extend(hosts.filter(|prefix| self.learned.next_hop_of(prefix).is_some()));
                owners
            }
            None => {
                self.changed.extend(self.learned.prefixes());
                self.learned.next_hop_addresses()
            }
        };
        for cidr in own.iter().filter(|cidr| !this.pod_cidrs.contains(cidr)) {
            self.changed.insert(*cidr);
            self.dataplane.routes.set(*cidr, None);
        }
        // Host routes to the pods are more specific; packets to other addresses must not follow the default route.
        let blackhole = Arc::new(Route::Blackhole);
        for cidr in &this.pod_cidrs {
            self.dataplane.routes.set(*cidr, Some(blackhole.clone()));
        }
        self.set_tunnels(&tunnels);
        self.sets_changed = true;
        let same_networks = former.as_ref().is_some_and(|former| former.inside == inside);
        self.plan = Some(NodePlan {
            snapshot: snapshot.clone(),
            this: this.clone(),
            inside,
            resolver,
            tunnels,
            problems,
        });
        self.classify(snapshot, same_networks);
        resolve
    }

    /// Classifies the learned routes again if the rule for it changed.
    fn classify(&mut self, snapshot: &Snapshot, same_networks: bool) {
        let rule = OriginRule::of(snapshot);
        if rule != self.origin {
            self.origin = rule;
            let mut learned = std::mem::take(&mut self.learned);
            learned.reclassify(|prefix, next_hop, peer| self.origin(prefix, next_hop, peer));
            self.learned = learned;
        } else if same_networks {
            return;
        }
        let Some(plan) = &self.plan else { return };
        self.learned_inside =
            self.learned.prefixes_from_nodes().filter(|network| plan.inside.lacks(network)).collect();
    }

    /// Plans for a node that is not in the intent: nothing of ours remains.
    fn plan_nothing(&mut self) {
        let Some(former) = self.plan.take() else { return };
        // Routes that were withdrawn since the last run are learned no more.
        let withdrawn = std::mem::take(&mut self.changed);
        let own = former.this.pod_cidrs.iter().copied();
        for prefix in self.learned.prefixes().chain(withdrawn).chain(own) {
            self.dataplane.routes.set(prefix, None);
        }
        self.learned.clear_verdicts();
        self.verdicts_changed = true;
        self.learned_inside.clear();
        self.sets_changed = true;
        self.set_tunnels(&Tunnels::default());
    }

    fn set_tunnels(&mut self, tunnels: &Tunnels) {
        for tunnel in Tunnel::ALL {
            self.dataplane.tunnels.set(tunnel, tunnels.mtu(tunnel));
        }
    }

    /// Sets forwarding for the families that there are routes of.
    fn set_forwarding(&mut self) {
        for family in IpFamily::ALL {
            let pods =
                |plan: &NodePlan| plan.this.pod_cidrs.iter().any(|cidr| IpFamily::of_network(cidr) == family);
            let forwards = self.plan.as_ref().is_some_and(|plan| pods(plan) || self.learned.has(family));
            self.dataplane.sysctls.set(family, forwards);
        }
    }

    /// Resolves next hops, and sets the routes that changed or have another next hop now.
    fn update_routes(&mut self, resolve: BTreeSet<IpAddr>) {
        let changed = std::mem::take(&mut self.changed);
        let Some(plan) = &self.plan else { return };
        let mut moved = BTreeSet::new();
        for address in resolve {
            let Some(next_hop) = self.learned.next_hop(address) else { continue };
            let inferred = next_hop.is_inferred_node();
            let (verdict, hop) = plan.resolver.resolve(address, self.underlay.segment(address), inferred);
            next_hop.verdict = Some(verdict);
            self.verdicts_changed = true;
            if next_hop.hop.as_ref().map(|(hop, _)| *hop) != hop {
                next_hop.hop = hop.map(|hop| (hop, Arc::new(Route::unicast([hop]))));
                moved.insert(address);
            }
        }
        let behind: Vec<IpNetwork> = match moved.is_empty() {
            true => Vec::new(),
            false => self.learned.behind(&moved).filter(|prefix| !changed.contains(prefix)).collect(),
        };
        for prefix in changed.into_iter().chain(behind) {
            self.update_route(prefix);
        }
    }

    /// Sets the route to a prefix.
    fn update_route(&mut self, prefix: IpNetwork) {
        let Some(plan) = &self.plan else { return };
        let hop = self.learned.next_hop_of(&prefix).and_then(|next_hop| next_hop.hop.clone());
        let rejected = hop.as_ref().is_some_and(|(hop, _)| plan.resolver.rejection(&prefix, hop).is_some());
        self.learned.set_rejected(&prefix, rejected);
        // A route to an own pod CIDR is rejected, so what is there stays.
        if !plan.this.pod_cidrs.contains(&prefix) {
            self.dataplane.routes.set(prefix, hop.filter(|_| !rejected).map(|(_, route)| route));
        }
    }

    /// Sets guard and NAT outgoing, if what they depend on changed.
    fn update_sets(&mut self) {
        let nodes_changed = self.learned.take_nodes_changed();
        if !std::mem::take(&mut self.sets_changed) && !nodes_changed {
            return;
        }
        let Some(plan) = &self.plan else {
            self.dataplane.set_guard(None);
            self.dataplane.set_nat(None);
            return;
        };
        let inferred = self.learned.next_hops().filter(|next_hop| next_hop.is_inferred_node());
        let sources =
            allowed_sources(&plan.snapshot, &plan.tunnels, inferred.map(|next_hop| next_hop.address));
        self.dataplane.set_guard(sources);
        let pods = &plan.this.pod_cidrs;
        let nat = (plan.snapshot.configuration.nat_outgoing && !pods.is_empty()).then(|| NatOutgoing {
            pods: pods.iter().copied().collect(),
            inside: plan
                .inside
                .with(self.learned_inside.iter().copied(), self.learned.next_hops_from_nodes()),
        });
        self.dataplane.set_nat(nat);
    }

    /// Returns the state of the present moment.
    pub fn state(&mut self) -> ForwardingState {
        if std::mem::take(&mut self.verdicts_changed) {
            let mut verdicts: Vec<SegmentVerdict> =
                self.learned.next_hops().filter_map(|next_hop| next_hop.verdict.clone()).collect();
            verdicts.sort_by_key(|verdict| verdict.next_hop);
            self.verdicts = verdicts.into();
        }
        let own = self.plan.iter().flat_map(|plan| plan.this.pod_cidrs.iter().copied());
        ForwardingState {
            kernel: self.summary.clone(),
            next_hops: self.verdicts.clone(),
            route_counts: self.route_counts(),
            problems: self.problems(),
            mtus: self.mtus.clone(),
            synced: self.synced,
            own_routes: own.filter(|cidr| self.dataplane.routes.installed(cidr)).collect(),
            programmings: self.programmings,
            programming_time: self.programming_time,
        }
    }

    fn problems(&self) -> Vec<String> {
        let of_plan = self.plan.iter().flat_map(|plan| plan.problems.iter().cloned());
        of_plan.chain(self.underlay.problems().iter().map(ToString::to_string)).collect()
    }

    fn route_counts(&self) -> BTreeMap<(IpFamily, RouteUse), usize> {
        let mut counts = BTreeMap::new();
        for next_hop in self.learned.next_hops() {
            let reachability =
                next_hop.verdict.as_ref().map_or(Reachability::Unreachable, |verdict| verdict.reachability);
            for family in IpFamily::ALL {
                let (installable, rejected) = next_hop.counts(family);
                let both = [(RouteUse::By(reachability), installable), (RouteUse::Rejected, rejected)];
                for (used, count) in both.into_iter().filter(|(_, count)| *count > 0) {
                    *counts.entry((family, used)).or_default() += count;
                }
            }
        }
        counts
    }

    /// Returns the state of the best route to a prefix.
    pub fn in_kernel(&self, prefix: &IpNetwork) -> InKernel {
        let installed = self.dataplane.routes.installed(prefix);
        let none = InKernel { installed, reachability: None, reason: None };
        let (Some(plan), Some(next_hop)) = (&self.plan, self.learned.next_hop_of(prefix)) else {
            return none;
        };
        let rejection = next_hop.hop.as_ref().and_then(|(hop, _)| plan.resolver.rejection(prefix, hop));
        match (rejection, &next_hop.verdict) {
            (Some(reason), _) => InKernel { installed: false, reachability: None, reason: Some(reason) },
            (None, None) => none,
            (None, Some(verdict)) => {
                let unreachable = verdict.reachability == Reachability::Unreachable;
                InKernel {
                    installed,
                    reachability: Some(verdict.reachability),
                    reason: unreachable.then(|| verdict.reason.clone()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
