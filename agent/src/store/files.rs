//! The store in a folder of YAML documents.
//!
//! The whole folder is read each time. Events of the file system only trigger a read; the folder is also read every few
//! seconds without an event, so a lost event does no harm.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::folder::{self, Files, Valid};
use super::{Rejection, View, last_good};
use crate::intent::Snapshot;

/// Time between two reads without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Two equal reads this far apart are needed before the folder is validated: somebody may be writing to it.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Time without a change before an invalid folder is rejected: somebody may be writing to it.
const INVALID_GRACE_PERIOD: Duration = Duration::from_millis(700);
/// Time after which a folder that changes all the time is validated as it is.
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);

/// Reads and validates a folder once.
///
/// # Errors
/// All reasons why the folder is rejected.
pub fn load(folder: &Path) -> Result<Snapshot, Vec<Rejection>> {
    folder::validate(folder, &folder::read(folder)).map(|valid| valid.snapshot)
}

/// Follows a folder. The first view has the folder's intent or, where that is rejected, the last good intent, kept in the
/// file `last_good`.
pub async fn watch(folder: PathBuf, last_good: PathBuf) -> watch::Receiver<Arc<View>> {
    let files = read(&folder).await;
    let mut state = State { folder: folder.clone(), last_good, view: View::default() };
    state.start(&files);
    let (sender, receiver) = watch::channel(Arc::new(state.view.clone()));
    tokio::spawn(follow(state, files, sender));
    receiver
}

async fn read(folder: &Path) -> Files {
    let folder = folder.to_path_buf();
    blocking(move || folder::read(&folder)).await
}

async fn validate(folder: &Path, files: Files) -> (Files, Result<Valid, Vec<Rejection>>) {
    let folder = folder.to_path_buf();
    blocking(move || {
        let result = folder::validate(&folder, &files);
        (files, result)
    })
    .await
}

/// Runs long work in another thread, where it delays no KEEPALIVE.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // It panics only by a bug, and then the program ends anyway.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn follow(mut state: State, mut last: Files, sender: watch::Sender<Arc<View>>) {
    let mut trigger = Trigger::new(state.folder.clone());
    loop {
        trigger.wait().await;
        if sender.is_closed() {
            return;
        }
        let files = read(&state.folder).await;
        // A failed write of the last good intent is tried again.
        if files == last && state.view.problems.is_empty() {
            continue;
        }
        let (files, result) = debounce(&state.folder, files).await;
        last = files;
        if state.update(result) {
            sender.send_replace(Arc::new(state.view.clone()));
        }
    }
}

/// Reads and validates the folder once it does not change any more. An invalid folder gets some time to become valid.
async fn debounce(folder: &Path, mut files: Files) -> (Files, Result<Valid, Vec<Rejection>>) {
    let begin = Instant::now();
    let mut changed = begin;
    loop {
        sleep(DEBOUNCE).await;
        let again = read(folder).await;
        let late = begin.elapsed() > MAX_DEBOUNCE;
        if again != files {
            files = again;
            changed = Instant::now();
            if !late {
                continue;
            }
        }
        let (validated, result) = validate(folder, files).await;
        files = validated;
        if result.is_ok() || late || changed.elapsed() >= INVALID_GRACE_PERIOD {
            return (files, result);
        }
    }
}

/// The intent in force.
struct State {
    folder: PathBuf,
    last_good: PathBuf,
    view: View,
}

impl State {
    fn start(&mut self, files: &Files) {
        let result = folder::validate(&self.folder, files);
        if result.is_err() {
            self.use_last_good();
        }
        self.update(result);
    }

