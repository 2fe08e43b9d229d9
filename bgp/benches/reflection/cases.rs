//! The cases: the load on a daemon, and the times that are measured.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::clients::{Clients, next_hop};
use crate::daemon::{Daemon, Usage};
use crate::messages::{Attributes, advertise, withdraw};

/// The timeout of a case.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The timeout for all sessions to be established.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// The average number of routes with the same attributes.
const PER_SET: u32 = 8;

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Each client advertises one prefix; until all have all.
    Mesh { clients: usize },
    /// Two senders advertise half of the routes each; until all receivers have all.
    Table { routes: u32, receivers: usize },
    /// Withdrawals and advertisements with many clients, each until the last client has received it.
    Churn { clients: usize, events: u32 },
    /// A client of a reflector with a table reconnects.
    Reconnect { routes: u32, times: u32 },
}

/// The result of one run.
#[derive(Clone, Default)]
pub struct Outcome {
    /// The measured times in seconds, by name.
    pub seconds: Vec<(&'static str, f64)>,
    pub usage: Usage,
}

impl Case {
    pub fn name(self) -> String {
        match self {
            Self::Mesh { clients } => format!("{clients} clients, one prefix each"),
            Self::Table { routes, receivers } => format!("{routes} routes to {receivers}"),
            Self::Churn { clients, .. } => format!("churn under {clients} clients"),
            Self::Reconnect { routes, .. } => format!("reconnect with {routes} routes"),
        }
    }

    pub fn clients(self) -> usize {
        match self {
            Self::Mesh { clients } | Self::Churn { clients, .. } => clients,
            Self::Table { receivers, .. } => receivers + 2,
            Self::Reconnect { .. } => 2,
        }
    }

    /// Runs the case with a daemon that has been started.
    pub fn run(self, daemon: &Daemon) -> Result<Outcome> {
        let deadline = Instant::now() + TIMEOUT;
        let mut clients = Clients::establish(self.clients(), Instant::now() + ESTABLISH_TIMEOUT)?;
        let before = daemon.usage();
        let seconds = match self {
            Self::Mesh { clients: count } => mesh(&mut clients, count, deadline)?,
            Self::Table { routes, receivers } => table(&mut clients, routes, receivers, deadline)?,
            Self::Churn { clients: count, events } => churn(&mut clients, count, events, deadline)?,
            Self::Reconnect { routes, times } => reconnect(&mut clients, routes, times, deadline)?,
        };
        let after = daemon.usage();
        let usage = Usage { cpu: after.cpu.saturating_sub(before.cpu), peak: after.peak };
        Ok(Outcome { seconds, usage })
    }
}

type Seconds = Vec<(&'static str, f64)>;

/// Returns the UPDATE for the one route of a client.
fn single(client: usize, med: u32) -> Vec<u8> {
    let attributes = Attributes { next_hop: next_hop(client), as_path: &[], med, communities: &[] };
    advertise(&attributes, client as u32..client as u32 + 1)
}

fn mesh(clients: &mut Clients, count: usize, deadline: Instant) -> Result<Seconds> {
    let updates: Vec<Vec<u8>> = (0..count).map(|n| single(n, 0)).collect();
    let start = Instant::now();
    for (n, update) in updates.iter().enumerate() {
        clients.send(n, update)?;
    }
    let end = clients.until(deadline, 0..count, |received| received.count >= count - 1)?;
    Ok(vec![("wall", (end - start).as_secs_f64())])
}

/// Returns UPDATEs for the routes of a sender, each with attributes of its own and 1 to 15 routes, 8 on average.
fn feed(sender: usize, routes: std::ops::Range<u32>) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(sender as u64 + 1);
    let mut out = Vec::new();
    let mut first = routes.start;
    while first < routes.end {
        let next = routes.end.min(first + rng.u32(1..2 * PER_SET));
        let hops = rng.usize(2..6);
        let as_path: Vec<u32> = (0..hops).map(|_| rng.u32(1..400_000)).filter(|asn| *asn != 64512).collect();
        let communities: Vec<u32> = (0..rng.usize(0..4)).map(|_| rng.u32(1 << 16..1 << 31)).collect();
        let attributes = Attributes {
            next_hop: next_hop(sender),
            as_path: &as_path,
            med: first,
            communities: &communities,
        };
        out.extend(advertise(&attributes, first..next));
        first = next;
    }
    out
}

fn table(clients: &mut Clients, routes: u32, receivers: usize, deadline: Instant) -> Result<Seconds> {
    let feeds = [feed(0, 0..routes / 2), feed(1, routes / 2..routes)];
    let start = Instant::now();
    for (n, feed) in feeds.iter().enumerate() {
        clients.send(n, feed)?;
    }
    let end = clients.until(deadline, 2..receivers + 2, |received| received.count >= routes as usize)?;
    Ok(vec![("wall", (end - start).as_secs_f64())])
}

/// Rounds that are not counted. A TCP that has received fewer than 16 segments acknowledges each at once, which costs the
/// sender as much as sending it. A daemon that needs few segments for the mesh is still in that phase after it, for the
/// first rounds of four messages, and others are not.
const WARM_UP: u32 = 4;
/// The pause before each round. Receivers acknowledge within 40 ms (TCP_DELACK_MIN), so that nothing of the round before
/// falls into the next one, however fast it was.
const SETTLE: Duration = Duration::from_millis(60);
/// The pause between a withdrawal and the advertisement that follows it.
const SHORTLY: Duration = Duration::from_millis(5);

fn pause(clients: &mut Clients, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        clients.turn(left)?;
    }
    Ok(())
}

