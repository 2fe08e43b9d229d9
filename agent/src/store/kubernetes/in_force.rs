//! The intent in force, and its copy on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::generations;
use super::scope::Scope;
use super::unusable::UnusableObject;
use crate::api::BGPConfigurationSpec;
use crate::backoff::{Backoff, jittered};
use crate::intent::Snapshot;
use crate::store::accept;
use crate::store::check::{self, Content, Extent, Object};
use crate::store::{Connection, View, last_good};

/// The shortest time between two writes of the last good intent.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest and the longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The last good intent as the writer receives it: the API server it is from, and its objects.
type LastGood = (String, Vec<Object>);

/// The intent in force.
#[derive(Debug)]
pub struct InForce {
    node: String,
    last_good_path: PathBuf,
    /// The objects that the intent in force consists of.
    objects: Vec<Object>,
    view: View,
    /// The last good intent of an earlier process, until it comes into force or is obsolete.
    earlier: Option<Snapshot>,
    /// The grace period of the API server at the start is over.
    started_without_server: bool,
    /// All objects were received from the API server once.
    synced: bool,
    writer: watch::Sender<Option<LastGood>>,
    /// The error of the last write.
    write_error: watch::Receiver<Option<String>>,
}

impl InForce {
    /// Reads the last good intent of an earlier process, without putting it into force. `cluster` is the cluster's
    /// identity.
    pub fn new(last_good_path: PathBuf, node: String, cluster: Vec<String>) -> Self {
        let (writer, to_write) = watch::channel(None);
        let (errors, write_error) = watch::channel(None);
        let (earlier, objects) = read(&last_good_path, &node, &cluster).unzip();
        let file = LastGoodFile { path: last_good_path.clone(), cluster };
        tokio::spawn(write(file, to_write, errors, RETRY));
        Self {
            node,
            last_good_path,
            // Objects that an earlier process accepted have precedence over new ones, too.
            objects: objects.unwrap_or_default(),
            view: View::default(),
            earlier,
            started_without_server: false,
            synced: false,
            writer,
            write_error,
        }
    }

