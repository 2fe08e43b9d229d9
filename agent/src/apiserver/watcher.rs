//! A watcher: lists one collection of objects, then watches it for changes, without end.
//!
//! After an error the watcher keeps what it sent, reports the error, and tries again with growing pauses. It resumes the
//! watch at the last resource version, unless etcd may have been restored from a backup meanwhile: changes since "our"
//! version would then never come, or belong to another history. So after an error it first compares its version with the
//! API server's newest, and after an outage, when the comparison proves nothing, it lists everything anew (resync).

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{ApiClient, ApiError, ErrorKind};
use crate::backoff::{Backoff, jittered, random_up_to};

/// Time in seconds after which the API server ends a watch, which is then resumed.
const WATCH_SECONDS: u32 = 290;
/// Time without an event after which a watch is resumed: API servers send a bookmark about every minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// Time between two lists without any reason. They correct events that were lost.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The times of a watcher.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// The shortest and the longest pause after errors.
    retry: (Duration, Duration),
    /// A watch that lasts this long resets the backoff.
    stable: Duration,
    /// The delay of a list after 410 Expired, which all agents receive at the same moment.
    expired: RandomDelay,
    /// The longest outage in which etcd can't be restored.
    outage: Duration,
    /// The delay of a list after a longer outage.
    resync: RandomDelay,
}

/// A random delay that spreads the lists of all agents. There are about as many agents as Nodes in each list.
#[derive(Clone, Copy, Debug)]
struct RandomDelay {
    least: Duration,
    /// Additional time for each object in the list.
    per_object: Duration,
}

impl RandomDelay {
    /// Returns a random delay for a list of so many objects.
    fn draw(self, objects: usize) -> Duration {
        let additional = self.per_object.saturating_mul(u32::try_from(objects).unwrap_or(u32::MAX));
        random_up_to((self.least + additional).min(RESYNC_INTERVAL))
    }
}

impl Timing {
    /// The times of an agent. A thousand agents that list a thousand Nodes transfer about 10 GB. After an outage this is
    /// spread over five minutes, as the watch delivers changes meanwhile. After 410 Expired it doesn't, so the time is
    /// shorter.
    const AGENT: Self = Self {
        retry: (Duration::from_millis(250), Duration::from_secs(15)),
        stable: Duration::from_secs(5),
        expired: RandomDelay { least: Duration::from_secs(2), per_object: Duration::from_millis(10) },
        outage: Duration::from_secs(5),
        resync: RandomDelay { least: Duration::from_secs(30), per_object: Duration::from_millis(300) },
    };
}

/// An object by name, decoded to a `T`.
pub type Entry<T> = (Arc<str>, T);

/// An event of a watcher.
#[derive(Debug)]
pub enum Event<T> {
    /// All objects of the collection.
    Listed(Vec<Entry<T>>),
    /// An object that is new or changed.
    Applied(Entry<T>),
    /// The name of an object that was deleted.
    Deleted(Arc<str>),
    /// The watch is established.
    Watching,
    /// A request failed.
    Failed(ApiError),
}

