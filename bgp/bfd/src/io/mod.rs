//! The tokio driver: sockets and timers around a [`Bfd`].
//!
//! One task owns the sessions, reads every listener and sends from one socket for each session, as RFC 5881 §4 requires
//! a source port for each. It reads everything that waits in the sockets before it handles a timer: if the process was
//! not scheduled for a while, its neighbors' packets are there, and no session fails.
#![allow(clippy::disallowed_methods, reason = "the driver is where clocks are read and tasks are spawned")]

mod socket;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::Poll;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, trace};

use self::socket::Listener;
use crate::{Bfd, Datagram, Event, Key, PORT_SINGLE_HOP, SessionReport, Settings, SettingsError};

/// The number of datagrams read from a listener before timers and commands are handled.
const READ_BATCH: usize = 256;
/// The number of datagrams read from a listener before a timer is handled, even during a flood.
const READ_BEFORE_TIMEOUT: usize = 4096;
/// The number of events that the channel holds.
const EVENTS: usize = 64;

/// The options of the driver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The addresses and ports to listen on: port 3784 for single-hop sessions, 4784 for multihop ones.
    pub listen: Vec<SocketAddr>,
}

impl Default for Options {
    /// Returns options for single-hop sessions on all addresses of both families.
    fn default() -> Self {
        let any = |address| SocketAddr::new(address, PORT_SINGLE_HOP);
        Self::new([any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into())])
    }
}

impl Options {
    /// Returns options with these addresses and ports to listen on, which may be none.
    pub fn new(listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { listen: listen.into_iter().collect() }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for BFD on UDP {address}: {source}; {}", listen_advice(.source))]
#[non_exhaustive]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The error of the kernel.
    pub source: io::Error,
}

/// An error that keeps BFD from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The thread, or the runtime for it, cannot be created.
    #[error("cannot start a thread for BFD: {0}; check the limit of threads and open files")]
    Thread(#[source] io::Error),
}

/// The error of a [`Handle`] whose driver is gone, because it was stopped or its task panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BFD has stopped: start it again")]
pub struct Stopped;

/// An error of [`Handle::set_sessions`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetSessionsError {
    /// The sessions are not possible.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The driver is gone.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another BFD daemon, such as FRR's or BIRD's, uses the port (`ss -lunp` shows it): stop it, or disable BFD here"
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address: check the node's addresses",
        _ => "check the address, and that the kernel supports its family",
    }
}

/// A running driver. When the last clone is dropped it stops without sending AdminDown, and neighbors detect a failure.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The events of a running driver. Of a session whose events are not read in time, only the newest is kept.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// Waits for the next event; `None`: the driver is gone. Cancelling the wait loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

#[derive(Debug)]
enum Command {
    Set(BTreeMap<Key, Settings>, oneshot::Sender<Result<(), SettingsError>>),
    Listen(BTreeSet<SocketAddr>, oneshot::Sender<Vec<ListenError>>),
    Report(oneshot::Sender<Vec<SessionReport>>),
    Stop(oneshot::Sender<()>),
}

/// Starts BFD without sessions as a task of the current tokio runtime.
///
/// # Errors
/// An address cannot be listened on; nothing runs then.
pub fn start(options: &Options) -> Result<(Handle, Events), StartError> {
    let (driver, handle, commands, events) = driver(options)?;
    tokio::spawn(driver.run(commands));
    Ok((handle, events))
}

/// Starts BFD without sessions on a thread of its own: packets are sent in time however busy the other threads are.
///
/// # Errors
/// The thread cannot be created, or an address cannot be listened on; nothing runs then.
pub fn start_thread(options: &Options) -> Result<(Handle, Events), StartError> {
    let options = options.clone();
    let (result, started) = std::sync::mpsc::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // A failed send is ignored: the caller waits for the result, unless it panicked.
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                match driver(&options) {
                    Ok((driver, handle, commands, events)) => {
                        let _ = result.send(Ok((handle, events)));
                        driver.run(commands).await;
                    }
                    Err(error) => drop(result.send(Err(error.into()))),
                }
            }),
            Err(error) => drop(result.send(Err(StartError::Thread(error)))),
        }
    };
    std::thread::Builder::new().name("bfd".into()).spawn(run).map_err(StartError::Thread)?;
    started.recv().unwrap_or_else(|_| Err(StartError::Thread(io::Error::other("the thread has ended"))))
}

