//! What the agent needs before it can do anything to the kernel.

use thiserror::Error;

/// Bit of the capability NET_ADMIN in the masks of /proc (capability.h).
const NET_ADMIN: u32 = 12;

/// Why the agent can't work here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreflightError {
    /// The process may not change routes.
    #[error(
        "this process lacks the capability NET_ADMIN, without which it can set no routes: run it as root \
         (sudo heliograph agent …), in a pod with capabilities.add: [NET_ADMIN, NET_BIND_SERVICE] and hostNetwork: true, \
         or from systemd with AmbientCapabilities=CAP_NET_ADMIN"
    )]
    NoCapability,
    /// It can't even be found out.
    #[error("can't read this process's capabilities from {file}: {error}; see that /proc is mounted")]
    Unknown {
        /// The file that was read.
        file: &'static str,
        /// What came back.
        error: String,
    },
}

/// Checks that this process may change the kernel's routes, so that it can say so at once and in words.
pub fn preflight() -> Result<(), PreflightError> {
    let file = "/proc/thread-self/status";
    let unknown = |error: String| PreflightError::Unknown { file, error };
    let status = std::fs::read_to_string(file).map_err(|error| unknown(error.to_string()))?;
    let effective = effective(&status).ok_or_else(|| unknown("there is no line CapEff".to_owned()))?;
    if effective & (1 << NET_ADMIN) == 0 { Err(PreflightError::NoCapability) } else { Ok(()) }
}

/// The mask of effective capabilities in a status file.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), Some(1 << NET_ADMIN));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn the_advice_names_the_capability() {
        assert!(PreflightError::NoCapability.to_string().contains("NET_ADMIN"));
    }
}