    /// Waits until a write of the last good intent fails, or succeeds again.
    pub async fn write_state_changed(&mut self) {
        if self.write_error.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns whether nothing is in force yet and the last good intent of an earlier process was not tried.
    pub fn is_empty(&self) -> bool {
        !self.synced && !self.started_without_server
    }

    /// Puts the last good intent of an earlier process into force, where there is none yet.
    pub fn use_last_good(&mut self) {
        if !self.is_empty() {
            return;
        }
        self.started_without_server = true;
        let Some(snapshot) = self.earlier.take() else { return };
        tracing::info!("the last good intent, kept in {}, is in force", self.last_good_path.display());
        self.view.snapshot = Some(Arc::new(snapshot));
        self.view.generation = 1;
        self.view.origin = self.last_good_path.display().to_string();
    }

    /// Returns the scope of the intent in force.
    pub fn scope(&self) -> Option<Scope> {
        Scope::of_objects(&self.objects, &self.node)
    }

    /// Returns the scope of the intent that [`InForce::update`] would put into force.
    pub fn scope_after(&self, current: Vec<Object>, unusable: &[UnusableObject]) -> Option<Scope> {
        let unusable: Vec<_> = unusable.iter().map(|unusable| unusable.object.clone()).collect();
        let (_, objects) = accept::accept(current, &unusable, &self.objects, &self.node).accepted?;
        Scope::of_objects(&objects, &self.node)
    }

    /// Returns the objects that the intent in force consists of.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Returns the BGPConfiguration to use where there is none: all fields have their defaults. `None`: another one is in
    /// force. Its deletion must not change the kind of network.
    pub fn default_configuration(&self) -> Option<Object> {
        let defaults = BGPConfigurationSpec::default();
        let has_another = accept::configuration(&self.objects).is_some_and(|spec| *spec != defaults);
        let content = Content::Configuration(Arc::new(defaults));
        (!has_another).then(|| Object { name: check::CONFIGURATION_NAME.into(), generation: None, content })
    }

    /// Accepts what is valid of the current objects.
    pub fn update(
        &mut self,
        current: Vec<Object>,
        unusable: Vec<UnusableObject>,
        all_nodes: bool,
        origin: &str,
    ) {
        self.synced = true;
        self.earlier = None;
        let references: Vec<_> = unusable.iter().map(|unusable| unusable.object.clone()).collect();
        let newest = generations::newest(&current, &unusable);
        let acceptance = accept::accept(current, &references, &self.objects, &self.node);
        let mut rejections: Vec<_> = unusable.iter().flat_map(UnusableObject::rejections).collect();
        rejections.extend(acceptance.rejections);
        rejections.sort();
        rejections.dedup();
        for rejection in rejections.iter().filter(|rejection| !self.view.rejections.contains(rejection)) {
            tracing::warn!("intent rejected: {rejection}");
        }
        self.view.in_sync = acceptance.accepted.is_some() && rejections.is_empty();
        self.view.rejections = rejections;
        let Some((mut snapshot, objects)) = acceptance.accepted else {
            self.view.objects = generations::in_force(&newest, &self.objects);
            return;
        };
        snapshot.all_nodes = all_nodes;
        if let Some(former) = &self.view.snapshot {
            snapshot.share(former);
        }
        if self.view.snapshot.as_deref() != Some(&snapshot) {
            tracing::info!(
                nodes = snapshot.nodes.len(),
                peers = snapshot.peers.len(),
                "intent from {origin} is in force"
            );
            self.view.snapshot = Some(Arc::new(snapshot));
            self.view.generation += 1;
        }
        self.view.objects = generations::in_force(&newest, &objects);
        if self.objects != objects || self.writer.borrow().is_none() {
            self.writer.send_replace(Some((origin.to_string(), objects.clone())));
            self.objects = objects;
        }
        self.view.origin = origin.into();
    }

    /// Returns the view.
    pub fn view(&self, connection: &Connection) -> View {
        let problems = self.write_error.borrow().iter().cloned().collect();
        let in_sync = self.view.in_sync && !connection.rejected;
        View { connection: Some(connection.clone()), in_sync, problems, ..self.view.clone() }
    }
}

/// Returns the last good intent of an earlier process. Logs why, if it can't be used.
fn read(path: &Path, node: &str, cluster: &[String]) -> Option<(Snapshot, Vec<Object>)> {
    let warn =
        |problem: &str| tracing::warn!("the last good intent in {} can't be used: {problem}", path.display());
    let objects = last_good::read(path, cluster).map_err(|problem| warn(&problem)).ok()??;
    match check::assemble(&objects, Extent::Around { node, unavailable: &[] }) {
        Ok(mut snapshot) => {
            let scope = Scope::of_objects(&objects, node);
            snapshot.all_nodes = scope.is_none_or(|scope| scope.labels.is_none());
            Some((snapshot, objects))
        }
        Err(findings) => {
            let problems = findings.iter().map(|finding| &finding.problem);
            problems.for_each(|problem| warn(&format!("{}: {}", problem.field, problem.problem)));
            None
        }
    }
}

/// The file with the last good intent, and the identity of its cluster.
#[derive(Clone)]
struct LastGoodFile {
    path: PathBuf,
    cluster: Vec<String>,
}

/// Writes the newest accepted intent to disk, at most once in [`WRITE_INTERVAL`]. Reports an error, and tries again.
async fn write(
    file: LastGoodFile,
    mut to_write: watch::Receiver<Option<LastGood>>,
    errors: watch::Sender<Option<String>>,
    retry: (Duration, Duration),
) {
    let mut backoff = Backoff::new(retry.0, retry.1);
    while to_write.changed().await.is_ok() {
        while let Err(error) = write_once(&file, &mut to_write).await {
            let message = last_good::write_error(&file.path, &error);
            errors.send_if_modified(|reported| {
                let changed = reported.as_ref() != Some(&message);
                if changed {
                    tracing::warn!("{message}");
                    *reported = Some(message);
                }
                changed
            });
            sleep(jittered(backoff.next_pause())).await;
            if to_write.has_changed().is_err() {
                return;
            }
        }
        backoff.reset();
        if errors.send_replace(None).is_some() {
            tracing::info!("the last good intent is in {} again", file.path.display());
        }
        sleep(WRITE_INTERVAL).await;
    }
}

async fn write_once(
    file: &LastGoodFile,
    to_write: &mut watch::Receiver<Option<LastGood>>,
) -> std::io::Result<()> {
    let Some((origin, objects)) = to_write.borrow_and_update().clone() else { return Ok(()) };
    let LastGoodFile { path, cluster } = file.clone();
    let task = tokio::task::spawn_blocking(move || {
        let documents: Vec<_> = objects.iter().map(last_good::document).collect();
        last_good::write(&path, &origin, &cluster, &documents)
    });
    task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_write_is_reported_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the folder should be.
        let state = folder.path().join("state");
        std::fs::write(&state, "").unwrap();
        let path = state.join("last-good.yaml");
        let (writer, to_write) = watch::channel(None);
        let (sender, mut errors) = watch::channel(None);
        let file = LastGoodFile { path: path.clone(), cluster: Vec::new() };
        tokio::spawn(write(file, to_write, sender, (Duration::from_millis(1), Duration::from_millis(10))));
        writer.send_replace(Some(("a test".into(), Vec::new())));
        let message = errors.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(
            message.contains(&path.display().to_string()) && message.contains("tried again"),
            "{message}"
        );
        std::fs::remove_file(&state).unwrap();
        errors.wait_for(Option::is_none).await.unwrap();
        assert!(path.exists(), "the retry needs no change of the intent");
    }
}
