//! What the status of BGPConfiguration, BGPFilters and BGPPeers is to be, and what of it to write now: pure, with time as
//! a value.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

use super::super::object::{Key, Kind, Object};
use super::super::planner::{Found, May, Pace, Planner, Write};
use super::super::view::cut;
use super::counts::Counts;
use crate::api::status::BGPPeerStatus;
use crate::status::IntentStatus;
use crate::store::ObjectGeneration;

/// So many reasons are told.
const REASONS: usize = 3;

/// What a condition is to say.
#[derive(Clone, Debug)]
pub struct ConditionUpdate {
    /// Its type.
    pub kind: &'static str,
    /// It is true.
    pub holds: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
    /// The generation of the object that this is about.
    pub generation: Option<i64>,
}

/// What there is to go by.
pub struct Known<'a> {
    /// Our node.
    pub me: &'a str,
    /// How our own intent stands.
    pub intent: &'a IntentStatus,
    /// The sessions of all nodes.
    pub counts: &'a Counts,
    /// The time of day.
    pub clock: Timestamp,
}

/// Keeps what was written, so that an object which changes all the time is written ever more rarely: every agent is told
/// of each write, as it watches these kinds.
pub struct Statuses(pub Planner);

impl Statuses {
    /// Nothing was written.
    pub fn new(now: Instant) -> Self {
        Self(Planner::new(Pace::AGENT, now))
    }

    /// What to write now, given the objects as they are in the API server.
    pub fn plan(&mut self, listed: &[(Kind, DynamicObject)], known: &Known, now: Instant) -> Vec<Write> {
        let mut wanted = Vec::new();
        let mut found = BTreeMap::new();
        for (kind, object) in listed {
            let key = Key { kind: *kind, name: object.name_any() };
            // People's own, which need no other owner.
            let as_found = Found { version: object.resource_version().unwrap_or_default(), owned: true };
            found.insert(key.clone(), as_found);
            let before = serde_json::from_value::<BGPPeerStatus>(object.data["status"].clone()).ok();
            let status = known.status(&key, object.metadata.generation, before.as_ref());
            if before.as_ref() == Some(&status) {
                self.0.settled(&key);
                continue;
            }
            let status = serde_json::to_value(&status).unwrap_or_default();
            wanted.push(Object { key, spec: Value::Null, signal: status.to_string(), status });
        }
        self.0.adopt(&found);
        self.0.plan(&wanted, May { make: true, remove: false }, now)
    }
}

impl Known<'_> {
    fn status(&self, key: &Key, generation: Option<i64>, before: Option<&BGPPeerStatus>) -> BGPPeerStatus {
        let title = format!("{} {}", key.kind.name(), key.name);
        let taken = self.intent.objects.iter().find(|taken| taken.object == title);
        let conditions = || before.into_iter().flat_map(|status| &status.conditions);
        let condition = |verdict: ConditionUpdate| {
            let before = conditions().find(|condition| condition.type_ == verdict.kind);
            verdict.since(before, self.clock)
        };
        let (sessions, established) = match key.kind {
            Kind::Peer => {
                let (counts, verdict) = self.counts.of(&key.name, taken.map(|taken| taken.generation));
                (Some(counts), Some(condition(verdict)))
            }
            _ => (None, None),
        };
        let accepted = match taken {
            // Of any other generation than the newest nothing is known that is new.
            Some(taken) if Some(taken.generation) == generation => Some(condition(self.accepted(taken))),
            _ => conditions().find(|condition| condition.type_ == ACCEPTED).cloned(),
        };
        BGPPeerStatus { sessions, conditions: established.into_iter().chain(accepted).collect() }
    }

    fn accepted(&self, taken: &ObjectGeneration) -> ConditionUpdate {
        let holds = taken.in_force == Some(taken.generation);
        let message = if holds {
            format!("in force on {}", self.me)
        } else {
            let own = self.intent.rejections.iter().filter(|rejection| rejection.object == taken.object);
            let mut words: Vec<_> = own.take(REASONS).map(ToString::to_string).collect();
            if words.is_empty() {
                // It would make another one wrong.
                words = self.intent.rejections.iter().take(REASONS).map(ToString::to_string).collect();
            }
            cut(&format!("refused on {}: {}", self.me, words.join("; ")))
        };
        let reason = if holds { "InForce" } else { "Refused" };
        ConditionUpdate { kind: ACCEPTED, holds, reason, message, generation: Some(taken.generation) }
    }
}

const ACCEPTED: &str = "Accepted";

