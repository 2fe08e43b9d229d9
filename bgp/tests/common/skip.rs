//! Tests that cannot run on this machine. They are never reported as passed.

use std::io::Write;
use std::process::ExitCode;

/// The variable with the file of skipped tests, which `make` prints at the end of a run.
const LIST: &str = "HELIOGRAPH_SKIPPED";

/// Reports tests that cannot run here, with the reason and its remedy, and returns the exit code of the test program: a
/// failure where `CI` is `true`, as there every test has to run.
pub fn skip(tests: &str, reason: &str) -> ExitCode {
    let line = format!("{tests}: {reason}");
    if std::env::var("CI").as_deref() == Ok("true") {
        eprintln!("error: with CI=true no test may be skipped: {line}");
        return ExitCode::FAILURE;
    }
    println!("\nskipped: {line}\n");
    if let Some(path) = std::env::var_os(LIST) {
        let list = std::fs::File::options().create(true).append(true).open(&path);
        if let Err(error) = list.and_then(|mut list| writeln!(list, "{line}")) {
            eprintln!("error: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
