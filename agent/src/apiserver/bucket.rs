//! A token bucket. Time is an argument.

use std::time::{Duration, Instant};

/// A token bucket: a limit for a burst and for the average rate.
#[derive(Clone, Debug)]
pub struct Bucket {
    size: f64,
    tokens_per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Returns a full bucket.
    pub fn new(size: u32, tokens_per_second: f64, now: Instant) -> Self {
        Self { size: size.into(), tokens_per_second, level: size.into(), at: now }
    }

    /// Returns the time at which the next token is available.
    pub fn ready(&mut self, now: Instant) -> Instant {
        self.fill(now);
        if self.level >= 1.0 {
            return now;
        }
        // A little longer than computed, because rounding may leave too little.
        now + Duration::from_secs_f64((1.0 - self.level) / self.tokens_per_second) + Duration::from_millis(1)
    }

    /// Takes a token. Returns whether there was one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let available = self.level >= 1.0;
        if available {
            self.level -= 1.0;
        }
        available
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.level = (self.level + since.as_secs_f64() * self.tokens_per_second).min(self.size);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_allows_a_burst_and_then_the_average_rate() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(2, 0.5, start);
        assert_eq!([(); 3].map(|()| bucket.take(start)), [true, true, false]);
        let ready = bucket.ready(start);
        assert!(ready > after(2) - Duration::from_millis(1) && ready < after(3), "{:?}", ready - start);
        assert!(!bucket.take(after(1)) && bucket.take(ready) && !bucket.take(ready));
        assert_eq!([(); 3].map(|()| bucket.take(after(1000))), [true, true, false]);
    }
}
