//! Kubernetes' own tests of the network, run on a cluster: the upstream e2e.test at the pinned version.

pub mod image;
pub mod page;
pub mod report;
pub mod rules;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use self::report::{Outcome, TestResult};
use crate::cluster::binaries::Binaries;
use crate::cluster::pod_network::PodNetwork;
use crate::cluster::{ADMIN, Cluster, Kubectl, Spec};

/// The name of the running tests among the daemons of the control plane's machine.
const DAEMON: &str = "e2e";
/// The path of the report on that machine.
const FOLDER: &str = "/run/e2e";
/// The report's file.
const REPORT: &str = "report.json";
/// The beginning of the labels that ginkgo writes behind a test's name.
const LABELS: &str = " [sig-network";
/// The number of tests at a time: most of their time is waiting.
const PROCESSES: usize = 6;
/// The time that ginkgo has beyond that for the tests, to end those that run and to write its report, which shows how they
/// stand. It gives them half a minute each.
const GRACE: Duration = Duration::from_secs(300);
/// The interval at which the log is read.
const PAUSE: Duration = Duration::from_millis(500);

/// Which tests run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A regular expression: what of a test's name must match.
    pub focus: String,
    /// A regular expression: what must not match. Nothing if empty.
    pub skip: String,
    /// The number of tests at a time, those marked `[Serial]` excepted.
    pub processes: usize,
    /// The timeout for all of them.
    pub within: Duration,
}

/// The names of all tests of the network, in order, without running any. The same on every cluster.
///
/// # Errors
/// When the program cannot be run.
pub fn list(binaries: &Binaries) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let report = folder.path().join("report.json");
    let mut command = Command::new(binaries.path("e2e.test"));
    command.args(["--provider=skeleton", "--ginkgo.dry-run", &format!("--ginkgo.focus={}", rules::FOCUS)]);
    command.arg(format!("--ginkgo.json-report={}", report.display()));
    let output = command.output().context("cannot run e2e.test")?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| format!("no list of tests: {}", String::from_utf8_lossy(&output.stderr)))?;
    let all = report::read(&text)?.into_iter().filter(|outcome| outcome.name.contains(rules::GROUP));
    Ok(all.map(|outcome| outcome.name).collect())
}

