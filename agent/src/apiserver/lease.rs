//! The leader election: the agent that holds the Lease is the leader. Pure; time is an argument.
//!
//! Clocks of different nodes are never compared: a holder is alive as long as the Lease changes, by the observer's clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

/// The Lease's name, in Heliograph's namespace.
pub const NAME: &str = "heliograph-peers";
/// The time after which a Lease that does not change is free.
const DURATION: Duration = Duration::from_secs(60);
/// The leader's interval of renewals.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(20);
/// The others' interval of reads. There may be thousands of them.
pub const OBSERVE_INTERVAL: Duration = Duration::from_secs(60);

/// The next step of an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Another agent is the leader.
    Follow,
    /// This agent is the leader, and need not renew the Lease yet.
    Lead,
    /// Write this Lease. If no other agent was faster, this agent is the leader.
    Write(Box<Lease>),
}

/// One agent's observations of the Lease.
#[derive(Debug, Default)]
pub struct Observer {
    /// Its last content, and the time at which that was first seen.
    seen: Option<(LeaseSpec, Instant)>,
    /// The time of our last write.
    renewed: Option<Instant>,
}

impl Observer {
    /// Returns the next step of the agent `me`, given the Lease at the time `now`. `clock` is the time of day for the
    /// Lease's fields.
    pub fn observe(&mut self, found: Option<&Lease>, me: &str, now: Instant, clock: Timestamp) -> Step {
        let spec = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), since));
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let mine = holder == me;
        let age = |since: Instant| now.saturating_duration_since(since);
        if mine && self.renewed.is_some_and(|renewed| age(renewed) <= RENEW_INTERVAL) {
            return Step::Lead;
        }
        if !mine && !holder.is_empty() && age(since) < DURATION {
            return Step::Follow;
        }
        let metadata = found.map_or_else(
            || ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        let spec = LeaseSpec {
            holder_identity: Some(me.into()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if mine { spec.acquire_time } else { Some(MicroTime(clock)) },
            renew_time: Some(MicroTime(clock)),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!mine)),
            ..spec
        };
        Step::Write(Box::new(Lease { metadata, spec: Some(spec) }))
    }

    /// Records that the Lease was written.
    pub fn renewed(&mut self, now: Instant) {
        self.renewed = Some(now);
    }

    /// Returns the time until the next read of another agent's Lease: shorter if the Lease did not change.
    pub fn next_observation(&self, now: Instant) -> Duration {
        let unchanged = self.seen.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        match unchanged {
            Some(unchanged) if !unchanged.is_zero() => {
                DURATION.saturating_sub(unchanged).max(Duration::from_secs(1))
            }
            _ => OBSERVE_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Several agents and their Lease. Times are seconds after a start.
    struct Election {
        start: Instant,
        lease: Option<Lease>,
    }

    impl Election {
        fn new() -> Self {
            Self { start: Instant::now(), lease: None }
        }

        /// Lets an agent observe the Lease, with a clock that is `ahead` seconds fast. Returns whether it is the leader.
        fn leads(&mut self, observer: &mut Observer, me: &str, seconds: u64, ahead: i64) -> bool {
            let now = self.start + Duration::from_secs(seconds);
            let clock = Timestamp::from_second(1_000_000 + seconds as i64 + ahead).unwrap();
            match observer.observe(self.lease.as_ref(), me, now, clock) {
                Step::Follow => false,
                Step::Lead => true,
                Step::Write(lease) => {
                    self.lease = Some(*lease);
                    observer.renewed(now);
                    true
                }
            }
        }

        fn next_observation(&self, observer: &Observer, seconds: u64) -> u64 {
            observer.next_observation(self.start + Duration::from_secs(seconds)).as_secs()
        }
    }

    #[test]
    fn the_leader_stays_until_it_stops_renewing() {
        let mut election = Election::new();
        let (mut a, mut b) = (Observer::default(), Observer::default());
        assert!(election.leads(&mut a, "a", 0, 0));
        let first = election.lease.clone();
        assert!(election.leads(&mut a, "a", 20, 0));
        assert_eq!(election.lease, first, "no renewal yet");
        assert!(!election.leads(&mut b, "b", 20, 0));
        assert!(election.leads(&mut a, "a", 41, 0));
        assert_ne!(election.lease, first);
        assert!(!election.leads(&mut b, "b", 80, 0), "it was renewed");
        assert_eq!(election.next_observation(&b, 80), 60);
        assert!(!election.leads(&mut b, "b", 139, 0));
        assert_eq!(election.next_observation(&b, 139), 1);
        assert!(election.leads(&mut b, "b", 140, 0));
        let spec = election.lease.clone().unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(2)));
        assert!(!election.leads(&mut a, "a", 141, 0));
    }

    #[test]
    fn clocks_may_differ() {
        let year = 365 * 24 * 3600;
        for ahead in [year, -year] {
            let mut election = Election::new();
            let (mut a, mut b) = (Observer::default(), Observer::default());
            for seconds in (0..300).step_by(21) {
                assert!(election.leads(&mut a, "a", seconds, ahead));
                assert!(!election.leads(&mut b, "b", seconds + 1, 0), "a is alive, whatever its clock");
            }
            // a dies.
            assert!(!election.leads(&mut b, "b", 350, 0));
            assert!(election.leads(&mut b, "b", 361, 0), "{ahead}");
        }
    }

    #[test]
    fn a_restarted_agent_writes_its_own_lease_and_any_agent_takes_a_free_one() {
        let mut election = Election::new();
        election.leads(&mut Observer::default(), "a", 0, 0);
        let before = election.lease.clone();
        assert!(election.leads(&mut Observer::default(), "a", 1, 0));
        assert_ne!(election.lease, before);
        election.lease = Some(Lease::default());
        assert!(election.leads(&mut Observer::default(), "b", 2, 0));
    }
}
