//! The guard of the tunnels: an nftables table of our own that drops tunnelled packets (protocol 4, over IPv6 also 41)
//! which don't come from a known node. Without it every node would be an open decapsulator (CVE-2020-10136).
//!
//! It hooks into `input`, which the kernel runs before it hands a packet to the tunnel, and touches only packets for
//! this node: tunnels of others that pass through are let be.

use super::GuardState;
use super::error::{Cause, KernelError, KernelResult};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Name of our table in family `inet`.
pub const TABLE: &str = "heliograph";
const CHAIN: &str = "tunnels";
const SET4: &str = "nodes4";
const SET6: &str = "nodes6";
/// The priority named `raw`: before connection tracking, so that strangers' packets leave no state.
const PRIORITY: i64 = -300;
/// The rules in order: what they match, how they end, and the comment by which they are known again.
const RULES: [(&str, &str, &str); 5] = [
    // Protocol 41 over IPv4 can't enter our tunnel: it may be somebody's own 6in4.
    ("meta nfproto ipv4 meta l4proto != 4", "accept", "not tunnelled"),
    ("meta nfproto ipv6 meta l4proto != { 4, 41 }", "accept", "not tunnelled over IPv6"),
    ("ip saddr @nodes4 counter", "accept", "tunnelled by a node"),
    ("ip6 saddr @nodes6 counter", "accept", "tunnelled by a node over IPv6"),
    ("counter", "drop", "tunnelled by a stranger"),
];
const PATIENCE: Duration = Duration::from_secs(10);

/// The script that puts the table in place, whole, in one transaction.
pub fn script(sources: &BTreeSet<IpAddr>) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    let mut set = |name: &str, kind: &str, v4: bool| {
        let elements: Vec<String> =
            sources.iter().filter(|address| address.is_ipv4() == v4).map(ToString::to_string).collect();
        let elements = match elements.is_empty() {
            true => String::new(),
            false => format!(" elements = {{ {} }};", elements.join(", ")),
        };
        let _ = writeln!(text, "  set {name} {{ type {kind};{elements} }}");
    };
    set(SET4, "ipv4_addr", true);
    set(SET6, "ipv6_addr", false);
    let _ = writeln!(text, "  chain {CHAIN} {{");
    let _ = writeln!(text, "    type filter hook input priority {PRIORITY}; policy accept;");
    for (matches, verdict, comment) in RULES {
        let _ = writeln!(text, "    {matches} {verdict} comment \"{comment}\"");
    }
    text.push_str("  }\n}\n");
    text
}

/// The state of the table that `nft -j list table` printed.
pub fn read(listing: &Value) -> GuardState {
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let sets: Vec<&Value> = all("set").collect();
    let sources: BTreeSet<IpAddr> = sets
        .iter()
        .filter_map(|set| set["elem"].as_array())
        .flatten()
        .filter_map(|element| element.as_str()?.parse().ok())
        .collect();
    let names: BTreeSet<&str> = sets.iter().filter_map(|set| set["name"].as_str()).collect();
    let elements: usize = sets.iter().filter_map(|set| set["elem"].as_array()).map(Vec::len).sum();
    let sets_intact = names == BTreeSet::from([SET4, SET6]) && elements == sources.len();
    let chains: Vec<&Value> = all("chain").collect();
    let chain_intact = matches!(chains.as_slice(), [chain]
        if chain["name"] == CHAIN && chain["type"] == "filter" && chain["hook"] == "input"
            && chain["prio"] == PRIORITY && chain["policy"] == "accept");
    let rules: Vec<(Option<&str>, bool)> =
        all("rule").map(|rule| (rule["comment"].as_str(), drops(rule))).collect();
    let wanted: Vec<(Option<&str>, bool)> =
        RULES.iter().map(|(_, verdict, comment)| (Some(*comment), *verdict == "drop")).collect();
    if sets_intact && chain_intact && rules == wanted {
        GuardState::Intact(sources)
    } else {
        GuardState::Altered(sources)
    }
}

/// Whether a rule ends in a drop.
fn drops(rule: &Value) -> bool {
    rule["expr"].as_array().and_then(|parts| parts.last()).is_some_and(|last| last.get("drop").is_some())
}

/// Reads the table. Where there is no `nft` or no nftables in the kernel there can't be one of ours.
pub(super) async fn dump() -> KernelResult<GuardState> {
    let what = format!("list nftables table inet {TABLE}");
    match nft(&what, &["-j", "list", "table", "inet", TABLE], None).await {
        Ok(listing) => serde_json::from_slice(&listing).map(|listing| read(&listing)).map_err(|error| {
            KernelError::from_cause(what, Cause::Unexpected(format!("nft's JSON: {error}")))
        }),
        Err(Failure::Missing) => Ok(GuardState::Absent),
        Err(Failure::Said(said)) if said.contains("No such file") || said.contains("not supported") => {
            Ok(GuardState::Absent)
        }
        Err(failure) => Err(explain(what, failure)),
    }
}

