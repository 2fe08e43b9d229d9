//! Processes that must not outlive the process that started them; for benchmarks, and for tests with other daemons.

use std::fs;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Makes a command end with the thread that starts it, and puts it into a process group of its own.
pub fn bind_to_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    let end_with_us = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe { command.pre_exec(end_with_us) };
}

/// Kills a process with all its descendants, and waits for its end.
pub fn kill_all(child: &mut Child) {
    let tree = tree(child.id());
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    for pid in tree {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// Returns a process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children: Vec<u32> = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|children| children.split(' ').filter_map(|c| c.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        at += 1;
    }
    all
}
