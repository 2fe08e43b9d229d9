//! The choice of the objects to write now. Pure; time is an argument.
//!
//! A change of an object's signal is written at once, a change of its counters after an interval. An object whose signal
//! changes repeatedly is written at growing intervals, and all objects together at a limited rate. So neither a flapping
//! session nor an outage of the whole cluster overloads the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use heliograph_cni::fnv1a;

use super::object::Object;
use crate::api::ObjectRef;
use crate::apiserver::ApiError;
use crate::apiserver::bucket::Bucket;
use crate::backoff::pause_after;

/// The limits of the rate of writes.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// The shortest interval of writes of an object whose signal changed.
    pub min_interval: Duration,
    /// The longest interval, for an object whose signal changes repeatedly.
    pub max_interval: Duration,
    /// The interval of writes of an object of which only counters changed, plus or minus a quarter.
    pub counter_interval: Duration,
    /// The largest number of writes in a burst, of all objects.
    pub burst: u32,
    /// The average rate of writes, of all objects.
    pub writes_per_second: f64,
}

impl RateLimits {
    /// The limits of an agent.
    pub const AGENT: Self = Self {
        min_interval: Duration::from_secs(1),
        max_interval: Duration::from_secs(60),
        counter_interval: Duration::from_secs(30),
        burst: 120,
        writes_per_second: 4.0,
    };
}

/// The number of changes of the signal in a row after which the intervals grow.
const FREE_CHANGES: u32 = 4;
/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A write request.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Apply an object.
    Apply {
        /// The object.
        object: Object,
        /// True if spec and status are applied, which creates the object if necessary; false for the status alone.
        whole: bool,
    },
    /// Delete an object.
    Delete(ObjectRef),
}

impl Write {
    /// Returns the key of the object.
    pub fn key(&self) -> &ObjectRef {
        match self {
            Self::Apply { object, .. } => &object.key,
            Self::Delete(key) => key,
        }
    }
}

/// The requests that are permitted besides changes of the status of existing objects.
#[derive(Clone, Copy, Debug)]
pub struct Permitted {
    /// True if objects may be created: there is a Node that owns them. Without an owner they would never be deleted.
    pub create: bool,
    /// True if objects may be deleted: the desired objects are complete.
    pub delete: bool,
}

/// An object of ours in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its resource version.
    pub version: String,
    /// True if our Node owns it, so that it is deleted with the Node.
    pub owned: bool,
}

/// The state of an object in the API server.
#[derive(Debug, Default)]
struct Entry {
    /// The object as last written; `None`: it exists with unknown content.
    written: Option<Object>,
    /// The resource version of the last write.
    version: String,
    /// The time of the last write.
    at: Option<Instant>,
    /// The number of changes of the signal in a row.
    streak: u32,
    /// The number of failures in a row.
    failures: u32,
    /// The last error.
    error: Option<String>,
    /// The earliest time for the next attempt.
    not_before: Option<Instant>,
}

/// Keeps the state of all objects, and plans writes.
#[derive(Debug)]
pub struct Planner {
    limits: RateLimits,
    bucket: Bucket,
    entries: BTreeMap<ObjectRef, Entry>,
    next: Option<Instant>,
}

impl Planner {
    /// Returns a planner without objects.
    pub fn new(limits: RateLimits, now: Instant) -> Self {
        let bucket = Bucket::new(limits.burst, limits.writes_per_second, now);
        Self { limits, bucket, entries: BTreeMap::new(), next: None }
    }

    /// Takes over the list of all our objects in the API server. Objects that differ from the last write, that our present
    /// Node does not own, or that are missing are written again.
    pub fn adopt(&mut self, found: &BTreeMap<ObjectRef, Found>) {
        self.entries.retain(|key, _| found.contains_key(key));
        for (key, found) in found {
            let entry = self.entries.entry(key.clone()).or_default();
            if entry.version != found.version || !found.owned {
                entry.written = None;
            }
        }
    }

