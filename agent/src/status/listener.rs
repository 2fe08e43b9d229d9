//! A listener that serves a bounded number of connections at the same time. Further connections wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// The pause after a failed accept, for example without free file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// Accepts the next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves connections with `handle` until the task ends: `max_connections` at the same time, and each for `time_limit` at
/// most. `name` is the listener's name in the log.
pub(super) async fn serve<L: Listener, F>(
    listener: L,
    name: &str,
    max_connections: usize,
    time_limit: Duration,
    handle: impl Fn(L::Stream) -> F,
) where
    F: Future<Output: Send> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(max_connections));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.next().await {
            Ok(stream) => {
                let connection = handle(stream);
                tokio::spawn(async move {
                    // A client may close its connection at any time.
                    let _ = timeout(time_limit, connection).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("accept on {name}: {error}");
                sleep(RETRY).await;
            }
        }
    }
}
