//! The few sysctls that pod traffic depends on. Read always, written only when they stand in the way.

use super::Family;
use super::error::{Cause, KernelError, KernelResult};
use std::path::{Path, PathBuf};

/// `/proc/sys/net` shows the network namespace of the thread that opens a file in it.
const ROOT: &str = "/proc/sys/net";

fn forwarding_file(family: Family) -> PathBuf {
    Path::new(ROOT).join(match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    })
}

fn rp_filter_file(device: &str) -> PathBuf {
    Path::new(ROOT).join("ipv4/conf").join(device).join("rp_filter")
}

/// Whether packets are forwarded; a family which the kernel doesn't have isn't.
pub(super) fn forwards(family: Family) -> KernelResult<bool> {
    Ok(read(&forwarding_file(family))?.is_some_and(|value| value != "0"))
}

/// Turns forwarding on. It is never turned off again: others may rely on it by then.
pub(super) fn forward(family: Family) -> KernelResult<()> {
    if forwards(family)? {
        return Ok(());
    }
    write(&forwarding_file(family), "1")?;
    tracing::info!(file = %forwarding_file(family).display(), "turned forwarding on; it stays on when Heliograph goes");
    Ok(())
}

/// Whether the device's reverse path filter is strict. The kernel goes by the higher of the device's own setting and
/// that for all: 0 off, 1 strict, 2 loose.
pub(super) fn strict_rp_filter(device: &str) -> KernelResult<bool> {
    let all = read(&rp_filter_file("all"))?;
    let own = read(&rp_filter_file(device))?;
    Ok(all.max(own).as_deref() == Some("1"))
}

/// Makes the filter of a tunnel device loose. Through the tunnel come packets that nodes themselves send to pods,
/// from the node's own address, to which the way back is the underlay and not the tunnel.
pub(super) fn loosen_rp_filter(device: &str) -> KernelResult<()> {
    if strict_rp_filter(device)? {
        write(&rp_filter_file(device), "2")?;
        tracing::info!(device, "made the reverse path filter loose");
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
            "see that /proc/sys is mounted",
        )),
    }
}

fn write(path: &Path, value: &str) -> KernelResult<()> {
    std::fs::write(path, value).map_err(|error| {
        KernelError::new(
            format!("write {value} to {}", path.display()),
            Cause::File(error.to_string()),
            format!(
                "set it on the host (sysctl -w {}={value}), or let the agent write to /proc/sys",
                name_of(path)
            ),
        )
    })
}

/// The sysctl's name as `sysctl` takes it.
fn name_of(path: &Path) -> String {
    let relative = path.strip_prefix("/proc/sys").unwrap_or(path);
    relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_write_names_the_sysctl() {
        assert_eq!(name_of(&forwarding_file(Family::V4)), "net.ipv4.ip_forward");
        assert_eq!(name_of(&forwarding_file(Family::V6)), "net.ipv6.conf.all.forwarding");
        let error = write(Path::new("/proc/sys/net/ipv4/no_such_thing"), "1").unwrap_err();
        assert!(error.remedy.contains("sysctl -w net.ipv4.no_such_thing=1"), "{error}");
    }

    #[test]
    fn a_family_that_is_not_there_does_not_forward() {
        assert_eq!(read(Path::new("/proc/sys/net/ipv9")).unwrap(), None);
    }
}
