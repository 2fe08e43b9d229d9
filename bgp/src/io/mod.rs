//! The tokio driver: sockets and timers around a [`Speaker`](crate::Speaker), which contains the protocol.
//!
//! One task owns the speaker and every connection, and reads and writes itself; futures only report which socket is
//! ready. So the speaker receives bytes in the order in which they came, no queue grows between a socket and the speaker,
//! and everything unread is read before a timer expires.
#![allow(clippy::disallowed_methods, reason = "the driver reads clocks and spawns tasks")]

#[cfg(feature = "bfd")]
mod bfd;
#[cfg(not(feature = "bfd"))]
#[path = "no_bfd.rs"]
mod bfd;
mod driver;
mod protect;
mod socket;
mod subscription;

use std::io;
use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot, watch};

pub use self::subscription::Subscription;
use crate::report::{BestChanges, BestRoute, PathReport, SessionReport};
use crate::setters::setters;
use crate::{Config, ConfigError};

/// Options of the driver.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Addresses to accept connections on; with none the speaker only connects.
    pub listen: Vec<SocketAddr>,
    /// This is a restart, and the node still forwards by the routes of the run before: peers get the R bit (RFC 4724
    /// §3) and keep our routes.
    pub restarting: bool,
}

setters!(Options {
    restarting: bool,
} each {
    listen: SocketAddr,
});

/// The reason why a speaker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen for BGP on {address}: {source}; {}", listen_advice(.source))]
    #[non_exhaustive]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the kernel.
        source: io::Error,
    },
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another BGP speaker has the port (`ss -ltnp` names it): stop it, or choose another listen port"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE: grant it, or choose a higher listen port"
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address: check the node's addresses",
        _ => "check the address and the port",
    }
}

/// The way in which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// Close the connections without a NOTIFICATION: peers that support graceful restart keep our routes (RFC 4724
    /// §4.2).
    Silent,
    /// Send Cease, Administrative Shutdown (RFC 4486 §4): peers drop our routes.
    Cease,
}

/// The best routes, and whether they are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BestRoutes {
    /// The routes, sorted by prefix.
    pub routes: Vec<BestRoute>,
    /// Every peer has sent its End-of-RIB, or the time to wait for it is over: routes that are not listed may be deleted.
    pub synced: bool,
}

impl BestRoutes {
    /// Returns these routes.
    pub fn new(routes: Vec<BestRoute>, synced: bool) -> Self {
        Self { routes, synced }
    }
}

/// A running speaker. When the last clone is dropped, and no [`Subscription`] is left, the speaker stops as with [`Stop::Silent`].
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    listening: Vec<SocketAddr>,
}

/// The error of a [`Handle`] whose speaker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has stopped: start another one")]
#[non_exhaustive]
pub struct Stopped;

/// The reason why [`Handle::set_config`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetConfigError {
    /// The configuration is invalid; the one before stays in force.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The speaker has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

#[derive(Debug)]
enum Command {
    SetConfig(Config, oneshot::Sender<Result<(), ConfigError>>),
    Sessions(oneshot::Sender<Vec<SessionReport>>),
    Paths(oneshot::Sender<Vec<PathReport>>),
    BestRoutes(oneshot::Sender<BestRoutes>),
    BestChanges(subscription::Reader, usize, oneshot::Sender<BestChanges>),
    Stop(Stop, String, oneshot::Sender<()>),
}

/// Starts a speaker on the current tokio runtime.
///
/// # Errors
/// The configuration is invalid, or an address cannot be listened on; nothing runs then.
pub async fn start(config: Config, options: Options) -> Result<Handle, StartError> {
    let listeners = socket::Listeners::bind(&options.listen)?;
    let listening = listeners.addresses();
    let (commands, received) = mpsc::channel(16);
    let (changed, changes) = watch::channel(0);
    let mut driver = driver::Driver::new(config, options.restarting, changed, listeners)?;
    driver.listen()?;
    tokio::spawn(driver.run(received));
    Ok(Handle { commands, changes, listening })
}

impl Handle {
    /// Replaces the whole configuration; the speaker applies only the difference.
    ///
    /// # Errors
    /// The configuration is invalid, or the speaker has ended.
    pub async fn set_config(&self, config: Config) -> Result<(), SetConfigError> {
        Ok(self.request(|reply| Command::SetConfig(config, reply)).await??)
    }

    /// Returns all sessions, sorted by address.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn sessions(&self) -> Result<Vec<SessionReport>, Stopped> {
        self.request(Command::Sessions).await
    }

    /// Returns all paths, sorted by prefix, each with its reason.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn paths(&self) -> Result<Vec<PathReport>, Stopped> {
        self.request(Command::Paths).await
    }

    /// Returns the best routes learned from peers.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn best_routes(&self) -> Result<BestRoutes, Stopped> {
        self.request(Command::BestRoutes).await
    }

    /// Subscribes to the best routes learned from peers: the subscriber reads what has changed since it last did, a bounded
    /// number at a time, and begins with all. Each subscription costs two bits for each prefix until it is dropped.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self)
    }

    /// Returns a counter that changes when a session is established or ends, or best routes change. Several changes may
    /// count as one. Attempts to connect that fail are no changes: [`Handle::sessions`] has their errors. The counter is
    /// closed when the speaker ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Returns the addresses listened on, with the ports that the kernel chose in place of 0.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Ends the speaker and its connections, and returns when they are closed. A speaker that has ended is no error.
    pub async fn stop(self, how: Stop) {
        let _ = self.request(|reply| Command::Stop(how, String::new(), reply)).await;
    }

    /// Ends the speaker as with [`Stop::Cease`], with a message of at most 255 octets for the operators of the peers
    /// (RFC 9003 §2). A speaker that has ended is no error.
    pub async fn shut_down(self, message: String) {
        let _ = self.request(|reply| Command::Stop(Stop::Cease, message, reply)).await;
    }

    async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}
