//! Which Events to send of sessions that come and go: pure, with time as a value.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use super::bucket::Bucket;
use super::object::{Key, Kind, session_name};
use super::render;
use crate::backoff::Backoff;
use crate::status::{NodeStatus, SessionStatus};

/// So many Events at once, and so many a second on average: the API server keeps each for an hour.
const BURST: u32 = 10;
const A_SECOND: f64 = 0.1;
/// So many wait for the API server; of more the oldest are left out, as the last says how things stand.
const BACKLOG: usize = 20;
/// Pauses after an Event was refused grow from the first to the last of these,
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// and after so many tries in a row, some five minutes, it is left out; so is then each that is refused.
const TRIES: u32 = 10;

/// Something worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object that it is about.
    pub about: Key,
    /// Whether somebody should look: `Warning`, else `Normal`.
    pub warning: bool,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub note: String,
    /// When it happened.
    pub at: Timestamp,
}

/// What was seen.
#[derive(Debug)]
pub struct Events {
    seen: BTreeMap<IpAddr, (bool, u64)>,
    bucket: Bucket,
}

impl Events {
    /// Nothing was seen yet.
    pub fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), bucket: Bucket::new(BURST, A_SECOND, now) }
    }

    /// What has happened since it was last asked. What there are too many of is left out: sessions say how they stand.
    /// `at`: the time of day of `now`.
    pub fn look(&mut self, status: &NodeStatus, now: Instant, at: Timestamp) -> Vec<Event> {
        let listed: Vec<IpAddr> = render::listed(status).iter().map(|session| session.peer).collect();
        let mut events = Vec::new();
        for session in &status.sessions {
            let is = (session.established(), session.established_count);
            let was = self.seen.insert(session.peer, is);
            if was == Some(is) {
                continue;
            }
            // One that was never up isn't down now.
            let was = was.unwrap_or((false, 0));
            let has_object = listed.contains(&session.peer);
            let about = if has_object {
                Key { kind: Kind::Session, name: session_name(&status.node, session.peer) }
            } else {
                Key { kind: Kind::Node, name: status.node.clone() }
            };
            let news = if is.0 && is.1 > was.1 {
                // With many nodes that all is well is nothing to tell one by one.
                has_object.then(|| up(about, session, at))
            } else {
                (was.0 && !is.0).then(|| down(about, session, at))
            };
            events.extend(news.filter(|_| self.bucket.take(now)));
        }
        self.seen.retain(|peer, _| status.sessions.iter().any(|session| session.peer == *peer));
        events
    }
}

/// Events that are still to be sent, the oldest first.
#[derive(Debug)]
pub struct Unsent {
    waiting: VecDeque<Event>,
    backoff: Backoff,
    /// In a row that were refused.
    tries: u32,
    not_before: Option<Instant>,
    /// Why the first was refused.
    trouble: Option<String>,
}

impl Default for Unsent {
    fn default() -> Self {
        let backoff = Backoff::new(PAUSES.0, PAUSES.1);
        Self { waiting: VecDeque::new(), backoff, tries: 0, not_before: None, trouble: None }
    }
}

impl Unsent {
    /// These happened, too.
    pub fn add(&mut self, news: Vec<Event>) {
        self.waiting.extend(news);
        while self.waiting.len() > BACKLOG {
            self.waiting.pop_front();
        }
    }

    /// The one to send now.
    pub fn due(&self, now: Instant) -> Option<&Event> {
        self.waiting.front().filter(|_| self.not_before.is_none_or(|at| now >= at))
    }

    /// When the next is to be sent; `None`: there is none, or it is due.
    pub fn next(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.waiting.is_empty())
    }

    /// It was sent.
    pub fn done(&mut self) {
        self.waiting.pop_front();
        self.backoff.reset();
        (self.tries, self.not_before, self.trouble) = (0, None, None);
    }

    /// It was refused, for what the words say. It is tried again: a right may be granted, a moment of confusion pass.
    pub fn refused(&mut self, words: String, wait: Option<Duration>, now: Instant) {
        self.not_before = Some(now + self.backoff.fail().max(wait.unwrap_or_default()));
        self.trouble = Some(words);
        self.tries = self.tries.saturating_add(1);
        if self.tries >= TRIES {
            self.waiting.pop_front();
        }
        // Nothing is left to be told: it is over. How things stand is told by objects.
        if self.waiting.is_empty() {
            self.trouble = None;
        }
    }

    /// Why they aren't sent; `None`: they are.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

fn up(about: Key, session: &SessionStatus, at: Timestamp) -> Event {
    let note = format!(
        "The BGP session with {} ({}, AS {}) is established",
        session.name, session.peer, session.asn
    );
    Event { about, warning: false, reason: "SessionUp", note, at }
}

