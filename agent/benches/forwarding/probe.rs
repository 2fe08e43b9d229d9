//! Delays of the thread that speaks BGP: the longest time in which it does not answer a route refresh.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::outside::{Family, Outside, PROBE};
use crate::report::{Row, Unit};

/// The pause between requests.
const PAUSE: Duration = Duration::from_millis(3);
/// The longest delay that is meant to happen, in seconds.
const GOAL: f64 = 0.01;
/// The states of the thread.
const IDLE: u8 = 0;
const BUSY: u8 = 1;
const END: u8 = 2;

/// A thread with a session of its own, for a family with few routes, until this is dropped.
pub struct Probe {
    state: Arc<AtomicU8>,
    /// The delays of answers, in seconds.
    delays: Arc<Mutex<Vec<f64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Establishes the session.
    pub fn start() -> Result<Self> {
        let mut session = Outside::establish(PROBE, Family::V6)?;
        let (state, delays) = (Arc::new(AtomicU8::new(IDLE)), Arc::new(Mutex::new(Vec::new())));
        let (wanted, written) = (state.clone(), delays.clone());
        let thread = std::thread::spawn(move || {
            crate::priority::set(true);
            loop {
                match wanted.load(Relaxed) {
                    BUSY => match session.refresh() {
                        Ok(delay) => written.lock().expect("no panic").push(delay.as_secs_f64()),
                        // The window that follows has no answers, and fails.
                        Err(_) => return,
                    },
                    END => return,
                    _ => {}
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { state, delays, thread: Some(thread) })
    }

    /// Executes `work`, and returns the longest and the median delay, and the number of long ones, meanwhile and
    /// for some time after it.
    pub fn during(&self, name: &str, after: Duration, work: impl FnOnce() -> Result<()>) -> Result<Vec<Row>> {
        self.delays.lock().expect("no panic").clear();
        self.state.store(BUSY, Relaxed);
        let done = work();
        std::thread::sleep(after);
        self.state.store(IDLE, Relaxed);
        done?;
        // The last request may not be answered yet.
        std::thread::sleep(Duration::from_secs(1));
        let mut delays = self.delays.lock().expect("no panic").clone();
        ensure!(!delays.is_empty(), "{name}: no answer to a route refresh");
        delays.sort_by(f64::total_cmp);
        let long = delays.iter().filter(|delay| **delay > GOAL).count();
        Ok(vec![
            Row::new(format!("{name}: longest delay"), delays[delays.len() - 1], Unit::Seconds),
            Row::new(format!("{name}: median delay"), delays[delays.len() / 2], Unit::Seconds),
            Row::new(format!("{name}: delays over 10 ms"), long as f64, Unit::Count),
        ])
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.state.store(END, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
