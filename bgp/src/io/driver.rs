//! The task that owns the speaker.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, Aborted, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::bfd::BfdClient;
use super::subscription::{MAX_CHANGES, Reader};
use super::{Command, StartError, Stop, protect, socket};
use crate::config::ConfigChange;
use crate::hash::Map;
use crate::report::{BestChanges, PathReport, SessionReport};
use crate::speaker::{Action, ConnId, Event, SocketOptions, Speaker, SubscriberId};
use crate::{Config, ConfigError, Prefix};

/// Octets read from one socket before others get their turn.
const READ_CHUNK: usize = 16 * 1024;
/// Octets taken from the speaker for one write.
const WRITE_CHUNK: usize = 64 * 1024;
/// The number of times that sockets are read before anything is written. Many small messages of one peer, or of many
/// peers at once, then result in few large writes.
const GATHERING: usize = 4;
/// The time that one kind of work takes at most before others get their turn, unless one step of it takes longer.
const SLICE: Duration = Duration::from_millis(2);
/// Longer than it takes to read what waits before timers expire.
const EXPIRING: Duration = Duration::from_millis(200);
/// The time for closing connections to send their last bytes when the speaker stops.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// The result of a future.
enum Ready {
    Connected(ConnId, io::Result<TcpStream>),
    Read(ConnId),
    Write(ConnId),
}

type Wait = Pin<Box<dyn Future<Output = Ready> + Send>>;

/// A connection of the speaker.
enum Connection {
    Connecting(AbortHandle),
    Open(Open),
}

struct Open {
    stream: Arc<TcpStream>,
    /// Bytes taken from the speaker that the socket has not taken yet.
    unsent: BytesMut,
    read_wait: AbortHandle,
    /// Set while we wait for the socket to take more.
    write_wait: Option<AbortHandle>,
}

