//! The printed report.

use std::time::Duration;

use crate::objects::Cluster;
use crate::run::{Outcome, Phase};

/// Returns the result of one start in one line.
pub fn line(outcome: &Outcome) -> String {
    ROWS.iter()
        .map(|(what, figure)| format!("{what} {}", figure(outcome).shown()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Prints a table of the medians of all starts.
pub fn table(cluster: Cluster, outcomes: &[Outcome]) {
    println!("\n| {cluster} | median | least | most |\n|---|---|---|---|");
    for (what, figure) in ROWS {
        let mut figures: Vec<Figure> = outcomes.iter().map(figure).collect();
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some(least), Some(most)) = (figures.first(), figures.last()) else { continue };
        println!(
            "| {what} | {} | {} | {} |",
            figures[figures.len() / 2].shown(),
            least.shown(),
            most.shown()
        );
    }
    println!();
}

/// A number with its unit.
struct Figure(f64, &'static str);

impl Figure {
    fn shown(&self) -> String {
        let Self(number, unit) = self;
        let digits = if *number >= 100.0 || number.fract() == 0.0 { 0 } else { 2 };
        format!("{number:.digits$}{}{unit}", if unit.is_empty() { "" } else { " " })
    }
}

type Row = (&'static str, fn(&Outcome) -> Figure);

const ROWS: &[Row] = &[
    ("last route after", |outcome| seconds(outcome.start.time)),
    ("CPU until then", |outcome| seconds(outcome.start.cpu)),
    ("CPU until at rest", |outcome| seconds(outcome.start.cpu + outcome.settling.cpu)),
    ("CPU a minute at rest", |outcome| Figure(a_minute(&outcome.rest, outcome.rest.cpu.as_secs_f64()), "s")),
    ("peak of memory until the last route", |outcome| megabytes(outcome.peaks[0])),
    ("peak of memory", |outcome| megabytes(outcome.peaks[1])),
    ("from the API server until the last route", |outcome| megabytes(outcome.start.passed.to_agent)),
    ("from the API server a minute at rest", |outcome| {
        Figure(a_minute(&outcome.rest, outcome.rest.passed.to_agent as f64) / 1e3, "kB")
    }),
    ("to the API server a minute at rest", |outcome| {
        Figure(a_minute(&outcome.rest, outcome.rest.passed.from_agent as f64) / 1e3, "kB")
    }),
    ("objects", |outcome| Figure(outcome.objects as f64, "")),
    ("requests until at rest: reads", |outcome| count(outcome.start.reads + outcome.settling.reads)),
    ("requests until at rest: writes", |outcome| count(outcome.start.writes + outcome.settling.writes)),
    ("reads a minute at rest", |outcome| Figure(a_minute(&outcome.rest, outcome.rest.reads as f64), "")),
    ("writes a minute at rest", |outcome| Figure(a_minute(&outcome.rest, outcome.rest.writes as f64), "")),
    ("reports of kubelets a minute meanwhile", |outcome| {
        Figure(a_minute(&outcome.rest, outcome.rest.reports as f64), "")
    }),
];

fn a_minute(phase: &Phase, number: f64) -> f64 {
    number * 60.0 / phase.time.as_secs_f64()
}

fn seconds(time: Duration) -> Figure {
    Figure(time.as_secs_f64(), "s")
}

fn megabytes(octets: u64) -> Figure {
    Figure(octets as f64 / 1e6, "MB")
}

fn count(number: usize) -> Figure {
    Figure(number as f64, "")
}
