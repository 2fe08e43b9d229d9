//! The status, made from the results of the agent's last pass and from the present reports of the speaker.

use std::time::SystemTime;

use heliograph_bgp::report::{PastError, SessionReport, Transition};
use heliograph_cni::IpFamily;
use serde::Serialize;
use serde_json::{Value, json};

use super::Agent;
use crate::api::{ObjectKind, ObjectRef};
use crate::forwarding::RouteUse;
use crate::plan::{NeighborRole, SegmentVerdict};
use crate::status::server::{Answer, Query, Subject};
use crate::status::{
    BfdStatus, Disposition, Document, IntentStatus, KernelFault, KernelStatus, NextHopStatus, NodeStatus,
    PastErrorStatus, RouteCount, SessionStatus, StoreStatus, TransitionStatus,
};
use crate::store::Connection;

impl Agent {
    pub(super) async fn answer(&self, query: Query) {
        let answer = match query.subject {
            Subject::Status => Answer::Document(document(self.status().await)),
            Subject::Routes => Answer::List(super::routes::list(
                self.speaker.handles().borrow().clone(),
                self.forwarding.clone(),
            )),
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
            route_counts: self.route_counts().await,
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
        let roles = self.plan.as_ref().map(|(_, plan)| &plan.roles);
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
        let state = forwarding.state();
        let kernel = &state.kernel;
        let fault = |problem: &crate::dataplane::Problem| KernelFault {
            operation: problem.what.clone(),
            error: problem.error.clone(),
            remedy: problem.remedy.clone(),
        };
        Some(KernelStatus {
            in_sync: kernel.in_sync,
            routes: kernel.routes,
            desired: kernel.desired,
            kept: kernel.kept,
            changes: kernel.changes,
            failures: kernel.failures,
            reconciliations: state.programmings,
            reconcile_seconds: state.programming_time.as_secs_f64(),
            errors: kernel.errors.iter().map(fault).collect(),
        })
    }

    /// Counts the best routes by family and disposition.
    async fn route_counts(&self) -> Vec<RouteCount> {
        let Some(forwarding) = &self.forwarding else {
            let (counts, _) = self.speaker.best_counts().await;
            let counts = [(IpFamily::V4, counts.ipv4), (IpFamily::V6, counts.ipv6)];
            let counts = counts.into_iter().filter(|(_, count)| *count > 0);
            return counts
                .map(|(family, count)| RouteCount { family, disposition: Disposition::Reflected, count })
                .collect();
        };
        let count = |((family, used), count): (&(IpFamily, RouteUse), &usize)| {
            let disposition = match used {
                RouteUse::By(reachability) => (*reachability).into(),
                RouteUse::Rejected => Disposition::Rejected,
            };
            RouteCount { family: *family, disposition, count: *count }
        };
        forwarding.state().route_counts.iter().map(count).collect()
    }

    /// Returns the conditions that the first sync waits for: routes are not complete, or pods can't be attached yet.
    pub(super) async fn missing(&self) -> Vec<String> {
        let node = &self.options.node;
        let Some(snapshot) = &self.view.snapshot else {
            return vec![format!("intent: {}", self.options.intent_remedy())];
        };
        let Some(this) = snapshot.node(node) else {
            return vec![format!("a Node named {node}")];
        };
        let mut missing = Vec::new();
        let synced = match &self.forwarding {
            Some(forwarding) => forwarding.state().synced,
            None => self.speaker.best_counts().await.1,
        };
        if !synced {
            missing.push("the neighbors' End-of-RIB, or the end of the time for it".to_string());
        }
        if let Some(forwarding) = &self.forwarding {
            if this.pod_cidrs.is_empty() {
                missing.push(format!("a pod CIDR in Node {node} (spec.podCIDRs)"));
            }
            let state = forwarding.state();
            for cidr in this.pod_cidrs.iter().filter(|cidr| !state.own_routes.contains(cidr)) {
                missing.push(format!("the route of this node's own pods, {cidr}, in the kernel"));
            }
            missing.extend(
                self.plugin_files.problem().map(|problem| format!("the CNI plugin's files: {problem}")),
            );
        }
        missing
    }

    fn next_hops(&self) -> Vec<NextHopStatus> {
        let Some(forwarding) = &self.forwarding else { return Vec::new() };
        let status = |verdict: &SegmentVerdict| NextHopStatus {
            node: verdict.node.clone(),
            address: verdict.next_hop,
            reachability: verdict.reachability,
            reason: verdict.reason.clone(),
        };
        forwarding.state().next_hops.iter().map(status).collect()
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
        problems.extend(self.plan.iter().flat_map(|(_, plan)| plan.problems.iter().cloned()));
        if let (None, Some(snapshot)) = (&self.forwarding, &self.view.snapshot) {
            for address in super::speaker::absent_addresses(snapshot, &self.options.node) {
                problems.push(format!(
                    "address {address} of Node {} is on no interface of this machine, so no session can use it: see \
                     that --node names this machine and that its InternalIP is right (ip address)",
                    self.options.node
                ));
            }
        }
        problems.extend(self.forwarding.iter().flat_map(|forwarding| forwarding.state().problems.clone()));
        problems.extend(self.plugin_files.problem().map(str::to_string));
        problems
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
