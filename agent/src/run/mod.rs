//! Where everything is wired together: store, plan, speaker, kernel and status.
//!
//! One loop looks at all of it and does what is needed, whenever anything hints that something may have changed.
//! A hint carries nothing: what counts is what a look finds, so a lost or doubled hint does no harm.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heliograph_bgp::io::{BestRoutes, StartError, Stop};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::intent::Snapshot;
use crate::plan::{self, Speaking};
use crate::status::Role;
use crate::status::server::{Question, RunDir, SocketError};
use crate::store::{self, View};

mod report;
mod speaker;

use speaker::Speech;

/// Looks are at least this far apart: many hints in a row are one reason to look.
const BREATH: Duration = Duration::from_millis(20);
/// There is a look at least this often, whether or not anything hinted.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node: String,
    /// What this process is.
    pub role: Role,
    /// The folder of intent.
    pub intent: PathBuf,
    /// Where socket, node.json and the last good intent are.
    pub run_dir: PathBuf,
    /// Where the container runtime looks for network configurations.
    pub cni_conf_dir: PathBuf,
}

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run directory can't be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The speaker can't start.
    #[error(transparent)]
    Bgp(#[from] StartError),
}

/// The file in the run directory that keeps the last good intent.
pub const LAST_GOOD_NAME: &str = "intent.last-good.yaml";

/// Runs until `stop` is done: then everything stays as it is in the kernel, and peers are left to wait for our return
/// (RFC 4724 §4.2).
///
/// # Errors
/// Why it can't run at all; what can be lived with is in the status instead.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let run_dir = RunDir::take(&options.run_dir)?;
    let questions = run_dir.serve()?;
    let views = store::files::watch(options.intent.clone(), options.run_dir.join(LAST_GOOD_NAME)).await;
    let mut agent = Agent::new(options);
    let result = agent.attend(views, questions, stop).await;
    agent.speech.stop(Stop::Silent).await;
    result
}

/// The agent between two looks: what it found and did at the last one.
struct Agent {
    options: Options,
    started: Instant,
    view: Arc<View>,
    speaking: Option<Speaking>,
    speech: Speech,
    best: BestRoutes,
    was_known: Option<bool>,
}

impl Agent {
    fn new(options: Options) -> Self {
        Self {
            options,
            started: Instant::now(),
            view: Arc::default(),
            speaking: None,
            speech: Speech::default(),
            best: BestRoutes::default(),
            was_known: None,
        }
    }

    /// The loop.
    async fn attend(
        &mut self,
        mut views: watch::Receiver<Arc<View>>,
        mut questions: mpsc::Receiver<Question>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(stop);
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep_until(look_at) => {
                    self.view = views.borrow_and_update().clone();
                    self.look().await?;
                    look_at = Instant::now() + LOOK_EVERY;
                    // Hints that came while looking are still pending and cut the wait short below.
                }
                Ok(()) = views.changed() => look_at = soon(look_at),
                () = self.speech.changed() => look_at = soon(look_at),
                Some(question) = questions.recv() => self.answer(question).await,
            }
        }
    }

    /// Looks at everything and does what is needed.
    async fn look(&mut self) -> Result<(), RunError> {
        let Some(snapshot) = self.view.snapshot.clone() else {
            self.tell_once(None);
            return Ok(());
        };
        let known = snapshot.nodes.contains_key(&self.options.node);
        self.tell_once(Some(known));
        let speaking = plan::bgp_config(&snapshot, &self.options.node, self.options.role == Role::Node);
        self.speak(&snapshot, &speaking, known).await?;
        self.speaking = Some(speaking);
        self.best = self.speech.best_routes().await;
        Ok(())
    }

    /// Sees that the speaker is what it should be. One that isn't needed yet isn't started: nobody would get through.
    async fn speak(&mut self, snapshot: &Snapshot, speaking: &Speaking, known: bool) -> Result<(), RunError> {
        if !known && !self.speech.running() {
            return Ok(());
        }
        let listen = speaker::listen_addresses(snapshot, &self.options.node);
        self.speech.be(&speaking.config, listen, false).await?;
        Ok(())
    }

    /// Says in the log when the node becomes known or unknown.
    fn tell_once(&mut self, known: Option<bool>) {
        if self.was_known == known && known.is_some() {
            return;
        }
        match known {
            None if self.was_known.is_none() => {
                tracing::warn!("no intent yet: {} holds none that is good", self.options.intent.display());
            }
            None => {}
            Some(true) => tracing::info!(node = self.options.node, "this node is in the intent"),
            Some(false) => tracing::warn!(
                node = self.options.node,
                "this node is not in the intent: no sessions, no routes; add a Node document of this name"
            ),
        }
        self.was_known = known.or(self.was_known);
    }
}

/// Soon, but not at once: what else happens in this moment is seen by the same look.
fn soon(planned: Instant) -> Instant {
    planned.min(Instant::now() + BREATH)
}
