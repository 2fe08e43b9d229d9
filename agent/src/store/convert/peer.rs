//! Conversion of a BGPPeer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use heliograph_bgp::Family;
use heliograph_bgp::policy::Policy;
use heliograph_bgp::{Authentication, Filter, Key, Neighbor, PrefixLimit, PrefixRange, Role, Ttl};

use super::{network, peer_bfd, port, reachable, selector, timers};
use crate::api::peer::{Family as ApiFamily, Role as ApiRole};
use crate::api::{self, ObjectKind, ObjectRef};
use crate::intent::{Configuration, Node, Peer, SourceAddress};
use crate::store::names::is_dns_name;
use crate::store::problem::{Finding, Problems};

/// The default percentage of a prefix limit from which on a warning is logged.
const WARN_PERCENT: u8 = 80;

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

/// The fields of a neighbor that have another name in the API.
const FIELDS: [(&str, &str); 10] = [
    ("asn", "peerASN"),
    ("local_asn", "localASN"),
    ("port", "peerPort"),
    ("ttl", "multihop"),
    ("authentication", PASSWORD),
    ("import", "importFilter"),
    ("timers.hold", "timers.holdSeconds"),
    ("timers.keepalive", "timers.keepaliveSeconds"),
    ("timers.connect_retry", "timers.connectRetrySeconds"),
    ("timers.send_hold", "timers.sendHoldSeconds"),
];
const PASSWORD: &str = "passwordSecretRef";

/// Converts a BGPPeer. Fields that are absent have the values of the cluster's configuration.
///
/// The rules about single fields are those of [`Neighbor`]; here are only those about the API.
pub fn peer(
    name: &str,
    spec: &api::BGPPeerSpec,
    references: &References,
    problems: &mut Problems,
) -> Option<Peer> {
    let nodes = spec.node_selector.as_ref();
    let nodes = nodes.map(|s| selector(s, "spec.nodeSelector", problems)).unwrap_or_default();
    let our_asn = references.cluster.asn;
    // RFC 8212: without a policy no route is imported or exported on an external session.
    let default = if spec.peer_asn == our_asn { Filter::All } else { Filter::nothing() };
    let mut filter = |prefixes: &Option<Vec<_>>, named: &Option<String>, field| {
        filter(prefixes.as_deref(), named.as_deref(), &default, field, references, problems)
    };
    let import = filter(&spec.import, &spec.import_filter, "spec.import");
    let export = filter(&spec.export, &spec.export_filter, "spec.export");
    let is_ours = references.node.is_none_or(|node| node.is_some_and(|node| nodes.matches(&node.labels)));
    let secret = spec.password_secret_ref.as_ref().filter(|_| is_ours);
    let authentication =
        secret.and_then(|secret| password(secret, references, problems)).map(Authentication::Md5);
    let timers = timers(spec.timers.as_ref(), references.cluster.timers);
    let port = port(spec.peer_port, "spec.peerPort", problems);
    let limit = spec.prefix_limit.as_ref().map(|limit| prefix_limit(limit, problems));
    let bfd = spec.bfd.as_ref().and_then(|given| peer_bfd(given, references.cluster, problems));
    let ttl = ttl(spec, problems);
    let address = reachable(&spec.peer_address, "spec.peerAddress", problems)?;
    let neighbor = Neighbor::new(address, spec.peer_asn)
        .name(name)
        .port(port)
        .local_asn(spec.local_asn)
        .passive(spec.passive)
        .families(families(spec.families.as_deref()))
        .timers(timers)
        .role(spec.role.map(role))
        .strict_role(spec.strict_role)
        .prefix_limit(limit)
        .ttl(ttl)
        .authentication(authentication)
        .bfd(bfd)
        .import(import)
        .export(export);
    for invalid in neighbor.invalid_fields(our_asn) {
        // Those of the BGPConfiguration are its problem.
        if spec.timers.is_none() && invalid.field.starts_with("timers.") {
            continue;
        }
        let field = match (invalid.field, spec.ttl_security) {
            ("ttl", Some(_)) => "spec.ttlSecurity".into(),
            (field, _) => field_of(field),
        };
        let cause = spec.password_secret_ref.as_ref().filter(|_| invalid.field == "authentication");
        let finding = Finding::new(invalid.problem, invalid.remedy).at(field);
        problems.push(match cause {
            Some(secret) => finding.caused_by(ObjectRef::new(ObjectKind::Secret, &secret.name)),
            None => finding,
        });
    }
    let source = source(spec.source_address.as_deref(), address, problems);
    Some(Peer { name: name.into(), nodes, source, neighbor })
}

/// Returns the field of the API that sets a field of a neighbor: the one of the same name, in the case of the API.
pub(super) fn field_of(field: &str) -> String {
    let renamed = FIELDS.iter().find(|(name, _)| *name == field);
    format!("spec.{}", renamed.map_or_else(|| camel_case(field), |(_, field)| (*field).to_string()))
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |name, part| {
        let (initial, rest) = part.split_at(part.len().min(1));
        name + &initial.to_uppercase() + rest
    })
}

fn filter(
    prefixes: Option<&[api::PrefixRule]>,
    named: Option<&str>,
    default: &Filter,
    field: &str,
    references: &References,
    problems: &mut Problems,
) -> Filter {
    match (prefixes, named) {
        (None, None) => default.clone(),
        (Some(rules), None) => prefix_filter(rules, field, problems),
        (None, Some(name)) => named_filter(name, default, &format!("{field}Filter"), references, problems),
        (Some(_), Some(_)) => {
            problems.add(field, format!("both {field} and {field}Filter are given"), "remove one of them");
            default.clone()
        }
    }
}

fn named_filter(
    name: &str,
    default: &Filter,
    field: &str,
    references: &References,
    problems: &mut Problems,
) -> Filter {
    match references.filters.get(name) {
        Some(Some(policy)) => Filter::Rules(policy.clone()),
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
    let field = format!("spec.{PASSWORD}");
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

fn families(given: Option<&[ApiFamily]>) -> Vec<Family> {
    let Some(given) = given else { return vec![Family::Ipv4Unicast, Family::Ipv6Unicast] };
    let has = |family| given.contains(&family);
    let both = [(ApiFamily::IPv4, Family::Ipv4Unicast), (ApiFamily::IPv6, Family::Ipv6Unicast)];
    both.into_iter().filter(|(listed, _)| has(*listed)).map(|(_, family)| family).collect()
}

fn ttl(spec: &api::BGPPeerSpec, problems: &mut Problems) -> Ttl {
    match (spec.multihop, spec.ttl_security) {
        (None, None) => Ttl::System,
        (Some(hops), None) => Ttl::Hops(hops),
        (None, Some(hops)) => {
            if hops == u8::MAX {
                problems.add(
                    "spec.ttlSecurity",
                    "it must be 1 to 254 hops",
                    "give 1 for the same link, or more",
                );
            }
            Ttl::Security(hops)
        }
        (Some(_), Some(_)) => {
            problems.add(
                "spec.multihop",
                "multihop and ttlSecurity exclude each other",
                "remove multihop: ttlSecurity limits the distance of the peer, and drops packets of others",
            );
            Ttl::System
        }
    }
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
    if given.restart_seconds == Some(0) {
        let remedy = "give at least 1, or leave it out to wait for a change of this object";
        problems.add("spec.prefixLimit.restartSeconds", "0 would retry at once, without end", remedy);
    }
    PrefixLimit::new(given.max)
        .warn_percent(given.warn_percent.unwrap_or(WARN_PERCENT))
        .restart(given.restart_seconds.map(|seconds| Duration::from_secs(seconds.into())))
}