fn listen(address: SocketAddr) -> Result<Listener, ListenError> {
    Listener::new(address).map_err(|source| ListenError { address, source })
}

fn driver(options: &Options) -> Result<(Driver, Handle, mpsc::Receiver<Command>, Events), ListenError> {
    let listeners = options.listen.iter().copied().map(listen).collect::<Result<Vec<_>, _>>()?;
    let (commands, command_receiver) = mpsc::channel(16);
    let (events, event_receiver) = mpsc::channel(EVENTS);
    let driver = Driver {
        bfd: Bfd::new(fastrand::Rng::new().u64(..)),
        listeners,
        senders: BTreeMap::new(),
        events,
        pending_events: BTreeMap::new(),
    };
    Ok((driver, Handle { commands }, command_receiver, Events(event_receiver)))
}

impl Handle {
    /// Replaces all sessions; those that do not differ are not affected.
    ///
    /// # Errors
    /// One of them is not possible, and nothing was changed; or the driver is gone.
    pub async fn set_sessions(&self, sessions: BTreeMap<Key, Settings>) -> Result<(), SetSessionsError> {
        Ok(self.request(|reply| Command::Set(sessions, reply)).await??)
    }

    /// Replaces the addresses that are listened on, and returns the errors of those that cannot be.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn listen(&self, addresses: BTreeSet<SocketAddr>) -> Result<Vec<ListenError>, Stopped> {
        self.request(|reply| Command::Listen(addresses, reply)).await
    }

    /// Returns the state of all sessions, sorted by their addresses.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn sessions(&self) -> Result<Vec<SessionReport>, Stopped> {
        self.request(Command::Report).await
    }

    /// Ends all sessions with AdminDown, which neighbors do not take for a failure; also right before a restart.
    ///
    /// # Errors
    /// The driver is gone already, and may not have sent AdminDown.
    pub async fn stop(self) -> Result<(), Stopped> {
        self.request(Command::Stop).await
    }

    async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// The socket from which a session's datagrams are sent.
struct Sender {
    local: SocketAddr,
    /// `None` after an error: bound again for the next datagram.
    socket: Option<UdpSocket>,
    /// A datagram was sent from this port, so it must not change.
    used: bool,
    failing: bool,
}

struct Driver {
    bfd: Bfd,
    listeners: Vec<Listener>,
    senders: BTreeMap<Key, Sender>,
    events: mpsc::Sender<Event>,
    /// Events for which the channel had no room; the newest of each session.
    pending_events: BTreeMap<Key, Event>,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let events = self.events.clone();
        loop {
            self.settle();
            let deadline = self.bfd.next_deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop(done)) => {
                        self.stop();
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                () = readable(&self.listeners) => self.read(),
                () = sleep_until(deadline) => self.handle_timeout(),
                Ok(permit) = events.reserve(), if !self.pending_events.is_empty() => {
                    if let Some((_, event)) = self.pending_events.pop_first() {
                        permit.send(event);
                    }
                }
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // A failed send is ignored: the caller no longer waits for the answer.
        match command {
            Command::Set(sessions, reply) => drop(reply.send(self.bfd.set_all(now, &sessions))),
            Command::Listen(addresses, reply) => drop(reply.send(self.listen(addresses))),
            Command::Report(reply) => drop(reply.send(self.bfd.report(now))),
            Command::Stop(_) => unreachable!("handled where the loop can end"),
        }
    }

    fn listen(&mut self, mut addresses: BTreeSet<SocketAddr>) -> Vec<ListenError> {
        self.listeners.retain(|listener| addresses.remove(&listener.local()));
        let (bound, failed): (Vec<_>, Vec<_>) = addresses.into_iter().map(listen).partition(Result::is_ok);
        self.listeners.extend(bound.into_iter().flatten());
        failed.into_iter().filter_map(Result::err).collect()
    }

