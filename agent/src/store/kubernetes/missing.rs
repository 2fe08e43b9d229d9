//! Objects in force that the API server does not list any more, and the cause.
//!
//! The deletion of a CustomResourceDefinition deletes all objects of the kind, and is no order to remove all neighbors. Objects deleted that way stay in force until they exist again, also while the kind is defined again and the
//! objects are not there yet. An object that was deleted alone is removed. The API server is asked for the cause: it marks a
//! definition for deletion before it deletes the first object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::{ApiResource, GroupVersionKind};
use tokio::time::sleep;

use super::unusable::UnusableObject;
use crate::api::{ObjectKind, ObjectRef};
use crate::apiserver::{ApiClient, ErrorKind};
use crate::backoff::{Backoff, jittered};
use crate::store::problem::Problem;

/// The shortest and the longest pause after errors.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Objects in force that the API server does not list any more.
#[derive(Debug, Default)]
pub struct MissingObjects {
    causes: BTreeMap<ObjectRef, Cause>,
    /// Kinds whose watch failed because they are not defined, and that were not listed since.
    undefined: BTreeSet<ObjectKind>,
}

/// The reason why an object is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A request for the definition is pending.
    Pending,
    /// The definition of its kind was deleted.
    KindDeleted,
    /// The object was deleted.
    Deleted,
}

impl MissingObjects {
    /// Notes that a kind is not defined.
    pub fn kind_is_undefined(&mut self, kind: ObjectKind) {
        self.undefined.insert(kind);
    }

    /// Compares the objects of a kind that are `in_force` with those that `exist` by its cache. `current`: the cache's
    /// watcher has no error. Returns the objects whose cause is to be requested.
    pub fn update<'a>(
        &mut self,
        kind: ObjectKind,
        current: bool,
        in_force: impl Iterator<Item = &'a str>,
        exists: impl Fn(&str) -> bool,
    ) -> Vec<ObjectRef> {
        let missing: BTreeSet<_> =
            in_force.filter(|name| !exists(name)).map(|name| ObjectRef::new(kind, name)).collect();
        self.causes.retain(|object, _| object.kind != kind || missing.contains(object));
        let cause = if self.undefined.contains(&kind) { Cause::KindDeleted } else { Cause::Pending };
        if current {
            self.undefined.remove(&kind);
        }
        let new: Vec<_> = missing.into_iter().filter(|object| !self.causes.contains_key(object)).collect();
        self.causes.extend(new.iter().map(|object| (object.clone(), cause)));
        if cause == Cause::Pending { new } else { Vec::new() }
    }

    /// Sets the cause of objects by the answer of the API server: their kind is `defined` or not. Returns whether anything
    /// changed.
    pub fn resolve(&mut self, objects: &[ObjectRef], defined: bool) -> bool {
        let cause = if defined { Cause::Deleted } else { Cause::KindDeleted };
        let mut changed = false;
        for object in objects {
            // Meanwhile the object may exist again, or be missing for another reason.
            if let Some(pending) = self.causes.get_mut(object).filter(|cause| **cause == Cause::Pending) {
                *pending = cause;
                changed = true;
            }
        }
        changed
    }

    /// Returns the missing objects that stay in force.
    pub fn kept(&self) -> impl Iterator<Item = UnusableObject> {
        let kept = self.causes.iter().filter(|(_, cause)| **cause != Cause::Deleted);
        kept.map(|(object, cause)| {
            let problem = (*cause == Cause::KindDeleted).then(|| deleted_with_kind(object.kind));
            UnusableObject {
                object: object.clone(),
                generation: None,
                problems: problem.into_iter().collect(),
            }
        })
    }
}

fn deleted_with_kind(kind: ObjectKind) -> Problem {
    Problem::new(
        format!("it was deleted together with the definition of {kind}; it stays in force as it was"),
        "apply it again; to remove it, delete it after that",
    )
}

