//! Conversion of the API's types to those of [`crate::intent`], one object at a time, with all problems.

use std::net::IpAddr;
use std::time::Duration;

use heliograph_bgp::bfd;
use heliograph_bgp::{GracefulRestart, Timers};
use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::names::{is_label_key, is_label_value};
use super::problem::Problems;
use crate::api;
use crate::intent::{Configuration, Encapsulation, Node, Operator, Requirement, Selector, Topology};

mod peer;
mod policy;

pub use peer::{References, peer};
pub use policy::policy;

/// The registered port of BGP.
pub const BGP_PORT: u16 = 179;
/// The longest restart time: it has 12 bits (RFC 4724 §3).
const MAX_RESTART_SECONDS: u16 = 4095;

/// Returns the configuration with default values. It replaces a missing or invalid one, so that all else can be validated.
pub fn default_configuration() -> Configuration {
    Configuration {
        asn: 64512,
        topology: Topology::FullMesh,
        cluster_cidrs: Vec::new(),
        encapsulation: Encapsulation::CrossSubnet,
        nat_outgoing: true,
        timers: Timers::default(),
        bfd: None,
        graceful_restart: Some(GracefulRestart::default()),
        listen_port: BGP_PORT,
    }
}

/// Converts a Node, of which labels with the keys that are `needed` are kept.
pub fn node(name: &str, object: &api::Node, needed: impl Fn(&str) -> bool, problems: &mut Problems) -> Node {
    let mut node = Node::new(name);
    let labels = object.metadata.labels.iter().flatten().filter(|(key, _)| needed(key));
    node.labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(spec) = &object.spec {
        match (&spec.pod_cidrs, &spec.pod_cidr) {
            (Some(list), _) if !list.is_empty() => {
                for (index, text) in list.iter().enumerate() {
                    node.pod_cidrs.extend(network(text, &format!("spec.podCIDRs[{index}]"), problems));
                }
            }
            (_, Some(text)) if !text.is_empty() => {
                node.pod_cidrs.extend(network(text, "spec.podCIDR", problems));
            }
            _ => {}
        }
    }
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    for (index, entry) in addresses.into_iter().flatten().enumerate() {
        if entry.kind == "InternalIP" {
            let field = format!("status.addresses[{index}].address");
            node.addresses.extend(unicast(&entry.address, &field, problems));
        }
    }
    node
}

/// Converts the BGPConfiguration.
pub fn configuration(spec: &api::BGPConfigurationSpec, problems: &mut Problems) -> Configuration {
    let mut configuration = default_configuration();
    configuration.asn = spec.as_number;
    if spec.as_number == 0 {
        problems.add("spec.asNumber", "AS number 0 is reserved (RFC 7607)", PRIVATE_AS);
    }
    configuration.topology = match (spec.topology, &spec.reflectors) {
        (api::Topology::FullMesh, None) => Topology::FullMesh,
        (api::Topology::FullMesh, Some(_)) => {
            problems.add(
                "spec.reflectors",
                "reflectors are named, but the topology is FullMesh",
                "set spec.topology to Reflectors, or remove spec.reflectors",
            );
            Topology::FullMesh
        }
        (api::Topology::Reflectors, None) => {
            problems.add(
                "spec.reflectors",
                "topology Reflectors requires a selector of the nodes which reflect",
                "add reflectors: {nodeSelector: {matchLabels: {heliograph.io/reflector: \"true\"}}}",
            );
            Topology::FullMesh
        }
        (api::Topology::Reflectors, Some(reflectors)) => {
            Topology::Reflectors(reflecting(reflectors, problems))
        }
    };
    for (index, text) in spec.cluster_cidrs.iter().enumerate() {
        configuration.cluster_cidrs.extend(network(text, &format!("spec.clusterCIDRs[{index}]"), problems));
    }
    configuration.encapsulation = match spec.encapsulation {
        api::Encapsulation::Never => Encapsulation::Never,
        api::Encapsulation::CrossSubnet => Encapsulation::CrossSubnet,
        api::Encapsulation::Always => Encapsulation::Always,
    };
    configuration.nat_outgoing = spec.nat_outgoing == api::NatOutgoing::Enabled;
    configuration.timers = timers(spec.timers.as_ref(), Timers::default());
    for invalid in configuration.timers.invalid_fields() {
        problems.add(peer::field_of(invalid.field), invalid.problem, invalid.remedy);
    }
    configuration.bfd = spec.bfd.as_ref().and_then(|given| bfd(given, between_nodes(), problems));
    configuration.graceful_restart = graceful_restart(spec.graceful_restart.as_ref(), problems);
    configuration.listen_port = port(spec.listen_port, "spec.listenPort", problems);
    configuration
}

