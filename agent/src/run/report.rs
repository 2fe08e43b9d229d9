//! The status, put together from what the last look found and what the speaker says now.

use heliograph_bgp::report::{PathReport, SessionReport};
use serde::Serialize;
use serde_json::{Value, json};

use super::Agent;
use crate::plan::NeighborRole;
use crate::status::server::{Question, Subject};
use crate::status::{IntentStatus, NodeStatus, RouteStatus, SegmentStatus, SessionStatus, state_name};

impl Agent {
    pub(super) async fn answer(&self, question: Question) {
        let answer = match question.subject {
            Subject::Status => value(&self.status().await),
            Subject::Routes => value(&self.routes().await),
        };
        // The client may have gone.
        let _ = question.answer.send(answer);
    }

    async fn status(&self) -> NodeStatus {
        let sessions = self.speech.sessions().await;
        NodeStatus {
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            role: self.options.role,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            intent: IntentStatus {
                in_sync: self.view.in_sync,
                generation: self.view.generation,
                origin: self.view.origin.clone(),
                refusals: self.view.refusals.clone(),
            },
            sessions: sessions.iter().map(|session| self.session(session)).collect(),
            kernel: None,
            segments: self.segments(),
            problems: self.problems(),
        }
    }

    fn session(&self, session: &SessionReport) -> SessionStatus {
        let roles = self.speaking.as_ref().map(|speaking| &speaking.roles);
        SessionStatus {
            peer: session.address,
            name: session.name.clone(),
            asn: session.asn,
            role: roles.and_then(|roles| roles.get(&session.address)).copied().unwrap_or(NeighborRole::Mesh),
            state: state_name(session.state),
            uptime_seconds: session.since.as_secs_f64(),
            received: session.received,
            accepted: session.accepted,
            advertised: session.advertised,
            stale: session.stale,
            router_id: session.router_id,
            hold_seconds: session.hold_time.map(|hold| hold.as_secs()),
            established_count: session.established_count,
            last_error: session.last_error.as_ref().map(|(error, _)| error.clone()),
            reason: session.reason.clone(),
        }
    }

    fn segments(&self) -> Vec<SegmentStatus> {
        Vec::new()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.view.snapshot.is_none() {
            problems.push(format!(
                "there is no intent to go by: put Node and BGPConfiguration documents into {}",
                self.options.intent.display()
            ));
        }
        problems.extend(self.speech.problem().map(str::to_string));
        problems.extend(self.speaking.iter().flat_map(|speaking| speaking.problems.iter().cloned()));
        problems
    }

    async fn routes(&self) -> Vec<RouteStatus> {
        self.speech.paths().await.iter().map(|path| self.route(path)).collect()
    }

    fn route(&self, path: &PathReport) -> RouteStatus {
        RouteStatus {
            prefix: path.prefix.into(),
            next_hop: path.next_hop,
            peer: path.peer,
            best: path.best,
            stale: path.stale,
            reason: path.reason.clone(),
            local_pref: path.local_pref,
            med: path.med,
            as_path: path.as_path.clone(),
            originator: path.originator,
            cluster_list: path.cluster_list.clone(),
            via: None,
            installed: false,
        }
    }
}

fn value(view: &impl Serialize) -> Value {
    serde_json::to_value(view).unwrap_or_else(|error| json!(format!("can't be shown: {error}")))
}
