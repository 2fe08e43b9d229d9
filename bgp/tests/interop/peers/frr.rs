//! FRR's bgpd; with BFD also its bfdd, and zebra, which connects the two.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result};
use heliograph_bgp::Prefix;
use serde_json::Value;

use super::{
    Graceful, LLGR_STALE, Lack, Marks, Neighbor, PathView, Peer, SessionView, Setup, address, as_path, list,
    strings,
};
use crate::cases::Case;
use crate::lab::{Lab, THEIRS, THEIRS6};
use crate::speakers::HOLD;

pub struct Frr;

impl Frr {
    fn vtysh(&self, lab: &Lab, daemon: &str, command: &str) -> Command {
        let mut vtysh = Command::new("/usr/bin/vtysh");
        vtysh.arg("--vty_socket").arg(lab.dir()).args(["-d", daemon, "-c", command]);
        vtysh
    }

    fn json(&self, lab: &Lab, command: &str) -> Result<Value> {
        lab.json(&mut self.vtysh(lab, "bgpd", command))
    }
}

impl Peer for Frr {
    fn name(&self) -> &'static str {
        "FRR"
    }

    fn package(&self) -> &'static str {
        "frr"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/lib/frr/bgpd", "/usr/lib/frr/zebra", "/usr/lib/frr/bfdd", "/usr/bin/vtysh"]
    }

    fn version(&self) -> Result<String> {
        Ok(super::version_of("/usr/lib/frr/bgpd", "--version")?.replace("bgpd version ", ""))
    }

    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>> {
        let daemon = |name: &str, config: &str| -> Result<Command> {
            let file = lab.path(&format!("{name}.conf"));
            std::fs::write(&file, config)?;
            let mut command = Command::new(format!("/usr/lib/frr/{name}"));
            command.arg("--config_file").arg(file).arg("--pid_file").arg(lab.path(&format!("{name}.pid")));
            command.arg("--vty_socket").arg(lab.dir()).args(["--vty_port", "0", "--log", "stdout"]);
            command.arg("--socket").arg(lab.path("zebra.api"));
            Ok(command)
        };
        let mut bgpd = daemon("bgpd", &config(setup))?;
        bgpd.args(["--no_kernel", "--skip_runas"]);
        if !setup.any_bfd() {
            bgpd.arg("--no_zebra");
            return Ok(vec![("bgpd.log", bgpd)]);
        }
        // These two change to the user of the package, who needs access to the folder.
        std::fs::set_permissions(lab.dir(), Permissions::from_mode(0o777))?;
        let zebra = daemon("zebra", "")?;
        let mut bfdd = daemon("bfdd", "")?;
        bfdd.arg("--bfdctl").arg(lab.path("bfdd.ctl"));
        // A daemon that starts before those that it connects to retries after 10 s, or never.
        let (zebra, bfdd) = (after("/", &zebra), after("zebra.api", &bfdd));
        Ok(vec![("zebra.log", zebra), ("bfdd.log", bfdd), ("bgpd.log", after("bfdd.vty", &bgpd))])
    }

    fn prepare(&self, lab: &Lab, _: &Setup) -> Result<()> {
        self.json(lab, "show bgp summary json").map(drop)
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView> {
        let shown = self.json(lab, &format!("show bgp neighbors {neighbor} json"))?;
        let shown = &shown[neighbor.to_string()];
        let log = std::fs::read_to_string(lab.path("bgpd.log")).unwrap_or_default();
        let count = |message: &str| {
            let about = |line: &&str| line.contains(message) && line.contains(&neighbor.to_string());
            log.lines().filter(about).count() as u64
        };
        let marks = Marks {
            received: count("rcvd route-refresh (BoRR)").min(count("rcvd route-refresh (EoRR)")),
            sent: count("sending route-refresh (BoRR)").min(count("sending route-refresh (EoRR)")),
        };
        Ok(SessionView {
            established: shown["bgpState"] == "Established",
            updates: shown["messageStats"]["updatesRecv"].as_u64().with_context(|| shown.to_string())?,
            marks: Some(marks),
            refreshes_sent: shown["messageStats"]["routeRefreshSent"].as_u64(),
        })
    }

    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>> {
        let family = if matches!(prefix, Prefix::V4(..)) { "ipv4" } else { "ipv6" };
        let shown = self.json(lab, &format!("show bgp {family} unicast {prefix} json"))?;
        Ok(list(&shown["paths"]).map(path).collect())
    }

    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()> {
        lab.run(&mut self.vtysh(lab, "bgpd", &format!("clear bgp {neighbor} soft in"))).map(drop)
    }

    fn bfd_up(&self, lab: &Lab, neighbor: IpAddr) -> Result<bool> {
        let shown = lab.json(&mut self.vtysh(lab, "bfdd", "show bfd peers json"))?;
        let mut peers = list(&shown);
        Ok(peers.any(|peer| address(&peer["peer"]) == Some(neighbor) && peer["status"] == "up"))
    }

    fn ended_by_bfd(&self, lab: &Lab, neighbor: IpAddr) -> Result<bool> {
        let shown = self.json(lab, &format!("show bgp neighbors {neighbor} json"))?;
        // RFC 9384 §3
        Ok(shown[neighbor.to_string()]["lastNotificationReason"] == "Cease/BFD Down")
    }

    fn lacks(&self, _: Case) -> Option<Lack> {
        None
    }
}

