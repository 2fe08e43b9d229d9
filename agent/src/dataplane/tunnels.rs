//! The tunnel devices: one per tunnel, `external`, so that the remote end is in each route and not in the device
//! (docs/decisions/tunnels.md).

mod port;

pub use port::{Links, Port};

use super::tracker::{Change, Held, Tracker};
use super::{Phase, Plane, PlaneReport, Present, Problems, Tunnel};
use crate::netlink::Hint;
use crate::netlink::error::{Cause, KernelError, KernelResult};
use std::collections::BTreeMap;
use std::time::Instant;

/// A device with one of Heliograph's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The index of the interface.
    pub index: u32,
    /// The form of the device.
    pub form: DeviceForm,
    /// The MTU in octets.
    pub mtu: u32,
    /// Set if the device is administratively up.
    pub up: bool,
    /// Set if the device has a reverse path filter, which would drop packets from the nodes' own addresses.
    pub filters_sources: bool,
}

/// The form of a device with one of Heliograph's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceForm {
    /// Heliograph's tunnel: each route has its own remote end (`external`).
    External,
    /// A tunnel of the right kind that is bound to one remote end: to be created again.
    Bound,
    /// A device of another kind, which is foreign.
    Foreign(String),
}

/// The tunnel devices.
#[derive(Debug)]
pub struct Tunnels<P> {
    port: P,
    /// The MTU of each device.
    tracker: Tracker<Tunnel, u32>,
    /// The devices in the kernel, as they were read last.
    devices: BTreeMap<Tunnel, Device>,
}

impl<P: Port> Tunnels<P> {
    /// Makes the plane; nothing is desired yet.
    pub fn new(port: P) -> Self {
        Self { port, tracker: Tracker::default(), devices: BTreeMap::new() }
    }

    /// Sets the MTU of a tunnel's device; `None`: there is none.
    pub fn set(&mut self, tunnel: Tunnel, mtu: Option<u32>) {
        self.tracker.set(tunnel, mtu);
    }

    fn read_all(&mut self) -> KernelResult<()> {
        let mut devices = BTreeMap::new();
        for tunnel in Tunnel::ALL {
            devices.extend(self.port.find(tunnel)?.map(|device| (tunnel, device)));
        }
        self.devices = devices;
        self.tracker.begin_read();
        for (tunnel, device) in &self.devices {
            let held = match device {
                Device { form: DeviceForm::External, mtu, up: true, filters_sources: false, .. } => {
                    Held::Value(*mtu)
                }
                // It is neither Heliograph's nor to be removed.
                Device { form: DeviceForm::Foreign(_), .. } => Held::Absent,
                _ => Held::Altered,
            };
            self.tracker.observe(*tunnel, held);
        }
        self.tracker.end_read();
        Ok(())
    }

    /// Reports the usable devices to other planes.
    fn publish(&self, present: &mut Present) {
        let usable = self.devices.iter().filter(|(_, device)| device.form == DeviceForm::External);
        present.tunnels = usable.map(|(tunnel, device)| (*tunnel, device.index)).collect();
        present.tunnels_unknown = !self.tracker.is_known() || self.tracker.has_unknown();
    }

    /// Creates the device, or corrects an existing one. A correct one is not deleted even for a moment, as the kernel would
    /// delete all routes through it.
    fn put(&mut self, tunnel: Tunnel, mtu: u32) -> KernelResult<()> {
        let what = describe_put(tunnel, mtu);
        match self.port.find(tunnel)? {
            None => self.port.create(&what, tunnel, mtu)?,
            Some(Device { form: DeviceForm::Foreign(kind), .. }) => {
                return Err(conflict(what, tunnel, &kind));
            }
            Some(Device { form: DeviceForm::Bound, index, .. }) => {
                self.devices.remove(&tunnel);
                self.port.remove(&what, index)?;
                self.port.create(&what, tunnel, mtu)?;
            }
            Some(device) if device.mtu != mtu || !device.up => self.port.adjust(&what, device.index, mtu)?,
            Some(_) => {}
        }
        // The filter is for IPv4 packets, which the IPv6 tunnel transports too: so it is off for both devices.
        self.port.disable_filter(tunnel)?;
        self.devices.remove(&tunnel);
        self.devices.extend(self.port.find(tunnel)?.map(|device| (tunnel, device)));
        Ok(())
    }

