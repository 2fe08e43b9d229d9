//! The BFD sessions that a speaker requests. They run on a thread of their own, so that a speaker that is busy with a
//! million routes does not miss its BFD packets.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::Speaker;
use crate::bfd::io::{Events, Handle, Options, start_thread};
use crate::bfd::{self, Event, Key, Settings};
use crate::report::{BfdReport, SessionReport};

/// The pause before a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(10);

/// The client of BFD (RFC 5882). BFD starts when the first session is requested. Its thread is never waited for: the
/// driver has other things to do.
#[derive(Default)]
pub(super) struct BfdClient {
    desired: BTreeMap<Key, Settings>,
    /// `desired` was not applied yet.
    changed: bool,
    running: Option<(Handle, Events)>,
    /// The request that is under way.
    applying: Option<Applying>,
    errors: Arc<Errors>,
    retry_at: Option<Instant>,
}

type Applying = Pin<Box<dyn Future<Output = Errors> + Send>>;

/// The errors of the last request.
#[derive(Debug, Default)]
struct Errors {
    /// The error that concerns all sessions.
    all: Option<String>,
    /// The addresses that could not be bound, with the error.
    listen: BTreeMap<SocketAddr, String>,
}

impl Errors {
    fn is_empty(&self) -> bool {
        self.all.is_none() && self.listen.is_empty()
    }
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

    /// Begins to apply the desired sessions after a change, or when a retry is due. [`BfdClient::next`] completes it.
    pub(super) fn apply(&mut self) {
        let due = self.changed || self.retry_at.is_some_and(|at| at <= Instant::now());
        // Changes during a request are applied together after it.
        if !due || self.applying.is_some() {
            return;
        }
        self.changed = false;
        self.retry_at = None;
        if self.running.is_none() {
            if self.desired.is_empty() {
                return;
            }
            match start_thread(&Options::new([])) {
                Ok(started) => self.running = Some(started),
                Err(error) => {
                    return self.applied(Errors { all: Some(error.to_string()), ..Errors::default() });
                }
            }
        }
        let Some((handle, _)) = &self.running else { return };
        self.applying = Some(Box::pin(apply(handle.clone(), self.desired.clone())));
    }

    /// Records the result of a request.
    fn applied(&mut self, errors: Errors) {
        let before = std::mem::replace(&mut self.errors, Arc::new(errors));
        if self.errors.is_empty() {
            return;
        }
        self.retry_at = Some(Instant::now() + RETRY);
        // Only new errors are logged, not those of each retry.
        for error in self.errors.listen.iter().filter(|(address, _)| !before.listen.contains_key(address)) {
            warn!("{}", error.1);
        }
        if let Some(error) = self.errors.all.as_ref().filter(|error| before.all.as_ref() != Some(error)) {
            warn!("{error}");
        }
    }

    /// Waits for the next event, for ever while BFD does not run; `None`: a request was carried out, or BFD has ended.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let Self { running, applying, .. } = self;
        let applied = async {
            match applying {
                Some(applying) => applying.await,
                None => std::future::pending().await,
            }
        };
        let event = async {
            match running {
                Some((_, events)) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            errors = applied => {
                self.applying = None;
                self.applied(errors);
                None
            }
            event = event => {
                if event.is_none() {
                    // The thread ends by itself only after a panic. The next retry starts it again.
                    (self.running, self.applying) = (None, None);
                    self.retry_at = Some(Instant::now() + RETRY);
                }
                event
            }
        }
    }

    /// Passes an event to the speaker.
    pub(super) fn deliver(event: &Event, speaker: &mut Speaker) {
        speaker.bfd_event(Instant::now(), event);
    }

    /// Returns the address of the neighbor that an event is about.
    pub(super) fn neighbor(event: &Event) -> Option<IpAddr> {
        match event {
            Event::Down { key, .. } => Some(key.remote),
            _ => None,
        }
    }

    /// Returns what completes reports of sessions.
    pub(super) fn reporter(&self) -> BfdReporter {
        let handle = self.running.as_ref().map(|(handle, _)| handle.clone());
        BfdReporter { handle, errors: self.errors.clone() }
    }

    /// Ends all sessions with AdminDown, which neighbors do not take for a failure (RFC 5880 §6.8.16).
    pub(super) async fn stop(&mut self) {
        if let Some((handle, _)) = self.running.take() {
            // An error means that there is nothing left to stop.
            let _ = handle.stop().await;
        }
    }
}

/// Makes these the sessions of the BFD thread.
async fn apply(handle: Handle, desired: BTreeMap<Key, Settings>) -> Errors {
    let mut errors = Errors::default();
    // Only the local addresses of sessions are bound: other addresses, and the port of the other kind, stay free.
    let listen: BTreeSet<SocketAddr> =
        desired.iter().map(|(key, settings)| SocketAddr::new(key.local, settings.path.port())).collect();
    match handle.listen(listen).await {
        Ok(failed) => {
            errors.listen = failed.iter().map(|error| (error.address, error.to_string())).collect();
        }
        Err(error) => errors.all = Some(error.to_string()),
    }
    if let Err(error) = handle.set_sessions(desired).await {
        errors.all = Some(error.to_string());
    }
    errors
}

/// It completes the reports of BGP sessions, in the task of whoever asked for them.
#[derive(Debug)]
pub(super) struct BfdReporter {
    handle: Option<Handle>,
    errors: Arc<Errors>,
}

impl BfdReporter {
    /// Completes the reports with the state of their BFD sessions.
    pub(super) async fn complete(&self, sessions: &mut [SessionReport]) {
        let reports = match &self.handle {
            Some(handle) if sessions.iter().any(|session| session.bfd.is_some()) => {
                // If BFD has ended, the driver starts it again.
                handle.sessions().await.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let mut by_address = BTreeMap::new();
        for report in &reports {
            by_address.entry(report.key.remote).or_insert(report);
        }
        for session in sessions {
            let Some(bfd) = &mut session.bfd else { continue };
            if let Some(report) = by_address.get(&session.address) {
                *bfd = self.report(report);
            } else if let Some(error) = &self.errors.all {
                bfd.reason = error.clone();
            }
        }
    }

    fn report(&self, session: &bfd::SessionReport) -> BfdReport {
        let mut report = BfdReport::from(session);
        let listen = SocketAddr::new(session.key.local, session.path.port());
        if let Some(error) = self.errors.listen.get(&listen) {
            report.reason = error.clone();
        }
        report
    }
}
