//! The BFD sessions that a speaker requests. They run on a thread of their own, so that a speaker that is busy with a
//! million routes does not miss its BFD packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::Speaker;
use crate::bfd::io::{Events, Handle, Options, start_thread};
use crate::bfd::{self, Event, Key, Settings};
use crate::report::{BfdReport, SessionReport};

/// The pause before a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(10);

/// The client of BFD (RFC 5882). BFD starts when the first session is requested.
#[derive(Default)]
pub(super) struct BfdClient {
    desired: BTreeMap<Key, Settings>,
    /// `desired` was not applied yet.
    changed: bool,
    running: Option<(Handle, Events)>,
    /// The error that concerns all sessions.
    error: Option<String>,
    /// The addresses that could not be bound, with the error.
    listen_errors: BTreeMap<SocketAddr, String>,
    retry_at: Option<Instant>,
}

impl BfdClient {
    /// Sets the settings of a session, or removes it. [`BfdClient::apply`] carries it out.
    pub(super) fn set(&mut self, key: Key, settings: Option<Settings>) {
        match settings {
            Some(settings) => drop(self.desired.insert(key, settings)),
            None => drop(self.desired.remove(&key)),
        }
        self.changed = true;
    }

    /// Returns the time of the next retry, at which [`BfdClient::apply`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Applies the desired sessions after a change, or when a retry is due.
    pub(super) async fn apply(&mut self) {
        if !self.changed && self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.changed = false;
        self.retry_at = None;
        if self.desired.is_empty() && self.running.is_none() {
            return;
        }
        let before = (self.error.take(), std::mem::take(&mut self.listen_errors));
        if let Err(error) = self.try_apply().await {
            self.error = Some(error);
        }
        if self.error.is_none() && self.listen_errors.is_empty() {
            return;
        }
        self.retry_at = Some(Instant::now() + RETRY);
        // Only new errors are logged, not those of each retry.
        for error in self.listen_errors.iter().filter(|(address, _)| !before.1.contains_key(address)) {
            warn!("{}", error.1);
        }
        if let Some(error) = self.error.as_ref().filter(|error| before.0.as_ref() != Some(error)) {
            warn!("{error}");
        }
    }

    async fn try_apply(&mut self) -> Result<(), String> {
        if self.running.is_none() {
            let started = start_thread(&Options::new([])).map_err(|error| error.to_string())?;
            self.running = Some(started);
        }
        let Some((handle, _)) = &self.running else { return Ok(()) };
        // Only the local addresses of sessions are bound: other addresses, and the port of the other kind, stay free.
        let listen: BTreeSet<SocketAddr> = self
            .desired
            .iter()
            .map(|(key, settings)| SocketAddr::new(key.local, settings.path.port()))
            .collect();
        let failed = handle.listen(listen).await.map_err(|error| error.to_string())?;
        self.listen_errors = failed.iter().map(|error| (error.address, error.to_string())).collect();
        handle.set_sessions(self.desired.clone()).await.map_err(|error| error.to_string())
    }

    /// Waits for the next event; forever while BFD does not run.
    pub(super) async fn next(&mut self) -> Event {
        if let Some((_, events)) = &mut self.running {
            if let Some(event) = events.next().await {
                return event;
            }
            // The thread ends by itself only after a panic. The next retry starts it again.
            self.running = None;
            self.retry_at = Some(Instant::now() + RETRY);
        }
        std::future::pending().await
    }

    /// Passes an event to the speaker.
    pub(super) fn deliver(event: Event, speaker: &mut Speaker) {
        speaker.bfd_event(Instant::now(), &event);
    }

    /// Completes the reports of BGP sessions with the state of their BFD sessions.
    pub(super) async fn report(&self, sessions: &mut [SessionReport]) {
        let reports = match &self.running {
            Some((handle, _)) if sessions.iter().any(|session| session.bfd.is_some()) => {
                // If the driver is gone, `next` starts it again.
                handle.sessions().await.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        for session in sessions {
            let Some(bfd) = &mut session.bfd else { continue };
            if let Some(report) = reports.iter().find(|report| report.key.remote == session.address) {
                *bfd = self.bfd_report(report);
            } else if let Some(error) = &self.error {
                bfd.reason = error.clone();
            }
        }
    }

    fn bfd_report(&self, session: &bfd::SessionReport) -> BfdReport {
        let mut report = BfdReport::from(session);
        let listen = SocketAddr::new(session.key.local, session.path.port());
        if let Some(error) = self.listen_errors.get(&listen) {
            report.reason = error.clone();
        }
        report
    }

    /// Ends all sessions with AdminDown, which neighbors do not take for a failure (RFC 5880 §6.8.16).
    pub(super) async fn stop(&mut self) {
        if let Some((handle, _)) = self.running.take() {
            // An error means that there is nothing left to stop.
            let _ = handle.stop().await;
        }
    }
}