    /// Sends AdminDown for every session, once: nobody remains to repeat it.
    fn stop(&mut self) {
        // An empty set is always valid.
        let _ = self.bfd.set_all(Instant::now(), &BTreeMap::new());
        self.settle();
    }

    /// Reads a limited number of datagrams from each listener, so that a flood on one does not block the others.
    fn read(&mut self) {
        for listener in 0..self.listeners.len() {
            for _ in 0..READ_BATCH {
                match self.listeners[listener].read_ready() {
                    Ok(received) => self.received(&received),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        debug!(%error, "receiving for BFD failed");
                        break;
                    }
                }
            }
        }
    }

    /// Handles the timers after reading what waits in the sockets, from the kernel directly: the runtime may not have
    /// polled it yet.
    fn handle_timeout(&mut self) {
        for listener in 0..self.listeners.len() {
            for _ in 0..READ_BEFORE_TIMEOUT {
                let Ok(received) = self.listeners[listener].read() else { break };
                self.received(&received);
            }
        }
        self.bfd.handle_timeout(Instant::now());
    }

    fn received(&mut self, received: &socket::Received) {
        let meta = &received.meta;
        if let Err(discard) = self.bfd.received(Instant::now(), meta, received.bytes()) {
            trace!(peer = %meta.remote, %discard, "BFD packet discarded");
        }
    }

    /// Sends the datagrams and events that are due.
    fn settle(&mut self) {
        while let Some(datagram) = self.bfd.poll_transmit() {
            self.send(&datagram);
        }
        while let Some(event) = self.bfd.poll_event() {
            self.send_event(event);
        }
        if self.senders.len() > self.bfd.session_count() {
            self.senders.retain(|key, _| self.bfd.contains(*key));
        }
    }

    fn send(&mut self, datagram: &Datagram) {
        let Datagram { key, local, .. } = *datagram;
        let unbound = || Sender { local, socket: None, used: false, failing: false };
        let sender = self.senders.entry(key).or_insert_with(unbound);
        if sender.local != local {
            *sender = unbound();
        }
        match sender.send(datagram) {
            Ok(()) => {
                if std::mem::take(&mut sender.failing) {
                    self.bfd.set_send_error(key, None);
                }
            }
            Err((step, error)) => {
                debug!(peer = %key.remote, %local, %error, "BFD: {step} failed");
                sender.failing = true;
                if error.kind() == io::ErrorKind::AddrInUse && !sender.used {
                    self.bfd.redraw_port(key);
                }
                let message = format!("{step} from {local} to {} failed: {error}", datagram.remote);
                self.bfd.set_send_error(key, Some(message));
            }
        }
    }

    fn send_event(&mut self, event: Event) {
        let key = event.key();
        match &event {
            Event::Up { .. } => info!(peer = %key.remote, "BFD session up"),
            Event::Down { reason, .. } => info!(peer = %key.remote, %reason, "BFD session down"),
            Event::AdminDown { reason, .. } => {
                info!(peer = %key.remote, %reason, "BFD session administratively down")
            }
        }
        // A pending event of the same session is older, and superseded.
        if self.pending_events.contains_key(&key) {
            self.pending_events.insert(key, event);
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.pending_events.insert(key, event);
        }
    }
}

impl Sender {
    /// Sends a datagram, from a new socket if there is none. A datagram for which the kernel has no room is lost, as on
    /// any link: the next one carries newer state.
    fn send(&mut self, datagram: &Datagram) -> Result<(), (&'static str, io::Error)> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => socket::sender(datagram.local, datagram.ttl)
                .map_err(|error| ("binding a socket to send", error))?,
        };
        let sent = socket.send_to(&datagram.bytes, datagram.remote);
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(("sending", error)),
            _ => self.socket = Some(socket),
        }
        self.used = true;
        Ok(())
    }
}

/// Waits until a listener is readable.
async fn readable(listeners: &[Listener]) {
    poll_fn(|cx| {
        // Every listener is polled, so that each of them wakes the task.
        let ready = listeners.iter().filter(|listener| listener.poll_ready(cx).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
