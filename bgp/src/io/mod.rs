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
mod pages;
mod protect;
mod socket;
mod subscription;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use self::bfd::BfdReporter;
pub use self::pages::PathPages;
pub use self::subscription::Subscription;
use crate::config::{ConfigChange, InForce};
use crate::report::{BestChanges, BestCounts, BestRoute, PathReport, SessionReport};
use crate::rib::{Scan, ScanPosition};
use crate::setters::setters;
use crate::{Config, ConfigError, Prefix};

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
    /// The thread cannot be created.
    #[error("cannot start a thread for BGP: {0}; the limit on threads may be reached (`ulimit -u`)")]
    Thread(#[source] io::Error),
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

/// The number of paths in a page of those that are read all at once.
const PAGE: usize = 1024;

/// A running speaker. When the last clone is dropped, and no [`Subscription`] is left, the speaker stops as with [`Stop::Silent`].
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    listening: Vec<SocketAddr>,
    /// The configuration in force, or about to be.
    config: Arc<Mutex<Arc<Config>>>,
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
    Change(Box<ConfigChange>, oneshot::Sender<()>),
    /// The next sessions after that of a neighbor; none: there are no more.
    Sessions(Option<IpAddr>, oneshot::Sender<Vec<SessionReport>>),
    Bfd(oneshot::Sender<BfdReporter>),
    /// The paths to these prefixes until there are so many, and the number of prefixes whose paths these are.
    Paths(Vec<Prefix>, usize, oneshot::Sender<(Vec<PathReport>, usize)>),
    Scan(Scan, ScanPosition, oneshot::Sender<(Vec<Prefix>, Option<ScanPosition>)>),
    BestCounts(oneshot::Sender<(BestCounts, bool)>),
    BestChanges(subscription::Reader, usize, oneshot::Sender<BestChanges>),
    Stop(Stop, String, oneshot::Sender<()>),
}

/// Starts a speaker on the current tokio runtime.
///
/// # Errors
/// The configuration is invalid, or an address cannot be listened on; nothing runs then.
pub async fn start(config: impl Into<Arc<Config>>, options: Options) -> Result<Handle, StartError> {
    let (handle, driver, commands) = prepare(config.into(), &options)?;
    tokio::spawn(driver.run(commands));
    Ok(handle)
}