    /// Puts valid intent into force, or notes the rejections. Returns whether the view changed.
    fn update(&mut self, result: Result<Valid, Vec<Rejection>>) -> bool {
        match result {
            Ok(mut valid) => {
                if let Some(former) = &self.view.snapshot {
                    valid.snapshot.share(former);
                }
                let same = self.view.snapshot.as_deref() == Some(&valid.snapshot);
                if same && self.view.in_sync && self.view.problems.is_empty() {
                    return false;
                }
                let origin = self.folder.display().to_string();
                let problems = self.write_last_good(&origin, &valid);
                if same && self.view.in_sync {
                    return std::mem::replace(&mut self.view.problems, problems) != self.view.problems;
                }
                tracing::info!(
                    nodes = valid.snapshot.nodes.len(),
                    peers = valid.snapshot.peers.len(),
                    "intent from {} is in force",
                    self.folder.display()
                );
                self.view = View {
                    snapshot: Some(Arc::new(valid.snapshot)),
                    generation: self.view.generation + 1,
                    in_sync: true,
                    origin,
                    rejections: Vec::new(),
                    problems,
                    objects: Vec::new(),
                    connection: None,
                };
                true
            }
            Err(rejections) if rejections == self.view.rejections => false,
            Err(rejections) => {
                for rejection in &rejections {
                    tracing::warn!("intent rejected: {rejection}");
                }
                if self.view.in_sync {
                    self.view.origin = format!("{} as it was last good", self.folder.display());
                }
                self.view.in_sync = false;
                self.view.rejections = rejections;
                true
            }
        }
    }

    /// Writes the last good intent. Returns the problem of that, if there is one.
    fn write_last_good(&self, origin: &str, valid: &Valid) -> Vec<String> {
        let error = last_good::write(&self.last_good, origin, &[], &valid.documents).err();
        let problem = error.map(|error| last_good::write_error(&self.last_good, &error));
        for message in problem.iter().filter(|message| !self.view.problems.contains(message)) {
            tracing::warn!("{message}");
        }
        problem.into_iter().collect()
    }

    /// Puts the last good intent of an earlier process into force.
    fn use_last_good(&mut self) {
        let text = match fs::read_to_string(&self.last_good) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!("can't read {}: {error}", self.last_good.display());
                return;
            }
        };
        let file = folder::File { path: self.last_good.clone(), text: Ok(text) };
        match folder::validate(&self.last_good, &Ok(vec![file])) {
            Ok(valid) => {
                tracing::info!("the last good intent, kept in {}, is in force", self.last_good.display());
                self.view.snapshot = Some(Arc::new(valid.snapshot));
                self.view.generation = 1;
                self.view.origin = self.last_good.display().to_string();
            }
            Err(rejections) => {
                for rejection in rejections {
                    tracing::warn!("the last good intent can't be used: {rejection}");
                }
            }
        }
    }
}

/// The trigger of reads: events of the file system, and time.
struct Trigger {
    folder: PathBuf,
    sender: mpsc::Sender<()>,
    events: mpsc::Receiver<()>,
    /// The watcher, with device and inode of the folder.
    watching: Option<(RecommendedWatcher, (u64, u64))>,
    warned: bool,
}

impl Trigger {
    fn new(folder: PathBuf) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut trigger = Self { folder, sender, events, watching: None, warned: false };
        trigger.watch_folder();
        trigger
    }

    /// Waits for an event, or for [`POLL_INTERVAL`].
    async fn wait(&mut self) {
        let _ = timeout(POLL_INTERVAL, self.events.recv()).await;
        self.watch_folder();
    }

    /// Watches the folder, unless it is watched already: it may have been made late, or replaced.
    fn watch_folder(&mut self) {
        let Ok(metadata) = fs::metadata(&self.folder) else {
            self.watching = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watching.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return;
        }
        let sender = self.sender.clone();
        let handle = move |event: notify::Result<notify::Event>| {
            // Our own reads are events, too.
            let is_read = |event: &notify::Event| matches!(event.kind, EventKind::Access(access) if access != notify::event::AccessKind::Close(notify::event::AccessMode::Write));
            if !event.as_ref().is_ok_and(is_read) {
                // A full channel contains an event already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handle).and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watching = Some((watcher, identity)),
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(
                    "can't watch {}: {error}; it is read every {POLL_INTERVAL:?}",
                    self.folder.display()
                );
            }
            Err(_) => {}
        }
    }
}
