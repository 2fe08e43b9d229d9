//! The status, made from the results of the agent's last pass and from the present reports of the speaker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use heliograph_bgp::report::{PastError, PathReport, SessionReport, Transition};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::{Value, json};

use super::Agent;
use crate::api::{ObjectKind, ObjectRef};
use crate::kernel::{IpFamily, Kernel};
use crate::plan::{NeighborRole, Reachability, SegmentVerdict};
use crate::status::server::{Query, Subject};
use crate::status::{
    BfdStatus, Disposition, Document, IntentStatus, KernelFault, KernelStatus, List, NextHopStatus,
    NodeStatus, PastErrorStatus, RouteCount, RouteStatus, SessionStatus, StoreStatus, TransitionStatus,
};
use crate::store::Connection;

impl<K: Kernel> Agent<K> {
    pub(super) async fn answer(&self, query: Query) {
        let answer = match query.subject {
            Subject::Status => document(self.status().await),
            Subject::Routes => document(List { items: self.routes().await }),
        };
        // The client may have closed its connection.
        let _ = query.answer.send(answer);
    }

    pub(super) async fn status(&self) -> NodeStatus {
        let sessions = self.speaker.sessions().await;
        NodeStatus {
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            role: self.options.role,
            reflects: self.reflects(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            waiting_for: self.waiting_for.clone(),
            intent: IntentStatus {
                in_sync: self.view.in_sync,
                generation: self.view.generation,
                last_change_timestamp_seconds: self.changed_at.and_then(|time| {
                    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
                }),
                origin: self.view.origin.clone(),
                rejections: self.view.rejections.clone(),
                objects: self.view.objects.clone(),
            },
            store: self.view.connection.as_ref().map(store),
            status_writer: self.status_writer.as_ref().map(|status_writer| status_writer.borrow().clone()),
            sessions: sessions.iter().map(|session| self.session(session)).collect(),
            route_counts: self.route_counts(),
            kernel: self.kernel(),
            next_hops: self.next_hops(),
            problems: self.problems(),
        }
    }

    fn reflects(&self) -> bool {
        self.view.snapshot.as_ref().is_some_and(|snapshot| {
            let this = snapshot.node(&self.options.node);
            this.is_some_and(|this| snapshot.is_reflector(this))
        })
    }

    fn session(&self, session: &SessionReport) -> SessionStatus {
        let roles = self.plan.as_ref().map(|plan| &plan.roles);
        let role = roles.and_then(|roles| roles.get(&session.address)).copied();
        let role = role.unwrap_or(NeighborRole::Mesh);
        SessionStatus {
            peer: session.address,
            name: session.name.clone(),
            asn: session.asn,
            role,
            peer_generation: self.peer_generation(&session.name, role),
            state: session.state,
            uptime_seconds: session.since.as_secs_f64(),
            received: session.received,
            accepted: session.accepted,
            advertised: session.advertised,
            stale: session.stale,
            router_id: session.router_id,
            hold_seconds: session.hold_time.map(|hold| hold.as_secs()),
            established_count: session.established_count,
            last_error: session.last_error.as_ref().map(|(error, _)| error.to_string()),
            errors: session.errors.iter().map(past_error).collect(),
            history: session.history.iter().map(transition).collect(),
            reason: session.reason.to_string(),
            bfd: session.bfd.as_ref().map(BfdStatus::from),
        }
    }

    /// Returns the generation of a BGPPeer that is in force.
    fn peer_generation(&self, name: &str, role: NeighborRole) -> Option<i64> {
        if role.is_node() {
            return None;
        }
        let object = ObjectRef::new(ObjectKind::BGPPeer, name);
        self.view.objects.iter().find(|found| found.object == object)?.in_force
    }

    fn kernel(&self) -> Option<KernelStatus> {
        let forwarding = self.forwarding.as_ref()?;
        let (reconciliations, reconcile_time) = forwarding.programmings();
        let summary = forwarding.summary();
        let fault = |problem: &crate::reconcile::Problem| KernelFault {
            operation: problem.what.clone(),
            error: problem.error.clone(),
            remedy: problem.remedy.clone(),
        };
        Some(KernelStatus {
            in_sync: summary.in_sync,
            routes: summary.routes,
            desired: summary.desired,
            kept: summary.kept,
            changes: summary.changes,
            failures: summary.failures,
            reconciliations,
            reconcile_seconds: reconcile_time.as_secs_f64(),
            errors: summary.errors.iter().map(fault).collect(),
        })
    }

    /// Counts the best routes by family and disposition.
    fn route_counts(&self) -> Vec<RouteCount> {
        let mut counts: BTreeMap<(IpFamily, Disposition), usize> = BTreeMap::new();
        for route in &self.best.routes {
            let prefix = IpNetwork::from(route.prefix);
            let family = IpFamily::of(prefix.ip());
            *counts.entry((family, self.disposition(&prefix, route.next_hop))).or_default() += 1;
        }
        let count = |((family, disposition), count)| RouteCount { family, disposition, count };
        counts.into_iter().map(count).collect()
    }

    /// Returns the disposition of the best route to a prefix.
    fn disposition(&self, prefix: &IpNetwork, next_hop: IpAddr) -> Disposition {
        let Some(forwarding) = &self.forwarding else { return Disposition::Reflected };
        if forwarding.rejection(prefix).is_some() {
            return Disposition::Rejected;
        }
        let verdict = forwarding.verdicts().get(&next_hop);
        verdict.map_or(Disposition::Unreachable, |verdict| verdict.reachability.into())
    }

    /// Returns the conditions that the first sync waits for: routes are not complete, or pods can't be attached yet.
    pub(super) fn missing(&self) -> Vec<String> {
        let node = &self.options.node;
        let Some(snapshot) = &self.view.snapshot else {
            return vec![format!("intent: {}", self.options.intent_remedy())];
        };
        let Some(this) = snapshot.node(node) else {
            return vec![format!("a Node named {node}")];
        };
        let mut missing = Vec::new();
        if !self.best.synced {
            missing.push("the neighbors' End-of-RIB, or the end of the time for it".to_string());
        }
        if let Some(forwarding) = &self.forwarding {
            if this.pod_cidrs.is_empty() {
                missing.push(format!("a pod CIDR in Node {node} (spec.podCIDRs)"));
            }
            for cidr in this.pod_cidrs.iter().filter(|cidr| !forwarding.installed(cidr)) {
                missing.push(format!("the route of this node's own pods, {cidr}, in the kernel"));
            }
            missing.extend(
                forwarding.plugin_problem().map(|problem| format!("the CNI plugin's files: {problem}")),
            );
        }
        missing
    }

    fn next_hops(&self) -> Vec<NextHopStatus> {
        let verdicts = self.forwarding.iter().flat_map(|forwarding| forwarding.verdicts().values());
        let status = |verdict: &SegmentVerdict| NextHopStatus {
            node: verdict.node.clone(),
            address: verdict.next_hop,
            reachability: verdict.reachability,
            reason: verdict.reason.clone(),
        };
        verdicts.map(status).collect()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.view.snapshot.is_none() {
            problems.push(format!("there is no intent: {}", self.options.intent_remedy()));
        }
        problems.extend(self.view.problems.iter().cloned());
        let store = self.view.connection.as_ref().filter(|connection| !connection.connected);
        problems.extend(store.and_then(|connection| connection.last_error.clone()));
        problems.extend(self.http_errors.iter().filter_map(|error| error.borrow().clone()));
        problems.extend(
            self.status_writer.iter().filter_map(|status_writer| status_writer.borrow().error.clone()),
        );
        problems.extend(self.speaker.problem().map(str::to_string));
        problems.extend(self.plan.iter().flat_map(|plan| plan.problems.iter().cloned()));
        if let (None, Some(snapshot)) = (&self.forwarding, &self.view.snapshot) {
            for address in super::speaker::absent_addresses(snapshot, &self.options.node) {
                problems.push(format!(
                    "address {address} of Node {} is on no interface of this machine, so no session can use it: see \
                     that --node names this machine and that its InternalIP is right (ip address)",
                    self.options.node
                ));
            }
        }
        problems.extend(self.forwarding.iter().flat_map(|forwarding| forwarding.problems().cloned()));
        problems
    }

    async fn routes(&self) -> Vec<RouteStatus> {
        self.speaker.paths().await.iter().map(|path| self.route(path)).collect()
    }

    fn route(&self, path: &PathReport) -> RouteStatus {
        let prefix = path.prefix.into();
        let (reachability, installed, kernel_reason) = self.in_kernel(&prefix, path);
        let reason = match kernel_reason {
            Some(reason) => format!("{}; not installed: {reason}", path.reason),
            None => path.reason.to_string(),
        };
        RouteStatus {
            prefix,
            next_hop: path.next_hop,
            peer: path.peer,
            path_id: path.path_id,
            best: path.best,
            stale: path.stale,
            reason,
            local_pref: path.local_pref,
            med: path.med,
            as_path: path.as_path.clone(),
            originator: path.originator,
            cluster_list: path.cluster_list.clone(),
            reachability,
            installed,
        }
    }

    /// Returns the reachability of a best path's next hop, whether the kernel holds the route, and the reason if it is
    /// deliberately not installed.
    fn in_kernel(
        &self,
        prefix: &IpNetwork,
        path: &PathReport,
    ) -> (Option<Reachability>, bool, Option<String>) {
        let (Some(forwarding), Some(next_hop), true) = (&self.forwarding, path.next_hop, path.best) else {
            return (None, false, None);
        };
        if path.peer.is_none() {
            return (None, forwarding.installed(prefix), None);
        }
        if let Some(reason) = forwarding.rejection(prefix) {
            return (None, false, Some(reason.into()));
        }
        let Some(verdict) = forwarding.verdicts().get(&next_hop) else { return (None, false, None) };
        let unreachable = (verdict.reachability == Reachability::Unreachable).then(|| verdict.reason.clone());
        (Some(verdict.reachability), forwarding.installed(prefix), unreachable)
    }
}

fn store(connection: &Connection) -> StoreStatus {
    let since = connection.since.elapsed().unwrap_or_default();
    StoreStatus {
        server: connection.server.clone(),
        connected: connection.connected,
        since_seconds: since.as_secs_f64(),
        last_error: connection.last_error.clone(),
        node_uid: connection.node_uid.clone(),
        rejected: connection.rejected,
    }
}

fn past_error(error: &PastError) -> PastErrorStatus {
    PastErrorStatus {
        seconds_ago: error.ago.as_secs_f64(),
        error: error.error.to_string(),
        count: error.times,
    }
}

fn transition(transition: &Transition) -> TransitionStatus {
    TransitionStatus {
        seconds_ago: transition.ago.as_secs_f64(),
        from: transition.from,
        to: transition.to,
        reason: transition.reason.to_string(),
        count: transition.times,
    }
}

fn document(content: impl Serialize) -> Value {
    serde_json::to_value(Document::new(content)).unwrap_or_else(|error| json!(format!("encode: {error}")))
}
