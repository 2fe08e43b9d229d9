//! Results of Kubernetes' own tests of the pod network, and a check of the page that lists them all.
//! `make conformance` runs them all.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::binaries::Binaries;
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::{Cluster, Spec};
use heliograph_e2e::conformance::report::TestResult;
use heliograph_e2e::conformance::{self, Plan, page, rules};
use heliograph_e2e::uml::as_root;

#[test]
fn kubernetes_own_tests_of_pods_pass() {
    as_root(|| {
        let cluster = Cluster::up(Spec { nodes: 2, services: true, ..Spec::for_test() })?;
        cluster.apply_network(PodNetwork::Heliograph)?;
        cluster.wait_nodes_ready()?;
        let plan = Plan {
            focus: r"Networking Granular Checks: Pods.*\[Conformance\]".into(),
            skip: String::new(),
            processes: 2,
            within: Duration::from_secs(900),
        };
        let outcomes = conformance::run(&cluster, &plan, &mut |line| println!("{line}"))?;
        let ran: Vec<_> = outcomes.iter().filter(|outcome| outcome.result != TestResult::NotRun).collect();
        // Between pods and from node to pod, each over HTTP and UDP.
        ensure!(ran.len() == 4, "{ran:#?}");
        ensure!(ran.iter().all(|outcome| outcome.result == TestResult::Passed), "{ran:#?}");
        cluster.down()
    });
}

#[test]
fn the_page_lists_every_test() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let binaries = Binaries::conformance(&mut |step| println!("{step}"))?;
    let tests = conformance::list(&binaries)?;
    page::check(&text, &tests)?;
    let parts = rules::ALL.iter().flat_map(|rule| rule.names);
    let idle: Vec<_> = parts.filter(|part| !tests.iter().any(|name| name.contains(**part))).collect();
    ensure!(idle.is_empty(), "these parts of rules leave out no test: {idle:?}");
    Ok(())
}
