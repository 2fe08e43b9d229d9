//! The intent in force, and its copy on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::generations;
use super::scope::Scope;
use super::unusable::UnusableObject;
use crate::api::{BGPConfigurationSpec, ObjectKind, ObjectRef, Spec};
use crate::backoff::{Backoff, jittered};
use crate::store::accept::{self, Accepted, Converted, Current};
use crate::store::check::{self, Content, Object};
use crate::store::nodes::Facts;
use crate::store::{Connection, Rejection, View, last_good};

/// The shortest time between two writes of the last good intent.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest and the longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The last good intent as the writer receives it: the API server it is from, its wishes, and its Nodes.
type LastGood = (String, Vec<Object>, Facts);

/// The intent in force.
#[derive(Debug)]
pub struct InForce {
    node: String,
    last_good_path: PathBuf,
    /// The intent in force, with its objects. At the start it is that of an earlier process, which has precedence over new
    /// objects, too, but is not in force yet.
    accepted: Option<Accepted>,
    /// The converted wishes.
    converted: Option<Converted>,
    view: View,
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
        let accepted = read(&last_good_path, &node, &cluster);
        let file = LastGoodFile { path: last_good_path.clone(), cluster };
        tokio::spawn(write(file, to_write, errors, RETRY));
        Self {
            node,
            last_good_path,
            accepted,
            converted: None,
            view: View::default(),
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
        let Some(Accepted { snapshot, .. }) = &self.accepted else { return };
        tracing::info!("the last good intent, kept in {}, is in force", self.last_good_path.display());
        self.view.snapshot = Some(Arc::new(snapshot.clone()));
        self.view.generation = 1;
        self.view.origin = self.last_good_path.display().to_string();
    }

    /// Returns the scope of the intent in force.
    pub fn scope(&self) -> Option<Scope> {
        let accepted = self.accepted.as_ref()?;
        Some(Scope::of_snapshot(&accepted.snapshot, &self.node))
    }

    /// Returns the scope of the intent that [`InForce::update`] would put into force.
    pub fn scope_after(
        &mut self,
        objects: Vec<Object>,
        unusable: &[UnusableObject],
        facts: Facts,
    ) -> Option<Scope> {
        let current = Current { objects, unusable: references(unusable), facts, all_nodes: true };
        let acceptance = accept::accept(current, self.accepted.as_ref(), &self.node, &mut self.converted);
        Some(Scope::of_snapshot(&acceptance.accepted?.snapshot, &self.node))
    }

    /// Returns the wishes in force.
    pub fn objects(&self) -> &[Object] {
        self.accepted.as_ref().map(|accepted| accepted.objects.as_slice()).unwrap_or_default()
    }

    /// Returns the BGPConfiguration to use where there is none: all fields have their defaults. `None`: another one is in
    /// force. Its deletion must not change the kind of network.
    pub fn default_configuration(&self) -> Option<Object> {
        let defaults = BGPConfigurationSpec::default();
        let has_another = accept::configuration(self.objects()).is_some_and(|spec| *spec != defaults);
        let content = Content::Wish(Spec::BGPConfiguration(Arc::new(defaults)));
        (!has_another).then(|| Object {
            name: check::CONFIGURATION_NAME.into(),
            generation: None,
            created: None,
            content,
        })
    }

    /// Accepts what is valid of the current objects.
    pub fn update(&mut self, current: Current, unusable: Vec<UnusableObject>, origin: &str) {
        self.synced = true;
        let newest = generations::newest(&current.objects, &unusable);
        let current = Current { unusable: references(&unusable), ..current };
        let acceptance = accept::accept(current, self.accepted.as_ref(), &self.node, &mut self.converted);
        let mut rejections: Vec<_> = unusable.iter().flat_map(UnusableObject::rejections).collect();
        rejections.extend(acceptance.rejections);
        rejections.sort();
        rejections.dedup();
        for rejection in rejections.iter().filter(|rejection| !self.view.rejections.contains(rejection)) {
            tracing::warn!("intent rejected: {rejection}");
        }
        self.view.in_sync = acceptance.accepted.is_some() && rejections.is_empty();
        self.view.rejections = rejections;
        let Some(accepted) = acceptance.accepted else {
            self.view.objects = generations::in_force(&newest, self.objects());
            return;
        };
        let snapshot = &accepted.snapshot;
        if !self.view.snapshot.as_deref().is_some_and(|before| before.is_same(snapshot)) {
            tracing::info!(
                nodes = snapshot.nodes.len(),
                peers = snapshot.peers.len(),
                "intent from {origin} is in force"
            );
            self.view.snapshot = Some(Arc::new(snapshot.clone()));
            self.view.generation += 1;
        }
        self.view.objects = generations::in_force(&newest, &accepted.objects);
        let same = |before: &Accepted| before.objects == accepted.objects && before.facts == accepted.facts;
        if self.writer.borrow().is_none() || !self.accepted.as_ref().is_some_and(same) {
            let (objects, facts) = (accepted.objects.clone(), accepted.facts.clone());
            self.writer.send_replace(Some((origin.to_string(), objects, facts)));
        }
        self.accepted = Some(accepted);
        self.view.origin = origin.into();
    }

