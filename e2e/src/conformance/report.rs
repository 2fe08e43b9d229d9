//! The result of each test, from ginkgo's JSON report.

use anyhow::{Context, Result};
use serde::Deserialize;

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestResult {
    /// It passed.
    Passed,
    /// It failed, with its message.
    Failed(String),
    /// It skipped itself because this cluster lacks something, with its message.
    Skipped(String),
    /// It was not asked to run.
    NotRun,
}

/// A test and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its whole name, labels such as `[Conformance]` included.
    pub name: String,
    /// Its result.
    pub result: TestResult,
    /// Its duration.
    pub seconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    /// In nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Spec {
    fn outcome(self) -> Outcome {
        let (message, containers) =
            (self.failure.message, self.container_hierarchy_texts.unwrap_or_default());
        let texts: Vec<_> = containers.into_iter().chain([self.leaf_node_text]).collect();
        let result = match self.state.as_str() {
            "passed" => TestResult::Passed,
            "skipped" | "pending" if message.is_empty() => TestResult::NotRun,
            "skipped" => TestResult::Skipped(message),
            state => TestResult::Failed(format!("{state}: {message}")),
        };
        Outcome { name: texts.join(" "), result, seconds: self.run_time / 1_000_000_000 }
    }
}

/// Reads a report: every test of the program, those that did not run too, in order of name.
///
/// # Errors
/// When it is none.
pub fn read(text: &str) -> Result<Vec<Outcome>> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("this is no report of ginkgo's")?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports);
    // Steps before and after all tests are reported beside them.
    let mut outcomes: Vec<_> = specs.filter(|spec| spec.leaf_node_type == "It").map(Spec::outcome).collect();
    outcomes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_distinguishes_results() {
        let text = r#"[{ "SpecReports": [
            { "ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "State": "passed", "RunTime": 5 },
            { "ContainerHierarchyTexts": ["[sig-network]", "Pods"], "LeafNodeType": "It", "LeafNodeText": "reach",
              "State": "passed", "RunTime": 2500000000 },
            { "ContainerHierarchyTexts": ["b"], "LeafNodeType": "It", "LeafNodeText": "", "State": "timedout",
              "RunTime": 1, "Failure": { "Message": "too late" } },
            { "ContainerHierarchyTexts": ["c"], "LeafNodeType": "It", "LeafNodeText": "", "State": "skipped",
              "RunTime": 1, "Failure": { "Message": "needs 5 nodes" } },
            { "ContainerHierarchyTexts": ["d"], "LeafNodeType": "It", "LeafNodeText": "", "State": "skipped",
              "RunTime": 0 }
        ] }]"#;
        let outcomes = read(text).expect("a report");
        assert_eq!(outcomes[0].name, "[sig-network] Pods reach");
        assert_eq!((outcomes[0].seconds, outcomes.len()), (2, 4));
        let verdicts: Vec<_> = outcomes.into_iter().map(|outcome| outcome.result).collect();
        let expected = [
            TestResult::Passed,
            TestResult::Failed("timedout: too late".into()),
            TestResult::Skipped("needs 5 nodes".into()),
            TestResult::NotRun,
        ];
        assert_eq!(verdicts, expected);
        assert!(read("{}").is_err());
    }
}
