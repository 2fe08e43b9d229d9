//! A line with the progress of the demonstration.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::uml;

/// Prints progress: on a terminal in one line that changes, elsewhere in a line at most every 2 s.
pub(super) struct Progress {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    phase: String,
    printed: Instant,
    start: Instant,
}

const INTERVAL: Duration = Duration::from_secs(2);
const TERMINAL_INTERVAL: Duration = Duration::from_millis(50);

impl Progress {
    pub(super) fn new() -> Self {
        // In a guest the console always is a terminal; the host's setting counts.
        let terminal = match std::env::var(uml::TERMINAL) {
            Ok(value) => value == "1",
            Err(_) => std::io::stdout().is_terminal(),
        };
        let now = Instant::now();
        Self { terminal, state: Mutex::new(State { phase: String::new(), printed: now, start: now }) }
    }

    pub(super) fn phase(&self, phase: &str) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.phase = phase.to_owned();
        self.print(&mut state, None);
    }

    pub(super) fn update(&self, detail: &str) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let pause = if self.terminal { TERMINAL_INTERVAL } else { INTERVAL };
        if state.printed.elapsed() >= pause {
            self.print(&mut state, Some(detail));
        }
    }

    fn print(&self, state: &mut State, detail: Option<&str>) {
        state.printed = Instant::now();
        let detail = detail.map(|d| format!(": {d}")).unwrap_or_default();
        let line = format!("[{:>5.1} s] {}{detail}", state.start.elapsed().as_secs_f64(), state.phase);
        if self.terminal {
            let line: String = line.chars().take(100).collect();
            print!("\r\x1b[K{line}");
        } else {
            println!("{line}");
        }
        let _ = std::io::stdout().flush();
    }

    /// Clears the changing line, before something else is printed.
    pub(super) fn end(&self) {
        if self.terminal {
            print!("\r\x1b[K");
            let _ = std::io::stdout().flush();
        }
    }
}
