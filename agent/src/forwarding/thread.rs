//! The thread of forwarding: it waits for routes, intent and hints of the kernel, and runs the [`Forwarder`].
//!
//! Its calls to the kernel block, which no other thread waits for: BGP sends KEEPALIVEs while 100,000 routes are written.

use std::sync::Arc;
use std::time::Duration;

use heliograph_bgp::io::{Handle, Stopped, Subscription};
use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::forwarder::{Forwarder, Intent, RouteChange};
use super::state::{ForwardingState, InKernel};
use crate::dataplane::routes::{RoutePort, Routes};
use crate::dataplane::{Dataplane, Linux, Ports, Summary};
use crate::netlink::watch::Watch;
use crate::netlink::{Hint, KernelError, KernelResult};
use crate::underlay::{self, Questions, Underlay};

/// The time between a hint and a run, so that hints that belong together cause one run.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The interval of runs that read everything again, without a hint.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The largest number of changed routes before the kernel gets them.
const ROUTES_PER_RUN: usize = 4096;
/// The number of questions that wait for an answer.
const QUESTIONS: usize = 16;

/// A question for the state of best routes in the kernel.
struct Question {
    prefixes: Vec<IpNetwork>,
    answer: oneshot::Sender<Vec<InKernel>>,
}

/// A handle of the forwarding thread. The thread ends when all handles are dropped; the kernel stays as it is.
#[derive(Clone, Debug)]
pub struct Forwarding {
    intent: Arc<watch::Sender<Option<Intent>>>,
    questions: mpsc::Sender<Question>,
    state: watch::Receiver<Arc<ForwardingState>>,
    had_routes: bool,
}