pub(super) struct Driver {
    speaker: Speaker,
    connections: Map<ConnId, Connection>,
    waits: FuturesUnordered<Abortable<Wait>>,
    changed: watch::Sender<u64>,
    /// Connections that may have more to send and whose sockets take more, in turn.
    writers: VecDeque<ConnId>,
    buffer: Vec<u8>,
    listeners: socket::Listeners,
    /// Bytes to be written.
    chunk: BytesMut,
    bfd: BfdClient,
    subscribers: Vec<(Reader, SubscriberId)>,
    /// Changes of the configuration that wait for the one before.
    changes: VecDeque<(Box<ConfigChange>, oneshot::Sender<()>)>,
    /// The caller that waits for the change that is being applied.
    changing: Option<oneshot::Sender<()>>,
    /// There is more to write at once.
    unwritten: bool,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        restarting: bool,
        changed: watch::Sender<u64>,
        listeners: socket::Listeners,
    ) -> Result<Self, ConfigError> {
        let speaker = Speaker::new(config, restarting, Instant::now(), fastrand::Rng::new().u64(..))?;
        Ok(Self {
            speaker,
            connections: Map::default(),
            waits: FuturesUnordered::new(),
            changed,
            writers: VecDeque::new(),
            buffer: vec![0; READ_CHUNK],
            listeners,
            chunk: BytesMut::new(),
            bfd: BfdClient::default(),
            subscribers: Vec::new(),
            changes: VecDeque::new(),
            changing: None,
            unwritten: false,
        })
    }

    /// Starts to accept connections. The listening sockets have their keys before.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub(super) fn listen(&mut self) -> Result<(), StartError> {
        self.settle();
        self.listeners.listen()
    }

    /// Drives the speaker until a command stops it or its last handle is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut accepted = self.listeners.accept_all();
        loop {
            self.forget_subscribers();
            self.work();
            self.settle();
            self.bfd.apply();
            let busy = self.is_busy();
            let deadline = self.speaker.next_timer();
            let bfd_retry = self.bfd.deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop(how, message, done)) => {
                        drop(accepted);
                        self.stop(how, &message).await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => {
                        self.command(command);
                        // The runtime looks at the sockets however many commands there are.
                        tokio::task::yield_now().await;
                    }
                    // Without a handle there is no command: stop as for a restart.
                    None => return self.stop(Stop::Silent, "").await,
                },
                Some(stream) = accepted.recv() => self.accept(stream),
                // What was received is sent on before more is received, as a log of unsent messages would grow.
                Some(ready) = self.waits.next(), if !self.unwritten && !self.waits.is_empty() => {
                    self.ready(ready);
                    self.gather().await;
                }
                () = sleep_until(deadline) => self.expire().await,
                event = self.bfd.next() => {
                    if let Some(event) = event {
                        // A connection that the peer has closed may be its restart, which silences its BFD too: read first.
                        let conns = BfdClient::neighbor(&event).map(|address| self.speaker.connections(address));
                        self.catch_up(conns.unwrap_or_default()).await;
                        BfdClient::deliver(&event, &mut self.speaker);
                        self.changed.send_modify(|count| *count += 1);
                    }
                }
                () = sleep_until(bfd_retry) => {}
                () = tokio::task::yield_now(), if busy => {}
            }
        }
    }

    /// Takes in what else has become ready by now. Never waits for anything to come.
    async fn gather(&mut self) {
        let until = Instant::now() + SLICE;
        for _ in 0..GATHERING {
            // Lets the runtime look at the sockets.
            tokio::task::yield_now().await;
            let mut left = self.connections.len();
            let mut any = false;
            while left > 0
                && Instant::now() < until
                && let Some(Some(ready)) = self.waits.next().now_or_never()
            {
                self.ready(ready);
                left -= 1;
                any = true;
            }
            if !any || Instant::now() >= until {
                return;
            }
        }
    }

    /// Returns whether there is something to do at once, whatever happens. A change whose caller still waits counts, too:
    /// its last step may have ended with the time.
    fn is_busy(&self) -> bool {
        let changing = self.changing.is_some() || !self.changes.is_empty();
        self.unwritten || changing || self.speaker.has_work()
    }

    /// Does some of what would take too long in one go.
    fn work(&mut self) {
        let until = Instant::now() + SLICE;
        loop {
            if !self.speaker.has_work() {
                if let Some(reply) = self.changing.take() {
                    let _ = reply.send(());
                }
                let Some((change, reply)) = self.changes.pop_front() else { return };
                self.speaker.begin_change(Instant::now(), *change);
                self.changing = Some(reply);
            }
            self.speaker.work(Instant::now());
            if Instant::now() >= until {
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        // A caller that has gone away needs no answer, so a failed send is dropped.
        match command {
            Command::Change(change, reply) => self.changes.push_back((change, reply)),
            Command::Sessions(after, reply) => drop(reply.send(self.sessions(after))),
            Command::Bfd(reply) => drop(reply.send(self.bfd.reporter())),
            Command::Paths(prefixes, limit, reply) => drop(reply.send(self.paths(&prefixes, limit))),
            Command::Scan(scan, from, reply) => drop(reply.send(self.speaker.scan(&scan, from))),
            Command::BestCounts(reply) => {
                let _ = reply.send((self.speaker.best_counts(), self.speaker.synced()));
            }
            Command::BestChanges(reader, limit, reply) => drop(reply.send(self.best_changes(reader, limit))),
            Command::Stop(..) => unreachable!("handled where the loop can end"),
        }
    }

    /// Returns the sessions after that of a neighbor, as many as there is time for, and at least one if there are any.
    fn sessions(&self, after: Option<IpAddr>) -> Vec<SessionReport> {
        let (now, mut sessions) = (Instant::now(), Vec::new());
        let mut last = after;
        while let Some(session) = self.speaker.session_after(now, last) {
            last = Some(session.address);
            sessions.push(session);
            if now.elapsed() >= SLICE {
                break;
            }
        }
        sessions
    }

    /// Returns the paths to these prefixes until there are `limit` or time is up, and how many prefixes these are.
    fn paths(&self, prefixes: &[Prefix], limit: usize) -> (Vec<PathReport>, usize) {
        let (start, mut paths) = (Instant::now(), Vec::new());
        for (count, prefix) in (1..).zip(prefixes) {
            paths.extend(self.speaker.paths_to(prefix));
            if paths.len() >= limit || start.elapsed() >= SLICE {
                return (paths, count);
            }
        }
        (paths, prefixes.len())
    }

    /// Returns changes for a subscription, which subscribes with its first call.
    fn best_changes(&mut self, reader: Reader, limit: usize) -> BestChanges {
        let present = self.subscribers.iter().find(|(other, _)| *other == reader).map(|(_, id)| *id);
        let id = present.unwrap_or_else(|| {
            let id = self.speaker.subscribe();
            self.subscribers.push((reader, id));
            id
        });
        self.speaker.best_changes(id, limit.min(MAX_CHANGES))
    }

    /// Removes the subscribers whose subscriptions were dropped.
    fn forget_subscribers(&mut self) {
        let speaker = &mut self.speaker;
        self.subscribers.retain(|(reader, id)| {
            if reader.is_gone() {
                speaker.unsubscribe(*id);
            }
            !reader.is_gone()
        });
    }

    /// Lets timers expire, after reading what waits: a peer whose KEEPALIVE lies in our socket is not silent.
    async fn expire(&mut self) {
        // Those whose timers will be due when all is read, too.
        let soon = Instant::now() + EXPIRING;
        let conns = if self.speaker.sync_due(soon) { self.all() } else { self.speaker.due(soon) };
        self.catch_up(conns).await;
        self.speaker.handle_timeout(Instant::now());
    }

    /// Reads what waits on these connections.
    async fn catch_up(&mut self, conns: Vec<ConnId>) {
        // The runtime polls the sockets once, so that try_read returns what has arrived by now.
        tokio::task::yield_now().await;
        for conn in conns {
            self.read(conn);
        }
    }

    /// All connections, the oldest first.
    fn all(&self) -> Vec<ConnId> {
        let mut all: Vec<ConnId> = self.connections.keys().copied().collect();
        all.sort_unstable();
        all
    }

    fn accept(&mut self, stream: TcpStream) {
        let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else { return };
        if self.listeners.lacks_protection(remote.ip()) {
            debug!(%remote, "connection refused: it cannot be authenticated");
            return;
        }
        match self.speaker.accept(Instant::now(), local, remote) {
            Some(conn) => {
                let options = self.speaker.socket_options(conn).unwrap_or_default();
                if let Err(error) = protect::connection(&stream, remote.ip().to_canonical(), &options, false)
                {
                    return self.speaker.closed(Instant::now(), conn, error.to_string());
                }
                self.open(conn, stream);
            }
            None => debug!(%remote, "connection refused: no such neighbor, or none wanted from it now"),
        }
    }

    fn open(&mut self, conn: ConnId, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY not set");
        }
        let stream = Arc::new(stream);
        let read_wait = self.wait_readable(conn, &stream);
        let open = Open { stream, unsent: BytesMut::new(), read_wait, write_wait: None };
        self.connections.insert(conn, Connection::Open(open));
    }

    fn ready(&mut self, ready: Result<Ready, Aborted>) {
        match ready {
            Ok(Ready::Connected(conn, result)) => self.connected(conn, result),
            Ok(Ready::Read(conn)) => {
                self.read(conn);
                self.read_more(conn);
            }
            Ok(Ready::Write(conn)) => {
                if let Some(Connection::Open(open)) = self.connections.get_mut(&conn) {
                    open.write_wait = None;
                    self.writers.push_back(conn);
                }
            }
            Err(Aborted) => {}
        }
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<TcpStream>) {
        if self.connections.remove(&conn).is_none() {
            return;
        }
        let now = Instant::now();
        match result.and_then(|stream| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => {
                self.open(conn, stream);
                self.speaker.connected(now, conn, local);
            }
            Err(error) => self.speaker.connect_failed(now, conn, error.to_string()),
        }
    }

    /// Reads what has arrived, at most one chunk.
    fn read(&mut self, conn: ConnId) {
        let Some(Connection::Open(open)) = self.connections.get(&conn) else { return };
        match open.stream.try_read(&mut self.buffer) {
            Ok(0) => self.lost(conn, "the peer closed the connection".into()),
            Ok(n) => self.speaker.received(Instant::now(), conn, &self.buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.lost(conn, format!("reading failed: {error}")),
        }
    }

    fn lost(&mut self, conn: ConnId, reason: String) {
        self.close(conn);
        self.speaker.closed(Instant::now(), conn, reason);
    }

    /// Carries out what the speaker wants done now, as far as there is time: bytes to send, actions, news.
    fn settle(&mut self) {
        let until = Instant::now() + SLICE;
        loop {
            let mut moved = self.write_all(until);
            while let Some(action) = self.speaker.poll_action() {
                moved = true;
                match action {
                    Action::Connect { conn, remote, local, socket } => {
                        self.connect(conn, remote, local, socket);
                    }
                    Action::Protect { from, authentication } => {
                        self.listeners.protect(from, authentication);
                    }
                    #[cfg(feature = "bfd")]
                    Action::SetBfd { session, settings } => self.bfd.set(session, settings),
                    Action::Close { conn } => self.close(conn),
                }
            }
            if !moved || self.unwritten {
                break;
            }
        }
        self.report_events();
    }

    /// Logs the speaker's events, and notifies handles of changes.
    fn report_events(&mut self) {
        let mut news = false;
        while let Some(event) = self.speaker.poll_event() {
            news = true;
            match event {
                Event::SessionUp { address, name } => info!(peer = %address, name, "BGP session established"),
                Event::SessionDown { address, name, reason } => {
                    info!(peer = %address, name, %reason, "BGP session down");
                }
                Event::RoutesChanged => {}
                Event::Warning { address, name, warning } => warn!(peer = %address, name, "{warning}"),
            }
        }
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn connect(&mut self, conn: ConnId, remote: SocketAddr, local: Option<IpAddr>, options: SocketOptions) {
        let attempt = async move { Ready::Connected(conn, socket::connect(remote, local, &options).await) };
        let abort = self.wait(Box::pin(attempt));
        self.connections.insert(conn, Connection::Connecting(abort));
    }

    /// Sends what connections have to send until time is up, a chunk each in turn; whether anything was there to send. A
    /// connection whose socket is full goes on when that can take more.
    fn write_all(&mut self, until: Instant) -> bool {
        let mut moved = false;
        self.unwritten = false;
        loop {
            if moved && Instant::now() >= until {
                self.unwritten = true;
                return true;
            }
            // Asked for just before its turn: what was looked up for the question is then still in the cache.
            let next = self.speaker.poll_transmit().or_else(|| self.writers.pop_front());
            let Some(conn) = next else { return moved };
            moved = true;
            if self.write(conn) {
                self.writers.push_back(conn);
            }
        }
    }

    /// Writes one chunk; whether there may be more to write at once.
    fn write(&mut self, conn: ConnId) -> bool {
        let Some(Connection::Open(open)) = self.connections.get_mut(&conn) else { return false };
        if open.write_wait.is_some() {
            return false;
        }
        let left = !open.unsent.is_empty();
        if left {
            self.chunk = std::mem::take(&mut open.unsent);
        } else {
            self.chunk.clear();
            self.speaker.transmit(Instant::now(), conn, WRITE_CHUNK, &mut self.chunk);
        }
        // A shorter chunk was all there was, unless it was left from before.
        let more = left || self.chunk.len() >= WRITE_CHUNK;
        while !self.chunk.is_empty() {
            match open.stream.try_write(&self.chunk) {
                Ok(n) => self.chunk.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Only a full socket costs memory here.
                    open.unsent = BytesMut::from(&self.chunk[..]);
                    self.write_more(conn);
                    return false;
                }
                Err(error) => {
                    self.lost(conn, format!("writing failed: {error}"));
                    return false;
                }
            }
        }
        more
    }

    /// Closes a connection; the speaker has no more bytes for it.
    fn close(&mut self, conn: ConnId) {
        match self.connections.remove(&conn) {
            Some(Connection::Connecting(abort)) => abort.abort(),
            Some(Connection::Open(open)) => {
                open.read_wait.abort();
                if let Some(abort) = open.write_wait {
                    abort.abort();
                }
                let _ = open.stream.try_write(&open.unsent);
                // Unread bytes would make the kernel answer with a reset, which can overtake our last message.
                while matches!(open.stream.try_read(&mut self.buffer), Ok(n) if n > 0) {}
            }
            None => {}
        }
    }

    async fn stop(mut self, how: Stop, message: &str) {
        // Before the connections close, so that no peer takes the silence of our BFD for a failure (RFC 5882 §3.2).
        self.bfd.stop().await;
        if how == Stop::Cease {
            self.speaker.shutdown(Instant::now(), message);
            let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
            self.settle();
            while !self.connections.is_empty() && tokio::time::Instant::now() < deadline {
                if !self.unwritten {
                    match tokio::time::timeout_at(deadline, self.waits.next()).await {
                        Ok(Some(ready)) => self.ready(ready),
                        _ => break,
                    }
                }
                self.settle();
            }
        }
        for conn in self.all() {
            self.close(conn);
        }
    }

    fn wait(&mut self, future: Wait) -> AbortHandle {
        let (abort, registration) = AbortHandle::new_pair();
        self.waits.push(Abortable::new(future, registration));
        abort
    }

    fn wait_readable(&mut self, conn: ConnId, stream: &Arc<TcpStream>) -> AbortHandle {
        let stream = stream.clone();
        self.wait(Box::pin(async move {
            // An error shows at the read that follows.
            let _ = stream.readable().await;
            Ready::Read(conn)
        }))
    }

    fn read_more(&mut self, conn: ConnId) {
        let Some(Connection::Open(open)) = self.connections.get(&conn) else { return };
        let stream = open.stream.clone();
        let wait = self.wait_readable(conn, &stream);
        if let Some(Connection::Open(open)) = self.connections.get_mut(&conn) {
            open.read_wait = wait;
        }
    }

    fn write_more(&mut self, conn: ConnId) {
        let Some(Connection::Open(open)) = self.connections.get(&conn) else { return };
        let stream = open.stream.clone();
        let wait = self.wait(Box::pin(async move {
            let _ = stream.writable().await;
            Ready::Write(conn)
        }));
        if let Some(Connection::Open(open)) = self.connections.get_mut(&conn) {
            open.write_wait = Some(wait);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
