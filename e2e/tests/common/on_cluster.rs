//! Checks of tests on a whole Kubernetes.

use anyhow::{Context, Result, bail, ensure};
use heliograph_e2e::cluster::Cluster;
use heliograph_e2e::wait::wait_until;

use super::{LATER, OURS};

/// Waits until a node's kernel has a route of the agent's to a prefix, or has none.
pub fn wait_for_route(cluster: &Cluster, node: &str, prefix: &str, there: bool) -> Result<()> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let words = ["ip", family, "route", "show", "exact", prefix, "proto", OURS[0]];
    let what = format!("{node}: {} route to {prefix}", if there { "a" } else { "no" });
    wait_until(LATER, &what, || {
        let routes = cluster.node(node)?.run(words)?;
        if routes.trim().is_empty() == there { bail!("{routes:?}") } else { Ok(()) }
    })
}

/// Waits until a node has exactly this number of sessions of a role, by its agent's status, all established.
pub fn wait_for_role(cluster: &Cluster, node: &str, role: &str, count: usize) -> Result<()> {
    wait_until(LATER, &format!("{node}: {count} sessions of role {role}"), || {
        let status = cluster.agent_status(node)?;
        let sessions = status["sessions"].as_array().context("no sessions")?;
        let of_role: Vec<_> = sessions.iter().filter(|session| session["role"] == role).collect();
        let up = of_role.iter().filter(|session| session["state"] == "Established").count();
        ensure!(
            of_role.len() == count && up == count,
            "{} of this role, {up} of them up: {sessions:?}",
            of_role.len()
        );
        Ok(())
    })
}
