//! The tokio driver of BFD: sockets and timers around a [`Bfd`]. Nothing here knows the protocol.
//!
//! One task owns the sessions, reads every listener and sends from one socket a session, as RFC 5881 §4 gives each a
//! source port of its own. Before a timer is let expire, everything that waits unread is read: a starved process finds
//! its neighbours' packets in its sockets, and takes nobody for dead.
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

/// Datagrams read in a turn before timers and commands get theirs.
const TURN: usize = 256;
/// Datagrams read before timers expire, a flood or not.
const CATCH_UP: usize = 4096;
/// News that may wait for their reader.
const NEWS: usize = 64;

/// How BFD is driven.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses and ports to hear neighbours on: port 3784 for single-hop sessions, 4784 for multihop ones.
    pub listen: Vec<SocketAddr>,
}

impl Default for Options {
    /// Single hop, on all addresses of both families.
    fn default() -> Self {
        let any = |address| SocketAddr::new(address, PORT_SINGLE_HOP);
        Self { listen: vec![any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into())] }
    }
}

/// Why BFD can't start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for BFD on UDP {address}: {source}; {}", listen_advice(.source))]
pub struct StartError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another BFD daemon, such as FRR's or BIRD's, has the port (`ss -lunp` names it): stop it, or turn BFD off here"
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address: check the node's addresses",
        _ => "check the address, and that the kernel has its family",
    }
}

/// A running BFD. When the last clone is dropped all stops without a word, and neighbours find out by themselves.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Set(BTreeMap<Key, Settings>, oneshot::Sender<Result<(), SettingsError>>),
    Listen(BTreeSet<SocketAddr>, oneshot::Sender<Vec<StartError>>),
    Report(oneshot::Sender<Vec<SessionReport>>),
    Stop(oneshot::Sender<()>),
}

/// Starts BFD without sessions on the current tokio runtime. News come out of the receiver; of a session whose news
/// are not read in time only the newest is kept, so they never pile up.
///
/// # Errors
/// An address can't be listened on; nothing runs then.
pub fn start(options: &Options) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    let listeners = options.listen.iter().copied().map(listen).collect::<Result<Vec<_>, _>>()?;
    let (driver, handle, commands, news) = assemble(listeners);
    tokio::spawn(driver.run(commands));
    Ok((handle, news))
}

/// Like [`start`], on a thread of its own that listens nowhere yet: whatever else this process is busy with, neighbours
/// go on hearing us.
///
/// # Errors
/// No thread, or no runtime for it, can be had.
pub fn start_thread() -> io::Result<(Handle, mpsc::Receiver<Event>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (driver, handle, commands, news) = assemble(Vec::new());
    let run = move || runtime.block_on(driver.run(commands));
    std::thread::Builder::new().name("bfd".into()).spawn(run)?;
    Ok((handle, news))
}

fn listen(address: SocketAddr) -> Result<Listener, StartError> {
    Listener::new(address).map_err(|source| StartError { address, source })
}

fn assemble(listeners: Vec<Listener>) -> (Driver, Handle, mpsc::Receiver<Command>, mpsc::Receiver<Event>) {
    let (commands, received) = mpsc::channel(16);
    let (events, news) = mpsc::channel(NEWS);
    let driver = Driver {
        bfd: Bfd::new(fastrand::Rng::new().u64(..)),
        listeners,
        senders: BTreeMap::new(),
        events,
        untold: BTreeMap::new(),
    };
    (driver, Handle { commands }, received, news)
}

impl Handle {
    /// Makes exactly these sessions; what stays as it was is not touched.
    ///
    /// # Errors
    /// One of them can't be; all stay as they were.
    pub async fn set_sessions(&self, sessions: BTreeMap<Key, Settings>) -> Result<(), SettingsError> {
        self.ask(|reply| Command::Set(sessions, reply)).await.unwrap_or(Ok(()))
    }

    /// Listens on exactly these addresses; those that can't be listened on are told, and why.
    pub async fn listen(&self, addresses: BTreeSet<SocketAddr>) -> Vec<StartError> {
        self.ask(|reply| Command::Listen(addresses, reply)).await.unwrap_or_default()
    }

    /// All sessions, sorted by their addresses.
    pub async fn sessions(&self) -> Vec<SessionReport> {
        self.ask(Command::Report).await.unwrap_or_default()
    }

    /// Ends all sessions, and tells the neighbours that this is no failure (AdminDown); right before a restart too.
    pub async fn stop(self) {
        self.ask(Command::Stop).await;
    }