    /// Returns the view.
    pub fn view(&self, connection: &Connection) -> View {
        let problems = self.write_error.borrow().iter().cloned().collect();
        let in_sync = self.view.in_sync && !connection.rejected;
        View { connection: Some(connection.clone()), in_sync, problems, ..self.view.clone() }
    }
}

fn references(unusable: &[UnusableObject]) -> Vec<ObjectRef> {
    unusable.iter().map(|unusable| unusable.object.clone()).collect()
}

/// Returns the last good intent of an earlier process. Logs why, if it can't be used.
fn read(path: &Path, node: &str, cluster: &[String]) -> Option<Accepted> {
    let warn =
        |problem: &str| tracing::warn!("the last good intent in {} can't be used: {problem}", path.display());
    let (objects, facts) = last_good::read(path, cluster).map_err(|problem| warn(&problem)).ok()??;
    let acceptance = accept::accept(
        Current { objects, facts, unusable: Vec::new(), all_nodes: true },
        None,
        node,
        &mut None,
    );
    acceptance.rejections.iter().for_each(|rejection| warn(&rejection.to_string()));
    let of_node = |rejection: &Rejection| {
        rejection.object.as_ref().is_some_and(|object| object.kind == ObjectKind::Node)
    };
    let mut accepted = acceptance.accepted.filter(|_| acceptance.rejections.iter().all(of_node))?;
    let scope = Scope::of_snapshot(&accepted.snapshot, node);
    accepted.snapshot.all_nodes = scope.labels.is_none();
    Some(accepted)
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
    let Some((origin, objects, facts)) = to_write.borrow_and_update().clone() else { return Ok(()) };
    let LastGoodFile { path, cluster } = file.clone();
    let task = tokio::task::spawn_blocking(move || {
        let nodes = facts.values().map(last_good::node_document);
        let documents: Vec<_> = objects.iter().map(last_good::document).chain(nodes).collect();
        last_good::write(&path, &origin, &cluster, &documents)
    });
    task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::nodes::Fact;

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
        writer.send_replace(Some(("a test".into(), Vec::new(), Facts::new())));
        let message = errors.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(
            message.contains(&path.display().to_string()) && message.contains("tried again"),
            "{message}"
        );
        std::fs::remove_file(&state).unwrap();
        errors.wait_for(Option::is_none).await.unwrap();
        assert!(path.exists(), "the retry needs no change of the intent");
    }

    /// Prints the time that one changed Node takes.
    #[tokio::test]
    #[ignore = "a measurement, to be run with optimisation"]
    async fn one_changed_node_of_many() {
        for count in [1000u32, 5000] {
            let node = |number: u32, version: u32| -> Fact {
                let [high, low] = (number as u16).to_be_bytes();
                let node = serde_json::json!({
                    "metadata": {"name": format!("node-{number:04}"), "labels": {"version": version.to_string()},
                        "creationTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"podCIDRs": [format!("10.{high}.{low}.0/24"), format!("fd00:{number:x}::/64")]},
                    "status": {"addresses": [{"type": "InternalIP", "address": format!("172.20.{high}.{low}")},
                        {"type": "InternalIP", "address": format!("fd01::{number:x}")}]}});
                Fact::new(&serde_json::from_value(node).unwrap(), |_| true)
            };
            let mut facts: Facts =
                (0..count).map(|number| node(number, 0)).map(|fact| (fact.node.name.clone(), fact)).collect();
            let folder = tempfile::tempdir().unwrap();
            let mut in_force =
                InForce::new(folder.path().join("last-good.yaml"), "node-0000".into(), Vec::new());
            let objects = vec![in_force.default_configuration().unwrap()];
            let (mut total, mut worst) = (Duration::ZERO, Duration::ZERO);
            const ROUNDS: u32 = 50;
            for round in 0..=ROUNDS {
                let changed = round % count;
                let begin = std::time::Instant::now();
                let fact = node(changed, round);
                facts.insert(fact.node.name.clone(), fact);
                let facts = facts.iter().map(|(name, fact)| (name.clone(), fact.clone())).collect();
                let current =
                    Current { objects: objects.clone(), unusable: Vec::new(), facts, all_nodes: true };
                in_force.update(current, Vec::new(), "a test");
                if round > 0 {
                    total += begin.elapsed();
                    worst = worst.max(begin.elapsed());
                }
            }
            println!("{count} Nodes: {:?} on average, {worst:?} at most", total / ROUNDS);
            assert_eq!(in_force.view.generation, u64::from(ROUNDS) + 1);
        }
    }
}