/// Returns a command that waits for a file and then runs `command` in a PID namespace, whose processes are killed with
/// its first one. The daemon changes its user, after which PR_SET_PDEATHSIG no longer kills it with us.
fn after(file: &str, command: &Command) -> Command {
    let script = format!("until [ -e {file} ]; do sleep 0.05; done; \"$0\" \"$@\" & wait");
    let mut shell = Command::new("unshare");
    shell.args(["--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn path(shown: &Value) -> PathView {
    let standard = strings(&shown["community"]["list"]).map(String::from);
    let large = strings(&shown["largeCommunity"]["list"]).map(String::from);
    let extended = shown["extendedCommunity"]["string"].as_str().unwrap_or_default();
    let extended = extended.split(' ').filter(|text| !text.is_empty()).map(|text| text.replace("RT:", "rt "));
    let communities: std::collections::BTreeSet<String> = standard.chain(large).chain(extended).collect();
    // The first one is the global next hop, which is used if there is a link-local one, too.
    let hops: Vec<IpAddr> = list(&shown["nexthops"]).filter_map(|hop| address(&hop["ip"])).collect();
    PathView {
        from: address(&shown["peer"]["peerId"]),
        next_hop: hops.first().copied(),
        originator: address(&shown["originatorId"]),
        cluster_list: list(&shown["clusterList"]["list"]).filter_map(address).collect(),
        as_path: as_path(shown["aspath"]["string"].as_str().unwrap_or_default()),
        stale: shown["stale"] == true,
        long_lived_stale: LLGR_STALE.iter().any(|stale| communities.contains(*stale)),
        communities,
    }
}

fn config(setup: &Setup) -> String {
    let mut text = format!(
        "debug bgp neighbor-events\nroute-map TAG permit 10\n set community 64512:100\n set large-community \
         64512:1:2\n set extcommunity rt 64512:7\nexit\n\
         route-map HOP6 permit 10\n set ipv6 next-hop global {THEIRS6}\nexit\nrouter bgp {}\n bgp router-id {THEIRS}\n \
         no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n \
         coalesce-time 0\n timers bgp 10 {HOLD}\n",
        setup.asn
    );
    match setup.graceful {
        None => text += " bgp graceful-restart-disable\n",
        Some(Graceful { time, long_lived }) => {
            text += &format!(
                " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n \
                 bgp graceful-restart restart-time {time}\n"
            );
            if let Some(time) = long_lived {
                text += &format!(" bgp long-lived-graceful-restart stale-time {time}\n");
            }
        }
    }
    text += &setup.each(neighbor_text);
    // Without zebra it has no IPv6 address, and would advertise an IPv4-mapped next hop on IPv4 sessions.
    for (name, prefix, map) in [("ipv4", super::prefix(), "TAG"), ("ipv6", super::prefix6(), "HOP6")] {
        text += &format!(" address-family {name} unicast\n  network {prefix} route-map {map}\n");
        let carries = |neighbor: &&Neighbor| if name == "ipv4" { neighbor.ipv4 } else { neighbor.ipv6 };
        for neighbor in setup.neighbors.iter().filter(carries) {
            text += &format!("  neighbor {} activate\n", neighbor.address);
            if neighbor.client {
                text += &format!("  neighbor {} route-reflector-client\n", neighbor.address);
            }
            if neighbor.add_path {
                text += &format!("  neighbor {} addpath-tx-all-paths\n", neighbor.address);
            }
        }
        text += " exit-address-family\n";
    }
    text
}

fn neighbor_text(neighbor: &Neighbor) -> String {
    let Neighbor { address, asn, .. } = neighbor;
    let mut text = format!(
        " neighbor {address} remote-as {asn}\n neighbor {address} update-source {}\n \
         neighbor {address} timers connect 1\n neighbor {address} advertisement-interval 0\n",
        neighbor.local()
    );
    let mut add = |flag: bool, command: &str| {
        if flag {
            text += &format!(" neighbor {address} {command}\n");
        }
    };
    add(!neighbor.connects, "passive");
    add(neighbor.extended_next_hop, "capability extended-nexthop");
    add(neighbor.bfd, "bfd 3 100 100");
    add(neighbor.key.is_some(), &format!("password {}", neighbor.key.unwrap_or_default()));
    text
}
