//! Conversion of a BGPPeer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use heliograph_bgp::Family;
use heliograph_bgp::policy::{Modification, Policy};
use heliograph_bgp::{Authentication, Filter, Key, PrefixLimit, PrefixRange, Role, Ttl};

use super::{network, peer_bfd, port, reachable, selector, timers};
use crate::api::peer::{Family as ApiFamily, Role as ApiRole};
use crate::api::{self, ObjectKind, ObjectRef};
use crate::intent::{Configuration, Node, Peer, SourceAddress};
use crate::store::names::is_dns_name;
use crate::store::problem::{Finding, Problems};

/// The default percentage of a prefix limit from which on a warning is logged.
const WARN_PERCENT: u8 = 80;
/// The longest key that the kernel supports (RFC 2385 §4.5 requires at least this).
const MAX_KEY: usize = 80;

/// The objects that the fields of a BGPPeer refer to.
pub struct References<'a> {
    /// The cluster's configuration.
    pub cluster: &'a Configuration,
    /// The filters by name. `None`: the filter is invalid.
    pub filters: HashMap<&'a str, Option<Policy>>,
    /// The Secrets by name.
    pub secrets: HashMap<&'a str, &'a BTreeMap<String, Key>>,
    /// The node whose agent converts, if there is one: only the Secrets of its own peers are available. `Some(None)`: the
    /// Node is unknown.
    pub node: Option<Option<&'a Node>>,
    /// An object that is not there does not exist. Otherwise it may be one that could not be decoded.
    pub complete: bool,
    /// Objects that can't be read, and may exist.
    pub unavailable: &'a [ObjectRef],
}

/// Converts a BGPPeer. Fields that are absent have the values of the cluster's configuration.
pub fn peer(
    name: &str,
    spec: &api::BGPPeerSpec,
    references: &References,
    problems: &mut Problems,
) -> Option<Peer> {
    let nodes = spec.node_selector.as_ref();
    let nodes = nodes.map(|s| selector(s, "spec.nodeSelector", problems)).unwrap_or_default();
    if spec.peer_asn == 0 {
        problems.add(
            "spec.peerASN",
            "AS number 0 is reserved (RFC 7607)",
            "give the AS number that the peer uses",
        );
    }
    let internal = spec.peer_asn == references.cluster.asn;
    external_only(spec, internal, problems);
    // RFC 8212: without a policy no route is imported or exported on an external session.
    let default = if internal { Filter::All } else { Filter::nothing() };
    let inward = Direction { field: "spec.import", import: true };
    let outward = Direction { field: "spec.export", import: false };
    let import =
        filter(spec.import.as_deref(), spec.import_filter.as_deref(), &default, inward, references, problems);
    let export = filter(
        spec.export.as_deref(),
        spec.export_filter.as_deref(),
        &default,
        outward,
        references,
        problems,
    );
    let is_ours = references.node.is_none_or(|node| node.is_some_and(|node| nodes.matches(&node.labels)));
    let secret = spec.password_secret_ref.as_ref().filter(|_| is_ours);
    let authentication =
        secret.and_then(|secret| password(secret, references, problems)).map(Authentication::Md5);
    let timers = timers(spec.timers.as_ref(), references.cluster.timers, problems);
    let port = port(spec.peer_port, "spec.peerPort", problems);
    let address = reachable(&spec.peer_address, "spec.peerAddress", problems)?;
    Some(Peer {
        name: name.into(),
        nodes,
        address,
        port,
        asn: spec.peer_asn,
        local_asn: spec.local_asn,
        source: source(spec.source_address.as_deref(), address, problems),
        families: families(spec.families.as_deref(), problems),
        authentication,
        ttl: ttl(spec, problems),
        role: spec.role.map(role),
        strict_role: spec.strict_role,
        prefix_limit: spec.prefix_limit.as_ref().map(|limit| prefix_limit(limit, problems)),
        import,
        export,
        timers,
        bfd: spec.bfd.as_ref().and_then(|given| peer_bfd(given, references.cluster, problems)),
        passive: spec.passive,
    })
}

