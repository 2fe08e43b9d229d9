//! The longest time for which the speaker's thread is busy in one go: `cargo bench -p heliograph-bgp --bench hold`.
//!
//! A speaker with a table from one peer goes through the events that concern the whole table. A task beside its driver, in
//! the same runtime, measures the thread's processor time between two of its turns, so that other load of the machine
//! counts little. Nothing is asserted.
#![allow(clippy::disallowed_methods, reason = "a benchmark has a clock, threads and sockets")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use heliograph_bgp::io::{Handle, Options, Stop, start, start_thread};
use heliograph_bgp::{Config, Filter, Neighbor, Network, Prefix, PrefixRange};
use tokio::sync::oneshot;

#[derive(Parser)]
#[command(about = "Measures the longest time for which the speaker's thread is busy in one go")]
struct Arguments {
    /// The number of routes.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// The number of routes with the same attributes.
    #[arg(long, default_value_t = 8)]
    per_set: u32,
    /// The number of peers that the routes are reflected to.
    #[arg(long, default_value_t = 20)]
    clients: u8,
    /// The number of neighbors that are configured and do not exist.
    #[arg(long, default_value_t = 5000)]
    absent: u32,
    /// Set by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const ASN: u32 = 64512;
/// More nanoseconds than a turn of the measuring task takes by itself.
const IDLE: u64 = 10_000;
/// The longest time for any step.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The processor time of the current thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system call writes one timespec, for which there is room.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The speaker that is measured.
struct Measured {
    handle: Handle,
    address: SocketAddr,
    /// The longest processor time between two turns of the measuring task since the last look, in nanoseconds.
    longest: Arc<AtomicU64>,
    /// The processor time of all such turns that were not of the measuring task alone, in nanoseconds.
    busy: Arc<AtomicU64>,
    config: Config,
}

impl Measured {
    async fn start(config: Config) -> Result<Self> {
        let longest = Arc::new(AtomicU64::new(0));
        let busy = Arc::new(AtomicU64::new(0));
        let (result, started) = oneshot::channel();
        let (wanted, written, sum) = (config.clone(), longest.clone(), busy.clone());
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let options = Options::default().listen([SocketAddr::new(host(0), 0)]);
                let _ = result.send(start(wanted, options).await);
                let mut last = processor_time();
                loop {
                    tokio::task::yield_now().await;
                    let now = processor_time();
                    let turn = (now - last).as_nanos() as u64;
                    written.fetch_max(turn, Ordering::Relaxed);
                    if turn > IDLE {
                        sum.fetch_add(turn, Ordering::Relaxed);
                    }
                    last = now;
                }
            })
        });
        let handle = started.await??;
        let address = handle.listening()[0];
        Ok(Self { handle, address, longest, busy, config })
    }

    /// Runs a step and prints its longest hold and its duration.
    async fn step<T>(&mut self, name: &str, step: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.longest.store(0, Ordering::Relaxed);
        self.busy.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let result = step(self).await.with_context(|| name.to_owned())?;
        let took = began.elapsed();
        // What the step left to be done counts, too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let longest = Duration::from_nanos(self.longest.load(Ordering::Relaxed));
        let busy = Duration::from_nanos(self.busy.load(Ordering::Relaxed));
        let [longest, busy, took] = [longest, busy, took].map(|time| time.as_secs_f64() * 1e3);
        println!("{name:<50} {longest:>8.2} ms {busy:>9.1} ms {took:>9.1} ms");
        Ok(result)
    }

    async fn set(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        Ok(self.handle.set_config(self.config.clone()).await?)
    }

    /// Waits until a neighbor has sent or was advertised as many routes.
    async fn until(
        &self,
        n: u8,
        what: impl Fn(&heliograph_bgp::report::SessionReport) -> bool,
    ) -> Result<()> {
        until(&self.handle, host(n), what).await
    }
}

