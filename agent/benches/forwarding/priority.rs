//! The real-time policy for a machine with other load: what is measured doesn't wait for a processor.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The priority within the policy SCHED_RR.
const PRIORITY: i32 = 10;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Makes [`set`] and [`before`] effective.
pub fn enable() {
    ENABLED.store(true, Relaxed);
}

/// Sets the policy of the present thread: real time, or the ordinary one.
pub fn set(real_time: bool) {
    if !ENABLED.load(Relaxed) {
        return;
    }
    let (policy, sched_priority) =
        if real_time { (libc::SCHED_RR, PRIORITY) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: it reads one value, to which it gets a valid pointer.
    if unsafe { libc::sched_setscheduler(0, policy, &parameters) } != 0 {
        println!("no real-time policy: {}", std::io::Error::last_os_error());
    }
}

/// Adds the program that runs another one with the policy.
pub fn before(command: &mut Command) {
    if ENABLED.load(Relaxed) {
        command.args(["chrt", "--rr", &PRIORITY.to_string()]);
    }
}