fn churn(clients: &mut Clients, count: usize, events: u32, deadline: Instant) -> Result<Seconds> {
    mesh(clients, count, deadline)?;
    let (mut gone, mut back, mut quick) = (Vec::new(), Vec::new(), Vec::new());
    for event in 1..=WARM_UP + events {
        // Another client each time, so that none is always the first or the last to be sent to.
        let n = event as usize * 7 % count;
        let others = || (0..count).filter(move |other| *other != n);
        let route = n as u32;
        pause(clients, SETTLE)?;
        let start = Instant::now();
        clients.send(n, &withdraw(route))?;
        let end = clients.until(deadline, others(), |received| !received.has(route))?;
        gone.push((end - start).as_secs_f64());
        let start = Instant::now();
        clients.send(n, &single(n, 2 * event))?;
        let end =
            clients.until(deadline, others(), |received| received.med == 2 * event && received.has(route))?;
        back.push((end - start).as_secs_f64());
        clients.send(n, &withdraw(route))?;
        pause(clients, SHORTLY)?;
        let start = Instant::now();
        clients.send(n, &single(n, 2 * event + 1))?;
        let end = clients
            .until(deadline, others(), |received| received.med == 2 * event + 1 && received.has(route))?;
        quick.push((end - start).as_secs_f64());
    }
    let mut seconds = Vec::new();
    let names = [
        ("withdraw p50", "withdraw p99"),
        ("advertise p50", "advertise p99"),
        ("advertise 5 ms later p50", "advertise 5 ms later p99"),
    ];
    for ((p50, p99), samples) in names.into_iter().zip([gone, back, quick]) {
        let mut samples = samples[WARM_UP as usize..].to_vec();
        samples.sort_by(f64::total_cmp);
        seconds.push((p50, samples[samples.len() / 2]));
        seconds.push((p99, samples[(samples.len() * 99).div_ceil(100) - 1]));
    }
    Ok(seconds)
}

fn reconnect(clients: &mut Clients, routes: u32, times: u32, deadline: Instant) -> Result<Seconds> {
    clients.send(0, &feed(0, 0..routes))?;
    clients.until(deadline, 1..2, |received| received.count >= routes as usize)?;
    let mut samples = Vec::new();
    for _ in 0..times {
        clients.close(1);
        // Some daemons wait before they accept a client again, BIRD for seconds: the time counts from their OPEN.
        let start = 'attempts: loop {
            std::thread::sleep(Duration::from_millis(50));
            clients.close(1);
            clients.revive(1)?;
            let timeout = Instant::now() + Duration::from_secs(5);
            while Instant::now() < timeout.min(deadline) {
                let start = Instant::now();
                clients.turn(Duration::from_millis(5))?;
                if clients.received(1).opened {
                    break 'attempts start;
                }
                if clients.lost(1) {
                    break;
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "the client was not accepted again in time");
        };
        let end = clients.until(deadline, 1..2, |received| received.count >= routes as usize)?;
        samples.push((end - start).as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(vec![("wall", samples[samples.len() / 2])])
}
