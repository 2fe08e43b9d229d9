//! The BFD that a speaker asks for: driven on a thread of its own, so that a speaker with a million routes to go through
//! is not taken for dead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

use super::bfd::{Handle, start_thread};
use crate::bfd::{self, Event, Key, Settings};
use crate::report::{BfdReport, SessionReport};

/// How long after something failed it is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// BFD, begun when it is first needed.
#[derive(Default)]
pub(super) struct Watching {
    wanted: BTreeMap<Key, Settings>,
    /// Not all that is wanted was asked for yet.
    changed: bool,
    running: Option<(Handle, mpsc::Receiver<Event>)>,
    /// Why nothing runs as it should.
    problem: Option<String>,
    /// Where it can't be listened, and why.
    deaf: BTreeMap<SocketAddr, String>,
    retry_at: Option<Instant>,
}

impl Watching {
    /// Notes what [`Watching::apply`] is to make.
    pub(super) fn set(&mut self, key: Key, settings: Option<Settings>) {
        match settings {
            Some(settings) => drop(self.wanted.insert(key, settings)),
            None => drop(self.wanted.remove(&key)),
        }
        self.changed = true;
    }

    /// When [`Watching::apply`] is to try again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Makes the sessions that are wanted, where something changed or it is time to try again.
    pub(super) async fn apply(&mut self) {
        if !self.changed && self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.changed = false;
        self.retry_at = None;
        if self.wanted.is_empty() && self.running.is_none() {
            return;
        }
        let before = (self.problem.take(), std::mem::take(&mut self.deaf));
        if let Err(problem) = self.make().await {
            self.problem = Some(problem);
        }
        if self.problem.is_none() && self.deaf.is_empty() {
            return;
        }
        self.retry_at = Some(Instant::now() + RETRY);
        // Said when it is news, not at each try.
        for problem in self.deaf.iter().filter(|(address, _)| !before.1.contains_key(address)) {
            warn!("{}", problem.1);
        }
        if let Some(problem) = self.problem.as_ref().filter(|problem| before.0.as_ref() != Some(problem)) {
            warn!("{problem}");
        }
    }

    async fn make(&mut self) -> Result<(), String> {
        if self.running.is_none() {
            let started = start_thread().map_err(|error| format!("no thread for BFD can be had: {error}"))?;
            self.running = Some(started);
        }
        let Some((handle, _)) = &self.running else { return Ok(()) };
        // Only where sessions are: the ports of the other addresses, and of the other kind, stay free.
        let listen: BTreeSet<SocketAddr> =
            self.wanted.iter().map(|(key, settings)| hears_at(key, settings)).collect();
        let failed = handle.listen(listen).await;
        self.deaf = failed.iter().map(|error| (error.address, error.to_string())).collect();
        handle.set_sessions(self.wanted.clone()).await.map_err(|error| error.to_string())
    }

    /// The next piece of news; never without BFD.
    pub(super) async fn next(&mut self) -> Event {
        if let Some((_, news)) = &mut self.running {
            if let Some(event) = news.recv().await {
                return event;
            }
            // Its thread is gone, which it is only after a panic: begun anew at the next try.
            self.running = None;
            self.retry_at = Some(Instant::now() + RETRY);
        }
        std::future::pending().await
    }

    /// Adds to the sessions what is known of their BFD.
    pub(super) async fn report(&self, sessions: &mut [SessionReport]) {
        let reports = match &self.running {
            Some((handle, _)) if sessions.iter().any(|session| session.bfd.is_some()) => {
                handle.sessions().await
            }
            _ => Vec::new(),
        };
        for session in sessions {
            let Some(bfd) = &mut session.bfd else { continue };
            if let Some(report) = reports.iter().find(|report| report.remote == session.address) {
                *bfd = self.described(report);
            } else if let Some(problem) = &self.problem {
                bfd.reason = problem.clone();
            }
        }
    }

    fn described(&self, report: &bfd::SessionReport) -> BfdReport {
        let deaf = self.deaf.get(&SocketAddr::new(report.local, report.path.port()));
        let mut described = BfdReport::from(report);
        if let Some(problem) = deaf {
            described.reason = problem.clone();
        }
        described
    }

    /// Ends all sessions; neighbours are told that this is no failure.
    pub(super) async fn stop(&mut self) {
        if let Some((handle, _)) = self.running.take() {
            handle.stop().await;
        }
    }
}

fn hears_at(key: &Key, settings: &Settings) -> SocketAddr {
    SocketAddr::new(key.local, settings.path.port())
}
