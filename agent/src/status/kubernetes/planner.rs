//! What to write now: pure, with time as a value.
//!
//! What an object signals is written at once, anything else of it together with what has gathered meanwhile. An object
//! that signals again and again is written ever more rarely, and all objects together only so often, so that neither a
//! flapping session nor a bad day of the whole cluster is the API server's, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use heliograph_cni::fnv1a;

use super::bucket::Bucket;
use super::object::{Key, Object};
use crate::backoff::growing;
use crate::store::kubernetes::failure::Failure;

/// How often to write.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The least time between two writes of an object that signals.
    pub signals: Duration,
    /// The longest that this grows to.
    pub longest: Duration,
    /// The time between two writes of an object of which only figures have changed, give or take a quarter.
    pub figures: Duration,
    /// So many writes may come at once,
    pub burst: u32,
    /// and so many a second on average.
    pub a_second: f64,
}

impl Pace {
    /// As it is for agents.
    pub const AGENT: Self = Self {
        signals: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        figures: Duration::from_secs(30),
        burst: 120,
        a_second: 4.0,
    };
}

/// Signals in a row, each soon after the last, before an object is written more rarely.
const PATIENCE: u32 = 4;
/// Pauses after a failure grow from the first to the last of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make it what it is to be; `whole`: what it is about, too, which makes it if it isn't there.
    Apply {
        /// The object.
        object: Object,
        /// Spec and status, not status alone.
        whole: bool,
    },
    /// Remove it.
    Delete(Key),
}

impl Write {
    /// Of what.
    pub fn key(&self) -> &Key {
        match self {
            Self::Apply { object, .. } => &object.key,
            Self::Delete(key) => key,
        }
    }
}

/// What may be done besides telling how what is there stands.
#[derive(Clone, Copy, Debug)]
pub struct May {
    /// Objects may be made: there is a Node for them to belong to, else they would stay for ever.
    pub make: bool,
    /// Objects may go: nothing is missing from what is wanted.
    pub remove: bool,
}

/// An object of ours as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its resource version.
    pub version: String,
    /// It belongs to our Node, and goes with it.
    pub owned: bool,
}

/// What is known of an object in the API server.
#[derive(Debug, Default)]
struct Entry {
    /// What we last wrote; `None`: it is there, as somebody left it.
    written: Option<Object>,
    /// The resource version which that made.
    version: String,
    at: Option<Instant>,
    /// Signals in a row.
    streak: u32,
    failures: u32,
    /// Why it failed the last time.
    trouble: Option<String>,
    not_before: Option<Instant>,
}

/// Keeps what was written, and says what is to be.
#[derive(Debug)]
pub struct Planner {
    pace: Pace,
    bucket: Bucket,
    entries: BTreeMap<Key, Entry>,
    next: Option<Instant>,
}

impl Planner {
    /// Knows of nothing.
    pub fn new(pace: Pace, now: Instant) -> Self {
        let bucket = Bucket::new(pace.burst, pace.a_second, now);
        Self { pace, bucket, entries: BTreeMap::new(), next: None }
    }

    /// These are all that the API server holds of ours. What isn't as we wrote it, doesn't belong to our Node as it is
    /// now, or isn't there, is written again.
    pub fn adopt(&mut self, found: &BTreeMap<Key, Found>) {
        self.entries.retain(|key, _| found.contains_key(key));
        for (key, found) in found {
            let entry = self.entries.entry(key.clone()).or_default();
            if entry.version != found.version || !found.owned {
                entry.written = None;
            }
        }
    }

    /// What to do now.
    pub fn plan(&mut self, wanted: &[Object], may: May, now: Instant) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut next = None;
        let keys: BTreeSet<&Key> = wanted.iter().map(|object| &object.key).collect();
        let gone = self.entries.keys().filter(|key| may.remove && !keys.contains(key));
        let gone = gone.map(|key| (self.not_before(key, now), Write::Delete(key.clone())));
        let mut due: Vec<_> = gone.collect();
        for object in wanted {
            match self.due(object, now) {
                Some((_, Write::Apply { whole: true, .. })) if !may.make => {}
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

    /// When there is something to do that wasn't due yet; `None`: nothing is left.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Why something isn't done that was tried and is to be tried again; `None`: there is no such thing.
    pub fn trouble(&self) -> Option<&str> {
        self.entries.values().find_map(|entry| entry.trouble.as_deref())
    }

    /// It was done, and made this resource version.
    pub fn done(&mut self, write: Write, version: &str, now: Instant) {
        match write {
            Write::Delete(key) => {
                self.entries.remove(&key);
            }
            Write::Apply { object, .. } => {
                let longest = self.pace.longest;
                let entry = self.entries.entry(object.key.clone()).or_default();
                let signals = entry.written.as_ref().is_none_or(|written| written.signal != object.signal);
                let quiet = entry.at.is_none_or(|at| now.saturating_duration_since(at) > 2 * longest);
                entry.streak = match (quiet, signals) {
                    (true, _) => 0,
                    (false, true) => entry.streak.saturating_add(1),
                    (false, false) => entry.streak,
                };
                entry.at = Some(now);
                entry.written = Some(object);
                entry.version = version.into();
                entry.failures = 0;
                entry.trouble = None;
                entry.not_before = None;
            }
        }
    }

    /// It failed; it waits for as long as the API server asks at least.
    pub fn failed(&mut self, key: &Key, failure: Failure, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        let pause = growing(PAUSES, entry.failures);
        entry.failures += 1;
        entry.not_before = Some(now + pause.max(failure.wait.unwrap_or_default()));
        entry.trouble = Some(failure.words);
    }

    /// There is nothing to write: what failed is of no use any more, as the object is again as it was.
    pub fn settled(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.failures, entry.trouble, entry.not_before) = (0, None, None);
        }
    }

    /// It isn't there after all.
    pub fn missing(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    fn not_before(&self, key: &Key, now: Instant) -> Instant {
        self.entries.get(key).and_then(|entry| entry.not_before).unwrap_or(now)
    }

    /// When an object is to be written, if it differs from what was.
    fn due(&self, object: &Object, now: Instant) -> Option<(Instant, Write)> {
        let write = |whole| Write::Apply { object: object.clone(), whole };
        let Some(entry) = self.entries.get(&object.key) else { return Some((now, write(true))) };
        let not_before = entry.not_before.unwrap_or(now);
        let (Some(written), Some(at)) = (&entry.written, entry.at) else {
            return Some((not_before, write(true)));
        };
        let whole = written.spec != object.spec;
        let gap = if whole || written.signal != object.signal {
            growing((self.pace.signals, self.pace.longest), entry.streak.saturating_sub(PATIENCE))
        } else if written.status != object.status {
            jittered(self.pace.figures, &object.key.name)
        } else {
            return None;
        };
        Some(((at + gap).max(not_before), write(whole)))
    }
}

/// Between three quarters and five quarters of a time, for each name another: agents of many nodes shall not all write
/// at once.
fn jittered(time: Duration, name: &str) -> Duration {
    time.mul_f64(0.75 + (fnv1a(name) % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests;
