//! Medians and ratios.

use crate::cases::{Case, Outcome};
use crate::peers::Peer;

/// Returns one run as a line.
pub fn line(outcome: &Outcome) -> String {
    let mut parts: Vec<String> =
        outcome.seconds.iter().map(|(what, seconds)| format!("{what} {}", time(*seconds))).collect();
    parts.push(format!("cpu {}", time(outcome.usage.cpu.as_secs_f64())));
    parts.push(format!("peak {}", size(outcome.usage.peak as f64)));
    parts.join(", ")
}

/// Prints all runs of a case: the medians of each daemon, and their ratios to ours.
pub fn table(case: Case, results: &[(&Peer, Vec<Outcome>)]) {
    let columns: Vec<Vec<(String, f64)>> = results.iter().map(|(_, outcomes)| medians(outcomes)).collect();
    let Some(ours) = columns.first().filter(|ours| !ours.is_empty()) else { return };
    println!(
        "\n| {} | {} |",
        case.name(),
        results.iter().map(|(p, _)| p.name).collect::<Vec<_>>().join(" | ")
    );
    println!("|---|{}", "---|".repeat(results.len()));
    for (at, (what, base)) in ours.iter().enumerate() {
        let cells = columns.iter().map(|column| match column.get(at) {
            Some((_, value)) => {
                let shown = if what == "peak memory" { size(*value) } else { time(*value) };
                format!("{shown} (×{:.2})", value / base)
            }
            None => "failed".into(),
        });
        println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!();
}

fn medians(outcomes: &[Outcome]) -> Vec<(String, f64)> {
    let Some(first) = outcomes.first() else { return Vec::new() };
    let mut rows: Vec<(String, f64)> = Vec::new();
    for (at, (what, _)) in first.seconds.iter().enumerate() {
        rows.push(((*what).into(), median(outcomes.iter().map(|outcome| outcome.seconds[at].1))));
    }
    rows.push(("cpu".into(), median(outcomes.iter().map(|outcome| outcome.usage.cpu.as_secs_f64()))));
    rows.push(("peak memory".into(), median(outcomes.iter().map(|outcome| outcome.usage.peak as f64))));
    rows
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn size(octets: f64) -> String {
    format!("{:.1} MB", octets / 1e6)
}
