//! Medians and ratios.

use crate::daemon::Subject;

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Octets,
    PerSecond,
    Percent,
    Count,
}

/// One measured value.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub value: f64,
    pub unit: Unit,
}

impl Row {
    pub fn new(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self { what: what.into(), value, unit }
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds if value.abs() < 1.0 => format!("{:.2} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Octets if value < 1e6 => format!("{value:.0} B"),
            Unit::Octets => format!("{:.1} MB", value / 1e6),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

/// Returns one run as a line.
pub fn line(rows: &[Row]) -> String {
    rows.iter().map(|row| format!("{} {}", row.what, row.shown(row.value))).collect::<Vec<_>>().join(", ")
}

/// Prints the medians of all runs of a case, and their ratios to those of the first subject.
pub fn table(case: &str, results: &[(&Subject, Vec<Vec<Row>>)]) {
    let Some(first) = results.first().and_then(|(_, runs)| runs.first()) else { return };
    let names: Vec<&str> = results.iter().map(|(subject, _)| subject.name.as_str()).collect();
    println!("\n| {case} | {} |\n|---{}|", names.join(" | "), "|---".repeat(names.len()));
    for row in first {
        let medians: Vec<Option<f64>> = results.iter().map(|(_, runs)| median(runs, &row.what)).collect();
        let base = medians[0].unwrap_or_default();
        let cells = medians.iter().enumerate().map(|(at, value)| match value {
            None => "–".into(),
            Some(value) if at == 0 || base == 0.0 => row.shown(*value),
            Some(value) => format!("{} (×{:.2})", row.shown(*value), value / base),
        });
        println!("| {} | {} |", row.what, cells.collect::<Vec<String>>().join(" | "));
    }
    println!();
}

fn median(runs: &[Vec<Row>], what: &str) -> Option<f64> {
    median_of(runs.iter().flatten().filter(|row| row.what == what).map(|row| row.value))
}

/// Returns the median; `None` of no values.
pub fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
