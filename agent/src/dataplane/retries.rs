//! Failed operations by key, each with the time of its retry.

use crate::backoff::pause_after;
use crate::netlink::{Cause, KernelError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first and the longest pause before a retry.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A cause with its remedy. Many failures share one.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    cause: Cause,
    remedy: String,
}

impl Reason {
    /// Makes the error of an operation that failed for this reason.
    pub fn error(&self, what: String) -> KernelError {
        KernelError { what, cause: self.cause.clone(), remedy: self.remedy.clone() }
    }
}

/// A failed operation.
#[derive(Debug)]
struct Failure {
    reason: Arc<Reason>,
    times: u32,
    /// The time of the retry; `None` when it is due and was not made yet.
    due: Option<Instant>,
}

/// The failed operations.
#[derive(Debug)]
pub struct Retries<K> {
    failures: BTreeMap<K, Failure>,
    /// The times of the retries in order.
    queue: BTreeSet<(Instant, K)>,
    /// The reasons in use.
    reasons: Vec<Arc<Reason>>,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self { failures: BTreeMap::new(), queue: BTreeSet::new(), reasons: Vec::new() }
    }
}

impl<K: Clone + Ord> Retries<K> {
    /// Records a failure. The pause before the retry grows with each failure in a row.
    pub fn fail(&mut self, key: K, error: KernelError, now: Instant) {
        let before = self.remove(&key);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        let due = now + pause_after(times, PAUSES);
        let reason = self.intern(error);
        self.queue.insert((due, key.clone()));
        self.failures.insert(key, Failure { reason, times, due: Some(due) });
    }

    /// Forgets the failures of a key: it succeeded, or is not needed any more.
    pub fn succeed(&mut self, key: &K) {
        if !self.failures.is_empty() {
            self.remove(key);
        }
    }

    /// Returns whether a key failed and its retry is not due yet. [`Retries::take_due`] changes that.
    pub fn is_waiting(&self, key: &K) -> bool {
        self.failures.get(key).is_some_and(|failure| failure.due.is_some())
    }

    /// Returns the keys whose retry has become due. Their failures are remembered until they fail or succeed again.
    pub fn take_due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        while self.queue.first().is_some_and(|(time, _)| *time <= now) {
            let Some((_, key)) = self.queue.pop_first() else { break };
            if let Some(failure) = self.failures.get_mut(&key) {
                failure.due = None;
            }
            due.push(key);
        }
        due
    }

    /// Returns the time of the next retry.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(time, _)| *time)
    }

    /// Forgets all failures, so that nothing waits any more; returns the keys.
    pub fn clear(&mut self) -> Vec<K> {
        self.queue.clear();
        self.reasons.clear();
        std::mem::take(&mut self.failures).into_keys().collect()
    }

    /// Forgets the failures of the keys that `keep` does not choose.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.failures.keys().filter(|key| !keep(key)).cloned().collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }

    /// Returns whether there are no failures.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Returns the reasons of the failures that `select` chooses, each with the first key and the number of keys.
    pub fn grouped(&self, mut select: impl FnMut(&K) -> bool) -> Vec<(&Reason, &K, usize)> {
        let mut groups: Vec<(&Arc<Reason>, &K, usize)> = Vec::new();
        for (key, failure) in self.failures.iter().filter(|(key, _)| select(key)) {
            match groups.iter_mut().find(|(reason, ..)| Arc::ptr_eq(reason, &failure.reason)) {
                Some(group) => group.2 += 1,
                None => groups.push((&failure.reason, key, 1)),
            }
        }
        groups.into_iter().map(|(reason, key, count)| (reason.as_ref(), key, count)).collect()
    }

    fn remove(&mut self, key: &K) -> Option<Failure> {
        let failure = self.failures.remove(key)?;
        if let Some(due) = failure.due {
            self.queue.remove(&(due, key.clone()));
        }
        Some(failure)
    }

    /// Returns the reason of an error, shared with the other failures of that reason. A new one is logged.
    fn intern(&mut self, error: KernelError) -> Arc<Reason> {
        let same = |reason: &&Arc<Reason>| reason.cause == error.cause && reason.remedy == error.remedy;
        if let Some(reason) = self.reasons.iter().find(same) {
            return reason.clone();
        }
        tracing::warn!(%error, "the kernel is not in the desired state");
        self.reasons.retain(|reason| Arc::strong_count(reason) > 1);
        let reason = Arc::new(Reason { cause: error.cause, remedy: error.remedy });
        self.reasons.push(reason.clone());
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> KernelError {
        KernelError::from_cause("add", Cause::Unexpected(text.to_owned()))
    }

    #[test]
    fn pauses_grow_by_key() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            retries.fail(1, error("no"), now);
            let due = retries.next().unwrap();
            pauses.push((due - now).as_millis());
            assert!(retries.take_due(due - Duration::from_millis(1)).is_empty() && retries.is_waiting(&1));
            assert_eq!(retries.take_due(due), [1]);
            assert!(!retries.is_waiting(&1) && retries.next().is_none(), "until it fails again");
            now = due;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        retries.fail(2, error("no"), now);
        assert_eq!(retries.next(), Some(now + Duration::from_millis(100)), "another key has its own pause");
        retries.succeed(&1);
        retries.fail(1, error("no"), now);
        assert_eq!(retries.next(), Some(now + Duration::from_millis(100)));
        assert_eq!(retries.clear(), [1, 2]);
        assert!(retries.is_empty() && retries.next().is_none());
    }

    #[test]
    fn many_failures_share_their_reason() {
        let mut retries = Retries::default();
        let now = Instant::now();
        for key in 0..100 {
            retries.fail(key, error(if key % 10 == 3 { "rare" } else { "often" }), now);
        }
        let counts = |retries: &Retries<i32>| -> Vec<(String, i32, usize)> {
            let groups = retries.grouped(|key| *key != 0);
            groups
                .into_iter()
                .map(|(why, key, n)| (why.error("x".into()).cause.to_string(), *key, n))
                .collect()
        };
        let often = "unexpected answer: often".to_owned();
        let rare = "unexpected answer: rare".to_owned();
        assert_eq!(counts(&retries), [(often.clone(), 1, 89), (rare, 3, 10)]);
        assert_eq!(retries.reasons.len(), 2);
        (0..100).filter(|key| key % 10 == 3).for_each(|key| retries.succeed(&key));
        retries.fail(0, error("new"), now);
        assert_eq!(retries.reasons.len(), 2, "a reason that isn't used any more is dropped");
        assert_eq!(counts(&retries), [(often, 1, 89)]);
    }
}
