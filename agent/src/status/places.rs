//! Those who come to ask: each listener serves a few at the same time, and more wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Time after a connection that could not be taken, as where there are no more descriptors.
const AGAIN: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// The next one.
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

/// Serves whoever comes, `places` at the same time and none longer than `patience`, until the task is ended. `what` is
/// listened on, for the log.
pub(super) async fn serve<L: Listener, F>(
    listener: L,
    what: &str,
    places: usize,
    patience: Duration,
    converse: impl Fn(L::Stream) -> F,
) where
    F: Future<Output: Send> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(places));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.next().await {
            Ok(stream) => {
                let conversation = converse(stream);
                tokio::spawn(async move {
                    // A client that goes away in between is its own business.
                    let _ = timeout(patience, conversation).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accept on {what}: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}
