//! The sysctls on which pod traffic depends. They are written only if their value prevents it.

use super::IpFamily;
use super::error::{Cause, KernelError, KernelResult};
use std::path::{Path, PathBuf};

/// The sysctls of the network namespace of the thread that opens a file in it.
const ROOT: &str = "/proc/sys/net";
/// The same for a container whose /proc/sys is read-only: a mount of the host's.
const MOUNTED_ROOT: &str = "/host/proc/sys/net";

fn root() -> &'static Path {
    let mounted = Path::new(MOUNTED_ROOT);
    if mounted.exists() { mounted } else { Path::new(ROOT) }
}

fn forwarding_file(family: IpFamily) -> PathBuf {
    root().join(match family {
        IpFamily::V4 => "ipv4/ip_forward",
        IpFamily::V6 => "ipv6/conf/all/forwarding",
    })
}

fn rp_filter_file(device: &str) -> PathBuf {
    root().join("ipv4/conf").join(device).join("rp_filter")
}

/// Returns whether packets are forwarded; false for a family that the kernel doesn't support.
pub(super) fn forwards(family: IpFamily) -> KernelResult<bool> {
    Ok(read(&forwarding_file(family))?.is_some_and(|value| value != "0"))
}

/// Turns forwarding on. It is never turned off again: other programs may need it by then.
pub(super) fn forward(family: IpFamily) -> KernelResult<()> {
    if forwards(family)? {
        return Ok(());
    }
    write(&forwarding_file(family), "1")?;
    tracing::info!(file = %forwarding_file(family).display(), "turned forwarding on; it stays on when Heliograph is removed");
    Ok(())
}

/// Returns whether a device itself has a reverse path filter, strict or loose.
pub(super) fn filters_sources(device: &str) -> KernelResult<bool> {
    Ok(read(&rp_filter_file(device))?.is_some_and(|value| value != "0"))
}

/// Turns the reverse path filter of a tunnel device off. Packets that a node itself sends to pods have its own address as
/// source, and the route to that is through the underlay. Even the loose filter drops them, as the device has no address.
/// The nftables table decides which packets the tunnel accepts.
pub(super) fn disable_rp_filter(device: &str) -> KernelResult<()> {
    if filters_sources(device)? {
        write(&rp_filter_file(device), "0")?;
        tracing::info!(device, "turned the reverse path filter off");
    }
    // The kernel uses the higher of the two values, and the administrator of the host decides on the one for all devices.
    if filters_sources("all")? {
        tracing::warn!(
            "net.ipv4.conf.all.rp_filter is on: pods reach each other, but nodes don't reach pods behind a tunnel; set \
             it to 0 and, if necessary, net.ipv4.conf.DEV.rp_filter of the underlay's interfaces to 2"
        );
    }
    Ok(())
}

fn read(path: &Path) -> KernelResult<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::new(
            format!("read {}", path.display()),
            Cause::File(error.to_string()),
            "check that /proc/sys is mounted",
        )),
    }
}

fn write(path: &Path, value: &str) -> KernelResult<()> {
    std::fs::write(path, value).map_err(|error| {
        KernelError::new(
            format!("write {value} to {}", path.display()),
            Cause::File(error.to_string()),
            format!(
                "set it on the host (sysctl -w {}={value}), or allow the agent to write it: in a container, mount the \
                 host's /proc/sys/net at {MOUNTED_ROOT}",
                name_of(path)
            ),
        )
    })
}

/// Returns the name of a sysctl, as the program `sysctl` uses it.
fn name_of(path: &Path) -> String {
    let path = path.strip_prefix("/host").map(|path| Path::new("/").join(path)).unwrap_or(path.to_owned());
    let relative = path.strip_prefix("/proc/sys").unwrap_or(&path);
    relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_names_the_sysctl() {
        assert_eq!(name_of(&forwarding_file(IpFamily::V4)), "net.ipv4.ip_forward");
        assert_eq!(name_of(&forwarding_file(IpFamily::V6)), "net.ipv6.conf.all.forwarding");
        let error = write(Path::new("/proc/sys/net/ipv4/no_such_thing"), "1").unwrap_err();
        assert!(error.remedy.contains("sysctl -w net.ipv4.no_such_thing=1"), "{error}");
    }

    #[test]
    fn a_missing_sysctl_is_none() {
        assert_eq!(read(Path::new("/proc/sys/net/ipv9")).unwrap(), None);
    }
}
