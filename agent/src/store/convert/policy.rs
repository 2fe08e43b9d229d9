//! Conversion of a BGPFilter.

use std::net::Ipv4Addr;

use heliograph_bgp::policy::{
    Action, AsPathMatch, Community, Condition, Modification, Policy, PrefixMatch, RouteSource, Rule,
};
use heliograph_bgp::{ExtendedCommunity, LargeCommunity};

use super::network;
use crate::api::filter::{self, BGPFilterSpec, Changes, FilterRule, Otherwise, RouteMatch, Source};
use crate::store::problem::Problems;

/// The names of communities (IANA, BGP Well-known Communities).
const WELL_KNOWN: [(&str, u32); 7] = [
    ("graceful-shutdown", 0xFFFF_0000),
    ("accept-own", 0xFFFF_0001),
    ("blackhole", 0xFFFF_029A),
    ("no-export", 0xFFFF_FF01),
    ("no-advertise", 0xFFFF_FF02),
    ("no-export-subconfed", 0xFFFF_FF03),
    ("no-peer", 0xFFFF_FF04),
];

/// Converts a filter. Returns `None` and adds problems if it is invalid.
pub fn policy(spec: &BGPFilterSpec, problems: &mut Problems) -> Option<Policy> {
    let mut rules = Vec::new();
    let mut valid = true;
    for (index, given) in spec.rules.iter().enumerate() {
        let rule = rule(given, &format!("spec.rules[{index}]"), problems);
        // One at a time, so that each invalid rule is a problem of its own.
        match rule.map(|rule| Policy::new(vec![rule.clone()], Action::Reject).map(|_| rule)) {
            Some(Ok(rule)) => rules.push(rule),
            Some(Err(error)) => {
                problems.add(
                    format!("spec.rules[{index}]"),
                    format!("the rule {}", error.problem),
                    "correct it",
                );
                valid = false;
            }
            None => valid = false,
        }
    }
    let otherwise = match spec.otherwise {
        Otherwise::Accept => Action::Accept,
        Otherwise::Reject => Action::Reject,
    };
    Policy::new(rules, otherwise).ok().filter(|_| valid)
}

fn rule(given: &FilterRule, field: &str, problems: &mut Problems) -> Option<Rule> {
    let mut conditions = Vec::new();
    let mut valid = true;
    for (matches, word, negated) in [(&given.matches, "match", false), (&given.unless, "unless", true)] {
        let Some(matches) = matches else { continue };
        let Some(found) = conditions_of(matches, &format!("{field}.{word}"), problems) else {
            valid = false;
            continue;
        };
        let negate = |condition| if negated { Condition::Not(Box::new(condition)) } else { condition };
        conditions.extend(found.into_iter().map(negate));
    }
    let modifications = match &given.set {
        Some(set) => modifications(set, &format!("{field}.set"), problems)?,
        None => Vec::new(),
    };
    let action = match given.action {
        filter::Action::Accept => Some(Action::Accept),
        filter::Action::Reject => Some(Action::Reject),
        filter::Action::Continue => None,
    };
    valid.then(|| {
        Rule::new(given.name.clone()).conditions(conditions).modifications(modifications).action(action)
    })
}

fn conditions_of(given: &RouteMatch, field: &str, problems: &mut Problems) -> Option<Vec<Condition>> {
    let mut conditions = Vec::new();
    if let Some(prefixes) = &given.prefixes {
        let each = prefixes.iter().enumerate();
        let all: Vec<_> = each
            .map(|(index, prefix)| prefix_match(prefix, &format!("{field}.prefixes[{index}]"), problems))
            .collect();
        conditions.push(Condition::Prefix(all.into_iter().collect::<Option<_>>()?));
    }
    if let Some(all) = &given.communities {
        conditions.push(Condition::Communities(communities(all, &format!("{field}.communities"), problems)?));
    }
    conditions.extend(given.as_path.iter().flat_map(as_path));
    if let Some(next_hops) = &given.next_hops {
        let each = next_hops.iter().enumerate();
        let all: Vec<_> = each
            .map(|(index, text)| network(text, &format!("{field}.nextHops[{index}]"), problems))
            .collect();
        let all: Option<Vec<_>> = all.into_iter().map(|network| network.map(Into::into)).collect();
        conditions.push(Condition::NextHop(all?));
    }
    conditions.extend(given.source.map(|source| {
        Condition::Source(match source {
            Source::Local => RouteSource::Local,
            Source::Internal => RouteSource::Internal,
            Source::External => RouteSource::External,
        })
    }));
    Some(conditions)
}

