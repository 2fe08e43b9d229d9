//! How much may be done at once and on average: a token bucket, with time as a value.

use std::time::{Duration, Instant};

/// So many at once, and so many a second on average.
#[derive(Clone, Debug)]
pub struct Bucket {
    size: f64,
    a_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(size: u32, a_second: f64, now: Instant) -> Self {
        Self { size: size.into(), a_second, level: size.into(), at: now }
    }

    /// When the next may be done.
    pub fn ready(&mut self, now: Instant) -> Instant {
        self.fill(now);
        if self.level >= 1.0 {
            return now;
        }
        // A little more than needed, lest rounding leave too little.
        now + Duration::from_secs_f64((1.0 - self.level) / self.a_second) + Duration::from_millis(1)
    }

    /// Whether one more may be done now; if so, it is counted.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let may = self.level >= 1.0;
        if may {
            self.level -= 1.0;
        }
        may
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.level = (self.level + since.as_secs_f64() * self.a_second).min(self.size);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_what_it_holds_and_then_by_and_by() {
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
