//! Exponential backoff: growing pauses between attempts, with jitter.

use std::time::Duration;

/// The pause after each of several failures in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    range: (Duration, Duration),
    failures: u32,
}

impl Backoff {
    /// Returns a backoff whose pauses grow from the shortest to the longest.
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { range: (shortest, longest), failures: 0 }
    }

    /// Counts a failure. Returns the pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        pause_after(self.failures, self.range)
    }

    /// Starts again at the shortest pause.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns the pause after so many failures in a row: the shortest after the first, and twice as long after each further
/// one, up to the longest.
pub fn pause_after(failures: u32, (shortest, longest): (Duration, Duration)) -> Duration {
    // 2^16 times the shortest pause is longer than any longest one.
    shortest.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// Returns a random time between three quarters and five quarters of `time`, so that the requests of many agents are
/// spread.
pub fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Returns a random time up to `time`: it spreads an action that is due on all agents at the same moment.
pub fn random_up_to(time: Duration) -> Duration {
    time.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::new(SECOND, 6 * SECOND);
        assert_eq!([(); 5].map(|()| backoff.next_pause().as_secs()), [1, 2, 4, 6, 6]);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next_pause(), 6 * SECOND);
        backoff.reset();
        assert_eq!(backoff.next_pause(), SECOND);
        assert_eq!(pause_after(0, (SECOND, SECOND)), SECOND);
    }

    #[test]
    fn times_vary() {
        for _ in 0..100 {
            assert!((3 * SECOND..=5 * SECOND).contains(&jittered(4 * SECOND)));
            assert!(random_up_to(SECOND) < SECOND);
        }
    }
}
