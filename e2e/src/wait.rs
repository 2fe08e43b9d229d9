//! Waiting for a condition instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value, and hands it out. An error of `look` is the state it found instead; the last
/// one is told when the time is over.
///
/// # Errors
/// When `look` gave no value within `within`.
pub fn wait_until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(state) if start.elapsed() >= within => {
                return Err(anyhow!("{what}: not within {within:?}; last seen: {state:#}"));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_tells_the_last_state() {
        let mut looks = 0;
        let fault = wait_until(Duration::from_millis(120), "the moon", || -> Result<()> {
            looks += 1;
            Err(anyhow!("look {looks}"))
        })
        .unwrap_err()
        .to_string();
        assert!(fault.contains("the moon") && fault.ends_with(&format!("look {looks}")), "{fault}");
    }
}
