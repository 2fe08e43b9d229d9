//! The table of docs/interop.md: made from what came out, and compared with what stands there.

use std::fmt::Write;
use std::path::Path;

use crate::cases::{Case, Cell, Results};
use crate::peers::PEERS;

/// Between these lines of the page stands what a run has written.
const BEGIN: &str =
    "<!-- written by the tests: HELIOGRAPH_UPDATE_DOCS=1 cargo test -p heliograph-bgp --test interop -->";
const END: &str = "<!-- end of what the tests have written -->";

/// Prints the table, and compares it with the page or writes it there; whether the page is right now.
pub fn settle(results: &Results) -> bool {
    let table = render(results);
    println!("\n{table}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    let Some((head, rest)) = page.split_once(BEGIN) else {
        println!("FAILED: {} has no line {BEGIN}", file.display());
        return false;
    };
    let Some((stands, tail)) = rest.split_once(END) else {
        println!("FAILED: {} has no line {END}", file.display());
        return false;
    };
    if stands.trim() == table.trim() {
        return true;
    }
    let all_right = results.failures().next().is_none();
    if all_right && std::env::var("HELIOGRAPH_UPDATE_DOCS").is_ok_and(|update| update == "1") {
        let page = format!("{head}{BEGIN}\n{}\n{END}{tail}", table.trim());
        return std::fs::write(&file, page).inspect_err(|error| println!("FAILED: {error}")).is_ok();
    }
    // With other versions of the daemons than the page was written with, only what came out counts.
    let cells = |table: &str| -> Vec<String> {
        table.trim().lines().filter(|line| !line.starts_with("| Case |")).map(String::from).collect()
    };
    if cells(stands) == cells(&table) {
        println!("docs/interop.md names other versions of the daemons; the rest is as it says");
        return true;
    }
    println!(
        "FAILED: docs/interop.md says otherwise; HELIOGRAPH_UPDATE_DOCS=1 writes what came out, if all went well"
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
                    let note = lack.words();
                    let at = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    format!("{} ({})", lack.word(), at + 1)
                }
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    if !notes.is_empty() {
        text += "\nWhat is not offered or broken there, as each run checks:\n";
        for (number, note) in (1..).zip(&notes) {
            let _ = writeln!(text, "{number}. {note}");
        }
    }
    text
}