fn down(about: Key, session: &SessionStatus, at: Timestamp) -> Event {
    let why = session.last_error.as_deref().unwrap_or(&session.reason);
    let note = format!(
        "The BGP session with {} ({}, AS {}) is not established any more: {why}",
        session.name, session.peer, session.asn
    );
    Event { about, warning: true, reason: "SessionDown", note, at }
}

/// How long an agent that starts may take before what its node's condition says counts no more.
const GRACE: Duration = Duration::from_secs(30);

/// What the node's condition NetworkUnavailable is to be; `None`: as it is.
///
/// That the agent starts anew is no reason for saying that there is no network: by what is in the kernel packets still
/// go. `was`: what the condition says, if there is one.
pub fn network_unavailable(was: Option<bool>, status: &NodeStatus) -> Option<bool> {
    let forwards = status.kernel.as_ref().is_some_and(|kernel| kernel.routes > 0);
    let starting = status.uptime_seconds < GRACE.as_secs_f64();
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
    fn sessions_that_come_and_go_are_told_once() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let mut status = testing::status();
        assert_eq!(reasons(&events.look(&status, now, AT)), "SessionUp a-192.0.2.3, SessionUp a-192.0.2.9");
        assert_eq!(events.look(&status, now, AT), []);
        (status.sessions[0].state, status.sessions[0].last_error) =
            (SessionState::Idle, Some("hold timer expired".into()));
        let down = events.look(&status, now, AT);
        assert_eq!(reasons(&down), "SessionDown a-192.0.2.3");
        assert!(down[0].warning && down[0].note.ends_with("hold timer expired"), "{down:?}");
        status.sessions[0].state = SessionState::Active;
        assert_eq!(events.look(&status, now, AT), []);
        // Up, down and up again between two looks.
        (status.sessions[0].state, status.sessions[0].established_count) = (SessionState::Established, 2);
        assert_eq!(reasons(&events.look(&status, now, AT)), "SessionUp a-192.0.2.3");
        status.sessions[0].established_count = 3;
        assert_eq!(reasons(&events.look(&status, now, AT)), "SessionUp a-192.0.2.3");
    }

    fn event(number: i64) -> Event {
        Event {
            about: Key { kind: Kind::Node, name: "a".into() },
            warning: number % 2 == 0,
            reason: "Test",
            note: String::new(),
            at: Timestamp::from_second(number).unwrap(),
        }
    }

    #[test]
    fn what_waits_is_of_when_it_happened_and_the_newest() {
        let now = Instant::now();
        let later = Timestamp::from_second(100).unwrap();
        let mut events = Events::new(now);
        assert!(events.look(&testing::status(), now, later).iter().all(|event| event.at == later));
        let mut unsent = Unsent::default();
        unsent.add((0..15).map(event).collect());
        unsent.add((15..25).map(event).collect());
        let mut told = Vec::new();
        while let Some(event) = unsent.due(now) {
            told.push(event.at.as_second());
            unsent.done();
        }
        assert_eq!(told, (5..25).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_refused_is_tried_again_and_not_for_ever() {
        let now = Instant::now();
        let mut unsent = Unsent::default();
        unsent.add(vec![event(1), event(2)]);
        unsent.refused("403".into(), None, now);
        assert_eq!(
            (unsent.trouble(), unsent.due(now), unsent.next()),
            (Some("403"), None, Some(now + PAUSES.0))
        );
        let later = now + PAUSES.0;
        assert_eq!(unsent.due(later), Some(&event(1)));
        unsent.done();
        assert_eq!((unsent.trouble(), unsent.due(later)), (None, Some(&event(2))));
        let mut at = later;
        for _ in 0..TRIES {
            assert_eq!(unsent.due(at), Some(&event(2)));
            unsent.refused("403".into(), None, at);
            at += PAUSES.1;
        }
        assert_eq!((unsent.trouble(), unsent.due(at), unsent.next()), (None, None, None));
        unsent.add(vec![event(3), event(4)]);
        unsent.refused("403".into(), Some(2 * PAUSES.1), at);
        assert_eq!(unsent.next(), Some(at + 2 * PAUSES.1), "as the API server asks");
        assert_eq!(unsent.due(at + 2 * PAUSES.1), Some(&event(4)), "each is tried once then");
    }

    #[test]
    fn too_many_are_left_out() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let mut status = testing::status();
        status.waiting_for.clear();
        status.sessions = (0..1000).map(|n| testing::session("n", n, NeighborRole::Mesh)).collect();
        assert_eq!(events.look(&status, now, AT), []);
        status.sessions.iter_mut().for_each(|session| session.state = SessionState::Idle);
        let told = events.look(&status, now, AT);
        assert_eq!(told.len(), 10);
        assert!(told.iter().all(|event| event.about.kind == Kind::Session && event.warning));
    }

    #[test]
    fn the_node_has_a_network_once_it_is_ready_and_keeps_it_over_a_restart() {
        let cases = [
            // was, ready, seconds since the start, routes in the kernel; to be
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
