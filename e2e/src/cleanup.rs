//! Handlers that run on SIGINT and SIGTERM and clean up.
//!
//! After a `kill -9`, [`crate::jail`] ends all processes without them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

type Handler = Box<dyn FnOnce() + Send>;

/// The handlers by number, and the last number.
static HANDLERS: Mutex<(u64, BTreeMap<u64, Handler>)> = Mutex::new((0, BTreeMap::new()));

/// A registered handler. Dropping it removes the handler without running it.
#[derive(Debug)]
pub struct Registered(u64);

/// Registers a handler.
pub fn register(handler: impl FnOnce() + Send + 'static) -> Registered {
    let mut handlers = HANDLERS.lock().unwrap_or_else(|e| e.into_inner());
    handlers.0 += 1;
    let key = handlers.0;
    handlers.1.insert(key, Box::new(handler));
    Registered(key)
}

impl Drop for Registered {
    fn drop(&mut self) {
        HANDLERS.lock().unwrap_or_else(|e| e.into_inner()).1.remove(&self.0);
    }
}

/// Starts handling SIGINT and SIGTERM: they run the handlers, newest first, and end the program with 128 + the signal.
/// To be called before any thread starts, as threads inherit the signal mask.
///
/// # Errors
/// When the kernel rejects the signal mask.
pub fn on_interrupt() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block SIGINT and SIGTERM to handle them")?;
    std::thread::spawn(move || {
        let signal = signals.wait().unwrap_or(Signal::SIGTERM);
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted by {signal}: taking everything down");
        let handlers = std::mem::take(&mut HANDLERS.lock().unwrap_or_else(|e| e.into_inner()).1);
        for (_, handler) in handlers.into_iter().rev() {
            handler();
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}

/// Waits for the handlers if the program is being interrupted. To be called before the program ends by itself: an error
/// during an interruption is only its consequence, and the handlers have to finish.
pub fn let_interruption_finish() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
