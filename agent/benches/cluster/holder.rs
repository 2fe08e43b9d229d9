//! The holder of the Lease: the leader counts the sessions of BGPPeers, and the measured agent is one of the thousands that
//! don't.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::json;
use tokio::time::interval;

use crate::user::User;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/heliograph-system/leases";
/// The interval of renewals, the same as an agent's.
const RENEW: Duration = Duration::from_secs(20);

/// A task that holds the Lease until it is dropped.
pub struct Holder(tokio::task::JoinHandle<()>);

impl Holder {
    /// Takes the Lease and starts the task.
    pub async fn start(admin: Client) -> Self {
        let admin = User(admin);
        renew(&admin).await;
        Self(tokio::spawn(async move {
            let mut next = interval(RENEW);
            loop {
                next.tick().await;
                renew(&admin).await;
            }
        }))
    }
}

async fn renew(admin: &User) {
    let now = Timestamp::try_from(SystemTime::now()).expect("a time after 1970");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "heliograph-peers" },
        "spec": {
            "holderIdentity": "another", "leaseDurationSeconds": 60,
            "renewTime": format!("{now:.6}"),
        },
    });
    admin.put(LEASES, &lease).await;
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.abort();
    }
}
