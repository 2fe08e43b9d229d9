//! `heliograph-cni`: started by the container runtime for every CNI verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    heliograph_cni::run()
}
