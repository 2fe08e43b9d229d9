//! The planes on the kernel of this node.

use super::routes::{self, Routes};
use super::{Dataplane, Ports, sysctls, tunnels};
use crate::netlink::watch::Own;
use crate::netlink::{KernelResult, nftables};

/// The kernel of the network namespace of the thread that opens the dataplane.
#[derive(Debug)]
pub struct Linux;

impl Ports for Linux {
    type Sysctls = sysctls::Files;
    type Nftables = nftables::Socket;
    type Tunnels = tunnels::Links;
    type Routes = Routes<routes::Linux>;
}

impl Dataplane<Linux> {
    /// Opens the sockets of all planes; nothing is read yet.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn open() -> KernelResult<Self> {
        let routes = Routes::new(routes::Linux::open()?);
        Ok(Self::new(sysctls::Files, nftables::Socket::open()?, tunnels::Links::open()?, routes))
    }

    /// Returns the ports of the sockets by which the planes change the kernel.
    pub fn ports(&mut self) -> Own {
        Own { routes: self.routes.port().port(), tables: vec![self.nftables.port().port()] }
    }
}
