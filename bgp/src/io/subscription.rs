//! The best routes as changes: for a program that keeps a table of its own.

use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Handle, Stopped, answered};
use crate::report::BestChanges;

/// The most changes in one answer, so that no reader holds up the speaker.
pub(super) const MAX_CHANGES: usize = 4096;

/// The reader of a [`Subscription`] as the driver identifies it.
#[derive(Clone, Debug)]
pub(super) struct Reader(Weak<()>);

impl Reader {
    /// Returns whether the subscription was dropped.
    pub(super) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }
}

/// The changes of the best routes, read by one program at its own pace: see [`Handle::subscribe`].
///
/// ```no_run
/// # use heliograph_bgp::io::{Handle, Stopped};
/// # async fn follow(handle: &Handle) -> Result<(), Stopped> {
/// let mut table = std::collections::BTreeMap::new();
/// let mut subscription = handle.subscribe();
/// loop {
///     subscription.changed().await?;
///     let news = subscription.best_changes(1000).await?;
///     for change in news.changes {
///         match change.route {
///             Some(route) => drop(table.insert(change.prefix, route)),
///             None => drop(table.remove(&change.prefix)),
///         }
///     }
///     if news.synced && !news.more {
///         println!("{} routes, and what is not among them may be deleted", table.len());
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    /// Its number of owners is 1 for as long as the subscription exists.
    reader: Arc<()>,
    /// The answer that a dropped call did not wait for: its changes are not returned a second time.
    awaited: Option<oneshot::Receiver<BestChanges>>,
}

impl Subscription {
    pub(super) fn new(handle: &Handle) -> Self {
        let mut changes = handle.changes.clone();
        changes.mark_changed();
        Self { commands: handle.commands.clone(), changes, reader: Arc::new(()), awaited: None }
    }

    /// Waits until there may be changes to read. Returns at once before the first [`Subscription::best_changes`], and when
    /// that returned `more`. May be dropped and called again.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn changed(&mut self) -> Result<(), Stopped> {
        if self.awaited.is_some() {
            return Ok(());
        }
        self.changes.changed().await.map_err(|_| Stopped)?;
        // Only a call of `best_changes` takes note of it.
        self.changes.mark_changed();
        Ok(())
    }

    /// Returns the best routes that have changed since the last call, each as it is now: at most `limit`, and at most 4096.
    /// The first call begins with all routes, in as many calls as it takes. Never waits for changes. May be dropped and
    /// called again: nothing is lost then.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn best_changes(&mut self, limit: usize) -> Result<BestChanges, Stopped> {
        if self.awaited.is_none() {
            let place = self.commands.reserve().await.map_err(|_| Stopped)?;
            let (reply, answer) = oneshot::channel();
            // From here on nothing waits, so the request and the way to its answer exist together.
            self.changes.mark_unchanged();
            place.send(Command::BestChanges(Reader(Arc::downgrade(&self.reader)), limit, reply));
            self.awaited = Some(answer);
        }
        let Some(awaited) = &mut self.awaited else { return Err(Stopped) };
        let answer = answered(&self.commands, awaited).await;
        self.awaited = None;
        let news = answer?;
        if news.more {
            self.changes.mark_changed();
        }
        Ok(news)
    }
}
