//! The Events about sessions that go up and down. Pure; time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use super::object::session_name;
use super::render;
use crate::api::{ObjectKind, ObjectRef};
use crate::apiserver::bucket::Bucket;
use crate::backoff::Backoff;
use crate::status::{NodeStatus, SessionStatus};

/// The largest number of Events in a burst. The API server keeps each for an hour.
const BURST: u32 = 10;
/// The average rate of Events.
const EVENTS_PER_SECOND: f64 = 0.1;
/// The largest number of Events in the queue. The oldest are dropped first, as the newest has the present state.
const MAX_QUEUED: usize = 20;
/// The first and the longest pause after a rejected Event.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The number of attempts in a row, some five minutes, after which an Event is dropped when it is rejected.
const MAX_ATTEMPTS: u32 = 10;

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object that the Event is about.
    pub about: ObjectRef,
    /// True for the type `Warning`, false for `Normal`.
    pub warning: bool,
    /// The reason, one word.
    pub reason: &'static str,
    /// The text for people.
    pub note: String,
    /// The time of the change.
    pub at: Timestamp,
}

/// The detector of changes that deserve an Event.
#[derive(Debug)]
pub struct Events {
    /// For each peer: established, and the number of times that it was.
    seen: BTreeMap<IpAddr, (bool, u64)>,
    bucket: Bucket,
}

impl Events {
    /// Returns a detector that has seen no session.
    pub fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), bucket: Bucket::new(BURST, EVENTS_PER_SECOND, now) }
    }

    /// Returns the Events since the last call, as far as the rate limit permits: the objects have the state anyway. `at` is the
    /// time of day of `now`.
    pub fn detect(&mut self, status: &NodeStatus, now: Instant, at: Timestamp) -> Vec<Event> {
        let listed: Vec<IpAddr> = render::listed(status).iter().map(|session| session.peer).collect();
        let mut events = Vec::new();
        for session in &status.sessions {
            let is = (session.established(), session.established_count);
            let was = self.seen.insert(session.peer, is);
            if was == Some(is) {
                continue;
            }
            // A session that was never up does not go down.
            let was = was.unwrap_or((false, 0));
            let has_object = listed.contains(&session.peer);
            let about = if has_object {
                ObjectRef { kind: ObjectKind::BGPSession, name: session_name(&status.node, session.peer) }
            } else {
                ObjectRef { kind: ObjectKind::Node, name: status.node.clone() }
            };
            let event = if is.0 && is.1 > was.1 {
                // With many nodes, sessions that go up have neither an object nor an Event each.
                has_object.then(|| up(about, session, at))
            } else {
                (was.0 && !is.0).then(|| down(about, session, at))
            };
            events.extend(event.filter(|_| self.bucket.take(now)));
        }
        self.seen.retain(|peer, _| status.sessions.iter().any(|session| session.peer == *peer));
        events
    }
}

/// The queue of Events that are not sent yet, the oldest first.
#[derive(Debug)]
pub struct EventQueue {
    events: VecDeque<Event>,
    backoff: Backoff,
    /// The number of attempts in a row that failed.
    attempts: u32,
    not_before: Option<Instant>,
    /// The error of the last attempt.
    error: Option<String>,
}

impl Default for EventQueue {
    fn default() -> Self {
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        Self { events: VecDeque::new(), backoff, attempts: 0, not_before: None, error: None }
    }
}

impl EventQueue {
    /// Appends events.
    pub fn add(&mut self, events: Vec<Event>) {
        self.events.extend(events);
        while self.events.len() > MAX_QUEUED {
            self.events.pop_front();
        }
    }

    /// Returns the event to send now.
    pub fn due(&self, now: Instant) -> Option<&Event> {
        self.events.front().filter(|_| self.not_before.is_none_or(|at| now >= at))
    }

    /// Returns the time of the next attempt; `None`: the queue is empty, or the next event is due.
    pub fn next(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.events.is_empty())
    }

    /// Records that the first event was sent.
    pub fn done(&mut self) {
        self.events.pop_front();
        self.backoff.reset();
        (self.attempts, self.not_before, self.error) = (0, None, None);
    }

    /// Records that the first event was rejected. It is retried, since a missing right may be granted.
    pub fn failed(&mut self, error: String, wait: Option<Duration>, now: Instant) {
        self.not_before = Some(now + self.backoff.next_pause().max(wait.unwrap_or_default()));
        self.error = Some(error);
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts >= MAX_ATTEMPTS {
            self.events.pop_front();
        }
        // With an empty queue there is nothing to report: the objects have the state.
        if self.events.is_empty() {
            self.error = None;
        }
    }

    /// Returns the error of the last attempt; `None`: it succeeded.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

fn up(about: ObjectRef, session: &SessionStatus, at: Timestamp) -> Event {
    let note = format!(
        "The BGP session with {} ({}, AS {}) is established",
        session.name, session.peer, session.asn
    );
    Event { about, warning: false, reason: "SessionUp", note, at }
}

fn down(about: ObjectRef, session: &SessionStatus, at: Timestamp) -> Event {
    let error = session.last_error.as_deref().unwrap_or(&session.reason);
    let note = format!(
        "The BGP session with {} ({}, AS {}) went down: {error}",
        session.name, session.peer, session.asn
    );
    Event { about, warning: true, reason: "SessionDown", note, at }
}

/// The time after an agent's start in which its node's condition stays as it is.
const START_GRACE_PERIOD: Duration = Duration::from_secs(30);

