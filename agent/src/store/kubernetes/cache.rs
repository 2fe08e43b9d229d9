//! The cache of one watcher.

use std::collections::BTreeMap;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::watcher::{Entry, Event, InvalidObject};
use crate::apiserver::ApiError;
use crate::store::check::Object;

/// The objects of one watcher as last received, with the watcher's state. Dropping the cache stops the watcher.
#[derive(Debug)]
pub struct Cache {
    /// The id of the watcher.
    pub watcher: u64,
    /// The objects by name.
    pub entries: BTreeMap<String, Result<Object, InvalidObject>>,
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

    /// Applies an event. Returns whether objects changed.
    pub fn apply(&mut self, event: Event) -> bool {
        match &event {
            Event::Failed(error) if error.kind.is_permanent() => {
                self.rejected_since.get_or_insert_with(Instant::now);
            }
            Event::Failed(_) => self.rejected_since = None,
            _ => (self.error, self.rejected_since) = (None, None),
        }
        match event {
            Event::Listed(entries) => {
                let entries = entries.into_iter().collect();
                let changed = !self.listed || self.entries != entries;
                self.entries = entries;
                self.listed = true;
                changed
            }
            Event::Applied(entry) => self.set(entry),
            Event::Deleted(name) => self.entries.remove(&name).is_some(),
            Event::Watching => false,
            Event::Failed(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    fn set(&mut self, (name, object): Entry) -> bool {
        // Kubelets write their Nodes' status all the time; most of these changes are in fields that are not kept.
        if self.entries.get(&name) == Some(&object) {
            return false;
        }
        self.entries.insert(name, object);
        true
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}
