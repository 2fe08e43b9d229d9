//! Which Events to send of sessions that come and go: pure, with time as a value.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::object::{Key, Kind, session_name};
use super::view;
use crate::status::{NodeStatus, SessionStatus};

/// So many Events at once, and so many a second on average: the API server keeps each for an hour.
const BURST: u32 = 10;
const A_SECOND: f64 = 0.1;

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
    pub fn look(&mut self, status: &NodeStatus, now: Instant) -> Vec<Event> {
        let listed: Vec<IpAddr> = view::listed(status).iter().map(|session| session.peer).collect();
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
                has_object.then(|| up(about, session))
            } else {
                (was.0 && !is.0).then(|| down(about, session))
            };
            events.extend(news.filter(|_| self.bucket.take(now)));
        }
        self.seen.retain(|peer, _| status.sessions.iter().any(|session| session.peer == *peer));
        events
    }
}

fn up(about: Key, session: &SessionStatus) -> Event {
    let note = format!(
        "The BGP session with {} ({}, AS {}) is established",
        session.name, session.peer, session.asn
    );
    Event { about, warning: false, reason: "SessionUp", note }
}

fn down(about: Key, session: &SessionStatus) -> Event {
    let why = session.last_error.as_deref().unwrap_or(&session.reason);
    let note = format!(
        "The BGP session with {} ({}, AS {}) is not established any more: {why}",
        session.name, session.peer, session.asn
    );
    Event { about, warning: true, reason: "SessionDown", note }
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
        assert_eq!(reasons(&events.look(&status, now)), "SessionUp a-192.0.2.3, SessionUp a-192.0.2.9");
        assert_eq!(events.look(&status, now), []);
        (status.sessions[0].state, status.sessions[0].last_error) =
            ("Idle".into(), Some("hold timer expired".into()));
        let down = events.look(&status, now);
        assert_eq!(reasons(&down), "SessionDown a-192.0.2.3");
        assert!(down[0].warning && down[0].note.ends_with("hold timer expired"), "{down:?}");
        status.sessions[0].state = "Active".into();
        assert_eq!(events.look(&status, now), []);
        // Up, down and up again between two looks.
        (status.sessions[0].state, status.sessions[0].established_count) = ("Established".into(), 2);
        assert_eq!(reasons(&events.look(&status, now)), "SessionUp a-192.0.2.3");
        status.sessions[0].established_count = 3;
        assert_eq!(reasons(&events.look(&status, now)), "SessionUp a-192.0.2.3");
    }

    #[test]
    fn too_many_are_left_out() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let mut status = testing::status();
        status.waiting_for.clear();
        status.sessions = (0..1000).map(|n| testing::session("n", n, NeighborRole::Mesh)).collect();
        assert_eq!(events.look(&status, now), []);
        status.sessions.iter_mut().for_each(|session| session.state = "Idle".into());
        let told = events.look(&status, now);
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