/// Returns the new status of the node's condition NetworkUnavailable; `None`: it stays as it is. `was` is its present status.
///
/// A restart of the agent does not make the network unavailable: the kernel forwards packets by the routes that it holds.
pub fn network_unavailable(was: Option<bool>, status: &NodeStatus) -> Option<bool> {
    let forwards = status.kernel.as_ref().is_some_and(|kernel| kernel.routes > 0);
    let starting = status.uptime_seconds < START_GRACE_PERIOD.as_secs_f64();
    let is = match (status.waiting_for.is_empty(), was) {
        (true, _) => false,
        (false, Some(false)) if starting || forwards => false,
        (false, _) => true,
    };
    (was != Some(is)).then_some(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NeighborRole;
    use crate::status::testing;
    use heliograph_bgp::report::SessionState;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn reasons(events: &[Event]) -> String {
        events
            .iter()
            .map(|event| format!("{} {}", event.reason, event.about.name))
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn each_change_of_a_session_has_one_event() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let mut status = testing::status();
        assert_eq!(reasons(&events.detect(&status, now, AT)), "SessionUp a-192.0.2.3, SessionUp a-192.0.2.9");
        assert_eq!(events.detect(&status, now, AT), []);
        (status.sessions[0].state, status.sessions[0].last_error) =
            (SessionState::Idle, Some("hold timer expired".into()));
        let down = events.detect(&status, now, AT);
        assert_eq!(reasons(&down), "SessionDown a-192.0.2.3");
        assert!(down[0].warning && down[0].note.ends_with("hold timer expired"), "{down:?}");
        status.sessions[0].state = SessionState::Active;
        assert_eq!(events.detect(&status, now, AT), []);
        // Up, down and up again between two calls.
        (status.sessions[0].state, status.sessions[0].established_count) = (SessionState::Established, 2);
        assert_eq!(reasons(&events.detect(&status, now, AT)), "SessionUp a-192.0.2.3");
        status.sessions[0].established_count = 3;
        assert_eq!(reasons(&events.detect(&status, now, AT)), "SessionUp a-192.0.2.3");
    }

    fn event(number: i64) -> Event {
        Event {
            about: ObjectRef { kind: ObjectKind::Node, name: "a".into() },
            warning: number % 2 == 0,
            reason: "Test",
            note: String::new(),
            at: Timestamp::from_second(number).unwrap(),
        }
    }

    #[test]
    fn the_queue_keeps_the_newest_events_and_their_times() {
        let now = Instant::now();
        let later = Timestamp::from_second(100).unwrap();
        let mut events = Events::new(now);
        assert!(events.detect(&testing::status(), now, later).iter().all(|event| event.at == later));
        let mut queue = EventQueue::default();
        queue.add((0..15).map(event).collect());
        queue.add((15..25).map(event).collect());
        let mut sent = Vec::new();
        while let Some(event) = queue.due(now) {
            sent.push(event.at.as_second());
            queue.done();
        }
        assert_eq!(sent, (5..25).collect::<Vec<_>>());
    }

    #[test]
    fn rejected_events_are_retried_a_limited_number_of_times() {
        let now = Instant::now();
        let mut queue = EventQueue::default();
        queue.add(vec![event(1), event(2)]);
        queue.failed("403".into(), None, now);
        assert_eq!((queue.error(), queue.due(now), queue.next()), (Some("403"), None, Some(now + BACKOFF.0)));
        let later = now + BACKOFF.0;
        assert_eq!(queue.due(later), Some(&event(1)));
        queue.done();
        assert_eq!((queue.error(), queue.due(later)), (None, Some(&event(2))));
        let mut at = later;
        for _ in 0..MAX_ATTEMPTS {
            assert_eq!(queue.due(at), Some(&event(2)));
            queue.failed("403".into(), None, at);
            at += BACKOFF.1;
        }
        assert_eq!((queue.error(), queue.due(at), queue.next()), (None, None, None));
        queue.add(vec![event(3), event(4)]);
        queue.failed("403".into(), Some(2 * BACKOFF.1), at);
        assert_eq!(queue.next(), Some(at + 2 * BACKOFF.1), "the pause that the API server demands");
        assert_eq!(queue.due(at + 2 * BACKOFF.1), Some(&event(4)), "each is tried once from then on");
    }

    #[test]
    fn events_beyond_the_rate_limit_are_dropped() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let mut status = testing::status();
        status.waiting_for.clear();
        status.sessions = (0..1000).map(|n| testing::session("n", n, NeighborRole::Mesh)).collect();
        assert_eq!(events.detect(&status, now, AT), []);
        status.sessions.iter_mut().for_each(|session| session.state = SessionState::Idle);
        let sent = events.detect(&status, now, AT);
        assert_eq!(sent.len(), 10);
        assert!(sent.iter().all(|event| event.about.kind == ObjectKind::BGPSession && event.warning));
    }

    #[test]
    fn the_network_is_available_once_the_node_is_ready_and_stays_so_over_a_restart() {
        let cases = [
            // was, ready, seconds since the start, routes in the kernel; expected
            (None, false, 1.0, 0, Some(true)),
            (None, true, 1.0, 0, Some(false)),
            (Some(true), true, 1.0, 4, Some(false)),
            (Some(true), false, 1.0, 4, None),
            (Some(false), true, 100.0, 0, None),
            (Some(false), false, 1.0, 0, None),
            (Some(false), false, 100.0, 4, None),
            (Some(false), false, 100.0, 0, Some(true)),
        ];
        for (was, ready, uptime, routes, expected) in cases {
            let mut status = testing::status();
            if ready {
                status.waiting_for.clear();
            }
            status.uptime_seconds = uptime;
            status.kernel.as_mut().unwrap().routes = routes;
            assert_eq!(network_unavailable(was, &status), expected, "{was:?} {ready} {uptime} {routes}");
        }
    }
}
