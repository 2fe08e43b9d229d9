//! The sysctls on which forwarding depends. They are written only if their value prevents it, and never reset: other programs
//! may need them by then.

use super::tracker::{Change, Held, Tracker};
use super::{Phase, Plane, PlaneReport, Present, Problems};
use crate::netlink::Hint;
use crate::netlink::error::{Cause, KernelError, KernelResult};
use heliograph_cni::IpFamily;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The sysctls of the network namespace of the thread that opens a file in it.
const ROOT: &str = "/proc/sys/net";
/// The same for a container whose /proc/sys is read-only: a mount of the host's.
const MOUNTED_ROOT: &str = "/host/proc/sys/net";

/// The part of the kernel that the plane uses.
pub trait Port {
    /// Returns whether packets are forwarded; false for a family that the kernel doesn't support.
    ///
    /// # Errors
    /// The file can't be read.
    fn forwards(&mut self, family: IpFamily) -> KernelResult<bool>;

    /// Turns forwarding on.
    ///
    /// # Errors
    /// The file can't be written.
    fn forward(&mut self, family: IpFamily) -> KernelResult<()>;
}

/// Forwarding, by family.
#[derive(Debug)]
pub struct Sysctls<P> {
    port: P,
    tracker: Tracker<IpFamily, ()>,
}

impl<P: Port> Sysctls<P> {
    /// Makes the plane; nothing is desired yet.
    pub fn new(port: P) -> Self {
        Self { port, tracker: Tracker::default() }
    }

    /// Sets whether this node forwards packets of a family.
    pub fn set(&mut self, family: IpFamily, forwards: bool) {
        if forwards == self.tracker.desired(&family).is_some() {
            return;
        }
        if forwards {
            self.tracker.set(family, Some(()));
            self.tracker.forget_one(family);
        } else {
            // It is not turned off, so nothing is left to remove.
            self.tracker.observe(family, Held::Absent);
            self.tracker.set(family, None);
        }
    }

    fn read_all(&mut self) -> KernelResult<()> {
        let families: Vec<IpFamily> = self.tracker.all_desired().map(|(family, ())| *family).collect();
        let forwards = families
            .into_iter()
            .map(|family| Ok((family, self.port.forwards(family)?)))
            .collect::<KernelResult<Vec<_>>>()?;
        self.tracker.begin_read();
        for (family, forwards) in forwards {
            self.tracker.observe(family, if forwards { Held::Value(()) } else { Held::Absent });
        }
        self.tracker.end_read();
        Ok(())
    }
}

impl<P: Port> Plane for Sysctls<P> {
    fn name(&self) -> &'static str {
        "sysctls"
    }

    fn invalidate(&mut self, hint: &Hint) {
        if matches!(hint, Hint::Everything | Hint::Periodic) {
            self.tracker.forget();
        }
    }

    fn read(&mut self, _present: &mut Present, now: Instant) {
        if self.tracker.wake_to_read(now)
            && let Err(error) = self.read_all()
        {
            self.tracker.fail_read(error, now);
        }
    }

    fn apply(&mut self, phase: Phase, _present: &mut Present, now: Instant) -> bool {
        if phase == Phase::Remove {
            return false;
        }
        let pending: Vec<IpFamily> = self.tracker.pending(phase, None).map(|(family, _)| *family).collect();
        for family in &pending {
            match self.port.forward(*family) {
                Ok(()) => self.tracker.confirm(family),
                Err(error) => self.tracker.fail(family, error, now),
            }
        }
        !pending.is_empty()
    }

    fn next_retry(&self) -> Option<Instant> {
        self.tracker.next_retry()
    }

    fn report(&self, present: &Present) -> PlaneReport {
        let describe = |family: &IpFamily, _: Change<'_, ()>| format!("turn on {family} forwarding");
        self.tracker.report(present.may_delete, Problems::default(), describe, |_, _| None)
    }
}

/// The files in /proc/sys.
#[derive(Debug, Clone, Copy)]
pub struct Files;

impl Port for Files {
    fn forwards(&mut self, family: IpFamily) -> KernelResult<bool> {
        Ok(read(&forwarding_file(family))?.is_some_and(|value| value != "0"))
    }

    fn forward(&mut self, family: IpFamily) -> KernelResult<()> {
        let file = forwarding_file(family);
        write(&file, "1")?;
        tracing::info!(file = %file.display(), "turned forwarding on; it stays on when Heliograph is removed");
        Ok(())
    }
}

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

/// Returns whether a device itself has a reverse path filter, strict or loose.
pub(super) fn filters_sources(device: &str) -> KernelResult<bool> {
    Ok(read(&rp_filter_file(device))?.is_some_and(|value| value != "0"))
}

/// Turns the reverse path filter of a tunnel device off. Packets that a node itself sends to pods have its own address as
/// source, and the route to that is through the underlay. Even the loose filter drops them, as the device has no address.
/// The guard decides which packets the tunnel accepts.
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

fn rp_filter_file(device: &str) -> PathBuf {
    root().join("ipv4/conf").join(device).join("rp_filter")
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