/// Runs tests on a cluster that has its network and Services, and gives what became of all there are, the ones that
/// were not asked for too. `progress` gets a line for each test that ended.
///
/// # Errors
/// When they cannot be run, or not all in time. That a test fails is no error.
pub fn run(cluster: &Cluster, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Vec<Outcome>> {
    ensure!(
        cluster.spec().services,
        "Kubernetes' tests need names of Services: this cluster was made without"
    );
    let binaries = Binaries::conformance(progress)?;
    for archive in image::archives(&binaries)? {
        cluster.import(&archive)?;
    }

    let control = cluster.control_machine();
    std::fs::create_dir_all(control.path(FOLDER))?;
    let report = control.path(&format!("{FOLDER}/{REPORT}"));
    // What an earlier run wrote is of no interest.
    for file in [&control.log_path(DAEMON), &report] {
        let _ = std::fs::remove_file(file);
    }
    control.start(DAEMON, &words(&binaries, plan, cluster.places().len()))?;
    let (start, mut log) = (Instant::now(), Log::open(&control.log_path(DAEMON))?);
    while control.runs(DAEMON) && start.elapsed() <= plan.within + GRACE {
        log.read(progress)?;
        std::thread::sleep(PAUSE);
    }
    let took = start.elapsed();
    control.stop(DAEMON, Signal::SIGKILL)?;
    log.read(progress)?;
    // Ginkgo ended them then: its report is true of those that had ended, and nothing to write a page from.
    ensure!(
        took <= plan.within,
        "Kubernetes' tests did not end within {:?}: {}",
        plan.within,
        control.last_logs(DAEMON)
    );
    let text = std::fs::read_to_string(report)
        .with_context(|| format!("Kubernetes' tests left no report: {}", control.last_logs(DAEMON)))?;
    let outcomes = report::read(&text)?;
    Ok(outcomes.into_iter().filter(|outcome| outcome.name.contains(rules::GROUP)).collect())
}

/// Brings a cluster up, runs all tests that the rules do not leave out, writes the page and takes the cluster down.
/// `folder` receives the whole report, and the log with the reasons of failures. With a focus, runs those it matches; then,
/// and with another network than Heliograph, the page is not written. Returns whether any failed.
///
/// # Errors
/// When the tests cannot be run, or the page not be written.
pub fn everything(focus: Option<String>, network: PodNetwork, page: &Path, folder: &Path) -> Result<bool> {
    let of_all = focus.is_none();
    let plan = focus.map_or_else(plan_of_all, |focus| Ok(plan(focus, String::new())))?;
    let cluster = prepared(network)?;
    let start = Instant::now();
    let outcomes = run(&cluster, &plan, &mut |line| println!("{line}"));
    let kept = keep(&cluster, folder);
    let outcomes = outcomes?;
    kept?;
    cluster.down()?;

    let failed = summarize(&outcomes, start.elapsed());
    if of_all && network == PodNetwork::Heliograph {
        let text = page::write(&outcomes)?;
        std::fs::write(page, text).with_context(|| format!("cannot write {}", page.display()))?;
        println!("conformance: see {}", page.display());
    }
    Ok(failed > 0)
}

fn plan(focus: String, skip: String) -> Plan {
    Plan { focus, skip, processes: PROCESSES, within: Duration::from_secs(4 * 3600) }
}

/// Returns all tests that the rules do not leave out, and prints their number.
fn plan_of_all() -> Result<Plan> {
    let all = list(&Binaries::conformance(&mut |step| println!("{step}"))?)?;
    let left_out = all.iter().filter(|name| rules::find(name).is_some()).count();
    println!("conformance: {} tests to run, {left_out} left out", all.len() - left_out);
    Ok(plan(rules::FOCUS.to_owned(), rules::skip()))
}

/// A cluster as the tests want it.
fn prepared(network: PodNetwork) -> Result<Cluster> {
    println!("conformance: starting a cluster of {} nodes", rules::NODES);
    let cluster = Cluster::up(Spec { nodes: rules::NODES, services: true, ..Spec::for_test() })?;
    cluster.apply_network(network)?;
    cluster.wait_nodes_ready()?;
    for node in cluster.places() {
        // Some tests want zones to choose between.
        let zone = format!("topology.kubernetes.io/zone={}", node.name());
        cluster.kubectl(&["label", "node", &node.name(), &zone, "--overwrite"])?;
    }
    Ok(cluster)
}

/// Prints the results of the tests, and returns the number of failures.
fn summarize(outcomes: &[Outcome], took: Duration) -> usize {
    let ran: Vec<_> = outcomes.iter().filter(|outcome| outcome.result != TestResult::NotRun).collect();
    let failed: Vec<_> = ran.iter().filter(|o| matches!(o.result, TestResult::Failed(_))).collect();
    for outcome in &failed {
        println!("FAILED {}: {:?}", outcome.name, outcome.result);
    }
    println!("conformance: {} ran in {} s, {} failed", ran.len(), took.as_secs(), failed.len());
    failed.len()
}

/// Keeps what the tests left on the cluster, as far as they came.
fn keep(cluster: &Cluster, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let control = cluster.control_machine();
    let report = control.path(&format!("{FOLDER}/{REPORT}"));
    for (name, source) in [("log", control.log_path(DAEMON)), (REPORT, report)] {
        if source.is_file() {
            let copy = folder.join(name);
            std::fs::copy(&source, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        }
    }
    println!("conformance: log and report are in {}", folder.display());
    Ok(())
}

fn words(binaries: &Binaries, plan: &Plan, nodes: usize) -> Vec<String> {
    let program = |name: &str| binaries.path(name).to_string_lossy().into_owned();
    let mut words = vec![program("ginkgo"), "run".into(), "-v".into(), "--no-color".into()];
    words.extend([
        format!("--procs={}", plan.processes),
        format!("--timeout={}s", plan.within.as_secs()),
        format!("--focus={}", plan.focus),
        format!("--output-dir={FOLDER}"),
        format!("--json-report={REPORT}"),
    ]);
    words.extend((!plan.skip.is_empty()).then(|| format!("--skip={}", plan.skip)));
    words.extend([
        program("e2e.test"),
        "--".into(),
        "--provider=skeleton".into(),
        format!("--kubeconfig={ADMIN}"),
        format!("--kubectl-path={}", program("kubectl")),
        // Without it, some of the tests assume that there are too few.
        format!("--num-nodes={nodes}"),
        "--disable-log-dump".into(),
    ]);
    words
}

/// A log that is being written.
struct Log {
    file: std::fs::File,
    /// The beginning of a line whose end is not there yet.
    rest: String,
    /// The result of the last test, until its name is printed.
    ended: Option<String>,
    count: usize,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, rest: String::new(), ended: None, count: 0 })
    }

    fn read(&mut self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let text = std::mem::take(&mut self.rest);
        let (lines, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
        self.rest = rest.to_owned();
        lines.lines().for_each(|line| self.line(line, progress));
        Ok(())
    }

    /// Ginkgo writes how a test ended and then, on a line of its own, its name.
    fn line(&mut self, line: &str, progress: &mut dyn FnMut(&str)) {
        if let Some(how) = line.strip_prefix("• [").or_else(|| line.strip_prefix("S [")) {
            self.ended = Some(format!("[{}", how.trim()));
        } else if let Some(how) = self.ended.take_if(|_| line.contains(rules::GROUP)) {
            self.count += 1;
            // After the name come the labels again, which are in the name.
            let name = line.rsplit_once(LABELS).map_or(line, |(name, _)| name);
            progress(&format!("{:>4}  {how} {}", self.count, name.trim()));
        }
    }
}
