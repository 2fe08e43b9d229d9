//! The cache of one watcher.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::apiserver::ApiError;
use crate::apiserver::watcher::{Entry, Event};
use crate::store::check::Object;
use crate::store::nodes::Fact;
use crate::store::problem::Problem;

/// An object as received: decoded, and trimmed to what is used of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A wish.
    Wish(Object),
    /// A wish that can't be decoded.
    Invalid {
        /// Its generation.
        generation: Option<i64>,
        /// The problems.
        problems: Vec<Problem>,
    },
    /// A Node.
    Node(Fact),
}

/// The objects of one watcher as last received, with the watcher's state. Dropping the cache stops the watcher.
#[derive(Debug)]
pub struct Cache {
    /// The id of the watcher.
    pub watcher: u64,
    /// The objects by name.
    pub entries: BTreeMap<Arc<str>, Received>,
    /// A list was received.
    pub listed: bool,
    /// The error of the last request, if it failed.
    pub error: Option<ApiError>,
    /// The time since when the API server rejects the requests.
    pub rejected_since: Option<Instant>,
    task: JoinHandle<()>,
}

impl Cache {
    /// Returns an empty cache for a watcher, by its id and its task.
    pub fn new(watcher: u64, task: JoinHandle<()>) -> Self {
        Self { watcher, entries: BTreeMap::new(), listed: false, error: None, rejected_since: None, task }
    }

    /// Returns whether an event changes nothing. Kubelets write their Nodes' status all the time; most of these changes
    /// are in fields that are not kept.
    pub fn is_unchanged_by(&self, event: &Event<Received>) -> bool {
        match event {
            Event::Applied((name, object)) => self.error.is_none() && self.entries.get(name) == Some(object),
            _ => false,
        }
    }

    /// Applies an event. Returns whether objects changed.
    pub fn apply(&mut self, event: Event<Received>) -> bool {
        match &event {
            Event::Failed(error) if error.kind.is_permanent() => {
                self.rejected_since.get_or_insert_with(Instant::now);
            }
            Event::Failed(_) => self.rejected_since = None,
            _ => (self.error, self.rejected_since) = (None, None),
        }
        match event {
            Event::Listed(entries) => {
                let entries = entries.into_iter().map(|entry| self.kept(entry)).collect();
                let changed = !self.listed || self.entries != entries;
                self.entries = entries;
                self.listed = true;
                changed
            }
            Event::Applied((name, object)) => {
                let changed = self.entries.get(&name) != Some(&object);
                if changed {
                    self.entries.insert(name, object);
                }
                changed
            }
            Event::Deleted(name) => self.entries.remove(&name).is_some(),
            Event::Watching => false,
            Event::Failed(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    /// Returns an entry as it is kept already, if it is equal, so that a list replaces only what changed.
    fn kept(&self, (name, object): Entry<Received>) -> Entry<Received> {
        match self.entries.get_key_value(&name) {
            Some((name, kept)) if *kept == object => (name.clone(), kept.clone()),
            _ => (name, object),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}
