//! A TCP proxy between the agent and its API server that counts octets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};

/// The numbers of forwarded octets, including TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    pub to_agent: u64,
    pub from_agent: u64,
}

/// A proxy from one address to another, until it is dropped.
pub struct Tap {
    counts: [Arc<AtomicU64>; 2],
    task: tokio::task::JoinHandle<()>,
}

impl Tap {
    pub async fn start(at: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
        let counts = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let [to_agent, from_agent] = counts.clone();
        let task = tokio::spawn(async move {
            let mut directions = tokio::task::JoinSet::new();
            while let Ok((agent, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(to).await else { continue };
                let ((from_agent_half, to_agent_half), (from_server, to_server)) =
                    (agent.into_split(), server.into_split());
                directions.spawn(pass(from_server, to_agent_half, to_agent.clone()));
                directions.spawn(pass(from_agent_half, to_server, from_agent.clone()));
            }
        });
        Ok(Self { counts, task })
    }

    pub fn passed(&self) -> Passed {
        let [to_agent, from_agent] = [0, 1].map(|way| self.counts[way].load(Relaxed));
        Passed { to_agent, from_agent }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(octets @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(octets as u64, Relaxed);
        if to.write_all(&buffer[..octets]).await.is_err() {
            return;
        }
    }
}