impl Forwarding {
    /// Starts the thread for a node, with the speaker whose best routes it installs. Returns when the kernel was read for the first time.
    ///
    /// # Errors
    /// The kernel can't be read.
    pub async fn start(node: String, speakers: watch::Receiver<Option<Handle>>) -> KernelResult<Self> {
        let (intent, intents) = watch::channel(None);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (sender, state) = watch::channel(Arc::default());
        let (started, start) = oneshot::channel();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(KernelError::from_cause("start a runtime", error.into())));
                    return;
                }
            };
            runtime.block_on(async move {
                match Thread::open(node, sender) {
                    Ok(mut thread) => {
                        let had_routes = thread.forwarder.has_routes(Instant::now().into_std());
                        if started.send(had_routes).is_ok() {
                            thread.run(intents, speakers, asked).await;
                        }
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        let failed =
            |error: std::io::Error| KernelError::from_cause("start the forwarding thread", error.into());
        std::thread::Builder::new().name("forwarding".into()).spawn(body).map_err(failed)?;
        let ended =
            || KernelError::from_cause("start the forwarding thread", crate::netlink::Cause::NoAnswer);
        let had_routes = start.await.map_err(|_| ended())??;
        Ok(Self { intent: Arc::new(intent), questions, state, had_routes })
    }

    /// Returns whether the kernel had Heliograph's routes at the start, which an earlier run installed.
    pub fn had_routes(&self) -> bool {
        self.had_routes
    }

    /// Sets the intent.
    pub fn set_intent(&self, intent: Intent) {
        self.intent.send_if_modified(|present| {
            let same = present.as_ref().is_some_and(|present| {
                Arc::ptr_eq(&present.snapshot, &intent.snapshot) && present.in_sync == intent.in_sync
            });
            if !same {
                *present = Some(intent);
            }
            !same
        });
    }

    /// Sets whether the intent is the present one, not the last good one.
    pub fn set_in_sync(&self, in_sync: bool) {
        self.intent.send_if_modified(|present| match present {
            Some(intent) if intent.in_sync != in_sync => {
                intent.in_sync = in_sync;
                true
            }
            _ => false,
        });
    }

    /// Returns the state of the last run.
    pub fn state(&self) -> Arc<ForwardingState> {
        self.state.borrow().clone()
    }

    /// Waits until the state changes; for ever if the thread has ended.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns whether the thread has ended by itself, which happens only after a panic in it.
    pub fn has_ended(&self) -> bool {
        self.questions.is_closed()
    }

    /// Returns the state of the best route to each of these prefixes.
    pub async fn in_kernel(&self, prefixes: Vec<IpNetwork>) -> Vec<InKernel> {
        let (answer, answered) = oneshot::channel();
        let count = prefixes.len();
        let asked = self.questions.send(Question { prefixes, answer }).await;
        match asked {
            Ok(()) => answered.await.unwrap_or_else(|_| vec![InKernel::default(); count]),
            Err(_) => vec![InKernel::default(); count],
        }
    }
}

/// Removes Heliograph's objects from the kernel of this node; returns the state after that.
///
/// # Errors
/// The kernel can't be read.
pub fn purge() -> KernelResult<Summary> {
    let mut dataplane = Dataplane::open()?;
    dataplane.permit_deleting(true);
    dataplane.run(std::time::Instant::now());
    Ok(dataplane.report())
}

/// The state of the thread.
struct Thread<P: Ports, Q> {
    forwarder: Forwarder<P, Q>,
    watch: Option<Watch>,
    sender: watch::Sender<Arc<ForwardingState>>,
    /// The best routes of the speaker.
    routes: Option<Subscription>,
    /// Best routes have changed since they were last read.
    routes_due: bool,
}

impl Thread<Linux, underlay::Linux> {
    /// Opens the kernel of this node.
    ///
    /// # Errors
    /// The kernel's error.
    fn open(node: String, sender: watch::Sender<Arc<ForwardingState>>) -> KernelResult<Self> {
        let mut dataplane = Dataplane::open()?;
        // Before the first reading, so that no change is missed.
        let watch = Watch::open(dataplane.ports())?;
        let underlay = Underlay::new(underlay::Linux::open()?);
        let forwarder = Forwarder::new(node, dataplane, underlay);
        Ok(Self { forwarder, watch: Some(watch), sender, routes: None, routes_due: false })
    }
}

impl<R: RoutePort, P: Ports<Routes = Routes<R>>, Q: Questions> Thread<P, Q> {
    /// Runs until all handles are dropped.
    async fn run(
        &mut self,
        mut intents: watch::Receiver<Option<Intent>>,
        mut speakers: watch::Receiver<Option<Handle>>,
        mut questions: mpsc::Receiver<Question>,
    ) {
        speakers.mark_changed();
        let mut next_run = Instant::now();
        let mut next_resync = next_run + RESYNC_INTERVAL;
        let mut hints = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next_run) => {
                    if Instant::now() >= next_resync {
                        next_resync = Instant::now() + RESYNC_INTERVAL;
                        self.forwarder.hint(&Hint::Everything);
                    }
                    self.pass().await;
                    next_run = self.next_run(next_resync);
                }
                changed = intents.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if let Some(intent) = intents.borrow_and_update().clone() {
                        self.forwarder.set_intent(intent);
                    }
                    next_run = debounced(next_run);
                }
                Ok(()) = speakers.changed() => {
                    self.forwarder.forget_routes();
                    self.routes = speakers.borrow_and_update().as_ref().map(Handle::subscribe);
                    self.routes_due = true;
                    next_run = debounced(next_run);
                }
                () = routes_changed(&mut self.routes), if !self.routes_due => {
                    self.routes_due = true;
                    next_run = debounced(next_run);
                }
                () = next_hints(&mut self.watch, &mut hints) => {
                    hints.drain(..).for_each(|hint| self.forwarder.hint(&hint));
                    next_run = debounced(next_run);
                }
                Some(Question { prefixes, answer }) = questions.recv() => {
                    let states = prefixes.iter().map(|prefix| self.forwarder.in_kernel(prefix)).collect();
                    // The client may have closed its connection.
                    let _ = answer.send(states);
                }
            }
        }
    }

    /// Returns the time of the next run if there is no hint.
    fn next_run(&mut self, regular: Instant) -> Instant {
        let retry = self.forwarder.next_retry().map(Instant::from_std);
        retry.map_or(regular, |at| at.max(Instant::now() + DEBOUNCE).min(regular))
    }

    /// Takes in the changes of best routes, and brings the kernel into the desired state.
    async fn pass(&mut self) {
        if std::mem::take(&mut self.routes_due) && self.take_routes().await.is_err() {
            // The agent notices it, too, and starts another speaker. Until then its routes stay.
            self.routes = None;
        }
        self.forwarder.run(Instant::now().into_std());
        let state = self.forwarder.state();
        self.sender.send_if_modified(|sent| {
            let changed = **sent != state;
            if changed {
                *sent = Arc::new(state);
            }
            changed
        });
    }

    /// Takes in all changes of best routes that there are. The kernel gets each part of many at once, while BGP goes on.
    async fn take_routes(&mut self) -> Result<(), Stopped> {
        let Some(routes) = &mut self.routes else { return Ok(()) };
        loop {
            let part = routes.best_changes(ROUTES_PER_RUN).await?;
            let changes = part.changes.into_iter().map(|change| RouteChange {
                prefix: change.prefix.into(),
                route: change.route.map(|best| (best.next_hop, best.peer)),
            });
            // Routes may be deleted only when all changes were applied.
            self.forwarder.apply(changes, part.synced && !part.more);
            if !part.more {
                return Ok(());
            }
            self.forwarder.run(Instant::now().into_std());
        }
    }
}

/// Returns the time of the next run after a hint.
fn debounced(planned: Instant) -> Instant {
    planned.min(Instant::now() + DEBOUNCE)
}

/// Waits until best routes may have changed; for ever without a speaker, or when it has ended.
async fn routes_changed(routes: &mut Option<Subscription>) {
    if let Some(open) = routes {
        if open.changed().await.is_ok() {
            return;
        }
        *routes = None;
    }
    std::future::pending().await
}

/// Waits for hints of the kernel, for ever without a subscription. If the subscription ends, regular runs continue.
async fn next_hints(watch: &mut Option<Watch>, hints: &mut Vec<Hint>) {
    if let Some(open) = watch {
        match open.next(hints).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(
                "{error}; the subscription to the kernel's changes ended: the agent reads the kernel every \
                 {RESYNC_INTERVAL:?}"
            ),
        }
        *watch = None;
        // What was missed is read at once.
        hints.push(Hint::Everything);
        return;
    }
    std::future::pending().await
}
