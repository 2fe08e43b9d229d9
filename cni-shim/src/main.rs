//! `heliograph-cni`: the CNI plugin, which the container runtime starts for every verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    heliograph_cni::run()
}
