//! The load generator: any number of clients on one thread and one epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::words::{self, Told};

/// Where every daemon listens.
pub const DAEMON: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// The port every daemon listens on.
pub const PORT: u16 = 179;

/// The address of client `n`, also its BGP Identifier.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (n / 250) as u8, (n % 250 + 1) as u8)
}

/// The next hop that client `n` gives: FRR refuses loopback addresses.
pub fn next_hop(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, (n / 250) as u8, (n % 250 + 1) as u8)
}

struct Client {
    stream: Option<TcpStream>,
    unsent: Vec<u8>,
    sent: usize,
    told: Told,
}

/// All clients of one daemon.
pub struct Clients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

impl Clients {
    /// Connects `count` clients; returns once all sessions are established and nothing more comes of its own accord.
    pub fn establish(count: usize, deadline: Instant) -> Result<Self> {
        let client = || Client { stream: None, unsent: Vec::new(), sent: 0, told: Told::default() };
        let mut clients = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: (0..count).map(|_| client()).collect(),
            buffer: vec![0; 256 * 1024],
        };
        // In portions, so that no daemon's accept queue overflows: some are as short as 5.
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
        client.stream.is_some() && client.told.opened && client.told.confirmed
    }

    /// Whether it has no connection, or one that the daemon has ended.
    pub fn lost(&self, n: usize) -> bool {
        self.clients[n].stream.is_none() || self.clients[n].told.broken.is_some()
    }

    pub fn told(&self, n: usize) -> &Told {
        &self.clients[n].told
    }

    /// Closes a client's connection; what it was told is forgotten.
    pub fn close(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.stream = None;
        client.told = Told::default();
        client.unsent.clear();
        client.sent = 0;
    }

    /// Connects a client that has no connection.
    pub fn revive(&mut self, n: usize) -> Result<()> {
        if self.clients[n].told.broken.is_some() {
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
            // Not listening yet, or not wanting us yet.
            std::thread::sleep(Duration::from_millis(5));
            return Ok(());
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(n), interest)?;
        self.clients[n].stream = Some(stream);
        self.send(n, &[words::open(address(n)), words::keepalive()].concat())
    }

    /// Sends, now and as far as the socket takes it; the rest goes as it takes more.
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

    /// Waits for something to happen, at most `patience`, and reads all that has come; whether anything had.
    pub fn turn(&mut self, patience: Duration) -> Result<bool> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => result.context("epoll failed")?,
        }
        let mut came = false;
        for event in &events {
            let Token(n) = event.token();
            if event.is_readable() {
                came |= self.read(n);
            }
            if event.is_writable() {
                self.flush(n)?;
            }
        }
        self.events = events;
        Ok(came)
    }

    fn read(&mut self, n: usize) -> bool {
        let client = &mut self.clients[n];
        let mut came = false;
        while let Some(stream) = &mut client.stream {
            match stream.read(&mut self.buffer) {
                Ok(count) if count > 0 => {
                    came = true;
                    client.told.read(&self.buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => client.stream = None,
            }
        }
        came
    }

    /// Waits until nothing has come for a while.
    fn quiet(&mut self, pause: Duration) -> Result<()> {
        while self.turn(pause)? {}
        Ok(())
    }

    /// Waits until a condition holds of every client named; returns when it did.
    pub fn until(
        &mut self,
        deadline: Instant,
        of: impl Iterator<Item = usize>,
        mut holds: impl FnMut(&Told) -> bool,
    ) -> Result<Instant> {
        let mut waiting: Vec<usize> = of.collect();
        loop {
            // Only the last of those that wait is looked at, so that a look costs next to nothing.
            while let Some(&n) = waiting.last() {
                if let Some(broken) = &self.clients[n].told.broken {
                    bail!("client {n} got {broken}");
                }
                if self.clients[n].stream.is_none() {
                    bail!("the daemon closed the connection of client {n}");
                }
                if !holds(&self.clients[n].told) {
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
                    self.told(waiting[0]).count
                );
            }
            self.turn(Duration::from_millis(200))?;
        }
    }
}
