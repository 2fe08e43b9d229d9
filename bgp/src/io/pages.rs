//! Paths in pages, so that neither the speaker nor the reader ever deals with all of them at once.

use std::collections::VecDeque;

use super::{Command, Handle, Stopped};
use crate::report::PathReport;
use crate::rib::{Scan, ScanPosition};
use crate::wire::Prefix;

/// The number of prefixes that are collected at a time: more make fewer searches, and take more memory (18 octets each).
const COLLECTED: usize = 16384;
/// The most prefixes whose paths are requested at a time.
const REQUESTED: usize = 1024;

/// The paths in pages, in the order of their prefixes: see [`Handle::path_pages`].
#[derive(Debug)]
pub struct PathPages {
    handle: Handle,
    within: Option<Prefix>,
    /// The last prefix that was collected.
    last: Option<Prefix>,
    /// All prefixes were collected.
    finished: bool,
    /// The prefixes whose paths were not read yet.
    prefixes: VecDeque<Prefix>,
}

impl PathPages {
    pub(super) fn new(handle: Handle, within: Option<Prefix>) -> Self {
        Self { handle, within, last: None, finished: false, prefixes: VecDeque::new() }
    }

    /// Returns the next page: all paths to the next prefixes, until there are at least `limit` or a few milliseconds of the
    /// speaker's time have passed. `None`: there are no more. A path that exists all the time is on exactly one page;
    /// others may be on one. May be dropped and called again.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn next(&mut self, limit: usize) -> Result<Option<Vec<PathReport>>, Stopped> {
        loop {
            if self.prefixes.is_empty() {
                if self.finished {
                    return Ok(None);
                }
                self.collect().await?;
                continue;
            }
            let prefixes: Vec<Prefix> = self.prefixes.iter().take(REQUESTED).copied().collect();
            let request = |reply| Command::Paths(prefixes, limit, reply);
            let (paths, count) = self.handle.request(request).await?;
            self.prefixes.drain(..count);
            // All of these may have been withdrawn meanwhile.
            if !paths.is_empty() {
                return Ok(Some(paths));
            }
        }
    }

    /// Collects the next prefixes.
    async fn collect(&mut self) -> Result<(), Stopped> {
        let mut scan = Scan { within: self.within, after: self.last, before: None };
        let mut collected = Vec::new();
        let mut next = Some(ScanPosition::START);
        while let Some(from) = next {
            let found;
            (found, next) = self.handle.request(|reply| Command::Scan(scan, from, reply)).await?;
            collected.extend(found);
            if collected.len() > 2 * COLLECTED {
                // The least ones stay; what is after them is for the next time.
                let (_, first_after, _) = collected.select_nth_unstable(COLLECTED);
                scan.before = Some(*first_after);
                collected.truncate(COLLECTED);
            }
        }
        collected.sort_unstable();
        // A prefix may have moved to another place during the search.
        collected.dedup();
        self.finished = scan.before.is_none();
        self.last = collected.last().copied().or(self.last);
        self.prefixes = collected.into();
        Ok(())
    }
}
