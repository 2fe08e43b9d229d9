//! The kubelets of all nodes, as far as an API server sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use kube::Client;
use tokio::time::{MissedTickBehavior, interval};

use crate::objects::{heartbeat, name, node};
use crate::user::User;

/// A kubelet reports its node's status this often where nothing changes (nodeStatusReportFrequency).
const REPORT: Duration = Duration::from_secs(300);
/// One report in so many comes besides, as something did change.
const CHURN: u32 = 10;
/// Requests at a time while nodes are made.
const AT_ONCE: usize = 16;

/// Makes the nodes of a range, as their kubelets do when they register.
pub async fn register(admin: &User, nodes: std::ops::Range<usize>) {
    stream::iter(nodes)
        .for_each_concurrent(AT_ONCE, async |n| {
            let answer = admin.ask("POST", "/api/v1/nodes", "application/json", Some(&node(n))).await;
            assert!(answer.code == 201, "{answer:?}");
        })
        .await;
}

/// Kubelets that report, until dropped.
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
                        // One that was refused has said so.
                        Some(patch) = patches.join_next() => patch.expect("a kubelet's report"),
                    }
                }
                // In an order in which neighbours don't follow each other.
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

    /// Whether all reports so far were taken.
    pub fn all_is_well(&self) -> Result<()> {
        ensure!(!self.task.is_finished(), "a kubelet's report was refused: see above");
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
