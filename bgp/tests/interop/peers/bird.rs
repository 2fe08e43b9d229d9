//! BIRD 2. `birdc` prints text only.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use heliograph_bgp::Prefix;

use super::{Graceful, LLGR_STALE, Lack, Marks, Neighbor, PathView, Peer, SessionView, Setup, as_path};
use crate::cases::Case;
use crate::lab::{Lab, THEIRS};
use crate::speakers::HOLD;

pub struct Bird;

impl Bird {
    fn birdc(&self, lab: &Lab, arguments: &[&str]) -> Result<String> {
        lab.run(Command::new("birdc").arg("-s").arg(lab.path("bird.ctl")).args(arguments))
    }
}

impl Peer for Bird {
    fn name(&self) -> &'static str {
        "BIRD"
    }

    fn package(&self) -> &'static str {
        "bird2"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/sbin/bird", "/usr/sbin/birdc"]
    }

    fn version(&self) -> Result<String> {
        Ok(super::version_of("/usr/sbin/bird", "--version")?.replace("BIRD version ", ""))
    }

    fn commands(&self, lab: &Lab, setup: &Setup) -> Result<Vec<(&'static str, Command)>> {
        let file = lab.path("bird.conf");
        std::fs::write(&file, config(setup))?;
        let mut command = Command::new("/usr/sbin/bird");
        command.arg("-f").arg("-c").arg(file).arg("-s").arg(lab.path("bird.ctl"));
        command.arg("-P").arg(lab.path("bird.pid"));
        if setup.restarting {
            command.arg("-R");
        }
        Ok(vec![("bird.log", command)])
    }

    fn prepare(&self, lab: &Lab, _: &Setup) -> Result<()> {
        self.birdc(lab, &["show", "status"]).map(drop)
    }

    fn session(&self, lab: &Lab, neighbor: IpAddr) -> Result<SessionView> {
        let text = self.birdc(lab, &["show", "protocols", "all", &protocol(neighbor)])?;
        let updates = text.lines().filter_map(|line| line.trim().strip_prefix("Import updates:"));
        let updates = updates.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum();
        let log = std::fs::read_to_string(lab.path("bird.log")).unwrap_or_default();
        let count = |message: &str| {
            let name = format!("{}: {message}", protocol(neighbor));
            log.lines().filter(|line| line.contains(&name)).count() as u64
        };
        let marks = Marks {
            received: count("Got BEGIN-OF-RR").min(count("Got END-OF-RR")),
            sent: count("Sending BEGIN-OF-RR").min(count("Sending END-OF-RR")),
        };
        let established = text.lines().any(|line| line.trim() == "BGP state:          Established");
        let refreshes_sent = Some(count("Sending ROUTE-REFRESH"));
        Ok(SessionView { established, updates, refreshes_sent, marks: Some(marks) })
    }

    fn paths(&self, lab: &Lab, prefix: Prefix) -> Result<Vec<PathView>> {
        let text = self.birdc(lab, &["show", "route", "all", "for", &prefix.to_string()]);
        // An empty answer is an error of birdc.
        let text = match text {
            Err(error) if error.to_string().contains("Network not found") => return Ok(Vec::new()),
            text => text?,
        };
        let mut paths: Vec<PathView> = Vec::new();
        for line in text.lines() {
            match line.trim().split_once(": ") {
                Some((key, value)) if key.starts_with("BGP.") => {
                    read(paths.last_mut().with_context(|| text.clone())?, key, value);
                }
                _ => paths.extend(source(line)),
            }
        }
        for path in &mut paths {
            let Some(from) = path.from else { continue };
            let status = self.birdc(lab, &["show", "protocols", "all", &protocol(from)])?;
            path.stale = status.contains("Neighbor graceful restart active");
        }
        Ok(paths)
    }

    fn refresh(&self, lab: &Lab, neighbor: IpAddr) -> Result<()> {
        self.birdc(lab, &["reload", "in", &protocol(neighbor)]).map(drop)
    }

    fn bfd_up(&self, lab: &Lab, neighbor: IpAddr) -> Result<bool> {
        let text = self.birdc(lab, &["show", "bfd", "sessions"])?;
        let line = text.lines().find(|line| line.starts_with(&format!("{neighbor} ")));
        Ok(line.is_some_and(|line| line.contains(" Up ")))
    }

    fn ended_by_bfd(&self, lab: &Lab, neighbor: IpAddr) -> Result<bool> {
        let text = self.birdc(lab, &["show", "protocols", "all", &protocol(neighbor)])?;
        Ok(text.lines().any(|line| line.contains("Last error:") && line.contains("BFD session down")))
    }

    fn lacks(&self, _: Case) -> Option<Lack> {
        None
    }
}