/// The collection of a watcher.
pub struct Collection<K> {
    /// The client.
    pub client: ApiClient,
    /// The kind and the namespace.
    pub api: Api<K>,
    /// The name in errors: `nodes`.
    pub name: String,
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

/// Watches a collection until the receiver of the events is gone. Each event is sent with the watcher's `id`.
pub async fn run<K, T>(
    collection: Collection<K>,
    decode: impl Fn(K) -> T + Send,
    events: mpsc::Sender<(u64, Event<T>)>,
    id: u64,
) where
    K: Resource + Clone + DeserializeOwned + Debug,
    T: Send,
{
    // The only error is that the receiver is gone.
    let _ = Watcher::new(collection, decode, events, id, Timing::AGENT).run().await;
}

/// The receiver of the events is gone.
struct Closed;

struct Watcher<K, T, F> {
    collection: Collection<K>,
    decode: F,
    events: mpsc::Sender<(u64, Event<T>)>,
    id: u64,
    timing: Timing,
    backoff: Backoff,
    /// The start of an outage. `None`: the API server answers.
    unavailable_since: Option<Instant>,
    /// The number of objects in the last list.
    listed: usize,
}

/// The reason why a watch ended.
enum End {
    /// The API server ended it regularly.
    Ended,
    /// There was no event for [`IDLE_TIMEOUT`].
    Idle,
    /// A list is due.
    ResyncDue,
    Failed(ApiError),
}

impl<K, T, F> Watcher<K, T, F>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    T: Send,
    F: Fn(K) -> T + Send,
{
    fn new(
        collection: Collection<K>,
        decode: F,
        events: mpsc::Sender<(u64, Event<T>)>,
        id: u64,
        timing: Timing,
    ) -> Self {
        let backoff = Backoff::new(timing.retry.0, timing.retry.1);
        Self { collection, decode, events, id, timing, backoff, unavailable_since: None, listed: 0 }
    }

    async fn run(&mut self) -> Result<(), Closed> {
        loop {
            match self.list().await {
                Ok((entries, version)) => {
                    self.unavailable_since = None;
                    self.listed = entries.len();
                    self.send(Event::Listed(entries)).await?;
                    self.watch_from(version).await?;
                }
                Err(error) => self.back_off(error).await?,
            }
        }
    }

    /// Watches until a list is due.
    async fn watch_from(&mut self, mut version: String) -> Result<(), Closed> {
        let mut resync = Instant::now() + jittered(RESYNC_INTERVAL);
        while Instant::now() < resync {
            let begin = Instant::now();
            match self.watch(&mut version, resync).await? {
                End::ResyncDue => return Ok(()),
                End::Idle => resync = resync.min(Instant::now() + self.timing.resync.draw(self.listed)),
                // An API server that ends watches at once must not get requests without a pause.
                End::Ended if begin.elapsed() < self.timing.stable => {
                    sleep(jittered(self.backoff.next_pause())).await
                }
                End::Ended => {}
                End::Failed(error) => {
                    let expired = error.kind == ErrorKind::Expired;
                    self.back_off(error).await?;
                    if expired || self.is_rewound(&version).await? {
                        return Ok(());
                    }
                    // A restored history may have grown beyond our version again, and no version number shows that.
                    if self.unavailable_since.take().is_some_and(|since| since.elapsed() > self.timing.outage)
                    {
                        resync = resync.min(Instant::now() + self.timing.resync.draw(self.listed));
                    }
                }
            }
        }
        Ok(())
    }

    /// Establishes one watch and sends its events, until `resync` at most.
    async fn watch(&mut self, version: &mut String, resync: Instant) -> Result<End, Closed> {
        let params = WatchParams {
            label_selector: self.collection.labels.clone(),
            field_selector: self.collection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let request = format!("watch {}", self.collection.name);
        let watch = self.collection.api.watch(&params, version);
        let stream = match self.collection.client.read(&request, watch).await {
            Ok(stream) => stream,
            Err(error) => return Ok(End::Failed(error)),
        };
        self.send(Event::Watching).await?;
        let established = Instant::now();
        let end = self.forward(std::pin::pin!(stream), version, resync).await?;
        // Lists and watches that succeed prove nothing: the version may expire each time.
        if established.elapsed() >= self.timing.stable {
            self.backoff.reset();
        }
        Ok(end.unwrap_or_else(|error| End::Failed(ApiError::of(&request, &error))))
    }

    /// Sends the events of a watch.
    async fn forward(
        &mut self,
        mut stream: Pin<&mut (impl Stream<Item = kube::Result<WatchEvent<K>>> + Send)>,
        version: &mut String,
        resync: Instant,
    ) -> Result<kube::Result<End>, Closed> {
        loop {
            let idle = Instant::now() + IDLE_TIMEOUT;
            let event = match timeout_at(idle.min(resync), stream.try_next()).await {
                Err(_) if Instant::now() >= resync => return Ok(Ok(End::ResyncDue)),
                Err(_) => return Ok(Ok(End::Idle)),
                Ok(Ok(None)) => return Ok(Ok(End::Ended)),
                Ok(Err(error)) => return Ok(Err(error)),
                Ok(Ok(Some(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    let entry = self.decode(object);
                    self.send(Event::Applied(entry)).await?;
                }
                WatchEvent::Deleted(object) => {
                    *version = object.resource_version().unwrap_or_default();
                    self.send(Event::Deleted(object.name_any().into())).await?;
                }
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Ok(Err(kube::Error::Api(status))),
            }
            self.backoff.reset();
        }
    }

    fn decode(&self, object: K) -> Entry<T> {
        (object.name_any().into(), (self.decode)(object))
    }

    /// Returns all objects, read page by page, and the resource version of the list.
    async fn list(&mut self) -> Result<(Vec<Entry<T>>, String), ApiError> {
        let mut entries = Vec::new();
        let Collection { client, api, .. } = &self.collection;
        let each = |object| entries.push(self.decode(object));
        let version = client.list(&self.list_request(), api, self.list_params(), each).await?;
        Ok((entries, version))
    }

    /// Waits until the API server answers. Returns whether its newest version is older than one that it sent before.
    async fn is_rewound(&mut self, version: &str) -> Result<bool, Closed> {
        loop {
            let params = ListParams { limit: Some(1), ..self.list_params() };
            let Collection { client, api, .. } = &self.collection;
            match client.read(&self.list_request(), api.list(&params)).await {
                Ok(list) => {
                    let newest = list.metadata.resource_version.unwrap_or_default();
                    return Ok(is_older(&newest, version));
                }
                Err(error) => self.back_off(error).await?,
            }
        }
    }

    fn list_params(&self) -> ListParams {
        ListParams {
            label_selector: self.collection.labels.clone(),
            field_selector: self.collection.fields.clone(),
            ..ListParams::default()
        }
    }

    fn list_request(&self) -> String {
        format!("list {}", self.collection.name)
    }

    async fn send(&self, event: Event<T>) -> Result<(), Closed> {
        self.events.send((self.id, event)).await.map_err(|_| Closed)
    }

    /// Reports an error, then waits for the pause before the next attempt.
    async fn back_off(&mut self, error: ApiError) -> Result<(), Closed> {
        if error.kind == ErrorKind::Unavailable {
            self.unavailable_since.get_or_insert_with(Instant::now);
        }
        let mut pause = jittered(error.retry_after.unwrap_or_default().max(self.backoff.next_pause()));
        if error.kind == ErrorKind::Expired {
            pause += self.timing.expired.draw(self.listed);
        }
        self.send(Event::Failed(error)).await?;
        sleep(pause).await;
        Ok(())
    }
}

/// Returns whether the resource version `newest` is older than `ours`. Versions are integers that grow; others can't be
/// compared, and count as older.
fn is_older(newest: &str, ours: &str) -> bool {
    match (newest.parse::<u64>(), ours.parse::<u64>()) {
        (Ok(newest), Ok(ours)) => newest < ours,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
