//! One selection of objects of one kind: listed whole, then watched for changes, for ever.
//!
//! A failure never ends it and never takes back what was told: it is told of, and tried again with growing pauses.
//! Watching goes on from the version it had come to, unless etcd may have been restored to an older state meanwhile: then
//! changes since "our" version would never come, or be changes of another history. So after a failure it first asks how
//! far the API server's history reaches, and where that says nothing, after an outage, lists everything anew.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::Failure;
use super::pages;
use crate::backoff::{Backoff, jittered, spread};
use crate::store::check::Object;
use crate::store::problem::Problem;

/// A request without an answer has failed after this time.
const ANSWER: Duration = Duration::from_secs(30);
/// The API server ends a watch after this time, in seconds; it is taken up again where it was.
const WATCH_SECONDS: u32 = 290;
/// A watch from which nothing comes is taken up anew: API servers send a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// Everything is listed anew from time to time: what was ever missed is found then.
const RELIST: Duration = Duration::from_secs(30 * 60);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Pauses after failures grow from the first to the last of these.
    pauses: (Duration, Duration),
    /// A watch that lasted so long was well, whatever ended it.
    lasting: Duration,
    /// Before what has expired is listed anew, there is any time up to this: it expires for all agents at once.
    expired: Spread,
    /// So long etcd can't be restored.
    outage: Duration,
    /// After a longer outage everything is listed anew at any time up to this.
    relist: Spread,
}

/// A time within which all agents list: there are about as many as there are Nodes, and each list is as long.
#[derive(Clone, Copy, Debug)]
struct Spread {
    least: Duration,
    /// For each object in the list.
    each: Duration,
}

impl Spread {
    /// Any moment of the time that a list of so many objects has.
    fn moment(self, objects: usize) -> Duration {
        let each = self.each.saturating_mul(u32::try_from(objects).unwrap_or(u32::MAX));
        spread((self.least + each).min(RELIST))
    }
}

impl Pace {
    /// As it is for agents. A thousand of them that list a thousand nodes give an API server some 10 GB to say. After an
    /// outage they have five minutes for it, as changes come by the watch meanwhile; what has expired can't wait so long.
    const AGENT: Self = Self {
        pauses: (Duration::from_millis(250), Duration::from_secs(15)),
        lasting: Duration::from_secs(5),
        expired: Spread { least: Duration::from_secs(2), each: Duration::from_millis(10) },
        outage: Duration::from_secs(5),
        relist: Spread { least: Duration::from_secs(30), each: Duration::from_millis(300) },
    };
}

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
    // The only error is that nobody listens.
    let _ = Source::new(selection, read, tell, number, Pace::AGENT).run().await;
}

/// Nobody listens.
struct Unheard;

struct Source<K, F> {
    selection: Selection<K>,
    read: F,
    tell: mpsc::Sender<(u64, Event)>,
    number: u64,
    pace: Pace,
    backoff: Backoff,
    /// Since when the API server is away; `None`: it answers.
    away: Option<Instant>,
    /// How many objects the last list had.
    listed: usize,
}

/// Why a watch ended.
enum End {
    /// It is to be taken up again.
    Over,
    /// Nothing was heard for a long time.
    Silent,
    /// It is time to list everything anew.
    Due,
    Failed(Failure),
}

impl<K, F> Source<K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    F: Fn(K) -> Entry + Send,
{
    fn new(
        selection: Selection<K>,
        read: F,
        tell: mpsc::Sender<(u64, Event)>,
        number: u64,
        pace: Pace,
    ) -> Self {
        let backoff = Backoff::new(pace.pauses.0, pace.pauses.1);
        Self { selection, read, tell, number, pace, backoff, away: None, listed: 0 }
    }

    async fn run(&mut self) -> Result<(), Unheard> {
        loop {
            match self.list().await {
                Ok((entries, version)) => {
                    self.away = None;
                    self.listed = entries.len();
                    self.say(Event::Listed(entries)).await?;
                    self.watch_from(version).await?;
                }
                Err(failure) => self.fail(failure).await?,
            }
        }
    }

