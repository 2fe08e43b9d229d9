//! The BGP speaker of an agent: started when it is first needed, reconfigured, and restarted if its port changes. It runs on
//! a thread of its own, so that neither it nor the agent waits for the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use heliograph_bgp::Config;
use heliograph_bgp::io::{self, Handle, Options, SetConfigError, StartError, Stop};
use heliograph_bgp::report::{BestCounts, PathReport, SessionReport};
use heliograph_cni::IpFamily;
use tokio::sync::watch;

use crate::intent::Snapshot;

/// Returns the addresses to listen on: all of the families that the node has. The speaker rejects connections of other
/// hosts than neighbors, and the start doesn't depend on an address that isn't up yet.
pub fn listen_addresses(snapshot: &Snapshot, node: &str) -> Vec<SocketAddr> {
    let port = snapshot.configuration.listen_port;
    let Some(node) = snapshot.nodes.get(node) else { return Vec::new() };
    let families = IpFamily::ALL.into_iter().filter(|family| node.address(*family).is_some());
    let any = |family| match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    families.map(|family| SocketAddr::new(any(family), port)).collect()
}

/// Returns the node's addresses that no interface of this machine has: no session can use them.
pub fn absent_addresses(snapshot: &Snapshot, node: &str) -> Vec<IpAddr> {
    let Some(node) = snapshot.nodes.get(node) else { return Vec::new() };
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let present: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    node.addresses.iter().copied().filter(|address| !present.contains(address)).collect()
}

/// The speaker, if it is started.
#[derive(Debug, Default)]
pub struct AgentSpeaker {
    running: Option<Running>,
    /// The handle of the running speaker, for other threads.
    handle: watch::Sender<Option<Handle>>,
    problem: Option<String>,
    /// A speaker ran before and ended by itself: the next one is a restart.
    ended: bool,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    changes: watch::Receiver<u64>,
    listen: Vec<SocketAddr>,
}

impl AgentSpeaker {
    /// Returns whether the speaker is started.
    pub fn running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the reason for which the last plan could not be applied.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Starts or reconfigures the speaker. `restarting`: the kernel still has the routes of an earlier run.
    ///
    /// # Errors
    /// The first start failed. A later failure is a [`AgentSpeaker::problem`], and the speaker continues as before.
    pub async fn apply(
        &mut self,
        config: &Config,
        listen: Vec<SocketAddr>,
        restarting: bool,
    ) -> Result<(), StartError> {
        self.problem = None;
        let Some(running) = &self.running else {
            let config = Arc::new(config.clone());
            let started = Running::start(config, listen, restarting || self.ended).await?;
            self.set_running(started);
            return Ok(());
        };
        let handle = running.handle.clone();
        // A node that was removed from the intent has no addresses: the speaker keeps listening where it did.
        if running.listen != listen && !listen.is_empty() {
            // Silent, and restarting: peers keep the routes meanwhile (RFC 4724).
            let former = (handle.config(), running.listen.clone());
            handle.stop(Stop::Silent).await;
            let started = match Running::start(Arc::new(config.clone()), listen, true).await {
                Ok(started) => started,
                Err(error) => {
                    self.problem = Some(error.to_string());
                    let (config, listen) = former;
                    Running::start(config, listen, true).await?
                }
            };
            self.set_running(started);
            return Ok(());
        }
        if *handle.config() != *config {
            match handle.set_config(config.clone()).await {
                Ok(()) => {}
                Err(SetConfigError::Stopped(_)) => self.note_end(),
                Err(error) => {
                    self.problem = Some(format!("the BGP speaker keeps its former configuration: {error}"))
                }
            }
        }
        Ok(())
    }

    /// Returns the handle of the running speaker, for other threads: another one when the speaker was started again.
    pub fn handles(&self) -> watch::Receiver<Option<Handle>> {
        self.handle.subscribe()
    }

    fn set_running(&mut self, running: Running) {
        self.handle.send_replace(Some(running.handle.clone()));
        self.running = Some(running);
    }

    /// Waits until sessions or routes may have changed, for ever without a speaker.
    pub async fn changed(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        if running.changes.changed().await.is_err() {
            self.note_end();
        }
    }

    /// Notes that the speaker ended by itself, which happens only after a panic in its thread; [`Self::apply`] starts another.
    fn note_end(&mut self) {
        tracing::error!(
            "the BGP speaker has stopped by itself and is started again: please report this as a bug"
        );
        self.running = None;
        self.handle.send_replace(None);
        self.ended = true;
        self.problem = Some("the BGP speaker has stopped by itself: it is started again".into());
    }

    /// Returns the numbers of best routes, and whether they are complete: none, and not complete, without a speaker.
    pub async fn best_counts(&self) -> (BestCounts, bool) {
        match &self.running {
            Some(running) => running.handle.best_counts().await.unwrap_or_default(),
            None => Default::default(),
        }
    }

    /// Returns all sessions.
    pub async fn sessions(&self) -> Vec<SessionReport> {
        match &self.running {
            Some(running) => running.handle.sessions().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Returns all paths.
    pub async fn paths(&self) -> Vec<PathReport> {
        match &self.running {
            Some(running) => running.handle.paths().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Stops the speaker, if there is one.
    pub async fn stop(&mut self, how: Stop) {
        if let Some(running) = self.running.take() {
            self.handle.send_replace(None);
            running.handle.stop(how).await;
        }
    }
}

impl Running {
    async fn start(
        config: Arc<Config>,
        listen: Vec<SocketAddr>,
        restarting: bool,
    ) -> Result<Self, StartError> {
        let options = Options::default().listen(listen.clone()).restarting(restarting);
        let (asn, router_id) = (config.asn, config.router_id);
        let handle = io::start_thread(config, options).await?;
        tracing::info!(
            asn,
            %router_id,
            restarting,
            "BGP speaker listens on {}",
            listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
        );
        Ok(Self { changes: handle.changes(), handle, listen })
    }
}
