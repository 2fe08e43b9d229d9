//! Pauses after failures: each twice as long as the last, and no two processes' alike.

use std::time::Duration;

/// Failures in a row, and how long to pause after each.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses that grow from the first to the last.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, failures: 0 }
    }

    /// How long to pause after one more failure.
    pub fn fail(&mut self) -> Duration {
        let pause = growing((self.first, self.last), self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The pause after one more failure, of those that grow from the first to the last.
pub fn growing((first, last): (Duration, Duration), failures: u32) -> Duration {
    // 2^16 times the first is longer than any last.
    first.saturating_mul(1 << failures.min(16)).min(last)
}

/// Between three quarters and five quarters of a time: agents of many nodes shall not ask all at once.
pub fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Any time up to this: what all agents are about to do at the same moment is spread over it.
pub fn spread(time: Duration) -> Duration {
    time.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_last_and_begin_anew() {
        let mut backoff = Backoff::new(SECOND, 6 * SECOND);
        assert_eq!([(); 5].map(|()| backoff.fail().as_secs()), [1, 2, 4, 6, 6]);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.fail(), 6 * SECOND);
        backoff.reset();
        assert_eq!(backoff.fail(), SECOND);
    }

    #[test]
    fn times_vary() {
        for _ in 0..100 {
            assert!((3 * SECOND..=5 * SECOND).contains(&jittered(4 * SECOND)));
            assert!(spread(SECOND) < SECOND);
        }
    }
}
