//! Which agent does what one alone has to do: whoever holds the Lease. Pure, with time as a value.
//!
//! No two nodes' clocks are compared: a holder is there as long as what it writes changes, seen by our own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

/// The Lease's name, in Heliograph's namespace.
pub const NAME: &str = "heliograph-peers";
/// Whose Lease is the same for so long has lost it.
const DURATION: Duration = Duration::from_secs(60);
/// Who holds it renews it so often, and looks at it so often at least.
pub const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Anyone else looks so often: thousands of agents do.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// It is somebody else's.
    Theirs,
    /// It is ours until it has to be renewed.
    Ours,
    /// Ask for it by writing this; it is ours if nobody was faster.
    Ask(Box<Lease>),
}

/// What one agent has seen of the Lease.
#[derive(Debug, Default)]
pub struct Eye {
    /// What it last held, and since when that is so.
    seen: Option<(LeaseSpec, Instant)>,
    /// When we last wrote it.
    renewed: Option<Instant>,
}

impl Eye {
    /// Whose turn it is, given the Lease as it is `now`. `clock` is only told to others.
    pub fn turn(&mut self, found: Option<&Lease>, me: &str, now: Instant, clock: Timestamp) -> Turn {
        let spec = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), since));
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let mine = holder == me;
        let age = |since: Instant| now.saturating_duration_since(since);
        if mine && self.renewed.is_some_and(|renewed| age(renewed) <= RENEW_EVERY) {
            return Turn::Ours;
        }
        if !mine && !holder.is_empty() && age(since) < DURATION {
            return Turn::Theirs;
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
        Turn::Ask(Box::new(Lease { metadata, spec: Some(spec) }))
    }

    /// What was asked for was written.
    pub fn renewed(&mut self, now: Instant) {
        self.renewed = Some(now);
    }

    /// When to look at what is somebody else's again: sooner where nothing is heard of the holder.
    pub fn look_in(&self, now: Instant) -> Duration {
        let silent = self.seen.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        match silent {
            Some(silent) if !silent.is_zero() => DURATION.saturating_sub(silent).max(Duration::from_secs(1)),
            _ => LOOK_EVERY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents, and the Lease between them, seconds after a start.
    struct Stage {
        start: Instant,
        lease: Option<Lease>,
    }

    impl Stage {
        fn new() -> Self {
            Self { start: Instant::now(), lease: None }
        }

        /// An agent looks, with a clock that is so many seconds ahead; whether it holds the Lease then.
        fn looks(&mut self, eye: &mut Eye, me: &str, seconds: u64, ahead: i64) -> bool {
            let now = self.start + Duration::from_secs(seconds);
            let clock = Timestamp::from_second(1_000_000 + seconds as i64 + ahead).unwrap();
            match eye.turn(self.lease.as_ref(), me, now, clock) {
                Turn::Theirs => false,
                Turn::Ours => true,
                Turn::Ask(lease) => {
                    self.lease = Some(*lease);
                    eye.renewed(now);
                    true
                }
            }
        }

        fn look_in(&self, eye: &Eye, seconds: u64) -> u64 {
            eye.look_in(self.start + Duration::from_secs(seconds)).as_secs()
        }
    }

    #[test]
    fn one_holds_it_until_it_is_silent() {
        let mut stage = Stage::new();
        let (mut a, mut b) = (Eye::default(), Eye::default());
        assert!(stage.looks(&mut a, "a", 0, 0));
        let first = stage.lease.clone();
        assert!(stage.looks(&mut a, "a", 20, 0));
        assert_eq!(stage.lease, first, "nothing to renew yet");
        assert!(!stage.looks(&mut b, "b", 20, 0));
        assert!(stage.looks(&mut a, "a", 41, 0));
        assert_ne!(stage.lease, first);
        assert!(!stage.looks(&mut b, "b", 80, 0), "it was renewed");
        assert_eq!(stage.look_in(&b, 80), 60);
        assert!(!stage.looks(&mut b, "b", 139, 0));
        assert_eq!(stage.look_in(&b, 139), 1);
        assert!(stage.looks(&mut b, "b", 140, 0));
        let spec = stage.lease.clone().unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(2)));
        assert!(!stage.looks(&mut a, "a", 141, 0));
    }

    #[test]
    fn clocks_that_differ_do_no_harm() {
        let year = 365 * 24 * 3600;
        for ahead in [year, -year] {
            let mut stage = Stage::new();
            let (mut a, mut b) = (Eye::default(), Eye::default());
            for seconds in (0..300).step_by(21) {
                assert!(stage.looks(&mut a, "a", seconds, ahead));
                assert!(!stage.looks(&mut b, "b", seconds + 1, 0), "it is alive, whatever its clock says");
            }
            // It dies.
            assert!(!stage.looks(&mut b, "b", 350, 0));
            assert!(stage.looks(&mut b, "b", 361, 0), "{ahead}");
        }
    }

    #[test]
    fn an_agent_that_starts_anew_asks_for_its_own_lease_and_a_free_one_is_anyones() {
        let mut stage = Stage::new();
        stage.looks(&mut Eye::default(), "a", 0, 0);
        let before = stage.lease.clone();
        assert!(stage.looks(&mut Eye::default(), "a", 1, 0));
        assert_ne!(stage.lease, before);
        stage.lease = Some(Lease::default());
        assert!(stage.looks(&mut Eye::default(), "b", 2, 0));
    }
}