/// Starts a speaker on a thread of its own: it is served in time however busy the other threads are, and they are when it
/// is. The future that is returned needs no runtime, and does not block.
///
/// # Errors
/// As of [`start`]; or the thread cannot be created.
pub async fn start_thread(config: impl Into<Arc<Config>>, options: Options) -> Result<Handle, StartError> {
    let config = config.into();
    let (result, started) = oneshot::channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            // A failed send is ignored here and below: the caller has gone away.
            Err(error) => return drop(result.send(Err(StartError::Thread(error)))),
        };
        runtime.block_on(async {
            match prepare(config, &options) {
                // Without the handle the driver ends at once.
                Ok((handle, driver, commands)) => {
                    let _ = result.send(Ok(handle));
                    driver.run(commands).await;
                }
                Err(error) => drop(result.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new().name("bgp".into()).spawn(run).map_err(StartError::Thread)?;
    started.await.unwrap_or_else(|_| Err(StartError::Thread(io::Error::other("the thread has ended"))))
}

/// Makes a driver that listens, and its handle.
fn prepare(
    config: Arc<Config>,
    options: &Options,
) -> Result<(Handle, driver::Driver, mpsc::Receiver<Command>), StartError> {
    let listeners = socket::Listeners::bind(&options.listen)?;
    let listening = listeners.addresses();
    let (commands, received) = mpsc::channel(16);
    let (changed, changes) = watch::channel(0);
    let mut driver = driver::Driver::new(Config::clone(&config), options.restarting, changed, listeners)?;
    driver.listen()?;
    let config = Arc::new(Mutex::new(config));
    Ok((Handle { commands, changes, listening, config }, driver, received))
}

impl Handle {
    /// Replaces the whole configuration; the speaker applies only the difference. That is determined here, and applied in
    /// steps between which the speaker does other things: returns when all of it is applied. A call that is dropped before
    /// may have been applied, is about to be, or was not begun: [`Handle::config`] returns which.
    ///
    /// # Errors
    /// The configuration is invalid, or the speaker has ended.
    pub async fn set_config(&self, config: impl Into<Arc<Config>>) -> Result<(), SetConfigError> {
        let config = config.into();
        config.validate()?;
        let place = self.commands.reserve().await.map_err(|_| Stopped)?;
        let (reply, mut done) = oneshot::channel();
        {
            // Changes are sent in the order in which they follow from one another.
            let mut in_force = self.lock_config();
            let change = ConfigChange::between(&InForce::from(&**in_force), &config);
            *in_force = config;
            place.send(Command::Change(Box::new(change), reply));
        }
        answered(&self.commands, &mut done).await?;
        Ok(())
    }

    /// Returns the configuration in force, or about to be.
    pub fn config(&self) -> Arc<Config> {
        self.lock_config().clone()
    }

    fn lock_config(&self) -> MutexGuard<'_, Arc<Config>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all sessions, sorted by address. Of many sessions, not all are read at the same moment.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn sessions(&self) -> Result<Vec<SessionReport>, Stopped> {
        let mut sessions: Vec<SessionReport> = Vec::new();
        loop {
            let last = sessions.last().map(|session| session.address);
            let next = self.request(|reply| Command::Sessions(last, reply)).await?;
            if next.is_empty() {
                break;
            }
            sessions.extend(next);
        }
        self.request(Command::Bfd).await?.complete(&mut sessions).await;
        Ok(sessions)
    }

    /// Returns all paths, sorted by prefix, each with its reason: see [`Handle::path_pages`] for many.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn paths(&self) -> Result<Vec<PathReport>, Stopped> {
        let mut pages = self.path_pages(None);
        let mut paths = Vec::new();
        while let Some(page) = pages.next(PAGE).await? {
            paths.extend(page);
        }
        Ok(paths)
    }

    /// Returns the paths within a prefix, or all, in pages: a reader of a million paths needs the memory of one page, and
    /// does not hold up the speaker.
    ///
    /// ```no_run
    /// # async fn print(handle: &heliograph_bgp::io::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pages = handle.path_pages("10.0.0.0/8".parse::<heliograph_bgp::Prefix>()?);
    /// while let Some(paths) = pages.next(1000).await? {
    ///     println!("{paths:#?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn path_pages(&self, within: impl Into<Option<Prefix>>) -> PathPages {
        PathPages::new(self.clone(), within.into())
    }

    /// Returns the paths to one prefix, each with its reason, the best path first.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn paths_to(&self, prefix: Prefix) -> Result<Vec<PathReport>, Stopped> {
        Ok(self.request(|reply| Command::Paths(vec![prefix], usize::MAX, reply)).await?.0)
    }

    /// Returns the best routes learned from peers: see [`Handle::subscribe`] for many.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn best_routes(&self) -> Result<BestRoutes, Stopped> {
        let mut subscription = self.subscribe();
        let mut routes = BTreeMap::new();
        loop {
            let BestChanges { changes, more, synced } = subscription.best_changes(usize::MAX).await?;
            for change in changes {
                match change.route {
                    Some(route) => drop(routes.insert(change.prefix, route)),
                    None => drop(routes.remove(&change.prefix)),
                }
            }
            if !more {
                return Ok(BestRoutes { routes: routes.into_values().collect(), synced });
            }
        }
    }

    /// Returns the numbers of best routes learned from peers, and whether they are complete: every peer has sent its
    /// End-of-RIB, or the time to wait for it is over.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn best_counts(&self) -> Result<(BestCounts, bool), Stopped> {
        self.request(Command::BestCounts).await
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
        let (reply, mut answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        answered(&self.commands, &mut answer).await
    }
}

/// Waits for the answer to a command. One that was sent while the speaker ended is received by nobody, and not dropped
/// either: so the end of the speaker is waited for, too.
///
/// # Errors
/// The speaker has ended.
async fn answered<T>(
    commands: &mpsc::Sender<Command>,
    answer: &mut oneshot::Receiver<T>,
) -> Result<T, Stopped> {
    tokio::select! {
        biased;
        answer = &mut *answer => answer.map_err(|_| Stopped),
        () = commands.closed() => answer.try_recv().map_err(|_| Stopped),
    }
}