    /// `None` where the driver has ended already.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Where a session's datagrams leave.
struct Sender {
    local: SocketAddr,
    /// Missing after an error: bound again for the next datagram.
    socket: Option<UdpSocket>,
    /// Something left under this port, so it must stay.
    used: bool,
    failing: bool,
}

struct Driver {
    bfd: Bfd,
    listeners: Vec<Listener>,
    senders: BTreeMap<Key, Sender>,
    events: mpsc::Sender<Event>,
    /// News that found the channel full; the newest of each session.
    untold: BTreeMap<Key, Event>,
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
                    Some(command) => self.command(command),
                    None => return,
                },
                () = readable(&self.listeners) => self.read(),
                () = sleep_until(deadline) => self.expire(),
                Ok(permit) = events.reserve(), if !self.untold.is_empty() => {
                    if let Some((_, event)) = self.untold.pop_first() {
                        permit.send(event);
                    }
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        // A caller that has gone away needs no answer, so a failed send is dropped.
        match command {
            Command::Set(sessions, reply) => drop(reply.send(self.bfd.set_all(now, &sessions))),
            Command::Listen(addresses, reply) => drop(reply.send(self.listen(addresses))),
            Command::Report(reply) => drop(reply.send(self.bfd.report(now))),
            Command::Stop(_) => unreachable!("handled where the loop can end"),
        }
    }

    fn listen(&mut self, mut addresses: BTreeSet<SocketAddr>) -> Vec<StartError> {
        self.listeners.retain(|listener| addresses.remove(&listener.local()));
        let (made, failed): (Vec<_>, Vec<_>) = addresses.into_iter().map(listen).partition(Result::is_ok);
        self.listeners.extend(made.into_iter().flatten());
        failed.into_iter().filter_map(Result::err).collect()
    }

    /// Says AdminDown everywhere, once: nobody is here for more.
    fn stop(&mut self) {
        // An empty set is never refused.
        let _ = self.bfd.set_all(Instant::now(), &BTreeMap::new());
        self.settle();
    }

    /// Reads some of what has come, so much from each listener that a flood on one keeps no other waiting.
    fn read(&mut self) {
        for listener in 0..self.listeners.len() {
            for _ in 0..TURN {
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

    /// Lets timers expire, after reading what waits: asked of the kernel itself, as the runtime may not have looked
    /// yet.
    fn expire(&mut self) {
        for listener in 0..self.listeners.len() {
            for _ in 0..CATCH_UP {
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

    /// Sends what is due, and tells the news.
    fn settle(&mut self) {
        while let Some(datagram) = self.bfd.poll_transmit() {
            self.send(&datagram);
        }
        while let Some(event) = self.bfd.poll_event() {
            self.tell(event);
        }
        if self.senders.len() > self.bfd.session_count() {
            self.senders.retain(|key, _| self.bfd.contains(*key));
        }
    }

    fn send(&mut self, datagram: &Datagram) {
        let Datagram { key, local, .. } = *datagram;
        let fresh = || Sender { local, socket: None, used: false, failing: false };
        let sender = self.senders.entry(key).or_insert_with(fresh);
        if sender.local != local {
            *sender = fresh();
        }
        match sender.send(datagram) {
            Ok(()) => {
                if std::mem::take(&mut sender.failing) {
                    self.bfd.set_send_error(key, None);
                }
            }
            Err((what, error)) => {
                debug!(peer = %key.remote, %local, %error, "BFD: {what} failed");
                sender.failing = true;
                if error.kind() == io::ErrorKind::AddrInUse && !sender.used {
                    self.bfd.redraw_port(key);
                }
                let words = format!("{what} from {local} to {} failed: {error}", datagram.remote);
                self.bfd.set_send_error(key, Some(words));
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let key = event.key();
        match &event {
            Event::Up { .. } => info!(peer = %key.remote, "BFD session up"),
            Event::Down { why, .. } => info!(peer = %key.remote, why, "BFD session down"),
            Event::AdminDown { why, .. } => {
                info!(peer = %key.remote, why, "BFD session administratively down")
            }
        }
        // What waits already is older, and of the same session only the newest counts.
        if self.untold.contains_key(&key) {
            self.untold.insert(key, event);
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.untold.insert(key, event);
        }
    }
}

impl Sender {
    /// Sends, from a new socket where there is none. What the kernel has no room for is lost, as on any wire: the next
    /// packet tells more.
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

/// Waits until a listener has something.
async fn readable(listeners: &[Listener]) {
    poll_fn(|cx| {
        // Each is asked, so that each can wake us.
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