fn reflecting(reflectors: &api::Reflectors, problems: &mut Problems) -> Selector {
    let field = "spec.reflectors.nodeSelector";
    let selector = selector(&reflectors.node_selector, field, problems);
    if selector.requirements.is_empty() {
        problems.add(
            field,
            "an empty selector makes every node a reflector, which is a full mesh",
            "name a label that only the reflectors have, or set spec.topology to FullMesh",
        );
    }
    selector
}

const PRIVATE_AS: &str = "give 1 to 4294967295; 64512 to 65534 are for private use (RFC 6996)";

/// Converts timers. The rules about them are those of [`Timers`].
fn timers(given: Option<&api::Timers>, default: Timers) -> Timers {
    let Some(given) = given else { return default };
    let mut timers = default;
    let seconds = |s: u16| Duration::from_secs(s.into());
    if let Some(hold) = given.hold_seconds {
        // A default keepalive time belongs to the default hold time, so it is not used with another.
        timers.hold = seconds(hold);
        timers.keepalive = None;
    }
    timers.keepalive = given.keepalive_seconds.map(seconds).or(timers.keepalive);
    timers.connect_retry = given.connect_retry_seconds.map_or(timers.connect_retry, seconds);
    let send_hold = given.send_hold_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    timers.send_hold = send_hold.or(timers.send_hold);
    timers
}

/// Returns the default settings of BFD between nodes. They are always multihop, as both nodes must use the same path and
/// may not agree on whether there is a router between them. No two nodes are more than 64 hops apart.
fn between_nodes() -> bfd::Settings {
    bfd::Settings::multihop(64)
}

fn peer_bfd(given: &api::PeerBfd, cluster: &Configuration, problems: &mut Problems) -> Option<bfd::Settings> {
    let path = if given.multihop { between_nodes().path } else { bfd::Path::SingleHop };
    bfd(&given.common(), cluster.bfd.unwrap_or_default().path(path), problems)
}

fn bfd(given: &api::Bfd, default: bfd::Settings, problems: &mut Problems) -> Option<bfd::Settings> {
    let mut interval = |given: Option<u32>, default, field: &str| {
        let Some(milliseconds) = given else { return default };
        if !(10..=60_000).contains(&milliseconds) {
            problems.add(
                format!("spec.bfd.{field}"),
                format!("{milliseconds} ms is below 10 ms, which a busy node can't keep, or above a minute"),
                "give 10 to 60000 milliseconds, 300 as a rule",
            );
        }
        Duration::from_millis(milliseconds.into())
    };
    let min_rx = interval(given.receive_interval, default.min_rx, "receiveInterval");
    let min_tx = interval(given.transmit_interval, default.min_tx, "transmitInterval");
    let multiplier = given.detect_multiplier.unwrap_or(default.multiplier);
    if multiplier < 2 {
        problems.add(
            "spec.bfd.detectMultiplier",
            format!("with {multiplier} a single lost packet ends the session"),
            "give 2 to 255, 3 as a rule",
        );
    }
    given.enabled.then_some(default.min_tx(min_tx).min_rx(min_rx).multiplier(multiplier))
}

fn graceful_restart(
    given: Option<&api::GracefulRestart>,
    problems: &mut Problems,
) -> Option<GracefulRestart> {
    let mut restart = GracefulRestart::default();
    let Some(given) = given else { return Some(restart) };
    restart.notifications = given.notifications;
    if let Some(seconds) = given.restart_seconds {
        if !(1..=MAX_RESTART_SECONDS).contains(&seconds) {
            problems.add(
                "spec.gracefulRestart.restartSeconds",
                format!("{seconds} s is no restart time (RFC 4724 §3)"),
                format!("give 1 to {MAX_RESTART_SECONDS}, or enabled: false"),
            );
        }
        restart.restart_time = Duration::from_secs(seconds.into());
        restart.selection_deferral = restart.selection_deferral.min(restart.restart_time);
    }
    given.enabled.then_some(restart)
}