/// Puts the table in place for these addresses.
pub(super) async fn put(what: String, sources: &BTreeSet<IpAddr>) -> KernelResult<()> {
    nft(&what, &["-f", "-"], Some(script(sources))).await.map(drop).map_err(|failure| explain(what, failure))
}

/// Removes the table, also if there is none.
pub(super) async fn delete(what: String) -> KernelResult<()> {
    let script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    nft(&what, &["-f", "-"], Some(script)).await.map(drop).map_err(|failure| explain(what, failure))
}

enum Failure {
    Missing,
    Silent,
    Said(String),
}

fn explain(what: String, failure: Failure) -> KernelError {
    match failure {
        Failure::Missing => KernelError::new(
            what,
            Cause::Program { program: "nft", output: "there is no such program on PATH".to_owned() },
            "install nftables (apt-get install nftables), or set encapsulation: Never",
        ),
        Failure::Silent => KernelError::from_cause(what, Cause::Silent),
        Failure::Said(output) => {
            let remedy = if output.contains("not permitted") {
                "run as root or with the capability NET_ADMIN"
            } else {
                "see that the kernel has nftables (modprobe nf_tables nf_tables_inet), or set encapsulation: Never"
            };
            KernelError::new(what, Cause::Program { program: "nft", output }, remedy)
        }
    }
}

async fn nft(what: &str, arguments: &[&str], input: Option<String>) -> Result<Vec<u8>, Failure> {
    let run = async {
        let mut child = Command::new("nft")
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            // If nft dies early its words say more than a broken pipe does.
            if let Err(error) = pipe.write_all(input.as_bytes()).await {
                tracing::debug!(what, %error, "nft did not read its input");
            }
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(PATIENCE, run).await {
        Err(_) => Err(Failure::Silent),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::Missing),
        Ok(Err(error)) => Err(Failure::Said(error.to_string())),
        Ok(Ok(output)) if output.status.success() => Ok(output.stdout),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::Said(said.lines().next().unwrap_or("(nothing said)").trim().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sources(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn listing() -> Value {
        let mut listing = json!({"nftables": [
            {"metainfo": {}},
            {"table": {"family": "inet", "name": TABLE, "handle": 1}},
            {"set": {"name": SET4, "type": "ipv4_addr", "elem": ["192.0.2.1", "192.0.2.2"]}},
            {"set": {"name": SET6, "type": "ipv6_addr"}},
            {"chain": {"name": CHAIN, "type": "filter", "hook": "input", "prio": -300, "policy": "accept"}},
        ]});
        let rules = RULES.iter().map(|(_, verdict, comment)| {
            json!({"rule": {"chain": CHAIN, "comment": comment, "expr": [{"counter": {}}, {*verdict: null}]}})
        });
        listing["nftables"].as_array_mut().unwrap().extend(rules);
        listing
    }

    #[test]
    fn the_script_replaces_the_table_in_one_go() {
        let text = script(&sources(&["192.0.2.2", "192.0.2.1", "2001:db8::1"]));
        assert!(
            text.starts_with("add table inet heliograph\ndelete table inet heliograph\ntable inet"),
            "{text}"
        );
        assert!(text.contains("elements = { 192.0.2.1, 192.0.2.2 };"), "{text}");
        assert!(text.contains("elements = { 2001:db8::1 };"), "{text}");
        assert!(!script(&BTreeSet::new()).contains("elements"), "nft refuses an empty list of elements");
    }

    #[test]
    fn our_own_table_is_known_again() {
        assert_eq!(read(&listing()), GuardState::Intact(sources(&["192.0.2.1", "192.0.2.2"])));
    }

    #[test]
    fn whatever_is_changed_about_it_shows() {
        let altered = GuardState::Altered(sources(&["192.0.2.1", "192.0.2.2"]));
        let changes: [fn(&mut Value); 6] = [
            |listing| listing["nftables"][4]["chain"]["policy"] = json!("drop"),
            |listing| listing["nftables"][4]["chain"]["hook"] = json!("forward"),
            |listing| drop(listing["nftables"].as_array_mut().unwrap().pop()),
            |listing| listing["nftables"].as_array_mut().unwrap().swap(5, 9),
            |listing| listing["nftables"][9]["rule"]["expr"][1] = json!({"accept": null}),
            |listing| {
                listing["nftables"][2]["set"]["elem"][2] = json!({"prefix": {"addr": "10.0.0.0", "len": 8}})
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut listing = listing();
            if let (5, Some(elements)) = (number, listing["nftables"][2]["set"]["elem"].as_array_mut()) {
                elements.push(Value::Null);
            }
            change(&mut listing);
            assert_eq!(read(&listing), altered, "change {number}");
        }
        assert_eq!(read(&json!({})), GuardState::Altered(BTreeSet::new()));
    }
}
