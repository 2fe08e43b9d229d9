//! The kubelets of all nodes, as clients of the API server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use kube::Client;
use tokio::time::{MissedTickBehavior, interval};

use crate::objects::{heartbeat, name, node};
use crate::user::User;

/// The interval of a kubelet's reports if nothing changes (nodeStatusReportFrequency).
const REPORT: Duration = Duration::from_secs(300);
/// The number of regular reports per extra one, which is caused by a change.
const CHURN: u32 = 10;
/// The number of parallel requests while nodes are created.
const AT_ONCE: usize = 16;

/// Creates the nodes of a range, as their kubelets do when they register.
pub async fn register(admin: &User, nodes: std::ops::Range<usize>) {
    stream::iter(nodes)
        .for_each_concurrent(AT_ONCE, async |n| {
            let answer = admin.ask("POST", "/api/v1/nodes", "application/json", Some(&node(n))).await;
            assert!(answer.code == 201, "{answer:?}");
        })
        .await;
}

/// Kubelets that send reports until they are dropped.
pub struct Kubelets {
    reports: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelets {
    pub fn start(admin: Client, nodes: usize) -> Self {
        let reports = Arc::new(AtomicUsize::new(0));
        let done = reports.clone();
        let task = tokio::spawn(async move {
            let mut next = interval(REPORT * CHURN / (CHURN + 1) / nodes as u32);
            next.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut patches = tokio::task::JoinSet::new();
            for turn in 0usize.. {
                loop {
                    tokio::select! {
                        _ = next.tick() => break,
                        // A failed request has panicked with its answer.
                        Some(patch) = patches.join_next() => patch.expect("a kubelet's report"),
                    }
                }
                // In an order in which neighbors don't follow each other.
                let n = turn.wrapping_mul(7919) % nodes;
                let (admin, done) = (User(admin.clone()), done.clone());
                let body = heartbeat(SystemTime::now());
                patches.spawn(async move {
                    let path = format!("/api/v1/nodes/{}/status", name(n));
                    let kind = "application/strategic-merge-patch+json";
                    let answer = admin.ask("PATCH", &path, kind, Some(&body)).await;
                    assert!(answer.code == 200, "{answer:?}");
                    done.fetch_add(1, Relaxed);
                });
            }
        });
        Self { reports, task }
    }

    /// Returns an error if a report was rejected.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.task.is_finished(), "a kubelet's report was rejected: see above");
        Ok(())
    }

    pub fn reports(&self) -> usize {
        self.reports.load(Relaxed)
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.task.abort();
    }
}
