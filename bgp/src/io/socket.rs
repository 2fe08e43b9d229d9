//! Sockets, as BGP wants them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tracing::info;

use super::StartError;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long the kernel may try to connect; the speaker's retry timer goes on meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens on `address`. An IPv6 socket takes IPv6 only, so both families can be listened on side by side.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restarted speaker must not wait for its predecessor's connections to leave TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| StartError::Listen { address, source })
}

/// Connects to `remote`, from `local` where given.
pub(super) async fn connect(remote: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
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

/// Accepts from every listener. The channel is short: strangers wait in the kernel's queue, not in our memory.
pub(super) fn accept_all(listeners: Vec<TcpListener>) -> mpsc::Receiver<TcpStream> {
    let (sender, receiver) = mpsc::channel(4);
    for listener in listeners {
        tokio::spawn(accept(listener, sender.clone()));
    }
    receiver
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<TcpStream>) {
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