fn port(given: Option<u16>, field: &str, problems: &mut Problems) -> u16 {
    if given == Some(0) {
        problems.add(field, "port 0 is not valid", "give 1 to 65535, or leave it out for 179");
    }
    given.unwrap_or(BGP_PORT)
}

/// Converts a label selector. An invalid label is a problem, as it matches nothing and an API server answers 400 to it.
pub fn selector(given: &LabelSelector, field: &str, problems: &mut Problems) -> Selector {
    let mut requirements = Vec::new();
    for (key, value) in given.match_labels.iter().flatten() {
        let field = format!("{field}.matchLabels");
        label_key(key, &field, problems);
        label_value(value, &field, problems);
        let operator = Operator::In([value.clone()].into());
        requirements.push(Requirement { key: key.clone(), operator });
    }
    for (index, expression) in given.match_expressions.iter().flatten().enumerate() {
        let values: std::collections::BTreeSet<_> = expression.values.iter().flatten().cloned().collect();
        let field = format!("{field}.matchExpressions[{index}]");
        label_key(&expression.key, &format!("{field}.key"), problems);
        values.iter().for_each(|value| label_value(value, &format!("{field}.values"), problems));
        let takes_values = matches!(expression.operator.as_str(), "In" | "NotIn");
        if takes_values == values.is_empty() {
            let (problem, remedy) = match takes_values {
                true => ("needs values to compare with", "add values: [VALUE]"),
                false => ("takes no values", "remove values"),
            };
            problems.add(
                format!("{field}.values"),
                format!("operator {} {problem}", expression.operator),
                remedy,
            );
        }
        let operator = match expression.operator.as_str() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                problems.add(
                    format!("{field}.operator"),
                    format!("unknown operator {other:?}"),
                    "give In, NotIn, Exists or DoesNotExist",
                );
                continue;
            }
        };
        requirements.push(Requirement { key: expression.key.clone(), operator });
    }
    Selector { requirements }
}

fn label_key(key: &str, field: &str, problems: &mut Problems) {
    if !is_label_key(key) {
        problems.add(
            field,
            format!("{key:?} is not a valid label key"),
            "write NAME or DNS-NAME/NAME, where NAME has at most 63 letters, digits, '-', '_' and '.', with a letter or digit \
             at both ends",
        );
    }
}

fn label_value(value: &str, field: &str, problems: &mut Problems) {
    if !is_label_value(value) {
        problems.add(
            field,
            format!("{value:?} is not a valid label value"),
            "write at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, or nothing",
        );
    }
}

/// Parses a network in CIDR notation, without bits beyond its length.
fn network(text: &str, field: &str, problems: &mut Problems) -> Option<IpNetwork> {
    if let (Ok(address), false) = (text.parse::<IpAddr>(), text.contains('/')) {
        let length = if address.is_ipv4() { 24 } else { 64 };
        problems.add(
            field,
            format!("{text} has no prefix length"),
            format!("add one, such as {text}/{length}"),
        );
        return None;
    }
    let network = match text.parse::<IpNetwork>() {
        Ok(network) => network,
        Err(error) => {
            problems.add(
                field,
                format!("{text:?} is not a network in CIDR notation: {error}"),
                "write ADDRESS/LENGTH, such as 10.244.1.0/24 or fd00:10:244:1::/64",
            );
            return None;
        }
    };
    if network.ip() != network.network() {
        let right = format!("{}/{}", network.network(), network.prefix());
        problems.add(
            field,
            format!("{text} has bits set beyond its length of {}", network.prefix()),
            format!("write {right}"),
        );
        return None;
    }
    Some(network)
}

/// Parses the address of one machine.
fn unicast(text: &str, field: &str, problems: &mut Problems) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        problems.add(
            field,
            format!("{text:?} is not an IP address"),
            "write an IPv4 or IPv6 address without a prefix length, such as 172.20.1.11",
        );
        return None;
    };
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        problems.add(
            field,
            format!("{address} is not the address of one machine on the network"),
            "give the address under which other machines reach it",
        );
        return None;
    }
    Some(address)
}

/// Parses the address of a neighbor, or of this node on a session. It is not link-local.
fn reachable(text: &str, field: &str, problems: &mut Problems) -> Option<IpAddr> {
    let address = unicast(text, field, problems)?;
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        problems.add(
            field,
            format!("{address} is link-local, and names no link"),
            "give an address that is valid beyond a link, such as 2001:db8::1 or fd00::1",
        );
        return None;
    }
    Some(address)
}
