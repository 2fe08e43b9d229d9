//! The start of each test: an API server without objects of the tests before.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::server::Server;
use super::user::{CRDS, OURS, User, plurals, until};
use super::{objects, rights};

/// The collections that tests write to, in which no object is left.
const COLLECTIONS: [&str; 7] = [
    objects::NODES,
    objects::SECRETS,
    objects::EVENTS,
    "/apis/coordination.k8s.io/v1/namespaces/heliograph-system/leases",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/heliograph-system/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/heliograph-system/roles",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
];

/// An API server, its administrator, and a folder for the test.
pub struct Fixture {
    pub server: Server,
    pub admin: User,
    folder: TempDir,
}

impl Fixture {
    /// Removes the objects of earlier tests from a server, or starts one.
    pub async fn new(server: Option<Server>) -> Self {
        let server = match server {
            Some(server) => server,
            None => Server::start().await,
        };
        let admin = User(server.client("admin").await);
        let folder = tempfile::tempdir().unwrap();
        let ours = plurals().map(|plural| format!("{OURS}/{plural}"));
        for collection in COLLECTIONS.iter().map(ToString::to_string).chain(ours) {
            admin.delete(&collection).await;
        }
        rights::revoke(&admin).await;
        let agent = User(server.client("agent").await);
        until("the agent has no rights", async || agent.get(objects::NODES).await.is_none()).await;
        Self { server, admin, folder }
    }

    /// Removes our definitions, and waits until they are gone.
    pub async fn undefine(&self) {
        for name in objects::definitions() {
            let path = format!("{CRDS}/{name}");
            self.admin.delete(&path).await;
            until(&format!("{name} is gone"), async || self.admin.get(&path).await.is_none()).await;
        }
    }

    /// Returns the kubeconfig of the agent's user.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig("agent")
    }

    /// Returns the folder of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
