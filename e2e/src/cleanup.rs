//! What has to be undone when the program is interrupted: a list of last wills, run on SIGINT and SIGTERM.
//!
//! Only for tidiness. That nothing survives a `kill -9` either is [`crate::jail`]'s work.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

type Will = Box<dyn FnOnce() + Send>;

static WILLS: Mutex<(u64, BTreeMap<u64, Will>)> = Mutex::new((0, BTreeMap::new()));

/// Keeps a last will in the list until it is dropped. Dropping does not run it.
#[derive(Debug)]
pub struct Registered(u64);

/// Registers what to do when the program is interrupted.
pub fn register(will: impl FnOnce() + Send + 'static) -> Registered {
    let mut wills = WILLS.lock().unwrap_or_else(|e| e.into_inner());
    wills.0 += 1;
    let key = wills.0;
    wills.1.insert(key, Box::new(will));
    Registered(key)
}

impl Drop for Registered {
    fn drop(&mut self) {
        WILLS.lock().unwrap_or_else(|e| e.into_inner()).1.remove(&self.0);
    }
}

/// From now on SIGINT and SIGTERM run the last wills, newest first, and end the program with 128 + the signal.
/// To be called before any thread is started, as threads inherit the signal mask.
///
/// # Errors
/// When the kernel refuses the signal mask.
pub fn on_interrupt() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block SIGINT and SIGTERM to handle them")?;
    std::thread::spawn(move || {
        let signal = signals.wait().unwrap_or(Signal::SIGTERM);
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted by {signal}: taking everything down");
        let wills = std::mem::take(&mut WILLS.lock().unwrap_or_else(|e| e.into_inner()).1);
        for (_, will) in wills.into_iter().rev() {
            will();
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}

/// To be called before the program ends by itself: if it is being interrupted, whatever went wrong meanwhile is only
/// the consequence, and the wills are to be run to their end.
pub fn let_interruption_finish() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
