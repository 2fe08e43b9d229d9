//! Interoperability with other people's daemons, as Debian has them: `cargo test -p heliograph-bgp --test interop`, with
//! words after `--` that must be in the name of what is to run, such as `frr` or `restart`.
//!
//! Each daemon runs in a network of its own, linked to one in which our speakers run in this very process. Every case asks
//! both ends: ours by the speaker's reports, the daemon by its own control tool. A run of everything prints the table of
//! docs/interop.md and compares it with what stands there; with HELIOGRAPH_UPDATE_DOCS=1 it writes it.
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

/// Daemons that run at a time.
const WORKERS: usize = 2;

/// What is run with one start of a daemon, or with a few.
type Scenario = fn(&Lab, &mut Record) -> anyhow::Result<()>;

/// The longest first.
const SCENARIOS: [(&str, Scenario); 8] = [
    ("graceful restart", graceful::scenario),
    ("long-lived graceful restart", long_lived::scenario),
    ("reflecting us", reflection::they_reflect),
    ("add-path", add_path::scenario),
    ("BFD", bfd::scenario),
    ("reflected by us", reflection::we_reflect),
    ("external over IPv6", external::scenario),
    ("what it lacks", evidence::scenario),
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
    let fits = |job: &Job| words.iter().all(|word| job.name.to_lowercase().contains(&word.to_lowercase()));
    let total = all.len();
    let jobs: Vec<Job> = all.into_iter().filter(fits).collect();
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
    let agrees = !whole || table::settle(&results);
    if results.failures().next().is_none() && agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns what the machine lacks for these tests.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root: run the tests as root".into());
    }
    let lacks = |peer: &&dyn Peer| peer.programs().iter().any(|program| !Path::new(program).exists());
    let peers = PEERS.iter().copied().filter(lacks).map(|peer| peer.package());
    let tools = [("/sbin/ip", "iproute2"), ("/sbin/nft", "nftables")];
    let tools = tools.into_iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| package);
    let packages: Vec<&str> = peers.chain(tools).collect();
    (!packages.is_empty())
        .then(|| format!("not installed: {}; `sudo make setup` does that", packages.join(", ")))
}

fn run(jobs: Vec<Job>) -> Results {
    let waiting = Mutex::new(jobs.into_iter());
    let results = Mutex::new(Results::default());
    let next = || waiting.lock().expect("nothing panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let record = attempt(&job);
                    results.lock().expect("nothing panics with it").add(record);
                }
            });
        }
    });
    results.into_inner().expect("nothing panicked with it")
}

fn attempt(job: &Job) -> Record {
    let begin = Instant::now();
    let mut record = Record::new(job.peer);
    let work = AssertUnwindSafe(|| Lab::enter(|lab| (job.scenario)(lab, &mut record)));
    let outcome = catch_unwind(work).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked: see above")));
    if let Err(error) = outcome {
        record.broken(&job.name, &error);
    }
    println!("{} ({:.1} s): {}", job.name, begin.elapsed().as_secs_f32(), record.summary());
    record
}
