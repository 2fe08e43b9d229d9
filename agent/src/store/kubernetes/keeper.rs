//! What is in force, and the last good of it on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::scope::Scope;
use super::taken;
use crate::api::BGPConfigurationSpec;
use crate::backoff::{Backoff, jittered};
use crate::intent::Snapshot;
use crate::store::check::{self, Extent, Kind, Object};
use crate::store::problem::{ObjectRef, Problem};
use crate::store::settle::{self, Refused};
use crate::store::{Connection, Rejection, View, last_good};

/// The last good intent is written at most once in this time.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Pauses after it could not be written grow from the first to the last of these.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An object that can't be taken as it is, or isn't there.
#[derive(Debug)]
pub struct Unreadable {
    /// Which.
    pub key: ObjectRef,
    /// The generation that can't be taken; `None`: it isn't there.
    pub generation: Option<i64>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Holds what is in force.
#[derive(Debug)]
pub struct Keeper {
    node: String,
    last_good: PathBuf,
    /// What the intent in force is made of.
    good: Vec<Object>,
    view: View,
    /// What was last good before this process, until it is of no more use.
    kept: Option<Snapshot>,
    /// It is in force, or there was none.
    recalled: bool,
    /// The API server has told everything once.
    synced: bool,
    writer: watch::Sender<Option<(String, Vec<Object>)>>,
    /// What keeps the last good intent from being written.
    unwritten: watch::Receiver<Option<String>>,
}

impl Keeper {
    /// Nothing is in force yet. `cluster`: what tells it from others.
    pub fn new(last_good: PathBuf, node: String, cluster: Vec<String>) -> Self {
        let (writer, wanted) = watch::channel(None);
        let (say, unwritten) = watch::channel(None);
        let (kept, good) = read(&last_good, &node, &cluster).unzip();
        let place = Place { path: last_good.clone(), cluster };
        tokio::spawn(write(place, wanted, say, PAUSES));
        Self {
            node,
            last_good,
            // What was good before this process has precedence over newcomers, too.
            good: good.unwrap_or_default(),
            view: View::default(),
            kept,
            recalled: false,
            synced: false,
            writer,
            unwritten,
        }
    }

