//! One selection of objects of one kind: listed whole, then watched for changes, for ever.
//!
//! A failure never ends it and never takes back what was told: it is told of, and tried again with growing pauses.
//! Watching goes on from the version it had come to. After a failure it first asks how far the API server's history
//! reaches: etcd may have been restored to an older state, and then changes since "our" version would never come.

use std::fmt::Debug;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use crate::store::check::Object;
use crate::store::problem::Problem;

/// Objects a page: what a list takes in memory at a time.
const PAGE: u32 = 500;
/// A request without an answer has failed after this time.
const ANSWER: Duration = Duration::from_secs(30);
/// The API server ends a watch after this time, in seconds; it is taken up again where it was.
const WATCH_SECONDS: u32 = 290;
/// A watch from which nothing comes is taken up anew: API servers send a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// Everything is listed anew from time to time: what was ever missed is found then.
const RELIST: Duration = Duration::from_secs(30 * 60);
/// Pauses after failures grow from the first to the last of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// An object by name: as it was read, or what is wrong with it.
pub type Entry = (String, Result<Object, Unread>);

/// An object that couldn't be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// Its generation.
    pub generation: Option<i64>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What a source tells.
#[derive(Debug)]
pub enum Event {
    /// These are all.
    Listed(Vec<Entry>),
    /// This one is new or changed.
    Set(Entry),
    /// The one of this name is gone.
    Gone(String),
    /// The API server answers.
    Reached,
    /// It doesn't, or not as it should.
    Failed(Failure),
}

/// Which objects.
pub struct Selection<K> {
    /// Of which kind, and where.
    pub api: Api<K>,
    /// In words, for failures: `nodes`.
    pub what: String,
    /// Those whose labels match.
    pub labels: Option<String>,
    /// Those whose fields match.
    pub fields: Option<String>,
}

/// Tells of a selection until nobody listens.
pub async fn follow<K>(
    selection: Selection<K>,
    read: impl Fn(K) -> Entry + Send,
    tell: mpsc::Sender<(u64, Event)>,
    number: u64,
) where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut source = Source { selection, read, tell, number, pauses: 0 };
    // The only error is that nobody listens.
    let _ = source.run().await;
}

/// Nobody listens.
struct Unheard;

struct Source<K, F> {
    selection: Selection<K>,
    read: F,
    tell: mpsc::Sender<(u64, Event)>,
    number: u64,
    /// Failures in a row.
    pauses: u32,
}

/// Why a watch ended.
enum End {
    /// It is to be taken up again.
    Over,
    /// Everything is to be listed anew.
    Expired,
    Failed(Failure),
}

impl<K, F> Source<K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    F: Fn(K) -> Entry + Send,
{
    async fn run(&mut self) -> Result<(), Unheard> {
        loop {
            match self.list().await {
                Ok((entries, version)) => {
                    self.pauses = 0;
                    self.say(Event::Listed(entries)).await?;
                    self.watch_from(version).await?;
                }
                Err(failure) => self.fail(failure).await?,
            }
        }
    }

    /// Watches until everything has to be listed anew.
    async fn watch_from(&mut self, mut version: String) -> Result<(), Unheard> {
        let relist = Instant::now() + jittered(RELIST);
        while Instant::now() < relist {
            let begun = Instant::now();
            match self.watch(&mut version).await? {
                End::Expired => return Ok(()),
                // An API server that ends watches at once isn't to be asked without pause.
                End::Over if begun.elapsed() < PAUSES.1 => sleep(jittered(PAUSES.0)).await,
                End::Over => {}
                End::Failed(failure) => {
                    self.fail(failure).await?;
                    if self.is_rewound(&version).await? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn watch(&mut self, version: &mut String) -> Result<End, Unheard> {
        let params = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let what = format!("watch {}", self.selection.what);
        let failed = |error: &kube::Error| {
            let failure = Failure::of(&what, error);
            if failure.expired { End::Expired } else { End::Failed(failure) }
        };
        let stream = match timeout(ANSWER, self.selection.api.watch(&params, version)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ok(failed(&error)),
            Err(_) => return Ok(End::Failed(Failure::silent(&what, ANSWER))),
        };
        self.pauses = 0;
        self.say(Event::Reached).await?;
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = match timeout(SILENCE, stream.try_next()).await {
                Err(_) | Ok(Ok(None)) => return Ok(End::Over),
                Ok(Err(error)) => return Ok(failed(&error)),
                Ok(Ok(Some(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    let entry = (self.read)(object);
                    self.say(Event::Set(entry)).await?;
                }
                WatchEvent::Deleted(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    self.say(Event::Gone(object.name_any())).await?;
                }
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Ok(failed(&kube::Error::Api(status))),
            }
        }
    }

    /// Everything, page by page, and the version that it is of.
    async fn list(&mut self) -> Result<(Vec<Entry>, String), Failure> {
        let mut entries = Vec::new();
        let mut page = ListParams { limit: Some(PAGE), ..self.params() };
        loop {
            let list = self.ask(&page).await?;
            entries.extend(list.items.into_iter().map(&self.read));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok((entries, list.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// Waits until the API server answers; whether its history ends before a version that it told us itself.
    async fn is_rewound(&mut self, version: &str) -> Result<bool, Unheard> {
        loop {
            match self.ask(&ListParams { limit: Some(1), ..self.params() }).await {
                Ok(list) => {
                    let newest = list.metadata.resource_version.unwrap_or_default();
                    return Ok(older(&newest, version));
                }
                Err(failure) => self.fail(failure).await?,
            }
        }
    }

    fn params(&self) -> ListParams {
        ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            ..ListParams::default()
        }
    }

    async fn ask(&self, params: &ListParams) -> Result<kube::core::ObjectList<K>, Failure> {
        let what = format!("list {}", self.selection.what);
        match timeout(ANSWER, self.selection.api.list(params)).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&what, &error)),
            Err(_) => Err(Failure::silent(&what, ANSWER)),
        }
    }

    async fn say(&self, event: Event) -> Result<(), Unheard> {
        self.tell.send((self.number, event)).await.map_err(|_| Unheard)
    }

    async fn fail(&mut self, failure: Failure) -> Result<(), Unheard> {
        let (first, last) = PAUSES;
        let growing = first.saturating_mul(1 << self.pauses.min(16)).min(last);
        self.pauses += 1;
        let pause = failure.wait.unwrap_or_default().max(growing);
        self.say(Event::Failed(failure)).await?;
        sleep(jittered(pause)).await;
        Ok(())
    }
}

/// Versions are whole numbers that grow; what isn't one can't be compared, and is taken for rewound.
fn older(newest: &str, ours: &str) -> bool {
    match (newest.parse::<u64>(), ours.parse::<u64>()) {
        (Ok(newest), Ok(ours)) => newest < ours,
        _ => true,
    }
}

/// Between three quarters and five quarters of a time: agents of many nodes shall not ask all at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (newest, ours, expected) in
            [("9", "10", true), ("10", "9", false), ("10", "10", false), ("", "10", true), ("x", "10", true)]
        {
            assert_eq!(older(newest, ours), expected, "{newest} {ours}");
        }
    }

    #[test]
    fn pauses_vary() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(4));
            assert!((Duration::from_secs(3)..=Duration::from_secs(5)).contains(&pause));
        }
    }
}