fn prefix_match(given: &filter::PrefixMatch, field: &str, problems: &mut Problems) -> Option<PrefixMatch> {
    let within = network(&given.cidr, &format!("{field}.cidr"), problems)?;
    let least = within.prefix();
    Some(PrefixMatch::new(
        within.into(),
        given.min_length.unwrap_or(least),
        given.max_length.unwrap_or(least),
    ))
}

fn as_path(given: &filter::AsPathMatch) -> Vec<Condition> {
    let empty = given.empty.map(|empty| match Condition::AsPath(AsPathMatch::Empty) {
        condition if empty => condition,
        condition => Condition::Not(Box::new(condition)),
    });
    let others = [
        given.contains.map(AsPathMatch::Contains),
        given.from.map(AsPathMatch::From),
        given.origin.map(AsPathMatch::Origin),
        given.at_most.map(|most| AsPathMatch::AtMost(most.into())),
    ];
    empty.into_iter().chain(others.into_iter().flatten().map(Condition::AsPath)).collect()
}

fn modifications(given: &Changes, field: &str, problems: &mut Problems) -> Option<Vec<Modification>> {
    let add = communities(&given.add_communities, &format!("{field}.addCommunities"), problems);
    let remove = communities(&given.remove_communities, &format!("{field}.removeCommunities"), problems);
    if given.med.is_some() && given.remove_med {
        problems.add(format!("{field}.removeMED"), "med is set as well", "remove one of them");
        return None;
    }
    let mut modifications: Vec<_> = remove?.into_iter().map(Modification::Remove).collect();
    modifications.extend(add?.into_iter().map(Modification::Add));
    modifications.extend(given.local_pref.map(Modification::LocalPref));
    modifications.extend(given.med.map(|med| Modification::Med(Some(med))));
    modifications.extend(given.remove_med.then_some(Modification::Med(None)));
    modifications.extend(given.prepend.map(Modification::Prepend));
    modifications.extend(given.next_hop_self.then_some(Modification::NextHopSelf));
    Some(modifications)
}

fn communities(given: &[String], field: &str, problems: &mut Problems) -> Option<Vec<Community>> {
    let mut valid = true;
    let mut all = Vec::new();
    for (index, text) in given.iter().enumerate() {
        match community(text) {
            Some(community) => all.push(community),
            None => {
                valid = false;
                problems.add(
                    format!("{field}[{index}]"),
                    format!("{text:?} is not a community"),
                    "write 64512:100, 64512:1:2, rt:64512:100, soo:64512:100, 0x and 16 hexadecimal digits, or a \
                     name such as no-export",
                );
            }
        }
    }
    valid.then_some(all)
}

/// Parses a community in the common notation.
fn community(text: &str) -> Option<Community> {
    if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
        return Some(Community::Standard(*value));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let digits = Some(digits).filter(|digits| digits.len() == 16 && !digits.starts_with('+'))?;
        let octets = u64::from_str_radix(digits, 16).ok()?.to_be_bytes();
        return Some(Community::Extended(ExtendedCommunity(octets)));
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["rt", administrator, value] => extended(0x02, administrator, value),
        ["soo", administrator, value] => extended(0x03, administrator, value),
        [asn, value] => {
            let [asn, value] = [number::<u16>(asn)?, number::<u16>(value)?];
            Some(Community::Standard(u32::from(asn) << 16 | u32::from(value)))
        }
        [global, local1, local2] => Some(Community::Large(LargeCommunity {
            global: number(global)?,
            local1: number(local1)?,
            local2: number(local2)?,
        })),
        _ => None,
    }
}

/// Parses an extended community. By RFC 4360 §3.1, §3.2 and RFC 5668 §2 the administrator is an AS number of two octets, an IPv4 address, or an AS
/// number of four octets.
fn extended(sub_type: u8, administrator: &str, value: &str) -> Option<Community> {
    let octets = if let Some(asn) = number::<u16>(administrator) {
        let ([a, b], [c, d, e, f]) = (asn.to_be_bytes(), number::<u32>(value)?.to_be_bytes());
        [0x00, sub_type, a, b, c, d, e, f]
    } else {
        let value = number::<u16>(value)?.to_be_bytes();
        let (high, [a, b, c, d]) = match administrator.parse::<Ipv4Addr>() {
            Ok(address) => (0x01, address.octets()),
            Err(_) => (0x02, number::<u32>(administrator)?.to_be_bytes()),
        };
        [high, sub_type, a, b, c, d, value[0], value[1]]
    };
    Some(Community::Extended(ExtendedCommunity(octets)))
}

/// Parses a decimal number of digits only.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
