//! The check of the capabilities that the agent needs.

use thiserror::Error;

/// The bit of the capability NET_ADMIN in the masks of /proc (capability.h).
const NET_ADMIN: u32 = 12;

/// The reason for which the agent can't run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreflightError {
    /// The process may not change routes.
    #[error(
        "this process lacks the capability NET_ADMIN, which is needed to install routes: run it as root \
         (sudo heliograph agent …), in a pod with capabilities.add: [NET_ADMIN, NET_BIND_SERVICE] and hostNetwork: true, \
         or from systemd with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE"
    )]
    NoCapability,
    /// The capabilities can't be read.
    #[error("can't read this process's capabilities from {file}: {error}; check that /proc is mounted")]
    Unknown {
        /// The file that was read.
        file: &'static str,
        /// The cause.
        error: String,
    },
}

/// Checks that this process may change the kernel's routes, so that a clear error comes at the start.
pub fn preflight() -> Result<(), PreflightError> {
    let file = "/proc/thread-self/status";
    let unknown = |error: String| PreflightError::Unknown { file, error };
    let status = std::fs::read_to_string(file).map_err(|error| unknown(error.to_string()))?;
    let effective = effective(&status).ok_or_else(|| unknown("it contains no line CapEff".to_owned()))?;
    if effective & (1 << NET_ADMIN) == 0 { Err(PreflightError::NoCapability) } else { Ok(()) }
}

/// Returns the mask of effective capabilities in a status file.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_decoded() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), Some(1 << NET_ADMIN));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn the_error_names_the_capability() {
        assert!(PreflightError::NoCapability.to_string().contains("NET_ADMIN"));
    }
}
