//! The page that lists the results of Kubernetes' tests: written from a report, and read again to check it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

use super::report::{Outcome, TestResult};
use super::rules;
use crate::cluster::binaries;

/// The label of the tests that every cluster has to pass.
const CONFORMANCE: &str = "[Conformance]";
const FAILED: &str = "Failed";
const LEFT_OUT: &str = "Left out";
const SKIPPED: &str = "Skipped by the tests themselves";
const PASSED: &str = "Passed";
/// Longer messages are cut: the log has the whole.
const MESSAGE: usize = 200;

/// The section in which a test is listed.
fn section(result: &TestResult) -> &'static str {
    match result {
        TestResult::Passed => PASSED,
        TestResult::Failed(_) => FAILED,
        TestResult::Skipped(_) => SKIPPED,
        TestResult::NotRun => LEFT_OUT,
    }
}

/// Writes the page.
///
/// # Errors
/// When a test did not run though no rule leaves it out: then not all were run.
pub fn write(outcomes: &[Outcome]) -> Result<String> {
    let mut page = format!(
        "# Kubernetes' own tests\n\n\
         <!-- Written by `make conformance`; a test sees that it is whole. Change e2e/src/conformance instead. -->\n\n\
         `make conformance` runs the tests of the network (`{}`) that Kubernetes {} brings along, from its own\n\
         e2e.test, on a cluster of {} nodes with Heliograph, kube-proxy in nftables mode and CoreDNS. The pods' image is\n\
         made here: agnhost from Kubernetes' source, the small programs beside it (busybox, curl, dig, …) from Debian.\n\
         It also stands for busybox, jessie-dnsutils and distroless-iptables, of which the tests want such programs.\n\n\
         | | all | of them `{CONFORMANCE}` |\n|---|---:|---:|\n",
        rules::GROUP,
        binaries::version()?,
        rules::NODES,
    );
    let count = |title: Option<&str>, label: &str| {
        let of = outcomes.iter().filter(|o| title.is_none_or(|title| section(&o.result) == title));
        of.filter(|outcome| outcome.name.contains(label)).count()
    };
    for title in [PASSED, FAILED, SKIPPED, LEFT_OUT] {
        let (all, conformance) = (count(Some(title), ""), count(Some(title), CONFORMANCE));
        writeln!(page, "| {} | {all} | {conformance} |", title.to_lowercase())?;
    }
    writeln!(page, "| all | {} | {} |", count(None, ""), count(None, CONFORMANCE))?;

    for title in [FAILED, SKIPPED] {
        writeln!(page, "\n## {title}\n")?;
        let mut listed = 0;
        for outcome in outcomes.iter().filter(|outcome| section(&outcome.result) == title) {
            let (TestResult::Failed(message) | TestResult::Skipped(message)) = &outcome.result else {
                continue;
            };
            writeln!(page, "- `{}`  \n  {}", outcome.name, first_line(message))?;
            listed += 1;
        }
        if listed == 0 {
            writeln!(page, "None.")?;
        }
    }
    writeln!(page, "\n## {LEFT_OUT}")?;
    let mut left_out: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.result == TestResult::NotRun) {
        let rule = rules::find(&outcome.name)
            .with_context(|| format!("`{}` did not run, and no rule leaves it out", outcome.name))?;
        left_out.entry(rule).or_default().push(&outcome.name);
    }
    for (rule, names) in left_out {
        writeln!(page, "\n### {}\n", rules::ALL[rule].why)?;
        names.into_iter().try_for_each(|name| writeln!(page, "- `{name}`"))?;
    }
    writeln!(page, "\n## {PASSED}\n")?;
    let passed = outcomes.iter().filter(|outcome| outcome.result == TestResult::Passed);
    passed.into_iter().try_for_each(|outcome| writeln!(page, "- `{}`", outcome.name))?;
    Ok(page)
}

fn first_line(message: &str) -> String {
    let line =
        message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason was printed");
    line.chars().take(MESSAGE).collect()
}

/// Returns the result of each test in the page, in order of name.
fn read(page: &str) -> Result<Vec<Outcome>> {
    let (mut section, mut lines, mut outcomes) = ("", page.lines(), Vec::new());
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let Some(name) = line.strip_prefix("- `") else { continue };
        let name = name.trim_end().strip_suffix('`').with_context(|| format!("no test: {line}"))?;
        let mut message = || lines.next().unwrap_or_default().trim().to_owned();
        let result = match section {
            PASSED => TestResult::Passed,
            FAILED => TestResult::Failed(message()),
            SKIPPED => TestResult::Skipped(message()),
            LEFT_OUT => TestResult::NotRun,
            other => bail!("`{name}` is listed under `{other}`"),
        };
        outcomes.push(Outcome { name: name.to_owned(), result, seconds: 0 });
    }
    outcomes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(outcomes)
}

/// Sees whether a page lists each of these tests once, leaves out only what the rules leave out, and counts right.
///
/// # Errors
/// With what is not so.
pub fn check(page: &str, tests: &[String]) -> Result<()> {
    let outcomes = read(page)?;
    let listed: Vec<_> = outcomes.iter().map(|outcome| outcome.name.as_str()).collect();
    let missing: Vec<_> = tests.iter().filter(|name| !listed.contains(&name.as_str())).collect();
    ensure!(missing.is_empty(), "the page does not list {missing:#?}");
    ensure!(listed == tests, "the page lists tests that do not exist, or some twice");
    let ran: Vec<_> = outcomes.iter().filter(|outcome| outcome.result != TestResult::NotRun).collect();
    let odd: Vec<_> = ran.iter().filter(|outcome| rules::find(&outcome.name).is_some()).collect();
    ensure!(odd.is_empty(), "these ran, though a rule leaves them out: {odd:#?}");
    let written = write(&outcomes)?;
    let difference = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    ensure!(written == page, "the page is not what would be written: {difference:?}; run `make conformance`");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let outcome = |name: &str, result| Outcome { name: name.into(), result, seconds: 0 };
        let left_out = rules::ALL[0].names[0];
        let mut outcomes = vec![
            outcome("[sig-network] a [Conformance]", TestResult::Passed),
            outcome("[sig-network] b", TestResult::Failed("it broke\nat length".into())),
            outcome("[sig-network] c", TestResult::Skipped("no cloud".into())),
            outcome(&format!("[sig-network] d {left_out}"), TestResult::NotRun),
        ];
        let page = write(&outcomes).expect("a page");
        assert!(page.contains("| passed | 1 | 1 |") && page.contains("| failed | 1 | 0 |"), "{page}");
        assert!(page.contains("  it broke\n"), "{page}");
        let names: Vec<_> = outcomes.iter().map(|outcome| outcome.name.clone()).collect();
        check(&page, &names).expect("it is true");

        check(&page.replace("| failed | 1", "| failed | 0"), &names).expect_err("a wrong count");
        check(&page, &names[1..]).expect_err("a test that is none");
        let more = [&names[..], &["[sig-network] e".to_owned()]].concat();
        check(&page, &more).expect_err("a test that is missing");
        outcomes[0].result = TestResult::NotRun;
        write(&outcomes).expect_err("no reason why it did not run");
    }
}