/// Validates the fields that are for external peers only.
fn external_only(spec: &api::BGPPeerSpec, internal: bool, problems: &mut Problems) {
    let inside = "the peer is in the cluster's own AS";
    if let Some(local) = spec.local_asn {
        if local == 0 || local == spec.peer_asn {
            let problem =
                format!("AS number {local} can't be the local one of this session (RFC 7607, RFC 7705 §3)");
            problems.add(
                "spec.localASN",
                problem,
                "give the AS number that the peer has configured for its neighbor",
            );
        } else if internal {
            let remedy = "remove localASN: it is for external peers (RFC 7705 §3)";
            problems.add("spec.localASN", inside, remedy);
        }
    }
    if spec.role.is_some() && internal {
        problems.add("spec.role", inside, "remove role: it is for external peers (RFC 9234 §4)");
    }
    if spec.strict_role && spec.role.is_none() {
        problems.add(
            "spec.strictRole",
            "a strict role needs a role",
            "add role: the role of the nodes towards the peer",
        );
    }
}

/// The direction of a filter.
#[derive(Clone, Copy)]
struct Direction {
    field: &'static str,
    import: bool,
}

fn filter(
    prefixes: Option<&[api::PrefixRule]>,
    named: Option<&str>,
    default: &Filter,
    direction: Direction,
    references: &References,
    problems: &mut Problems,
) -> Filter {
    let field = direction.field;
    match (prefixes, named) {
        (None, None) => default.clone(),
        (Some(rules), None) => prefix_filter(rules, field, problems),
        (None, Some(name)) => named_filter(name, default, direction, references, problems),
        (Some(_), Some(_)) => {
            problems.add(field, format!("both {field} and {field}Filter are given"), "remove one of them");
            default.clone()
        }
    }
}

fn named_filter(
    name: &str,
    default: &Filter,
    direction: Direction,
    references: &References,
    problems: &mut Problems,
) -> Filter {
    let field = format!("{}Filter", direction.field);
    match references.filters.get(name) {
        Some(Some(policy)) => {
            let sets = |policy: &Policy| {
                policy.rules().iter().any(|rule| rule.modifications.contains(&Modification::NextHopSelf))
            };
            if direction.import && sets(policy) {
                problems.add(
                    field,
                    format!("BGPFilter {name} sets nextHopSelf, which is not possible on import"),
                    "remove nextHopSelf from it, or name another filter",
                );
            }
            Filter::Rules(policy.clone())
        }
        // The filter itself has the problem.
        Some(None) => default.clone(),
        None if !references.complete => default.clone(),
        None => {
            let finding =
                Finding::new(format!("there is no BGPFilter {name}"), "add it, or name another one");
            problems.push(finding.at(field).caused_by(ObjectRef::new(ObjectKind::BGPFilter, name)));
            default.clone()
        }
    }
}

fn prefix_filter(rules: &[api::PrefixRule], field: &str, problems: &mut Problems) -> Filter {
    let mut ranges = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let Some(within) = network(&rule.cidr, &format!("{field}[{index}].cidr"), problems) else { continue };
        let (least, most) = (within.prefix(), if within.is_ipv4() { 32 } else { 128 });
        let max_length = rule.max_length.unwrap_or(least);
        if !(least..=most).contains(&max_length) {
            problems.add(
                format!("{field}[{index}].maxLength"),
                format!("{max_length} is not a prefix length within {within}"),
                format!("give {least} to {most}"),
            );
        }
        ranges.push(PrefixRange::new(within.into(), max_length));
    }
    Filter::Only(ranges)
}

fn password(secret: &api::SecretRef, references: &References, problems: &mut Problems) -> Option<Key> {
    let field = "spec.passwordSecretRef";
    let api::SecretRef { name, key } = secret;
    if !is_dns_name(name) {
        let remedy = "give the name of a Secret: lower-case letters, digits, '-' and '.', with a letter or digit at both ends";
        problems.add(format!("{field}.name"), format!("{name:?} is not a valid object name"), remedy);
        return None;
    }
    let (problem, remedy) = match references.secrets.get(name.as_str()).map(|values| values.get(key)) {
        None if !references.complete => return None,
        None if references.unavailable.contains(&ObjectRef::new(ObjectKind::Secret, name)) => (
            format!("Secret {name} can't be read"),
            "see its error, and that of the API server (heliograph status, Store)".to_string(),
        ),
        None => (format!("there is no Secret {name}"), "add it to Heliograph's own namespace".to_string()),
        Some(None) => (format!("Secret {name} has no key {key}"), format!("add {key} to its data")),
        Some(Some(value)) if !(1..=MAX_KEY).contains(&value.octets().len()) => (
            format!("{key} of Secret {name} has {} octets", value.octets().len()),
            format!("give 1 to {MAX_KEY} octets: the kernel supports no other password"),
        ),
        Some(Some(value)) => return Some(value.clone()),
    };
    let finding = Finding::new(problem, remedy).at(field);
    problems.push(finding.caused_by(ObjectRef::new(ObjectKind::Secret, name)));
    None
}

