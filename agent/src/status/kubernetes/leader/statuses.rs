//! The status of the BGPConfiguration, BGPFilters and BGPPeers, and the choice of the objects to write now. Pure; time is an
//! argument.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

use super::super::object::Object;
use super::super::planner::{Found, Permitted, Planner, RateLimits, Write};
use super::super::render::truncate;
use super::condition::ConditionUpdate;
use super::counts::Counts;
use crate::api::status::BGPPeerStatus;
use crate::api::{ObjectKind, ObjectRef};
use crate::status::IntentStatus;
use crate::store::ObjectGeneration;

/// The largest number of rejections in a message.
const MAX_REASONS: usize = 3;

/// The input for the status of all objects.
pub struct Input<'a> {
    /// The leader's node.
    pub me: &'a str,
    /// The leader's intent.
    pub intent: &'a IntentStatus,
    /// The sessions of all nodes.
    pub counts: &'a Counts,
    /// The time of day, for conditions.
    pub clock: Timestamp,
}

/// The planner of status writes. It writes objects that change repeatedly at growing intervals, since every agent watches
/// these kinds and receives each write.
pub struct Statuses(pub Planner);

impl Statuses {
    /// Returns a planner that has written nothing.
    pub fn new(now: Instant) -> Self {
        Self(Planner::new(RateLimits::AGENT, now))
    }

    /// Returns the writes that are due, given the objects in the API server.
    pub fn plan(
        &mut self,
        listed: &[(ObjectKind, DynamicObject)],
        input: &Input,
        now: Instant,
    ) -> Vec<Write> {
        let mut desired = Vec::new();
        let mut found = BTreeMap::new();
        for (kind, object) in listed {
            let key = ObjectRef { kind: *kind, name: object.name_any() };
            // Users created it, so it needs no owner.
            let as_found = Found { version: object.resource_version().unwrap_or_default(), owned: true };
            found.insert(key.clone(), as_found);
            let before = serde_json::from_value::<BGPPeerStatus>(object.data["status"].clone()).ok();
            let status = input.status(&key, object.metadata.generation, before.as_ref());
            if before.as_ref() == Some(&status) {
                self.0.settled(&key);
                continue;
            }
            let status = serde_json::to_value(&status).unwrap_or_default();
            desired.push(Object { key, spec: Value::Null, signal: status.to_string(), status });
        }
        self.0.adopt(&found);
        self.0.plan(&desired, Permitted { create: true, delete: false }, now)
    }
}

impl Input<'_> {
    fn status(
        &self,
        key: &ObjectRef,
        generation: Option<i64>,
        before: Option<&BGPPeerStatus>,
    ) -> BGPPeerStatus {
        let own = self.intent.objects.iter().find(|own| own.object == *key);
        let conditions = || before.into_iter().flat_map(|status| &status.conditions);
        let condition = |update: ConditionUpdate| {
            let before = conditions().find(|condition| condition.type_ == update.kind);
            update.apply(before, self.clock)
        };
        let (sessions, established) = match key.kind {
            ObjectKind::BGPPeer => {
                let (counts, update) = self.counts.of(&key.name, own.map(|own| own.generation));
                (Some(counts), Some(condition(update)))
            }
            _ => (None, None),
        };
        let accepted = match own {
            // Our store has not received another generation than the newest: then the condition stays.
            Some(own) if Some(own.generation) == generation => Some(condition(self.accepted(own))),
            _ => conditions().find(|condition| condition.type_ == ACCEPTED).cloned(),
        };
        BGPPeerStatus { sessions, conditions: established.into_iter().chain(accepted).collect() }
    }

    fn accepted(&self, object: &ObjectGeneration) -> ConditionUpdate {
        let holds = object.in_force == Some(object.generation);
        let message = if holds {
            format!("in force on {}", self.me)
        } else {
            let own = self
                .intent
                .rejections
                .iter()
                .filter(|rejection| rejection.object.as_ref() == Some(&object.object));
            let mut reasons: Vec<_> = own.take(MAX_REASONS).map(ToString::to_string).collect();
            if reasons.is_empty() {
                // With it another object would be invalid.
                reasons = self.intent.rejections.iter().take(MAX_REASONS).map(ToString::to_string).collect();
            }
            truncate(&format!("rejected on {}: {}", self.me, reasons.join("; ")))
        };
        let reason = if holds { "InForce" } else { "Rejected" };
        ConditionUpdate { kind: ACCEPTED, holds, reason, message, generation: Some(object.generation) }
    }
}

const ACCEPTED: &str = "Accepted";

#[cfg(test)]
mod tests {
    use super::super::testing::session;
    use super::*;
    use crate::store::Rejection;
    use serde_json::json;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn object(kind: ObjectKind, name: &str, generation: i64) -> (ObjectKind, DynamicObject) {
        let value = json!({"apiVersion": "heliograph.io/v1alpha1", "kind": kind.as_str(),
            "metadata": {"name": name, "generation": generation, "resourceVersion": "1"}, "spec": {}});
        (kind, serde_json::from_value(value).unwrap())
    }

    fn own(kind: ObjectKind, name: &str, generation: i64, in_force: Option<i64>) -> ObjectGeneration {
        ObjectGeneration { object: ObjectRef::new(kind, name), generation, in_force }
    }

