//! The routes of the real kernel.

use super::RoutePort;
use crate::netlink::route::decode::RouteView;
use crate::netlink::route::{Batch, Devices, DumpedRoute, EncodeError, Part, RouteChange, Socket};
use crate::netlink::{Cause, KernelError, KernelResult};
use heliograph_cni::IpFamily;
use nix::errno::Errno;

/// The kernel of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Linux {
    changes: Socket,
    /// A dump is received in parts, between which changes are made.
    dumps: Socket,
    /// Set if the answer to the last dump request has not been received to its end.
    dumping: bool,
    batch: Batch,
}

impl Linux {
    /// Opens connections to the kernel.
    pub fn open() -> KernelResult<Self> {
        let (changes, dumps) = (Socket::open()?, Socket::open()?);
        Ok(Self { changes, dumps, dumping: false, batch: Batch::default() })
    }

    /// Returns the port of the socket that makes changes. Notifications of them contain it.
    pub fn port(&self) -> u32 {
        self.changes.port()
    }

    /// Sends the batch, whose requests are those of the changes at these places.
    fn commit(
        &mut self,
        changes: &[RouteChange],
        places: &mut Vec<usize>,
        failed: &mut dyn FnMut(usize, KernelError),
    ) {
        let mut rejected = Vec::new();
        let result =
            self.changes.commit(&mut self.batch, |place, cause| rejected.push((places[place], cause)));
        let mut report =
            |place: usize, cause| failed(place, KernelError::from_cause(changes[place].to_string(), cause));
        match result {
            Ok(()) => rejected.into_iter().for_each(|(place, cause)| report(place, cause)),
            // The effects are unknown, also of those that were not rejected.
            Err(cause) => places.iter().for_each(|place| report(*place, cause.clone())),
        }
        places.clear();
    }
}

impl RoutePort for Linux {
    fn change(
        &mut self,
        changes: &[RouteChange],
        devices: &Devices,
        failed: &mut dyn FnMut(usize, KernelError),
    ) {
        let mut places = Vec::with_capacity(changes.len());
        for (place, change) in changes.iter().enumerate() {
            match self.batch.push(change, devices) {
                Ok(()) => places.push(place),
                Err(reason) => failed(place, encode_error(change.to_string(), &reason)),
            }
            if self.changes.is_full(&self.batch) {
                self.commit(changes, &mut places, failed);
            }
        }
        self.commit(changes, &mut places, failed);
    }

    fn begin_dump(&mut self, family: IpFamily, own: bool) -> Result<(), Cause> {
        if self.dumping {
            // The kernel sends the rest of the abandoned dump to the former socket only.
            self.dumps = Socket::open().map_err(|error| error.cause)?;
        }
        self.dumping = true;
        self.dumps.begin_dump(family, own.then_some(crate::dataplane::PROTOCOL))
    }

    fn next_part(&mut self, devices: &Devices, visit: &mut dyn FnMut(DumpedRoute)) -> Result<Part, Cause> {
        let part = self.dumps.next_part(|payload| {
            if let Some(route) = RouteView::new(payload).and_then(|view| view.dumped(devices)) {
                visit(route);
            }
        });
        match part {
            Ok(Part::More) => Ok(Part::More),
            Ok(end) => {
                self.dumping = false;
                Ok(end)
            }
            // There are no routes in a family that the kernel doesn't support, nor before the first has created the table.
            Err(Cause::Rejected {
                errno: Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOENT, ..
            }) => {
                self.dumping = false;
                Ok(Part::Last)
            }
            Err(cause) => Err(cause),
        }
    }
}

fn encode_error(what: String, reason: &EncodeError) -> KernelError {
    let remedy = match reason {
        EncodeError::NoDevice(_) => "see the error of the tunnel device",
        EncodeError::WrongPayload { .. } => {
            "give both nodes an InternalIP of the prefix's family, or set encapsulation: Never"
        }
        EncodeError::MultipathTunnels(_) => "prefer one path (local preference)",
        _ => "check that both nodes have an InternalIP of that family",
    };
    KernelError::new(what, Cause::Unexpected(reason.to_string()), remedy)
}