/// Returns whether a kind is defined and its definition is not marked for deletion. Retries until there is an answer.
pub async fn is_defined(client: ApiClient, kind: ObjectKind) -> bool {
    let definition = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&definition, "customresourcedefinitions");
    let definitions = client.untyped(&resource);
    let (plural, name) = (kind.plural(), kind.full_name());
    let request = format!("get customresourcedefinition {name}");
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut reported = false;
    loop {
        let error = match client.read(&request, definitions.get_metadata_opt(&name)).await {
            Ok(definition) => {
                return definition.is_some_and(|found| found.metadata.deletion_timestamp.is_none());
            }
            Err(error) => error,
        };
        // Without the permission a missing object counts as deleted.
        if error.kind == ErrorKind::Rejected {
            tracing::warn!("{error}");
            return true;
        }
        // Once is enough: the watchers report the state of the API server.
        if !std::mem::replace(&mut reported, true) {
            tracing::warn!("{error}; until it is answered, missing objects of {plural} stay in force");
        }
        sleep(jittered(backoff.next_pause().max(error.retry_after.unwrap_or_default()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ObjectKind = ObjectKind::BGPPeer;

    /// Updates with `a` and `b` in force. Returns the names to be requested.
    fn update(missing: &mut MissingObjects, existing: &[&str]) -> Vec<String> {
        let requests = missing.update(KIND, true, ["a", "b"].into_iter(), |name| existing.contains(&name));
        requests.into_iter().map(|object| object.name).collect()
    }

    /// Returns the names that are kept; `!` marks those with a problem.
    fn kept(missing: &MissingObjects) -> Vec<String> {
        let mark = |kept: &UnusableObject| if kept.problems.is_empty() { "" } else { "!" };
        missing.kept().map(|kept| format!("{}{}", kept.object.name, mark(&kept))).collect()
    }

    #[test]
    fn a_deleted_object_is_removed_once_the_cause_is_resolved() {
        let mut missing = MissingObjects::default();
        assert_eq!(update(&mut missing, &["a", "b"]), [""; 0]);
        assert_eq!(update(&mut missing, &["a"]), ["b"]);
        assert_eq!(update(&mut missing, &["a"]), [""; 0], "there is one request");
        assert_eq!(kept(&missing), ["b"]);
        assert!(missing.resolve(&[ObjectRef::new(KIND, "b")], true));
        assert_eq!(kept(&missing), [""; 0]);
        assert_eq!(update(&mut missing, &["a"]), [""; 0], "it stays in force where nothing new is accepted");
    }

    #[test]
    fn objects_deleted_with_their_kind_are_kept_until_they_exist_again() {
        let mut missing = MissingObjects::default();
        assert_eq!(update(&mut missing, &[]), ["a", "b"]);
        let both = ["a", "b"].map(|name| ObjectRef::new(KIND, name));
        assert!(missing.resolve(&both, false));
        assert_eq!(kept(&missing), ["a!", "b!"]);
        assert_eq!(update(&mut missing, &["a"]), [""; 0]);
        assert_eq!(kept(&missing), ["b!"]);
        assert_eq!(update(&mut missing, &[]), ["a"], "it existed again, and a deletion after that is new");
        assert!(!missing.resolve(&both[1..], true), "no request of this object is pending");
    }

    #[test]
    fn objects_that_are_missing_after_their_kind_was_undefined_are_kept() {
        let mut missing = MissingObjects::default();
        missing.kind_is_undefined(KIND);
        // Regardless of the objects that were seen before, and of the number of updates meanwhile.
        let all = |_: &str| true;
        assert_eq!(missing.update(KIND, false, ["a", "b"].into_iter(), all), []);
        assert_eq!(update(&mut missing, &["a"]), [""; 0]);
        assert_eq!(kept(&missing), ["b!"]);
        assert_eq!(update(&mut missing, &["b"]), ["a"], "from then on deletions are resolved");
    }
}