    fn remove(&mut self, tunnel: Tunnel) -> KernelResult<()> {
        let what = format!("delete tunnel device {tunnel}");
        match self.port.find(tunnel)? {
            None | Some(Device { form: DeviceForm::Foreign(_), .. }) => {}
            Some(device) => self.port.remove(&what, device.index)?,
        }
        self.devices.remove(&tunnel);
        Ok(())
    }

    /// Returns the prerequisite of a change that is not met, if there is one.
    fn waits(&self, tunnel: Tunnel, change: Change<'_, u32>, present: &Present) -> Option<String> {
        let exists = present.tunnels.contains_key(&tunnel);
        (change.desired.is_some() && !present.guarded && !exists)
            .then(|| "the nftables table drops tunnelled packets from other hosts than nodes".to_owned())
    }

    fn foreign(&self, tunnel: Tunnel) -> Option<&str> {
        match &self.devices.get(&tunnel)?.form {
            DeviceForm::Foreign(kind) => Some(kind),
            _ => None,
        }
    }
}

impl<P: Port> Plane for Tunnels<P> {
    fn name(&self) -> &'static str {
        "tunnels"
    }

    fn invalidate(&mut self, hint: &Hint) {
        if matches!(hint, Hint::Everything | Hint::Periodic | Hint::Link { ours: true, .. }) {
            self.tracker.forget();
        }
    }

    fn read(&mut self, present: &mut Present, now: Instant) {
        if self.tracker.wake_to_read(now)
            && let Err(error) = self.read_all()
        {
            self.tracker.fail_read(error, now);
        }
        self.publish(present);
    }

    fn apply(&mut self, phase: Phase, present: &mut Present, now: Instant) -> bool {
        if phase == Phase::Remove && !present.may_delete {
            return false;
        }
        let pending = self.tracker.pending(phase, None);
        let possible = pending.filter(|(tunnel, change)| {
            self.foreign(**tunnel).is_none() && self.waits(**tunnel, *change, present).is_none()
        });
        let changes: Vec<(Tunnel, Option<u32>)> =
            possible.map(|(tunnel, change)| (*tunnel, change.desired.copied())).collect();
        for (tunnel, mtu) in &changes {
            let result = match mtu {
                Some(mtu) => self.put(*tunnel, *mtu),
                None => self.remove(*tunnel),
            };
            match result {
                Ok(()) => self.tracker.confirm(tunnel),
                Err(error) => self.tracker.fail(tunnel, error, now),
            }
        }
        self.publish(present);
        !changes.is_empty()
    }

    fn next_retry(&self) -> Option<Instant> {
        self.tracker.next_retry()
    }

    fn report(&self, present: &Present) -> PlaneReport {
        let mut problems = Problems::default();
        for (tunnel, mtu) in self.tracker.all_desired() {
            if let Some(kind) = self.foreign(*tunnel) {
                problems.add(conflict(describe_put(*tunnel, *mtu), *tunnel, kind));
            }
        }
        let describe = |tunnel: &Tunnel, change: Change<'_, u32>| match change.desired {
            Some(mtu) => describe_put(*tunnel, *mtu),
            None => format!("delete tunnel device {tunnel}"),
        };
        let waits = |tunnel: &Tunnel, change: Change<'_, u32>| match self.foreign(*tunnel) {
            Some(_) => None,
            None => self.waits(*tunnel, change, present),
        };
        self.tracker.report(present.may_delete, problems, describe, waits)
    }
}

fn describe_put(tunnel: Tunnel, mtu: u32) -> String {
    format!("set up tunnel device {tunnel} with MTU {mtu}")
}

/// Returns the error for a foreign device with one of Heliograph's names.
fn conflict(what: String, tunnel: Tunnel, kind: &str) -> KernelError {
    let name = tunnel.device_name();
    KernelError::new(
        what,
        Cause::Conflict(format!("the interface {name} is of kind {kind} and not Heliograph's")),
        format!("rename or remove it (ip link set {name} name NEWNAME), or set encapsulation: Never"),
    )
}
