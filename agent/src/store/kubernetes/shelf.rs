//! What one source has told so far.

use std::collections::BTreeMap;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::failure::Failure;
use super::source::{Entry, Event, Unread};
use crate::store::check::Object;

/// What one source has told so far. The source ends with it.
#[derive(Debug)]
pub struct Shelf {
    /// By what its source calls itself.
    pub number: u64,
    /// By name.
    pub entries: BTreeMap<String, Result<Object, Unread>>,
    /// Everything was told once.
    pub listed: bool,
    /// What is the matter with the source now.
    pub trouble: Option<Failure>,
    /// Since when the API server refuses what is asked.
    pub refused: Option<Instant>,
    task: JoinHandle<()>,
}

impl Shelf {
    /// An empty one for a source.
    pub fn new(number: u64, task: JoinHandle<()>) -> Self {
        Self { number, entries: BTreeMap::new(), listed: false, trouble: None, refused: None, task }
    }

    /// Takes what the source tells; whether objects changed.
    pub fn take(&mut self, event: Event) -> bool {
        match &event {
            Event::Failed(failure) if failure.refused => {
                self.refused.get_or_insert_with(Instant::now);
            }
            Event::Failed(_) => self.refused = None,
            _ => (self.trouble, self.refused) = (None, None),
        }
        match event {
            Event::Listed(entries) => {
                let entries = entries.into_iter().collect();
                let news = !self.listed || self.entries != entries;
                self.entries = entries;
                self.listed = true;
                news
            }
            Event::Set((name, read)) => self.set((name, read)),
            Event::Gone(name) => self.entries.remove(&name).is_some(),
            Event::Reached => false,
            Event::Failed(failure) => {
                self.trouble = Some(failure);
                false
            }
        }
    }

    fn set(&mut self, (name, read): Entry) -> bool {
        // Kubelets report about their nodes all the time; most of it is nothing to us.
        if self.entries.get(&name) == Some(&read) {
            return false;
        }
        self.entries.insert(name, read);
        true
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.task.abort();
    }
}
