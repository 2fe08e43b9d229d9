//! The store in a folder: YAML documents, watched. Events only say when to look; the whole folder is read each time,
//! and also every few seconds without an event, so that nothing is missed for long.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::folder::{self, Content, Good};
use super::{Rejection, View, last_good};
use crate::intent::Snapshot;

/// How often the folder is read without an event.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A folder counts as written when two readings this far apart are the same.
const SETTLE: Duration = Duration::from_millis(100);
/// A folder that is wrong gets this long to become right before it is refused: somebody may be writing to it.
const PATIENCE: Duration = Duration::from_millis(700);
/// A folder that never settles is taken as it is after this time.
const UNSETTLED: Duration = Duration::from_secs(5);

/// Reads a folder once and checks it whole.
pub fn load(folder: &Path) -> Result<Snapshot, Vec<Rejection>> {
    folder::interpret(folder, &folder::read(folder)).map(|good| good.snapshot)
}

/// Reads the folder, then keeps an eye on it. The first view is there at once: the folder's, or where that is
/// refused the last good intent, kept in the file `last_good`.
pub async fn watch(folder: PathBuf, last_good: PathBuf) -> watch::Receiver<Arc<View>> {
    let content = look(&folder).await;
    let mut keeper = Keeper { folder: folder.clone(), last_good, view: View::default() };
    keeper.begin(&content);
    let (sender, receiver) = watch::channel(Arc::new(keeper.view.clone()));
    tokio::spawn(follow(keeper, content, sender));
    receiver
}

async fn look(folder: &Path) -> Content {
    let folder = folder.to_path_buf();
    aside(move || folder::read(&folder)).await
}

async fn understand(folder: &Path, content: Content) -> (Content, Result<Good, Vec<Rejection>>) {
    let folder = folder.to_path_buf();
    aside(move || {
        let result = folder::interpret(&folder, &content);
        (content, result)
    })
    .await
}

/// Does what takes long where it holds up no KEEPALIVE.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // It can't panic but by a bug, and then the program ends anyway.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn follow(mut keeper: Keeper, mut seen: Content, sender: watch::Sender<Arc<View>>) {
    let mut eye = Eye::new(keeper.folder.clone());
    loop {
        eye.wait().await;
        if sender.is_closed() {
            return;
        }
        let now = look(&keeper.folder).await;
        // What could not be kept is tried again.
        if now == seen && keeper.view.problems.is_empty() {
            continue;
        }
        let (content, result) = settled(&keeper.folder, now).await;
        seen = content;
        if keeper.take(result) {
            sender.send_replace(Arc::new(keeper.view.clone()));
        }
    }
}

/// Reads until two readings are the same; what is then still wrong gets some more time.
async fn settled(folder: &Path, mut content: Content) -> (Content, Result<Good, Vec<Rejection>>) {
    let begin = Instant::now();
    let mut since = begin;
    loop {
        sleep(SETTLE).await;
        let again = look(folder).await;
        let late = begin.elapsed() > UNSETTLED;
        if again != content {
            content = again;
            since = Instant::now();
            if !late {
                continue;
            }
        }
        let (read, result) = understand(folder, content).await;
        content = read;
        if result.is_ok() || late || since.elapsed() >= PATIENCE {
            return (content, result);
        }
    }
}

/// Holds what is in force.
struct Keeper {
    folder: PathBuf,
    last_good: PathBuf,
    view: View,
}

impl Keeper {
    fn begin(&mut self, content: &Content) {
        let result = folder::interpret(&self.folder, content);
        if result.is_err() {
            self.recall();
        }
        self.take(result);
    }

    /// Takes what the folder says now; whether that changes the view.
    fn take(&mut self, result: Result<Good, Vec<Rejection>>) -> bool {
        match result {
            Ok(good) => {
                let same = self.view.snapshot.as_deref() == Some(&good.snapshot);
                if same && self.view.in_sync && self.view.problems.is_empty() {
                    return false;
                }
                let origin = self.folder.display().to_string();
                let problems = self.keep(&origin, &good);
                if same && self.view.in_sync {
                    return std::mem::replace(&mut self.view.problems, problems) != self.view.problems;
                }
                tracing::info!(
                    nodes = good.snapshot.nodes.len(),
                    peers = good.snapshot.peers.len(),
                    "intent from {} is in force",
                    self.folder.display()
                );
                self.view = View {
                    snapshot: Some(Arc::new(good.snapshot)),
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
                    tracing::warn!("intent refused: {rejection}");
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

    /// Keeps what is good for later; what is the matter with that.
    fn keep(&self, origin: &str, good: &Good) -> Vec<String> {
        let unwritten = last_good::write(&self.last_good, origin, &[], &good.objects).err();
        let problem = unwritten.map(|error| last_good::cannot_write(&self.last_good, &error));
        for words in problem.iter().filter(|words| !self.view.problems.contains(words)) {
            tracing::warn!("{words}");
        }
        problem.into_iter().collect()
    }

    /// Goes by what was last good before this process.
    fn recall(&mut self) {
        let text = match fs::read_to_string(&self.last_good) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!("can't read {}: {error}", self.last_good.display());
                return;
            }
        };
        let file = folder::File { path: self.last_good.clone(), text: Ok(text) };
        match folder::interpret(&self.last_good, &Ok(vec![file])) {
            Ok(good) => {
                tracing::info!("the last good intent, kept in {}, is in force", self.last_good.display());
                self.view.snapshot = Some(Arc::new(good.snapshot));
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

/// Says when to look at a folder.
struct Eye {
    folder: PathBuf,
    sender: mpsc::Sender<()>,
    events: mpsc::Receiver<()>,
    watching: Option<(RecommendedWatcher, (u64, u64))>,
    complained: bool,
}

impl Eye {
    fn new(folder: PathBuf) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut eye = Self { folder, sender, events, watching: None, complained: false };
        eye.aim();
        eye
    }

    /// Waits for a hint, or until it is time to look anyway.
    async fn wait(&mut self) {
        let _ = timeout(LOOK_EVERY, self.events.recv()).await;
        self.aim();
    }

    /// Watches the folder that is there now: it may have come late, or been replaced.
    fn aim(&mut self) {
        let Ok(metadata) = fs::metadata(&self.folder) else {
            self.watching = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watching.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return;
        }
        let sender = self.sender.clone();
        let hint = move |event: notify::Result<notify::Event>| {
            // Our own reading is an event too.
            let reading = |event: &notify::Event| matches!(event.kind, EventKind::Access(access) if access != notify::event::AccessKind::Close(notify::event::AccessMode::Write));
            if !event.as_ref().is_ok_and(reading) {
                // A full channel holds a hint already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(hint).and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watching = Some((watcher, identity)),
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(
                    "can't watch {}: {error}; it is read every {LOOK_EVERY:?}",
                    self.folder.display()
                );
            }
            Err(_) => {}
        }
    }
}
