//! The table of docs/interop.md: made from the results, and compared with the file.

use std::fmt::Write;
use std::path::Path;

use crate::cases::{Case, Cell, Results};
use crate::peers::PEERS;

/// The line before the generated part of the page.
const BEGIN: &str =
    "<!-- written by the tests: HELIOGRAPH_UPDATE_DOCS=1 cargo test -p heliograph-bgp --test interop -->";
/// The line after the generated part of the page.
const END: &str = "<!-- end of the generated part -->";

/// Prints the table, compares it with the page or writes it there, and returns whether the page is correct.
pub fn check(results: &Results) -> bool {
    let table = render(results);
    println!("\n{table}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    let Some((head, rest)) = page.split_once(BEGIN) else {
        println!("FAILED: {} has no line {BEGIN}", file.display());
        return false;
    };
    let Some((current, tail)) = rest.split_once(END) else {
        println!("FAILED: {} has no line {END}", file.display());
        return false;
    };
    if current.trim() == table.trim() {
        return true;
    }
    let all_passed = results.failures().next().is_none();
    if all_passed && std::env::var("HELIOGRAPH_UPDATE_DOCS").is_ok_and(|update| update == "1") {
        let page = format!("{head}{BEGIN}\n{}\n{END}{tail}", table.trim());
        return std::fs::write(&file, page).inspect_err(|error| println!("FAILED: {error}")).is_ok();
    }
    // Other versions of the daemons than those on the page are not an error: only the results are compared.
    let cells = |table: &str| -> Vec<String> {
        table.trim().lines().filter(|line| !line.starts_with("| Case |")).map(String::from).collect()
    };
    if cells(current) == cells(&table) {
        println!("docs/interop.md lists other versions of the daemons; the results are the same");
        return true;
    }
    println!(
        "FAILED: docs/interop.md has other results; HELIOGRAPH_UPDATE_DOCS=1 writes the new ones, if nothing failed"
    );
    false
}

fn render(results: &Results) -> String {
    let mut notes: Vec<String> = Vec::new();
    let mut text = String::from("| Case |");
    for peer in PEERS {
        let version = peer.version().unwrap_or_else(|error| error.to_string());
        let _ = write!(text, " {} {version} |", peer.name());
    }
    text += "\n|---|---|---|---|---|\n";
    for case in Case::ALL {
        let _ = write!(text, "| {case} |");
        for peer in PEERS {
            let cell = match results.cell(peer, *case) {
                Cell::Passed => "passed".into(),
                Cell::Open => "**failed**".into(),
                Cell::NotOffered(lack) => {
                    let note = lack.note();
                    let at = notes.iter().position(|other| *other == note).unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    format!("{} ({})", lack.label(), at + 1)
                }
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    if !notes.is_empty() {
        text += "\nFeatures that are not offered or broken there, as each run checks:\n";
        for (number, note) in (1..).zip(&notes) {
            let _ = writeln!(text, "{number}. {note}");
        }
    }
    text
}