    /// Waits until it is another matter whether the last good intent can be written.
    pub async fn changed(&mut self) {
        if self.unwritten.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether nothing was told yet, and nothing recalled.
    pub fn waits(&self) -> bool {
        !self.synced && !self.recalled
    }

    /// Goes by what was last good before this process, unless something better is there.
    pub fn recall(&mut self) {
        if !self.waits() {
            return;
        }
        self.recalled = true;
        let Some(snapshot) = self.kept.take() else { return };
        tracing::info!("the last good intent, kept in {}, is in force", self.last_good.display());
        self.view.snapshot = Some(Arc::new(snapshot));
        self.view.generation = 1;
        self.view.origin = self.last_good.display().to_string();
    }

    /// What the intent in force needs to know of nodes.
    pub fn scope(&self) -> Option<Scope> {
        Scope::of_objects(&self.good, &self.node)
    }

    /// What the intent needs to know of nodes that [`Keeper::take`] would put into force.
    pub fn needs(&self, objects: Vec<Object>, unreadable: &[Unreadable]) -> Option<Scope> {
        let keys: Vec<_> = unreadable.iter().map(|object| object.key.clone()).collect();
        let (_, good) = settle::settle(objects, &keys, &self.good, &self.node).good?;
        Scope::of_objects(&good, &self.node)
    }

    /// What the intent in force is made of.
    pub fn good(&self) -> &[Object] {
        &self.good
    }

    /// The BGPConfiguration that holds where there is none: what is left out of one is as documented, and so is all of
    /// it. Not where there was another: taking that away is no wish for a network of another kind.
    pub fn stand_in(&self) -> Option<Object> {
        let defaults = BGPConfigurationSpec::default();
        let another = settle::configuration(&self.good).is_some_and(|spec| *spec != defaults);
        let kind = Kind::Configuration(Arc::new(defaults));
        (!another).then(|| Object { name: check::CONFIGURATION_NAME.into(), generation: None, kind })
    }

    /// Takes what the API server holds now.
    pub fn take(&mut self, objects: Vec<Object>, unreadable: Vec<Unreadable>, all_nodes: bool, server: &str) {
        self.synced = true;
        self.kept = None;
        let keys: Vec<_> = unreadable.iter().map(|object| object.key.clone()).collect();
        let told = taken::told(&objects, &unreadable);
        let settled = settle::settle(objects, &keys, &self.good, &self.node);
        let mut rejections: Vec<_> = unreadable.iter().flat_map(unread).collect();
        rejections.extend(settled.refused.iter().map(rejection));
        rejections.sort();
        rejections.dedup();
        for rejection in rejections.iter().filter(|rejection| !self.view.rejections.contains(rejection)) {
            tracing::warn!("intent refused: {rejection}");
        }
        let Some((mut snapshot, good)) = settled.good else {
            self.view.in_sync = false;
            self.view.objects = taken::taken(&told, &self.good);
            self.view.rejections = rejections;
            return;
        };
        snapshot.all_nodes = all_nodes;
        if self.view.snapshot.as_deref() != Some(&snapshot) {
            tracing::info!(
                nodes = snapshot.nodes.len(),
                peers = snapshot.peers.len(),
                "intent from {server} is in force"
            );
            self.view.snapshot = Some(Arc::new(snapshot));
            self.view.generation += 1;
        }
        self.view.objects = taken::taken(&told, &good);
        if self.good != good || self.writer.borrow().is_none() {
            self.writer.send_replace(Some((server.to_string(), good.clone())));
            self.good = good;
        }
        self.view.in_sync = rejections.is_empty();
        self.view.origin = server.into();
        self.view.rejections = rejections;
    }

    /// How it stands.
    pub fn view(&self, connection: &Connection) -> View {
        let problems = self.unwritten.borrow().iter().cloned().collect();
        let in_sync = self.view.in_sync && !connection.refused;
        View { connection: Some(connection.clone()), in_sync, problems, ..self.view.clone() }
    }
}

/// What was last good before this process; what can't be used is said.
fn read(path: &Path, node: &str, cluster: &[String]) -> Option<(Snapshot, Vec<Object>)> {
    let cannot =
        |problem: &str| tracing::warn!("the last good intent in {} can't be used: {problem}", path.display());
    let objects = last_good::read(path, cluster).map_err(|problem| cannot(&problem)).ok()??;
    match check::assemble(&objects, Extent::Around { node, unread: &[] }) {
        Ok(mut snapshot) => {
            let scope = Scope::of_objects(&objects, node);
            snapshot.all_nodes = scope.is_none_or(|scope| scope.labels.is_none());
            Some((snapshot, objects))
        }
        Err(problems) => {
            problems.iter().for_each(|problem| cannot(&format!("{}: {}", problem.field, problem.problem)));
            None
        }
    }
}

fn unread(object: &Unreadable) -> impl Iterator<Item = Rejection> {
    object
        .problems
        .iter()
        .map(|problem| rejection(&Refused { object: Some(object.key.clone()), problem: problem.clone() }))
}

fn rejection(refused: &Refused) -> Rejection {
    let title = |key: &ObjectRef| format!("{} {}", key.kind, key.name);
    Rejection {
        file: String::new(),
        line: None,
        object: refused.object.as_ref().map(title).unwrap_or_default(),
        field: refused.problem.field.clone(),
        problem: refused.problem.problem.clone(),
        remedy: refused.problem.remedy.clone(),
    }
}

/// Where the last good intent is kept, and what tells its cluster from others.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    cluster: Vec<String>,
}

/// Writes what is good to disk, the newest only, and not too often. What can't be written is said, and tried again.
async fn write(
    place: Place,
    mut wanted: watch::Receiver<Option<(String, Vec<Object>)>>,
    say: watch::Sender<Option<String>>,
    pauses: (Duration, Duration),
) {
    let mut backoff = Backoff::new(pauses.0, pauses.1);
    while wanted.changed().await.is_ok() {
        while let Err(error) = write_once(&place, &mut wanted).await {
            let words = last_good::cannot_write(&place.path, &error);
            let news = Some(words);
            say.send_if_modified(|said| {
                let changed = *said != news;
                if changed {
                    tracing::warn!("{}", news.as_deref().unwrap_or_default());
                    said.clone_from(&news);
                }
                changed
            });
            sleep(jittered(backoff.fail())).await;
            if wanted.has_changed().is_err() {
                return;
            }
        }
        backoff.reset();
        if say.send_replace(None).is_some() {
            tracing::info!("the last good intent is in {} again", place.path.display());
        }
        sleep(WRITE_EVERY).await;
    }
}

async fn write_once(
    place: &Place,
    wanted: &mut watch::Receiver<Option<(String, Vec<Object>)>>,
) -> std::io::Result<()> {
    let Some((server, objects)) = wanted.borrow_and_update().clone() else { return Ok(()) };
    let place = place.clone();
    let written = tokio::task::spawn_blocking(move || keep(&place, &server, &objects)).await;
    written.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn keep(place: &Place, server: &str, objects: &[Object]) -> std::io::Result<()> {
    let documents: Vec<_> = objects.iter().map(last_good::document).collect();
    last_good::write(&place.path, server, &place.cluster, &documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_written_is_said_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the folder should be.
        let state = folder.path().join("state");
        std::fs::write(&state, "").unwrap();
        let path = state.join("last-good.yaml");
        let (writer, wanted) = watch::channel(None);
        let (say, mut said) = watch::channel(None);
        let place = Place { path: path.clone(), cluster: Vec::new() };
        tokio::spawn(write(place, wanted, say, (Duration::from_millis(1), Duration::from_millis(10))));
        writer.send_replace(Some(("a test".into(), Vec::new())));
        let words = said.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(words.contains(&path.display().to_string()) && words.contains("tried again"), "{words}");
        std::fs::remove_file(&state).unwrap();
        said.wait_for(Option::is_none).await.unwrap();
        assert!(path.exists(), "nobody had to change anything for that");
    }
}
