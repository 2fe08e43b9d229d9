//! A router outside the cluster: a neighbor whose routes must outlive all that is done here.

use std::net::IpAddr;

use anyhow::Result;
use heliograph_e2e::cluster::tor::{self, OUTSIDE};
use heliograph_e2e::cluster::{Cluster, Kubectl};

pub const PASSWORD: &str = "a password";
/// Behind it, in the first of its networks.
const BEHIND: &str = "203.0.113.1";

/// Starts it with its first network and makes it known to the cluster. Gives an address behind it.
pub fn start(cluster: &mut Cluster) -> Result<IpAddr> {
    tor::start(cluster, &OUTSIDE[..1], PASSWORD)?;
    let behind = format!("{BEHIND}/32");
    cluster.machine(tor::NAME)?.run(["ip", "address", "add", &behind, "dev", "lo", "scope", "host"])?;
    cluster.apply(&tor::secret(PASSWORD))?;
    cluster.apply(&tor::peer(&OUTSIDE))?;
    Ok(BEHIND.parse()?)
}
