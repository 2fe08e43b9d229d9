//! The load generator: any number of clients on one thread and one epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::messages::{self, Received};

/// The address that every daemon listens on.
pub const DAEMON: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// The port that every daemon listens on.
pub const PORT: u16 = 179;

/// Returns the address of client `n`, which is also its BGP Identifier.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (n / 250) as u8, (n % 250 + 1) as u8)
}

/// Returns the next hop of client `n`. FRR does not accept loopback addresses.
pub fn next_hop(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, (n / 250) as u8, (n % 250 + 1) as u8)
}

struct Client {
    stream: Option<TcpStream>,
    unsent: Vec<u8>,
    sent: usize,
    received: Received,
}

/// All clients of one daemon.
pub struct Clients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

impl Clients {
    /// Connects `count` clients; returns when all sessions are established and nothing more is received.
    pub fn establish(count: usize, deadline: Instant) -> Result<Self> {
        let client = || Client { stream: None, unsent: Vec::new(), sent: 0, received: Received::default() };
        let mut clients = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: (0..count).map(|_| client()).collect(),
            buffer: vec![0; 256 * 1024],
        };
        // A few at a time, so that no daemon's accept queue overflows: some are as short as 5.
        for first in (0..count).step_by(4) {
            let some = first..count.min(first + 4);
            while !some.clone().all(|n| clients.established(n)) {
                for n in some.clone() {
                    clients.revive(n)?;
                }
                clients.turn(Duration::from_millis(5))?;
                if Instant::now() > deadline {
                    let up = (0..count).filter(|n| clients.established(*n)).count();
                    bail!("{up} of {count} sessions established in time");
                }
            }
        }
        clients.quiet(Duration::from_millis(300))?;
        Ok(clients)
    }

    pub fn established(&self, n: usize) -> bool {
        let client = &self.clients[n];
        client.stream.is_some() && client.received.opened && client.received.confirmed
    }

    /// Returns whether a client has no connection, or one that the daemon has ended.
    pub fn lost(&self, n: usize) -> bool {
        self.clients[n].stream.is_none() || self.clients[n].received.broken.is_some()
    }

    pub fn received(&self, n: usize) -> &Received {
        &self.clients[n].received
    }

    /// Closes a client's connection, and drops what it received.
    pub fn close(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.stream = None;
        client.received = Received::default();
        client.unsent.clear();
        client.sent = 0;
    }

    /// Connects a client that has no connection.
    pub fn revive(&mut self, n: usize) -> Result<()> {
        if self.clients[n].received.broken.is_some() {
            self.close(n);
        }
        if self.clients[n].stream.is_some() {
            return Ok(());
        }
        self.close(n);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((address(n), 0)).into())?;
        let daemon = SocketAddr::from((DAEMON, PORT));
        if socket.connect(&daemon.into()).is_err() {
            // The daemon does not listen yet, or does not accept this client yet.
            std::thread::sleep(Duration::from_millis(5));
            return Ok(());
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(n), interest)?;
        self.clients[n].stream = Some(stream);
        self.send(n, &[messages::open(address(n)), messages::keepalive()].concat())
    }

    /// Sends as much as the socket takes now; the rest is sent when it takes more.
    pub fn send(&mut self, n: usize, bytes: &[u8]) -> Result<()> {
        let client = &mut self.clients[n];
        client.unsent.extend(bytes);
        self.flush(n)
    }

    fn flush(&mut self, n: usize) -> Result<()> {
        let client = &mut self.clients[n];
        let Some(stream) = &mut client.stream else { return Ok(()) };
        while client.sent < client.unsent.len() {
            match stream.write(&client.unsent[client.sent..]) {
                Ok(count) => client.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    client.stream = None;
                    return Ok(());
                }
            }
        }
        client.unsent.clear();
        client.sent = 0;
        Ok(())
    }

    /// Waits for events, at most `timeout`, and reads everything that has arrived; returns whether anything had.
    pub fn turn(&mut self, timeout: Duration) -> Result<bool> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => result.context("epoll failed")?,
        }
        let mut arrived = false;
        for event in &events {
            let Token(n) = event.token();
            if event.is_readable() {
                arrived |= self.read(n);
            }
            if event.is_writable() {
                self.flush(n)?;
            }
        }
        self.events = events;
        Ok(arrived)
    }

    fn read(&mut self, n: usize) -> bool {
        let client = &mut self.clients[n];
        let mut arrived = false;
        while let Some(stream) = &mut client.stream {
            match stream.read(&mut self.buffer) {
                Ok(count) if count > 0 => {
                    arrived = true;
                    client.received.read(&self.buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => client.stream = None,
            }
        }
        arrived
    }

    /// Waits until nothing has arrived for a while.
    fn quiet(&mut self, pause: Duration) -> Result<()> {
        while self.turn(pause)? {}
        Ok(())
    }

    /// Waits until a condition holds for all of these clients; returns the time when it did.
    pub fn until(
        &mut self,
        deadline: Instant,
        of: impl Iterator<Item = usize>,
        mut holds: impl FnMut(&Received) -> bool,
    ) -> Result<Instant> {
        let mut waiting: Vec<usize> = of.collect();
        loop {
            // Only the last of the waiting clients is checked each time, which costs next to nothing.
            while let Some(&n) = waiting.last() {
                if let Some(broken) = &self.clients[n].received.broken {
                    bail!("client {n} got {broken}");
                }
                if self.clients[n].stream.is_none() {
                    bail!("the daemon closed the connection of client {n}");
                }
                if !holds(&self.clients[n].received) {
                    break;
                }
                waiting.pop();
            }
            let now = Instant::now();
            if waiting.is_empty() {
                return Ok(now);
            }
            if now > deadline {
                bail!(
                    "{} clients still wait: the first has {} routes",
                    waiting.len(),
                    self.received(waiting[0]).count
                );
            }
            self.turn(Duration::from_millis(200))?;
        }
    }
}