    /// Returns the writes that are due.
    pub fn plan(&mut self, desired: &[Object], permitted: Permitted, now: Instant) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut next = None;
        let keys: BTreeSet<&ObjectRef> = desired.iter().map(|object| &object.key).collect();
        let gone = self.entries.keys().filter(|key| permitted.delete && !keys.contains(key));
        let gone = gone.map(|key| (self.not_before(key, now), Write::Delete(key.clone())));
        let mut due: Vec<_> = gone.collect();
        for object in desired {
            match self.due(object, now) {
                Some((_, Write::Apply { whole: true, .. })) if !permitted.create => {}
                Some(write) => due.push(write),
                None => self.settled(&object.key),
            }
        }
        for (due, write) in due {
            let due = due.max(self.bucket.ready(now));
            if due > now {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
            } else {
                self.bucket.take(now);
                writes.push(write);
            }
        }
        self.next = next;
        writes
    }

    /// Returns the time at which the next write is due; `None`: there is none.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Returns the error of a write that is to be retried; `None`: there is none.
    pub fn error(&self) -> Option<&str> {
        self.entries.values().find_map(|entry| entry.error.as_deref())
    }

    /// Records a write that succeeded, with the new resource version.
    pub fn done(&mut self, write: Write, version: &str, now: Instant) {
        match write {
            Write::Delete(key) => {
                self.entries.remove(&key);
            }
            Write::Apply { object, .. } => {
                let max_interval = self.limits.max_interval;
                let entry = self.entries.entry(object.key.clone()).or_default();
                let signal_changed =
                    entry.written.as_ref().is_none_or(|written| written.signal != object.signal);
                let quiet = entry.at.is_none_or(|at| now.saturating_duration_since(at) > 2 * max_interval);
                entry.streak = match (quiet, signal_changed) {
                    (true, _) => 0,
                    (false, true) => entry.streak.saturating_add(1),
                    (false, false) => entry.streak,
                };
                entry.at = Some(now);
                entry.written = Some(object);
                entry.version = version.into();
                entry.failures = 0;
                entry.error = None;
                entry.not_before = None;
            }
        }
    }

    /// Records a write that failed. The pause is at least the one that the API server demands.
    pub fn failed(&mut self, key: &ObjectRef, failure: ApiError, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.failures += 1;
        let pause = pause_after(entry.failures, BACKOFF);
        entry.not_before = Some(now + pause.max(failure.retry_after.unwrap_or_default()));
        entry.error = Some(failure.message);
    }

    /// Records that an object needs no write: an earlier failure is obsolete, as the object is again as it was written.
    pub fn settled(&mut self, key: &ObjectRef) {
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.failures, entry.error, entry.not_before) = (0, None, None);
        }
    }

    /// Records that an object does not exist.
    pub fn not_found(&mut self, key: &ObjectRef) {
        self.entries.remove(key);
    }

    fn not_before(&self, key: &ObjectRef, now: Instant) -> Instant {
        self.entries.get(key).and_then(|entry| entry.not_before).unwrap_or(now)
    }

    /// Returns the write of an object that differs from the last write, and the time at which it is due.
    fn due(&self, object: &Object, now: Instant) -> Option<(Instant, Write)> {
        let write = |whole| Write::Apply { object: object.clone(), whole };
        let Some(entry) = self.entries.get(&object.key) else { return Some((now, write(true))) };
        let not_before = entry.not_before.unwrap_or(now);
        let (Some(written), Some(at)) = (&entry.written, entry.at) else {
            return Some((not_before, write(true)));
        };
        let whole = written.spec != object.spec;
        let interval = if whole || written.signal != object.signal {
            let range = (self.limits.min_interval, self.limits.max_interval);
            pause_after(1 + entry.streak.saturating_sub(FREE_CHANGES), range)
        } else if written.status != object.status {
            jittered(self.limits.counter_interval, &object.key.name)
        } else {
            return None;
        };
        Some(((at + interval).max(not_before), write(whole)))
    }
}

/// Returns three to five quarters of an interval, by the name, so that the agents of many nodes do not write at the same
/// time.
fn jittered(interval: Duration, name: &str) -> Duration {
    interval.mul_f64(0.75 + (fnv1a(name) % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests;