impl ConditionUpdate {
    /// The condition, which keeps its time as long as its status is the same.
    fn since(self, before: Option<&Condition>, now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let since =
            before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        // Whole seconds, as they are written.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: self.message,
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: self.generation,
        }
    }
}

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

    fn object(kind: Kind, name: &str, generation: i64) -> (Kind, DynamicObject) {
        let value = json!({"apiVersion": "heliograph.io/v1alpha1", "kind": kind.name(),
            "metadata": {"name": name, "generation": generation, "resourceVersion": "1"}, "spec": {}});
        (kind, serde_json::from_value(value).unwrap())
    }

    fn taken(object: &str, generation: i64, in_force: Option<i64>) -> ObjectGeneration {
        ObjectGeneration { object: object.into(), generation, in_force }
    }

    fn counts(up: bool) -> Counts {
        let mut counts = Counts::default();
        counts.add(&session("n1", "tor", up, 3), &Default::default());
        counts
    }

    /// Writes what is to be written now, as the API server would; how much that was.
    fn turn(
        statuses: &mut Statuses,
        listed: &mut [(Kind, DynamicObject)],
        intent: &IntentStatus,
        counts: &Counts,
        (start, seconds): (Instant, u64),
    ) -> usize {
        let known = Known { me: "n1", intent, counts, clock: at(seconds as i64) };
        let now = start + Duration::from_secs(seconds);
        let writes = statuses.plan(listed, &known, now);
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

    fn told(object: &(Kind, DynamicObject)) -> String {
        let conditions = object.1.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let words = conditions.iter().map(|condition| {
            let word = |field: &str| condition[field].as_str().unwrap_or_default();
            let generation = &condition["observedGeneration"];
            format!("{} {} of {generation}: {}", word("type"), word("status"), word("message"))
        });
        words.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn what_agents_refuse_is_not_accepted_and_sessions_are_of_the_generation_they_go_by() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [
            object(Kind::Configuration, "default", 1),
            object(Kind::Filter, "f", 2),
            object(Kind::Peer, "tor", 4),
            object(Kind::Peer, "unknown", 1),
        ];
        let rejection = Rejection {
            file: String::new(),
            line: None,
            object: "BGPPeer tor".into(),
            field: "spec.peerAddress".into(),
            problem: "no address".into(),
            remedy: "give one".into(),
        };
        let mut intent = IntentStatus {
            rejections: vec![rejection],
            objects: vec![
                taken("BGPConfiguration default", 1, Some(1)),
                taken("BGPFilter f", 2, None),
                taken("BGPPeer tor", 4, Some(3)),
            ],
            ..IntentStatus::default()
        };
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 0)), 4);
        let refused = "refused on n1: BGPPeer tor spec.peerAddress: no address; give one";
        let expected = [
            "Accepted True of 1: in force on n1".into(),
            format!("Accepted False of 2: {refused}"),
            format!("Established True of 3:  | Accepted False of 4: {refused}"),
            "Established False of null: no node has a session with it".into(),
        ];
        assert_eq!(listed.each_ref().map(told), expected);
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 9)), 0, "nothing new");
        // It is mended, and what we know of is older: then that isn't judged.
        listed[2].1.metadata.generation = Some(5);
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 60)), 0);
        intent.rejections.clear();
        intent.objects[1] = taken("BGPFilter f", 2, Some(2));
        intent.objects[2] = taken("BGPPeer tor", 5, Some(5));
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 90)), 2);
        assert_eq!(told(&listed[2]), "Established True of 3:  | Accepted True of 5: in force on n1");
        let times =
            |number: usize| listed[2].1.data["status"]["conditions"][number]["lastTransitionTime"].clone();
        assert_eq!((times(0), times(1)), (json!("1970-01-12T13:46:40Z"), json!("1970-01-12T13:48:10Z")));
    }

    #[test]
    fn a_session_that_flaps_is_written_ever_more_rarely() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [object(Kind::Peer, "tor", 3)];
        let intent = IntentStatus { objects: vec![taken("BGPPeer tor", 3, Some(3))], ..Default::default() };
        let mut writes = 0;
        // Up for a turn, down for the next.
        for number in 0..1200 {
            let counts = counts(number % 2 == 0);
            writes += turn(&mut statuses, &mut listed, &intent, &counts, (start, number * 3));
        }
        assert!((30..80).contains(&writes), "{writes} in an hour");
        // What stays is told, a minute later at most.
        for number in 1200..1220 {
            turn(&mut statuses, &mut listed, &intent, &counts(true), (start, number * 3));
        }
        assert_eq!(listed[0].1.data["status"]["sessions"]["established"], "1/1");
    }

    #[test]
    fn what_somebody_else_writes_is_put_right() {
        let start = Instant::now();
        let mut statuses = Statuses::new(start);
        let mut listed = [object(Kind::Peer, "tor", 3)];
        let intent = IntentStatus { objects: vec![taken("BGPPeer tor", 3, Some(3))], ..Default::default() };
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 1)), 1);
        let ours = listed[0].1.data["status"].clone();
        listed[0].1.data["status"] = json!({"sessions": "many"});
        listed[0].1.metadata.resource_version = Some("99".into());
        assert_eq!(turn(&mut statuses, &mut listed, &intent, &counts(true), (start, 4)), 1);
        let status = &listed[0].1.data["status"];
        assert_eq!(status["sessions"], ours["sessions"]);
    }
}