    /// Watches until everything has to be listed anew.
    async fn watch_from(&mut self, mut version: String) -> Result<(), Unheard> {
        let mut relist = Instant::now() + jittered(RELIST);
        while Instant::now() < relist {
            let begun = Instant::now();
            match self.watch(&mut version, relist).await? {
                End::Due => return Ok(()),
                End::Silent => relist = relist.min(Instant::now() + self.pace.relist.moment(self.listed)),
                // An API server that ends watches at once isn't to be asked without pause.
                End::Over if begun.elapsed() < self.pace.lasting => {
                    sleep(jittered(self.backoff.fail())).await
                }
                End::Over => {}
                End::Failed(failure) => {
                    let expired = failure.expired;
                    self.fail(failure).await?;
                    if expired || self.is_rewound(&version).await? {
                        return Ok(());
                    }
                    // A history that was set back may have grown beyond our version again, which no number tells.
                    if self.away.take().is_some_and(|since| since.elapsed() > self.pace.outage) {
                        relist = relist.min(Instant::now() + self.pace.relist.moment(self.listed));
                    }
                }
            }
        }
        Ok(())
    }

    /// Watches until `relist` at most.
    async fn watch(&mut self, version: &mut String, relist: Instant) -> Result<End, Unheard> {
        let params = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let what = format!("watch {}", self.selection.what);
        let failed = |error: &kube::Error| End::Failed(Failure::of(&what, error));
        let stream = match timeout(ANSWER, self.selection.api.watch(&params, version)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ok(failed(&error)),
            Err(_) => return Ok(End::Failed(Failure::silent(&what, ANSWER))),
        };
        self.say(Event::Reached).await?;
        let granted = Instant::now();
        let end = self.hear(std::pin::pin!(stream), version, relist).await?;
        // That lists and watches are granted is no sign of health: what they are of may have expired each time.
        if granted.elapsed() >= self.pace.lasting {
            self.backoff.reset();
        }
        Ok(end.unwrap_or_else(|error| failed(&error)))
    }

    /// Passes on what a watch tells.
    async fn hear(
        &mut self,
        mut stream: Pin<&mut (impl Stream<Item = kube::Result<WatchEvent<K>>> + Send)>,
        version: &mut String,
        relist: Instant,
    ) -> Result<kube::Result<End>, Unheard> {
        loop {
            let silence = Instant::now() + SILENCE;
            let event = match timeout_at(silence.min(relist), stream.try_next()).await {
                Err(_) if Instant::now() >= relist => return Ok(Ok(End::Due)),
                Err(_) => return Ok(Ok(End::Silent)),
                Ok(Ok(None)) => return Ok(Ok(End::Over)),
                Ok(Err(error)) => return Ok(Err(error)),
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
                WatchEvent::Error(status) => return Ok(Err(kube::Error::Api(status))),
            }
            self.backoff.reset();
        }
    }

    /// Everything, page by page, and the version that it is of.
    async fn list(&mut self) -> Result<(Vec<Entry>, String), Failure> {
        let mut entries = Vec::new();
        let mut page = pages::first(self.params());
        loop {
            let list = self.ask(&page).await?;
            entries.extend(list.items.into_iter().map(&self.read));
            if !pages::turn(&mut page, &list.metadata) {
                return Ok((entries, list.metadata.resource_version.unwrap_or_default()));
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
        if failure.away {
            self.away.get_or_insert_with(Instant::now);
        }
        let mut pause = jittered(failure.wait.unwrap_or_default().max(self.backoff.fail()));
        if failure.expired {
            pause += self.pace.expired.moment(self.listed);
        }
        self.say(Event::Failed(failure)).await?;
        sleep(pause).await;
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

#[cfg(test)]
mod tests;
