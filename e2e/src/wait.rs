//! Waiting for a condition instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The interval at which a condition is checked.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value, and hands it out. An error of `look` is the state it found instead; the last
/// is printed when the time is over.
///
/// # Errors
/// When `look` gave no value within `within`.
pub fn wait_until<T>(within: Duration, what: &str, look: impl FnMut() -> Result<T>) -> Result<T> {
    wait_while(|| Ok(()), within, what, look)
}

/// The same as long as there is something to wait for: an error of `lives` ends it at once.
///
/// # Errors
/// When `look` gave no value within `within`, or `lives` failed; with its error.
pub fn wait_while<T>(
    mut lives: impl FnMut() -> Result<()>,
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        // Asked before the look, as what somebody did just before its end counts.
        let end = lives().err();
        match (look(), end) {
            (Ok(value), _) => return Ok(value),
            (Err(state), Some(end)) => return Err(end.context(format!("{what}; last seen: {state:#}"))),
            (Err(state), None) if start.elapsed() >= within => {
                return Err(anyhow!("{what}: not within {within:?}; last seen: {state:#}"));
            }
            (Err(_), None) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_reports_the_last_state() {
        let mut looks = 0;
        let fault = wait_until(Duration::from_millis(120), "the moon", || -> Result<()> {
            looks += 1;
            Err(anyhow!("look {looks}"))
        })
        .unwrap_err()
        .to_string();
        assert!(fault.contains("the moon") && fault.ends_with(&format!("look {looks}")), "{fault}");
    }

    #[test]
    fn nobody_waits_for_what_has_ended() {
        let within = Duration::from_secs(3600);
        let look = || -> Result<()> { Err(anyhow!("dark")) };
        let fault = wait_while(|| Err(anyhow!("it fell down")), within, "the moon", look).unwrap_err();
        let fault = format!("{fault:#}");
        assert!(["the moon", "dark", "it fell down"].iter().all(|word| fault.contains(word)), "{fault}");
        assert!(wait_while(|| Err(anyhow!("it fell down")), within, "the moon", || Ok(1)).is_ok());
    }
}
