//! OpenBGPD.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use heliograph_bgp::Prefix;
use serde_json::Value;

use super::{
    LLGR_STALE, Lack, Marks, Neighbor, PathView, Peer, SessionView, Setup, address, as_path, list, strings,
};
use crate::cases::Case;
use crate::lab::{Lab, THEIRS, THEIRS6};
use crate::speakers::HOLD;

pub struct OpenBgpd;

impl OpenBgpd {
    fn bgpctl(&self, lab: &Lab, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/bgpctl");
        command.arg("-j").arg("-s").arg(lab.path("bgpd.ctl")).args(arguments);
        command
    }
}

impl Peer for OpenBgpd {
    fn name(&self) -> &'static str {
        "OpenBGPD"
    }

    fn package(&self) -> &'static str {
        "openbgpd"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/sbin/bgpd", "/usr/sbin/bgpctl"]
    }

    fn version(&self) -> Result<String> {
        Ok(super::version_of("/usr/sbin/bgpd", "-V")?.replace("OpenBGPD ", ""))
    }

    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>> {
        let file = lab.path("openbgpd.conf");
        std::fs::write(&file, config(lab, setup))?;
        // It rejects a configuration that others may read.
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, owner_only)?;
        let mut command = Command::new("/usr/sbin/bgpd");
        command.arg("-d").arg("-f").arg(file);
        Ok(vec![("openbgpd.log", command)])
    }

    fn prepare(&self, lab: &Lab, _: &Setup) -> Result<()> {
        lab.run(&mut self.bgpctl(lab, &["show", "summary"])).map(drop)
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView> {
        let shown = lab.json(&mut self.bgpctl(lab, &["show", "neighbor", &neighbor.to_string()]))?;
        let shown = &shown["neighbors"][0];
        let stats = &shown["stats"];
        let marks = |way: &str| {
            let count = |mark: &str| stats["route-refresh"][way][mark].as_u64().unwrap_or(0);
            count("borr").min(count("eorr"))
        };
        Ok(SessionView {
            established: shown["state"] == "Established",
            updates: stats["message"]["received"]["updates"].as_u64().with_context(|| shown.to_string())?,
            refreshes_sent: stats["route-refresh"]["sent"]["request"].as_u64(),
            marks: Some(Marks { received: marks("received"), sent: marks("sent") }),
        })
    }

    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>> {
        let shown = lab.json(&mut self.bgpctl(lab, &["show", "rib", "detail", &prefix.to_string()]))?;
        Ok(list(&shown["rib"]).map(path).collect())
    }

    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()> {
        lab.run(&mut self.bgpctl(lab, &["neighbor", &neighbor.to_string(), "refresh"])).map(drop)
    }

    fn lacks(&self, case: Case) -> Option<Lack> {
        match case {
            Case::Md5Wrong => Some(Lack::AcceptsUnsigned),
            Case::Bfd => Some(Lack::Bfd),
            Case::ExtendedNextHop => Some(Lack::Capability(5, "extended next hop encoding")),
            Case::WeRefresh | Case::EnhancedRefresh => Some(Lack::RejectsRefresh),
            Case::WeStayAway | Case::TheyStayAway => {
                Some(Lack::Capability(71, "long-lived graceful restart"))
            }
            Case::TheyRestart => Some(Lack::RestartFamilies),
            _ => None,
        }
    }
}

fn path(shown: &Value) -> PathView {
    let kinds = ["communities", "large_communities", "extended_communities"];
    let communities: std::collections::BTreeSet<String> =
        kinds.iter().flat_map(|kind| strings(&shown[kind])).map(String::from).collect();
    let find = |key: &str| list(&shown["attributes"]).map(|a| &a[key]).find(|value| !value.is_null());
    PathView {
        from: address(&shown["neighbor"]["remote_addr"]),
        next_hop: address(&shown["exit_nexthop"]),
        originator: find("originator").and_then(address),
        cluster_list: find("cluster_list").into_iter().flat_map(list).filter_map(address).collect(),
        as_path: as_path(shown["aspath"].as_str().unwrap_or_default()),
        stale: shown["stale"] == true,
        long_lived_stale: LLGR_STALE.iter().any(|stale| communities.contains(*stale)),
        communities,
    }
}

/// Returns its configuration. Without `set nexthop` it advertises IPv6 routes on an IPv4 session with the next hop ::1.
fn config(lab: &Lab, setup: &Setup) -> String {
    let head = format!(
        "AS {}\nrouter-id {THEIRS}\nfib-update no\nnexthop qualify via default\nholdtime {HOLD}\nconnect-retry 1\n\
         socket \"{}\"\nlisten on {THEIRS}\nlisten on {THEIRS6}\nallow from any\nallow to any\n\
         network {} set {{ community 64512:100 large-community 64512:1:2 ext-community rt 64512:7 }}\nnetwork {} set nexthop {THEIRS6}\n",
        setup.asn,
        lab.path("bgpd.ctl").display(),
        super::prefix(),
        super::prefix6()
    );
    head + &setup.each(neighbor_text)
}

fn neighbor_text(neighbor: &Neighbor) -> String {
    let family = |flag: bool| if flag { "unicast" } else { "none" };
    let mut text = format!(
        "neighbor {} {{\n remote-as {}\n local-address {}\n announce IPv4 {}\n announce IPv6 {}\n \
         announce enhanced refresh yes\n announce restart yes\n",
        neighbor.address,
        neighbor.asn,
        neighbor.local(),
        family(neighbor.ipv4),
        family(neighbor.ipv6),
    );
    let mut add = |flag: bool, command: &str| {
        if flag {
            text += &format!(" {command}\n");
        }
    };
    add(!neighbor.connects, "passive");
    add(neighbor.client, "route-reflector");
    add(neighbor.add_path, "announce add-path recv yes\n announce add-path send all");
    add(neighbor.key.is_some(), &format!("tcp md5sig password \"{}\"", neighbor.key.unwrap_or_default()));
    text + "}\n"
}
