//! Sockets, as BGP wants them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{StartError, protect};
use crate::config::Authentication;
use crate::speaker::SocketOptions;
use crate::wire::Prefix;

/// The length of the kernel's queue of connections to be accepted.
const BACKLOG: i32 = 1024;
/// The timeout of an attempt to connect; the speaker's ConnectRetryTimer runs meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The listening sockets, with the keys of authenticated peers.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<(SocketAddr, Socket)>,
    /// The same sockets in the runtime, once they listen.
    listening: Vec<Arc<TcpListener>>,
    keys: Vec<(Prefix, Authentication)>,
    /// Peers whose keys could not be set: their connections are rejected.
    unprotected: Vec<Prefix>,
}

impl Listeners {
    /// Binds to `addresses`, without accepting connections yet.
    pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Self, StartError> {
        let bound = |address: &SocketAddr| {
            let address = *address;
            let socket = bind(address).map_err(|source| StartError::Listen { address, source })?;
            Ok((address, socket))
        };
        Ok(Self {
            sockets: addresses.iter().map(bound).collect::<Result<_, StartError>>()?,
            ..Self::default()
        })
    }

    /// Returns the addresses that they are bound to; a port of 0 is replaced by the kernel's choice.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()?.as_socket()).collect()
    }

    /// Starts to accept connections. The sockets are registered with the runtime only now: one that does not listen yet is
    /// reported as hung up, which tokio keeps, and it would try to accept from it without end.
    pub(super) fn listen(&mut self) -> Result<(), StartError> {
        for (address, socket) in &self.sockets {
            let listening = listen(socket);
            let listening = listening.map_err(|source| StartError::Listen { address: *address, source })?;
            self.listening.push(Arc::new(listening));
        }
        Ok(())
    }

    /// Sets or removes the key for connections from a prefix.
    pub(super) fn protect(&mut self, from: Prefix, authentication: Option<Authentication>) {
        self.unprotected.retain(|other| *other != from);
        let of_family: Vec<_> =
            self.sockets.iter().filter(|(a, _)| a.is_ipv4() == from.address().is_ipv4()).collect();
        for (_, old) in self.keys.iter().filter(|(other, _)| *other == from) {
            for (_, socket) in &of_family {
                if let Err(error) = protect::remove_key(socket, from, old) {
                    warn!(%from, %error, "a key could not be removed from the listening socket");
                }
            }
        }
        self.keys.retain(|(other, _)| *other != from);
        let Some(authentication) = authentication else { return };
        for (_, socket) in of_family {
            if let Err(error) = protect::add_key(socket, from, &authentication) {
                warn!(%error, "its connections are rejected");
                self.unprotected.push(from);
                return;
            }
        }
        self.keys.push((from, authentication));
    }

    /// Returns whether connections from `remote` require a key that could not be set.
    pub(super) fn lacks_protection(&self, remote: IpAddr) -> bool {
        let remote = remote.to_canonical();
        let host = Prefix::new(remote, if remote.is_ipv4() { 32 } else { 128 });
        host.is_some_and(|host| self.unprotected.iter().any(|from| from.contains(&host)))
    }

    /// Accepts from every listener. The channel is short: connections wait in the kernel's queue, not in our memory.
    pub(super) fn accept_all(&self) -> mpsc::Receiver<TcpStream> {
        let (sender, receiver) = mpsc::channel(4);
        for listener in &self.listening {
            tokio::spawn(accept(listener.clone(), sender.clone()));
        }
        receiver
    }
}

/// An IPv6 socket takes IPv6 only, so both families can be listened on side by side.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted speaker must not wait for its predecessor's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    protect::answer_from_near(&socket, address.ip())?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: &Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.try_clone()?.into())
}

/// Connects to `remote`, from `local` where given.
pub(super) async fn connect(
    remote: SocketAddr,
    local: Option<IpAddr>,
    options: &SocketOptions,
) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    protect::connection(&socket, remote.ip(), options, true)?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(remote)).await {
        Ok(connected) => connected,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}")))
        }
    }
}

async fn accept(listener: Arc<TcpListener>, sender: mpsc::Sender<TcpStream>) {
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if sender.send(stream).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, most likely: trying again at once would only spin.
            Err(error) => {
                info!(%error, "accepting a BGP connection failed; trying again shortly");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc::channel;

    use super::*;

    /// Any thread of a runtime may look at the sockets between binding and listening; what it saw then must not stay.
    #[test]
    fn a_look_before_it_listens_does_no_harm() {
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
                let mut listeners = Listeners::bind(&[any]).expect("it binds");
                tokio::task::yield_now().await;
                listeners.listen().expect("it listens");
                let mut accepted = listeners.accept_all();
                let _stream = TcpStream::connect(listeners.addresses()[0]).await.expect("it listens");
                accepted.recv().await.expect("it accepts");
                // Others get their turn, too.
                tokio::task::yield_now().await;
            });
            let _ = done.send(());
        });
        is_done.recv_timeout(Duration::from_secs(20)).expect("it neither hangs nor spins");
    }
}
