//! GoBGP. Its routes are added after it was started, as its configuration file cannot contain them.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use heliograph_bgp::Prefix;
use serde_json::Value;

use super::{Graceful, LLGR_STALE, Lack, Neighbor, PathView, Peer, SessionView, Setup, address, list};
use crate::cases::Case;
use crate::lab::{Lab, THEIRS, THEIRS6};
use crate::speakers::HOLD;

/// The address of its API, in a network namespace of its own.
const API: &str = "127.0.0.1:50051";

/// The value of BGP_FSM_ESTABLISHED in its API.
const ESTABLISHED: u64 = 6;

pub struct GoBgp;

impl GoBgp {
    fn gobgp(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/gobgp");
        command.arg("-j").args(arguments);
        command
    }
}

impl Peer for GoBgp {
    fn name(&self) -> &'static str {
        "GoBGP"
    }

    fn package(&self) -> &'static str {
        "gobgpd"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/bin/gobgpd", "/usr/bin/gobgp"]
    }

    fn version(&self) -> Result<String> {
        Ok(super::version_of("/usr/bin/gobgpd", "--version")?.replace("gobgpd version ", ""))
    }

    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>> {
        let file = lab.path("gobgpd.toml");
        std::fs::write(&file, config(setup))?;
        let mut command = Command::new("/usr/bin/gobgpd");
        command.args(["-t", "toml", "-f"]).arg(file).args(["--api-hosts", API, "--pprof-disable"]);
        if setup.restarting {
            command.arg("-r");
        }
        Ok(vec![("gobgpd.log", command)])
    }

    fn prepare(&self, lab: &Lab, setup: &Setup) -> Result<()> {
        let (prefix, hop) = (super::prefix().to_string(), THEIRS.to_string());
        let tags = ["community", "64512:100", "large-community", "64512:1:2", "rt", "64512:7"];
        // Over an IPv6 session the next hop must be one that the other side can use.
        let over_ipv6 = setup.neighbors.iter().all(|neighbor| neighbor.address.is_ipv6());
        let hop = if over_ipv6 { THEIRS6.to_string() } else { hop };
        lab.run(self.gobgp(&["global", "rib", "add", &prefix, "nexthop", &hop]).args(tags))?;
        if setup.any_ipv6() {
            let (prefix, hop) = (super::prefix6().to_string(), THEIRS6.to_string());
            lab.run(&mut self.gobgp(&["global", "rib", "add", "-a", "ipv6", &prefix, "nexthop", &hop]))?;
        }
        // The neighbors are enabled last: otherwise its End-of-RIB would be sent before its routes.
        for neighbor in &setup.neighbors {
            lab.run(&mut self.gobgp(&["neighbor", &neighbor.address.to_string(), "enable"]))?;
        }
        Ok(())
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView> {
        let shown = lab.json(&mut self.gobgp(&["neighbor", &neighbor.to_string()]))?;
        let state = &shown["state"];
        Ok(SessionView {
            established: state["session_state"] == ESTABLISHED,
            updates: state["messages"]["received"]["update"].as_u64().unwrap_or(0),
            refreshes_sent: Some(state["messages"]["sent"]["refresh"].as_u64().unwrap_or(0)),
            marks: None,
        })
    }

    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>> {
        let family = if matches!(prefix, Prefix::V4(..)) { "ipv4" } else { "ipv6" };
        let prefix = prefix.to_string();
        let output = lab.run(&mut self.gobgp(&["global", "rib", &prefix, "-a", family]));
        // An empty answer is an error of gobgp.
        let output = match output {
            Err(error) if error.to_string().contains("Network not in table") => return Ok(Vec::new()),
            output => output?,
        };
        let shown: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
        Ok(list(&shown[&prefix]).map(path).collect())
    }

    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()> {
        lab.run(&mut self.gobgp(&["neighbor", &neighbor.to_string(), "softresetin"])).map(drop)
    }

    fn lacks(&self, case: Case) -> Option<Lack> {
        match case {
            Case::Bfd => Some(Lack::Bfd),
            Case::TheyRefresh => Some(Lack::Refresh),
            Case::EnhancedRefresh => Some(Lack::Capability(70, "enhanced route refresh")),
            _ => None,
        }
    }
}

/// Path attributes, by their codes (RFC 4271 §4.3 and later ones).
fn path(shown: &Value) -> PathView {
    let mut path = PathView {
        from: address(&shown["neighbor-ip"]),
        stale: shown["stale"] == true,
        ..PathView::default()
    };
    for attribute in list(&shown["attrs"]) {
        let value = &attribute["value"];
        match attribute["type"].as_u64() {
            Some(2) => {
                let numbers = list(&attribute["as_paths"]).flat_map(|segment| list(&segment["asns"]));
                path.as_path = numbers.filter_map(|asn| u32::try_from(asn.as_u64()?).ok()).collect();
            }
            Some(3 | 14) => path.next_hop = address(&attribute["nexthop"]).or(path.next_hop),
            Some(8) => {
                let numbers = list(&attribute["communities"]).filter_map(Value::as_u64);
                path.communities.extend(numbers.map(|c| format!("{}:{}", c >> 16, c & 0xffff)));
            }
            Some(9) => path.originator = address(value),
            Some(10) => path.cluster_list = list(value).filter_map(address).collect(),
            Some(16) => path.communities.extend(
                list(value)
                    .filter(|c| c["subtype"] == 2)
                    .filter_map(|c| Some(format!("rt {}", c["value"].as_str()?))),
            ),
            Some(32) => path
                .communities
                .extend(list(value).map(|c| format!("{}:{}:{}", c["ASN"], c["LocalData1"], c["LocalData2"]))),
            _ => {}
        }
    }
    path.long_lived_stale = LLGR_STALE.iter().any(|stale| path.communities.contains(*stale));
    path
}

fn config(setup: &Setup) -> String {
    let head = format!(
        "[global.config]\nas = {}\nrouter-id = \"{THEIRS}\"\nlocal-address-list = [\"{THEIRS}\", \"{THEIRS6}\"]\n",
        setup.asn
    );
    head + &setup.each(|neighbor| neighbor_text(setup, neighbor))
}

fn neighbor_text(setup: &Setup, neighbor: &Neighbor) -> String {
    let key = neighbor.key.map(|key| format!("auth-password = \"{key}\"\n")).unwrap_or_default();
    let mut text = format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\nadmin-down = true\n{key}\
         [neighbors.transport.config]\nlocal-address = \"{}\"\npassive-mode = {}\n\
         [neighbors.timers.config]\nhold-time = {HOLD}\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n",
        neighbor.address,
        neighbor.asn,
        neighbor.local(),
        !neighbor.connects
    );
    if neighbor.client {
        text += &format!(
            "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
             route-reflector-cluster-id = \"{THEIRS}\"\n"
        );
    }
    if let Some(Graceful { time, long_lived }) = setup.graceful {
        text += &format!(
            "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {time}\nlong-lived-enabled = {}\n",
            long_lived.is_some()
        );
    }
    for (name, carried) in [("ipv4-unicast", neighbor.ipv4), ("ipv6-unicast", neighbor.ipv6)] {
        if !carried {
            continue;
        }
        text +=
            &format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n");
        if let Some(Graceful { long_lived, .. }) = setup.graceful {
            text += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n";
            if let Some(time) = long_lived {
                text += &format!(
                    "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = {time}\n"
                );
            }
        }
        if neighbor.add_path {
            text += "[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n";
        }
    }
    text
}