    fn counts(up: bool) -> Counts {
        let mut counts = Counts::default();
        counts.add(&session("n1", "tor", up, 3), &Default::default());
        counts
    }

    /// Lets the API server apply the writes that are due. Returns their number.
    fn round(
        statuses: &mut Statuses,
        listed: &mut [(ObjectKind, DynamicObject)],
        intent: &IntentStatus,
        counts: &Counts,
        (start, seconds): (Instant, u64),
    ) -> usize {
        let input = Input { me: "n1", intent, counts, clock: at(seconds as i64) };
        let now = start + Duration::from_secs(seconds);
        let writes = statuses.plan(listed, &input, now);
        for write in &writes {
            let Write::Apply { object, .. } = write else { panic!("{write:?}") };
            let found = listed.iter_mut().find(|(kind, found)| {
                *kind == object.key.kind && found.metadata.name.as_ref() == Some(&object.key.name)
            });
            let (_, found) = found.unwrap();
            found.data["status"] = object.status.clone();
            let version = seconds.to_string();
            found.metadata.resource_version = Some(version.clone());
            statuses.0.done(write.clone(), &version, now);
        }
        writes.len()
    }

    fn conditions(object: &(ObjectKind, DynamicObject)) -> String {
        let conditions = object.1.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let texts = conditions.iter().map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let generation = &condition["observedGeneration"];
            format!("{} {} of {generation}: {}", text("type"), text("status"), text("message"))
        });
        texts.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn rejected_objects_are_not_accepted_and_sessions_have_the_generation_that_they_use() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [
            object(ObjectKind::BGPConfiguration, "default", 1),
            object(ObjectKind::BGPFilter, "f", 2),
            object(ObjectKind::BGPPeer, "tor", 4),
            object(ObjectKind::BGPPeer, "unknown", 1),
        ];
        let rejection = Rejection {
            file: String::new(),
            line: None,
            object: Some(ObjectRef::new(ObjectKind::BGPPeer, "tor")),
            field: "spec.peerAddress".into(),
            problem: "no address".into(),
            remedy: "give one".into(),
        };
        let mut intent = IntentStatus {
            rejections: vec![rejection],
            objects: vec![
                own(ObjectKind::BGPConfiguration, "default", 1, Some(1)),
                own(ObjectKind::BGPFilter, "f", 2, None),
                own(ObjectKind::BGPPeer, "tor", 4, Some(3)),
            ],
            ..IntentStatus::default()
        };
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 0)), 4);
        let rejected = "rejected on n1: BGPPeer tor spec.peerAddress: no address; give one";
        let expected = [
            "Accepted True of 1: in force on n1".into(),
            format!("Accepted False of 2: {rejected}"),
            format!("Established True of 3:  | Accepted False of 4: {rejected}"),
            "Established False of null: no node has a session with it".into(),
        ];
        assert_eq!(listed.each_ref().map(conditions), expected);
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 9)), 0, "nothing new");
        // It is corrected, but our store has an older generation: the condition stays.
        listed[2].1.metadata.generation = Some(5);
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 60)), 0);
        intent.rejections.clear();
        intent.objects[1] = own(ObjectKind::BGPFilter, "f", 2, Some(2));
        intent.objects[2] = own(ObjectKind::BGPPeer, "tor", 5, Some(5));
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 90)), 2);
        assert_eq!(conditions(&listed[2]), "Established True of 3:  | Accepted True of 5: in force on n1");
        let times =
            |number: usize| listed[2].1.data["status"]["conditions"][number]["lastTransitionTime"].clone();
        assert_eq!((times(0), times(1)), (json!("1970-01-12T13:46:40Z"), json!("1970-01-12T13:48:10Z")));
    }

    #[test]
    fn a_flapping_session_is_written_at_growing_intervals() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [object(ObjectKind::BGPPeer, "tor", 3)];
        let intent =
            IntentStatus { objects: vec![own(ObjectKind::BGPPeer, "tor", 3, Some(3))], ..Default::default() };
        let mut writes = 0;
        // Up in one round, down in the next.
        for number in 0..1200 {
            let counts = counts(number % 2 == 0);
            writes += round(&mut statuses, &mut listed, &intent, &counts, (start, number * 3));
        }
        assert!((30..80).contains(&writes), "{writes} in an hour");
        // A state that lasts is written, within a minute.
        for number in 1200..1220 {
            round(&mut statuses, &mut listed, &intent, &counts(true), (start, number * 3));
        }
        assert_eq!(listed[0].1.data["status"]["sessions"]["established"], "1/1");
    }

    #[test]
    fn changes_by_other_clients_are_overwritten() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [object(ObjectKind::BGPPeer, "tor", 3)];
        let intent =
            IntentStatus { objects: vec![own(ObjectKind::BGPPeer, "tor", 3, Some(3))], ..Default::default() };
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 1)), 1);
        let ours = listed[0].1.data["status"].clone();
        listed[0].1.data["status"] = json!({"sessions": "many"});
        listed[0].1.metadata.resource_version = Some("99".into());
        assert_eq!(round(&mut statuses, &mut listed, &intent, &counts(true), (start, 4)), 1);
        let status = &listed[0].1.data["status"];
        assert_eq!(status["sessions"], ours["sessions"]);
    }
}
