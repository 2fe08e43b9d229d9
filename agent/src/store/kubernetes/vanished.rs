//! Objects that are gone: because somebody took them away, or because their kind was.
//!
//! Who deletes a CustomResourceDefinition deletes all objects of the kind with it, and nobody means a network without
//! neighbours by that. What vanished that way stays as it was last good until it is there again, also while the kind is
//! already back and the objects are not. An object that somebody deletes is gone. The API server is asked which of the two
//! it was: a definition is marked for deletion before the first of its objects goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, core::DynamicObject};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::keeper::Unreadable;
use crate::api;
use crate::backoff::{Backoff, jittered};
use crate::store::problem::{ObjectRef, Problem};

/// A question without an answer has failed after this time.
const ANSWER: Duration = Duration::from_secs(30);
/// Pauses after failures grow from the first to the last of these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Objects of which intent in force is made, and which the API server doesn't tell of any more.
#[derive(Debug, Default)]
pub struct Vanished {
    fates: BTreeMap<ObjectRef, Fate>,
    /// Kinds that the API server was seen without, and of which it hasn't told everything since.
    undefined: BTreeSet<&'static str>,
}

/// Why an object isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is not known yet; the API server is being asked.
    Asked,
    /// Its kind went.
    Lost,
    /// Somebody took it away.
    Deleted,
}

impl Vanished {
    /// The API server doesn't know a kind.
    pub fn undefine(&mut self, kind: &'static str) {
        self.undefined.insert(kind);
    }

    /// Looks at a kind of which the API server has told everything at least once: what is `present`, and what was `good`.
    /// `current`: it still tells. Gives those of which it is to be asked what became of them.
    pub fn look<'a>(
        &mut self,
        kind: &'static str,
        current: bool,
        good: impl Iterator<Item = &'a str>,
        present: impl Fn(&str) -> bool,
    ) -> Vec<ObjectRef> {
        let missing: BTreeSet<_> =
            good.filter(|name| !present(name)).map(|name| ObjectRef::new(kind, name)).collect();
        self.fates.retain(|key, _| key.kind != kind || missing.contains(key));
        let fate = if self.undefined.contains(kind) { Fate::Lost } else { Fate::Asked };
        if current {
            self.undefined.remove(kind);
        }
        let new: Vec<_> = missing.into_iter().filter(|key| !self.fates.contains_key(key)).collect();
        self.fates.extend(new.iter().map(|key| (key.clone(), fate)));
        if fate == Fate::Asked { new } else { Vec::new() }
    }

    /// What the API server said: whether their kind is `defined`. Whether that is news.
    pub fn judge(&mut self, keys: &[ObjectRef], defined: bool) -> bool {
        let fate = if defined { Fate::Deleted } else { Fate::Lost };
        let mut news = false;
        for key in keys {
            // It may be back already, or gone in another way.
            if let Some(asked) = self.fates.get_mut(key).filter(|fate| **fate == Fate::Asked) {
                *asked = fate;
                news = true;
            }
        }
        news
    }

    /// Those that stay as they were, with what there is to say of them.
    pub fn kept(&self) -> impl Iterator<Item = Unreadable> {
        let kept = self.fates.iter().filter(|(_, fate)| **fate != Fate::Deleted);
        kept.map(|(key, fate)| {
            let problems = if *fate == Fate::Lost { vec![lost(key.kind)] } else { Vec::new() };
            Unreadable { key: key.clone(), generation: None, problems }
        })
    }
}

fn lost(kind: &str) -> Problem {
    Problem {
        object: None,
        field: String::new(),
        problem: format!(
            "it was deleted together with the definition of {kind}; it stays in force as it was"
        ),
        remedy: "apply it again; to be rid of it, delete it then".into(),
        clash: None,
        object_ref: None,
    }
}

/// Asks until there is an answer whether a kind is defined, and not about to go.
pub async fn is_defined(client: Client, plural: &str) -> bool {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
    let definitions = Api::<DynamicObject>::all_with(client, &resource);
    let name = format!("{plural}.{}", api::GROUP);
    let what = format!("get customresourcedefinition {name}");
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut told = false;
    loop {
        let failure = match timeout(ANSWER, definitions.get_metadata_opt(&name)).await {
            Ok(Ok(definition)) => {
                return definition.is_some_and(|found| found.metadata.deletion_timestamp.is_none());
            }
            // Who isn't told goes by the objects.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                tracing::warn!("{what}: {}; grant it in the agent's ClusterRole", status.message);
                return true;
            }
            Ok(Err(error)) => Failure::of(&what, &error),
            Err(_) => Failure::silent(&what, ANSWER),
        };
        // Once is enough: what is the matter with the API server is said by all that it is asked for.
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                "{}; until it is known, objects of {plural} that are gone stay in force",
                failure.words
            );
        }
        sleep(jittered(backoff.fail().max(failure.wait.unwrap_or_default()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "BGPPeer";

    fn look(vanished: &mut Vanished, present: &[&str]) -> Vec<String> {
        let asked = vanished.look(KIND, true, ["a", "b"].into_iter(), |name| present.contains(&name));
        asked.into_iter().map(|key| key.name).collect()
    }

    /// Names that are kept, those with something to say of them marked.
    fn kept(vanished: &Vanished) -> Vec<String> {
        let mark = |kept: &Unreadable| if kept.problems.is_empty() { "" } else { "!" };
        vanished.kept().map(|kept| format!("{}{}", kept.key.name, mark(&kept))).collect()
    }

    #[test]
    fn what_somebody_deletes_is_gone_once_that_is_known() {
        let mut vanished = Vanished::default();
        assert_eq!(look(&mut vanished, &["a", "b"]), [""; 0]);
        assert_eq!(look(&mut vanished, &["a"]), ["b"]);
        assert_eq!(look(&mut vanished, &["a"]), [""; 0], "it is asked once");
        assert_eq!(kept(&vanished), ["b"]);
        assert!(vanished.judge(&[ObjectRef::new(KIND, "b")], true));
        assert_eq!(kept(&vanished), [""; 0]);
        assert_eq!(
            look(&mut vanished, &["a"]),
            [""; 0],
            "it stays in what was good where all stays as it was"
        );
    }

    #[test]
    fn what_goes_with_its_kind_stays_until_it_is_there_again() {
        let mut vanished = Vanished::default();
        assert_eq!(look(&mut vanished, &[]), ["a", "b"]);
        let both = ["a", "b"].map(|name| ObjectRef::new(KIND, name));
        assert!(vanished.judge(&both, false));
        assert_eq!(kept(&vanished), ["a!", "b!"]);
        assert_eq!(look(&mut vanished, &["a"]), [""; 0]);
        assert_eq!(kept(&vanished), ["b!"]);
        assert_eq!(look(&mut vanished, &[]), ["a"], "back, and then deleted: that is another matter");
        assert!(!vanished.judge(&both[1..], true), "the answer to nothing that is asked");
    }

    #[test]
    fn a_kind_that_was_missing_tells_of_no_deletions() {
        let mut vanished = Vanished::default();
        vanished.undefine(KIND);
        // Whatever was seen of its objects before, and however often is looked meanwhile.
        let all = |_: &str| true;
        assert_eq!(vanished.look(KIND, false, ["a", "b"].into_iter(), all), []);
        assert_eq!(look(&mut vanished, &["a"]), [""; 0]);
        assert_eq!(kept(&vanished), ["b!"]);
        assert_eq!(look(&mut vanished, &["b"]), ["a"], "from then on there are");
    }
}