/// Returns the name of the protocol for a neighbor.
fn protocol(neighbor: IpAddr) -> String {
    format!("to_{}", neighbor.to_string().replace(['.', ':'], "_"))
}

/// Returns a path from the neighbor in a line such as `10.0.0.0/24 unicast [to_192_0_2_1 12:00:00.000] * (100)`.
fn source(line: &str) -> Option<PathView> {
    let (_, rest) = line.split_once('[')?;
    let name = rest.split([' ', ']']).next()?.strip_prefix("to_")?;
    let address = if name.starts_with("2001_") { name.replace('_', ":") } else { name.replace('_', ".") };
    Some(PathView { from: address.parse().ok(), ..PathView::default() })
}

fn read(path: &mut PathView, key: &str, value: &str) {
    match key {
        "BGP.next_hop" => path.next_hop = value.split(' ').next().and_then(|hop| hop.parse().ok()),
        "BGP.originator_id" => path.originator = value.parse().ok(),
        "BGP.cluster_list" => path.cluster_list = value.split(' ').filter_map(|id| id.parse().ok()).collect(),
        "BGP.as_path" => path.as_path = as_path(value),
        "BGP.community" | "BGP.large_community" | "BGP.ext_community" => {
            let values = value.split(['(', ')']).map(str::trim).filter(|text| !text.is_empty());
            path.communities.extend(values.map(|text| {
                let text = text.replace(", ", ",");
                match text.strip_prefix("rt,") {
                    Some(rest) => format!("rt {}", rest.replace(',', ":")),
                    None => text.replace(',', ":"),
                }
            }));
            path.long_lived_stale = LLGR_STALE.iter().any(|stale| path.communities.contains(*stale));
        }
        _ => {}
    }
}

fn config(setup: &Setup) -> String {
    let tags = "bgp_community.add((64512,100)); bgp_large_community.add((64512,1,2)); \
                bgp_ext_community.add((rt,64512,7));";
    let head = format!(
        "log stderr all;\nrouter id {THEIRS};\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel {{ ipv4 {{ export none; }}; }}\nprotocol kernel {{ ipv6 {{ export none; }}; }}\n\
         protocol bfd {{ interface \"*\" {{ interval 100 ms; multiplier 3; }}; }}\n\
         protocol static {{ ipv4; route {} blackhole {{ {tags} }}; }}\n\
         protocol static {{ ipv6; route {} blackhole; }}\n",
        super::prefix(),
        super::prefix6()
    );
    let restart = match setup.graceful {
        None => "graceful restart off;".into(),
        Some(Graceful { time, long_lived }) => {
            let long = match long_lived {
                None => "long lived graceful restart off;".into(),
                Some(time) => {
                    format!("long lived graceful restart on; long lived stale time {time};")
                }
            };
            format!("graceful restart on; graceful restart time {time}; {long}")
        }
    };
    head + &setup.each(|neighbor| protocol_text(setup, neighbor, &restart))
}

fn protocol_text(setup: &Setup, neighbor: &Neighbor, restart: &str) -> String {
    let on = |flag: bool, text: &'static str| if flag { text } else { "" };
    let channel = |name: &str, enabled: bool, more: &str| match enabled {
        true => format!(
            " {name} {{ import all; export where source ~ [RTS_BGP, RTS_STATIC]; {more} {} }};\n",
            on(neighbor.add_path, "add paths on;")
        ),
        false => String::new(),
    };
    let hop = on(neighbor.extended_next_hop, "extended next hop on;");
    format!(
        "protocol bgp {} {{\n local {} as {};\n neighbor {} as {};\n strict bind yes;\n hold time {HOLD};\n \
         connect delay time 1;\n error wait time 1, 1;\n debug {{ packets, states }};\n {restart}\n {}{}{}{}{}{}{}}}\n",
        protocol(neighbor.address),
        neighbor.local(),
        setup.asn,
        neighbor.address,
        neighbor.asn,
        on(neighbor.client, "rr client;\n"),
        on(!neighbor.connects, "passive;\n"),
        on(neighbor.asn == setup.asn, "direct;\n"),
        neighbor.key.map(|key| format!("password \"{key}\";\n")).unwrap_or_default(),
        on(neighbor.bfd, "bfd on;\n"),
        channel("ipv4", neighbor.ipv4, hop),
        channel("ipv6", neighbor.ipv6, ""),
    )
}
