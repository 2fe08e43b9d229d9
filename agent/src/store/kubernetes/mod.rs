//! The store in a Kubernetes API server: it gives the same intent as a folder with the same objects.
//!
//! - `cache` holds the objects of one collection as [`crate::apiserver::watcher`] last received them;
//! - `assembler` starts the watchers that are needed, and assembles the objects of their caches;
//! - `scope` computes the collection of other Nodes that is needed;
//! - `missing` finds out whether missing objects were deleted alone or with their CustomResourceDefinition;
//! - `in_force` accepts what is valid, by [`crate::store::accept`], and keeps it on disk;
//! - `generations` reports which generation of each object is in force.
//!
//! An unavailable or failing API server never changes the intent in force.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::View;
use crate::apiserver::Access;

mod assembler;
mod cache;
mod generations;
mod in_force;
mod missing;
mod scope;
mod unusable;

/// The options of the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this node.
    pub node: String,
    /// Address and credentials of the API server.
    pub access: Access,
    /// Heliograph's namespace, which has its Secrets. `None`: that of the pod, or of the kubeconfig.
    pub namespace: Option<String>,
    /// The file with the last good intent.
    pub last_good: PathBuf,
}

/// Follows an API server. Returns its views, of which the first is empty.
pub fn watch(options: Options) -> watch::Receiver<Arc<View>> {
    let (sender, receiver) = watch::channel(Arc::new(View::default()));
    tokio::spawn(assembler::run(options, sender));
    receiver
}