/// Waits for a state of a session.
async fn until(
    handle: &Handle,
    address: IpAddr,
    what: impl Fn(&heliograph_bgp::report::SessionReport) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let sessions = handle.sessions().await?;
        if sessions.iter().any(|session| session.address == address && what(session)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{address}: not in time: {sessions:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn host(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 7, n).into()
}

fn prefix(n: u32) -> Prefix {
    Prefix::V4(Ipv4Addr::from_bits((n << 8) + (16 << 24)), 24)
}

/// Starts a peer of the measured speaker.
async fn peer(n: u8, to: SocketAddr, networks: Vec<Network>) -> Result<Handle> {
    let neighbor = Neighbor::new(to.ip(), ASN)
        .port(to.port())
        .local_address(host(n))
        .import(Filter::All)
        .export(Filter::All);
    let config = Config::new(ASN, Ipv4Addr::new(10, 0, 0, n)).networks(networks).neighbors([neighbor]);
    // On a thread of its own, as the others share one.
    if n == SOURCE {
        return Ok(start_thread(config, Options::default()).await?);
    }
    Ok(start(config, Options::default()).await?)
}

fn client(n: u8) -> Neighbor {
    Neighbor::new(host(n), ASN).passive(true).reflector_client(true).import(Filter::All).export(Filter::All)
}

/// The peer that has the routes.
const SOURCE: u8 = 1;
/// The first peer that they are reflected to.
const FIRST: u8 = 10;
/// A peer with an export filter of its own.
const FILTERED: u8 = 2;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        // `cargo test --benches`
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { routes, per_set, clients, absent, .. } = *arguments;
    let all = routes as usize;
    println!(
        "{routes} routes, {per_set} for each set of attributes, to {clients} peers; {absent} absent neighbors"
    );
    println!("{:<50} {:>11} {:>12} {:>12}", "", "longest", "busy", "duration");
    let networks = |med: u32| -> Vec<Network> {
        (0..routes).map(|n| Network::new(prefix(n)).med(med + n / per_set)).collect()
    };
    let mut config = Config::new(ASN, Ipv4Addr::new(10, 0, 7, 0));
    config.neighbors = vec![client(SOURCE), client(FILTERED)];
    config.neighbors.extend((0..clients).map(|n| client(FIRST + n)));
    let mut measured = Measured::start(config).await?;
    let to = measured.address;
    let mut peers = Vec::new();
    for n in 0..clients {
        peers.push(peer(FIRST + n, to, Vec::new()).await?);
    }
    let last = FIRST + clients - 1;
    let present = networks(0);
    let source = measured
        .step("routes are learned and reflected", async |m| {
            let source = peer(SOURCE, to, present).await?;
            m.until(SOURCE, |session| session.received == all).await?;
            m.until(last, |session| session.advertised == all).await?;
            Ok(source)
        })
        .await?;
    measured.step("best routes are read", async |m| Ok(m.handle.best_routes().await?.routes.len())).await?;
    measured.step("paths are read", async |m| Ok(m.handle.paths().await?.len())).await?;
    let own = (0..routes).map(|n| Network::new(prefix(n)).med(n / per_set + 7));
    let own = Config::new(ASN, Ipv4Addr::new(10, 0, 0, SOURCE)).networks(own).neighbors([Neighbor::new(
        to.ip(),
        ASN,
    )
    .port(to.port())
    .local_address(host(SOURCE))
    .import(Filter::All)
    .export(Filter::All)]);
    measured
        .step("all routes change", async |m| {
            source.set_config(own).await?;
            m.until(last, |session| session.advertised == all).await
        })
        .await?;
    measured
        .step("a peer of the same update group comes up", async |m| {
            m.set(|config| config.neighbors.push(client(200))).await?;
            peers.push(peer(200, to, Vec::new()).await?);
            m.until(200, |session| session.advertised == all).await
        })
        .await?;
    let half = Filter::Only(vec![PrefixRange::new(Prefix::V4(Ipv4Addr::new(16, 0, 0, 0), 8), 24)]);
    let part = (all).min(65536);
    measured.set(|config| config.neighbors[1].export = half.clone()).await?;
    measured
        .step("a peer of another update group comes up", async |m| {
            peers.push(peer(FILTERED, to, Vec::new()).await?);
            m.until(FILTERED, |session| session.advertised == part).await
        })
        .await?;
    measured
        .step("its export filter changes", async |m| {
            m.set(|config| config.neighbors[1].export = Filter::All).await?;
            m.until(FILTERED, |session| session.advertised == all).await
        })
        .await?;
    measured
        .step("the import filter of the source rejects part", async |m| {
            m.set(|config| config.neighbors[0].import = half.clone()).await?;
            m.until(last, |session| session.advertised == part).await
        })
        .await?;
    measured
        .step("the import filter accepts all again", async |m| {
            m.set(|config| config.neighbors[0].import = Filter::All).await?;
            m.until(last, |session| session.advertised == all).await
        })
        .await?;
    measured
        .step("the source is no client any more, and is again", async |m| {
            m.set(|config| config.neighbors[0].reflector_client = false).await?;
            m.set(|config| config.neighbors[0].reflector_client = true).await?;
            m.until(last, |session| session.advertised == all).await
        })
        .await?;
    measured
        .step("graceful shutdown begins, and ends", async |m| {
            m.set(|config| config.graceful_shutdown = true).await?;
            m.set(|config| config.graceful_shutdown = false).await
        })
        .await?;
    measured
        .step("the source restarts, and sends the same again", async |m| {
            source.stop(Stop::Silent).await;
            m.until(SOURCE, |session| session.stale == all).await?;
            let source = peer(SOURCE, to, networks(7)).await?;
            m.until(SOURCE, |session| session.stale == 0).await?;
            m.until(last, |session| session.advertised == all).await?;
            peers.push(source);
            Ok(())
        })
        .await?;
    let source = peers.pop().context("it was just added")?;
    measured
        .step("the source is gone", async |m| {
            source.stop(Stop::Cease).await;
            m.until(last, |session| session.advertised == 0).await
        })
        .await?;
    measured
        .step("many neighbors are added", async |m| {
            let absent = (0..absent).map(|n| {
                Neighbor::new(Ipv4Addr::from_bits((10 << 24) + n + 1).into(), ASN)
                    .passive(true)
                    .import(Filter::All)
                    .export(Filter::All)
            });
            m.set(|config| config.neighbors.extend(absent)).await
        })
        .await?;
    measured
        .step("one of them changes", async |m| {
            m.set(|config| {
                if let Some(neighbor) = config.neighbors.last_mut() {
                    neighbor.name = "changed".into();
                }
            })
            .await
        })
        .await?;
    measured.step("all sessions are read", async |m| Ok(m.handle.sessions().await?.len())).await?;
    measured
        .step("all of them are removed", async |m| m.set(|config| config.neighbors.truncate(2)).await)
        .await
}
