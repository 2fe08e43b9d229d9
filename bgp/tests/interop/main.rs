//! Interoperability with the BGP daemons of Debian: `cargo test -p heliograph-bgp --test interop`. Arguments after `--`
//! select the scenarios whose names contain all of them, such as `frr` or `restart`.
//!
//! Each daemon runs in a network namespace of its own, linked to the one of our speakers, which run in this process. Every
//! case checks both ends: ours by the speaker's reports, the daemon by its control tool. A complete run prints the table of
//! docs/interop.md and compares it with the file; with HELIOGRAPH_UPDATE_DOCS=1 it writes the file.
#![allow(clippy::disallowed_methods, reason = "this has processes, sockets and a clock")]

mod add_path;
mod bfd;
mod cases;
mod communities;
mod evidence;
mod external;
mod graceful;
mod lab;
mod long_lived;
mod md5;
mod peers;
#[path = "../../benches/reflection/processes.rs"]
mod processes;
mod reflection;
mod refresh;
#[path = "../common/skip.rs"]
mod skip;
mod speakers;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use cases::{Record, Results};
use lab::Lab;
use peers::{PEERS, Peer};

/// The number of daemons that run at the same time.
const WORKERS: usize = 2;

/// A group of cases that share a few starts of a daemon.
type Scenario = fn(&Lab, &mut Record) -> anyhow::Result<()>;

/// All scenarios, the longest first.
const SCENARIOS: [(&str, Scenario); 8] = [
    ("graceful restart", graceful::scenario),
    ("long-lived graceful restart", long_lived::scenario),
    ("reflecting us", reflection::they_reflect),
    ("add-path", add_path::scenario),
    ("BFD", bfd::scenario),
    ("reflected by us", reflection::we_reflect),
    ("external over IPv6", external::scenario),
    ("missing features", evidence::scenario),
];

struct Job {
    peer: &'static dyn Peer,
    name: String,
    scenario: Scenario,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let all: Vec<Job> = SCENARIOS
        .iter()
        .flat_map(|(name, scenario)| PEERS.iter().map(move |peer| (*peer, *name, *scenario)))
        .map(|(peer, name, scenario)| Job { peer, name: format!("{}: {name}", peer.name()), scenario })
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        all.iter().for_each(|job| println!("{}: test", job.name));
        return ExitCode::SUCCESS;
    }
    let selected =
        |job: &Job| words.iter().all(|word| job.name.to_lowercase().contains(&word.to_lowercase()));
    let total = all.len();
    let jobs: Vec<Job> = all.into_iter().filter(selected).collect();
    if jobs.is_empty() {
        return ExitCode::SUCCESS;
    }
    if let Some(missing) = missing() {
        jobs.iter().for_each(|job| println!("test {} ... ignored, {missing}", job.name));
        return skip::skip(&format!("{} tests of bgp/tests/interop", jobs.len()), &missing);
    }
    let whole = jobs.len() == total;
    let results = run(jobs);
    for (peer, case, error) in results.failures() {
        println!("\nFAILED {peer}: {case}: {error}");
    }
    let matches = !whole || table::check(&results);
    if results.failures().next().is_none() && matches { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns what the machine lacks for these tests.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root: run the tests as root".into());
    }
    let incomplete = |peer: &&dyn Peer| peer.programs().iter().any(|program| !Path::new(program).exists());
    let peers = PEERS.iter().copied().filter(incomplete).map(|peer| peer.package());
    let tools = [("/sbin/ip", "iproute2"), ("/sbin/nft", "nftables")];
    let tools = tools.into_iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| package);
    let packages: Vec<&str> = peers.chain(tools).collect();
    (!packages.is_empty())
        .then(|| format!("not installed: {}; `sudo make setup` does that", packages.join(", ")))
}

fn run(jobs: Vec<Job>) -> Results {
    let queue = Mutex::new(jobs.into_iter());
    let results = Mutex::new(Results::default());
    let next = || queue.lock().expect("no panic while locked").next();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let record = attempt(&job);
                    results.lock().expect("no panic while locked").add(record);
                }
            });
        }
    });
    results.into_inner().expect("no panic while locked")
}

fn attempt(job: &Job) -> Record {
    let begin = Instant::now();
    let mut record = Record::new(job.peer);
    let work = AssertUnwindSafe(|| Lab::enter(|lab| (job.scenario)(lab, &mut record)));
    let outcome = catch_unwind(work).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked: see above")));
    if let Err(error) = outcome {
        record.failed(&job.name, &error);
    }
    println!("{} ({:.1} s): {}", job.name, begin.elapsed().as_secs_f32(), record.summary());
    record
}