fn source(given: Option<&str>, peer: IpAddr, problems: &mut Problems) -> SourceAddress {
    let field = "spec.sourceAddress";
    match given {
        None => SourceAddress::Kernel,
        Some("InternalIP") => SourceAddress::Node,
        Some(text) => match reachable(text, field, problems) {
            Some(address) if address.is_ipv4() != peer.is_ipv4() => {
                problems.add(
                    field,
                    format!("{address} can't reach {peer}: it is of another address family"),
                    "give an address of the peer's family, or InternalIP",
                );
                SourceAddress::Kernel
            }
            Some(address) => SourceAddress::Address(address),
            None => SourceAddress::Kernel,
        },
    }
}

fn families(given: Option<&[ApiFamily]>, problems: &mut Problems) -> Vec<Family> {
    let Some(given) = given else { return vec![Family::Ipv4Unicast, Family::Ipv6Unicast] };
    if given.is_empty() {
        problems.add(
            "spec.families",
            "no family is listed",
            "list IPv4, IPv6 or both, or leave it out for both",
        );
    }
    let has = |family| given.contains(&family);
    let both = [(ApiFamily::IPv4, Family::Ipv4Unicast), (ApiFamily::IPv6, Family::Ipv6Unicast)];
    both.into_iter().filter(|(listed, _)| has(*listed)).map(|(_, family)| family).collect()
}

fn ttl(spec: &api::BGPPeerSpec, problems: &mut Problems) -> Ttl {
    let ttl = match (spec.multihop, spec.ttl_security) {
        (None, None) => Ttl::System,
        (Some(hops), None) => Ttl::Hops(hops),
        (None, Some(hops)) => Ttl::Security(hops),
        (Some(_), Some(_)) => {
            problems.add(
                "spec.multihop",
                "multihop and ttlSecurity exclude each other",
                "remove multihop: ttlSecurity limits the distance of the peer, and drops packets of others",
            );
            return Ttl::System;
        }
    };
    match ttl {
        Ttl::Hops(0) => problems.add(
            "spec.multihop",
            "a packet with 0 hops reaches no peer",
            "give 1 for the same link, or more",
        ),
        Ttl::Security(0 | 255) => {
            problems.add("spec.ttlSecurity", "it must be 1 to 254 hops", "give 1 for the same link, or more");
        }
        _ => {}
    }
    ttl
}

fn role(role: ApiRole) -> Role {
    match role {
        ApiRole::Provider => Role::Provider,
        ApiRole::Customer => Role::Customer,
        ApiRole::Peer => Role::Peer,
        ApiRole::RouteServer => Role::RouteServer,
        ApiRole::RouteServerClient => Role::RouteServerClient,
    }
}

fn prefix_limit(given: &api::peer::PrefixLimit, problems: &mut Problems) -> PrefixLimit {
    let warn_percent = given.warn_percent.unwrap_or(WARN_PERCENT);
    if given.max == 0 {
        problems.add(
            "spec.prefixLimit.max",
            "a limit of 0 accepts no prefix",
            "give at least 1, or use import: []",
        );
    }
    if !(1..=100).contains(&warn_percent) {
        let problem = format!("{warn_percent} is not a percentage of the limit");
        problems.add("spec.prefixLimit.warnPercent", problem, "give 1 to 100");
    }
    if given.restart_seconds == Some(0) {
        let remedy = "give at least 1, or leave it out to wait for a change of this object";
        problems.add("spec.prefixLimit.restartSeconds", "0 would retry at once, without end", remedy);
    }
    PrefixLimit::new(given.max)
        .warn_percent(warn_percent)
        .restart(given.restart_seconds.map(|seconds| Duration::from_secs(seconds.into())))
}
