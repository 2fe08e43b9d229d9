//! `heliograph`: placeholder until the agent is wired.
fn main() {}
