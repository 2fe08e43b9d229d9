//! The store in a Kubernetes API server: the same intent as a folder of documents gives, watched.
//!
//! `source` lists and watches one selection of objects, `hub` sees which are needed and puts them together,
//! `vanished` knows which objects went with
//! their kind, [`crate::store::settle`] says what of it is taken, `keeper` holds what is in force. Whatever the API server does or
//! fails to do, what was last good stays.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::View;

mod access;
pub mod failure;
mod hub;
mod keeper;
mod scope;
mod shelf;
mod source;
mod taken;
mod vanished;

pub use access::Access;

/// What the store is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node: String,
    /// Where the API server is and who we are to it.
    pub access: Access,
    /// The namespace of Heliograph, where its Secrets are; `None`: the one that the pod, or the kubeconfig, is in.
    pub namespace: Option<String>,
    /// Where the last good intent is kept.
    pub last_good: PathBuf,
}

/// Follows an API server: KUBECONFIG's, or the one that a pod is given. The first view is empty.
pub fn watch(options: Options) -> watch::Receiver<Arc<View>> {
    let (sender, receiver) = watch::channel(Arc::new(View::default()));
    tokio::spawn(hub::run(options, sender));
    receiver
}
