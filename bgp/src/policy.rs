//! Import and export policy: rules that accept, reject and modify routes.
//!
//! Rules are evaluated in order. A rule whose conditions all hold adds its modifications, and ends the evaluation if it
//! has an action. A route for which no rule ends the evaluation gets the policy's default action. Conditions are matched
//! against the route as it was received or, on export, as it is in the Loc-RIB: they do not see the modifications of
//! other rules. So the order of modifications never hides a condition, and the result for a route can be explained by
//! one rule.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::setters::setters;
use crate::wire::{AsPath, Attributes, ExtendedCommunity, LargeCommunity, List, NextHop, Prefix, Segment};

/// The highest number of times that one rule may prepend an AS number: longer paths are dropped by other networks.
const MAX_PREPEND: u8 = 32;

/// The result of a rule or of a policy: accept or reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The route is accepted, with all modifications so far.
    Accept,
    /// The route is rejected.
    Reject,
}

/// A validated list of rules with a default action. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy(Arc<Inner>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Inner {
    rules: Vec<Rule>,
    default_action: Action,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rule {
    /// The name, for reports; may be empty.
    pub name: String,
    /// The conditions, all of which must hold. An empty list always holds.
    pub conditions: Vec<Condition>,
    /// The modifications made if all conditions hold, in this order.
    pub modifications: Vec<Modification>,
    /// The action, which ends the evaluation; `None`: the evaluation goes on with the next rule.
    pub action: Option<Action>,
}

/// A condition on a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// The prefix matches one of these.
    Prefix(Vec<PrefixMatch>),
    /// The route carries all of these communities.
    Communities(Vec<Community>),
    /// The AS path matches.
    AsPath(AsPathMatch),
    /// The next hop is in one of these prefixes.
    NextHop(Vec<Prefix>),
    /// The route has this source.
    Source(RouteSource),
    /// The inner condition does not hold.
    Not(Box<Condition>),
}

/// A match on prefixes: those within a covering prefix, from one length to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PrefixMatch {
    /// The covering prefix.
    pub within: Prefix,
    /// The shortest length that matches.
    pub min_length: u8,
    /// The longest length that matches.
    pub max_length: u8,
}

/// A standard, extended or large community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Community {
    /// A standard community (RFC 1997): AS number and value in one number.
    Standard(u32),
    /// An extended community (RFC 4360).
    Extended(ExtendedCommunity),
    /// A large community (RFC 8092).
    Large(LargeCommunity),
}

/// A match on the AS path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AsPathMatch {
    /// The path is empty: the route is from our own AS.
    Empty,
    /// The path contains this AS.
    Contains(u32),
    /// This AS is the first one: the neighboring AS.
    From(u32),
    /// This AS is the last one: the origin.
    Origin(u32),
    /// The path has at most this many ASes.
    AtMost(usize),
}

/// The source of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteSource {
    /// Originated by this speaker.
    Local,
    /// Learned from a neighbor in our AS.
    Internal,
    /// Learned from a neighbor in another AS.
    External,
}

/// A modification of an accepted route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Modification {
    /// Adds a community.
    Add(Community),
    /// Removes a community.
    Remove(Community),
    /// Sets LOCAL_PREF; has no effect on what is sent to external neighbors.
    LocalPref(u32),
    /// Sets MULTI_EXIT_DISC, or removes it.
    Med(Option<u32>),
    /// Prepends an AS number this many times: on export our own, on import the neighbor's.
    Prepend(u8),
    /// Sets the next hop to our own address on the session; on export only.
    NextHopSelf,
}

/// A policy is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {problem}")]
#[non_exhaustive]
pub struct PolicyError {
    /// The rule's name, or its number from 1 if it has none.
    pub rule: String,
    /// The problem and its remedy.
    pub problem: String,
}

/// A route as conditions match it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// The destination.
    pub(crate) prefix: &'a Prefix,
    /// The path attributes.
    pub(crate) attributes: &'a Attributes,
    /// The next hop; `None` for an originated network without one.
    pub(crate) next_hop: Option<IpAddr>,
    /// The source.
    pub(crate) source: RouteSource,
}

/// The result of a policy for one route.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation<'a> {
    /// The action.
    pub(crate) action: Action,
    /// The rule that ended the evaluation; `None`: the default action applies.
    pub(crate) rule: Option<&'a Rule>,
    /// The modifications to make.
    pub(crate) modifications: Vec<&'a Modification>,
}

setters!(Rule {
    action: impl Into<Option<Action>>,
} each {
    conditions: Condition,
    modifications: Modification,
});

impl Policy {
    /// Creates a policy from `rules`; `default_action` applies to routes for which no rule ends the evaluation.
    ///
    /// # Errors
    /// The first rule that is invalid.
    pub fn new(rules: Vec<Rule>, default_action: Action) -> Result<Self, PolicyError> {
        for (number, rule) in (1..).zip(&rules) {
            rule.check().map_err(|problem| {
                let rule = if rule.name.is_empty() { format!("{number}") } else { rule.name.clone() };
                PolicyError { rule, problem }
            })?;
        }
        Ok(Self(Arc::new(Inner { rules, default_action })))
    }

    /// Returns the rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// Evaluates the policy for a route.
    pub(crate) fn evaluate(&self, route: &Route<'_>) -> Evaluation<'_> {
        let mut modifications = Vec::new();
        for rule in self.0.rules.iter().filter(|rule| rule.holds(route)) {
            modifications.extend(&rule.modifications);
            if let Some(action) = rule.action {
                return Evaluation { action, rule: Some(rule), modifications };
            }
        }
        Evaluation { action: self.0.default_action, rule: None, modifications }
    }

    /// Returns whether a rule sets the next hop to our own address.
    pub(crate) fn sets_next_hop(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.modifications.contains(&Modification::NextHopSelf))
    }
}

impl Evaluation<'_> {
    /// Returns whether the route is accepted.
    pub(crate) fn accepts(&self) -> bool {
        self.action == Action::Accept
    }

    /// Makes the modifications. `prepended` is the AS number to prepend, `own_address` the next hop for `NextHopSelf`;
    /// `None` leaves the next hop as it is.
    pub(crate) fn apply(
        &self,
        attributes: &mut Attributes,
        next_hop: &mut NextHop,
        prepended: Option<u32>,
        own_address: Option<NextHop>,
    ) {
        for modification in &self.modifications {
            match **modification {
                Modification::Add(community) => community.add(attributes),
                Modification::Remove(community) => community.remove(attributes),
                Modification::LocalPref(value) => attributes.local_pref = Some(value),
                Modification::Med(value) => attributes.med = value,
                Modification::Prepend(times) => {
                    for asn in std::iter::repeat_n(prepended, times.into()).flatten() {
                        attributes.as_path.prepend(asn);
                    }
                }
                Modification::NextHopSelf => *next_hop = own_address.unwrap_or(*next_hop),
            }
        }
    }
}

impl Rule {
    /// Returns a rule that holds for all routes and does nothing. The name is for reports, and may be empty.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    fn holds(&self, route: &Route<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(route))
    }

    fn check(&self) -> Result<(), String> {
        for condition in &self.conditions {
            condition.check()?;
        }
        for modification in &self.modifications {
            if matches!(modification, Modification::Prepend(times) if !(1..=MAX_PREPEND).contains(times)) {
                return Err(format!("prepends not once, or more than {MAX_PREPEND} times"));
            }
        }
        if self.action == Some(Action::Reject) && !self.modifications.is_empty() {
            return Err("changes a route that it rejects: leave the changes out".into());
        }
        Ok(())
    }
}

impl Condition {
    fn holds(&self, route: &Route<'_>) -> bool {
        match self {
            Self::Prefix(prefixes) => prefixes.iter().any(|prefix| prefix.matches(route.prefix)),
            Self::Communities(all) => all.iter().all(|community| community.is_in(route.attributes)),
            Self::AsPath(path) => path.matches(&route.attributes.as_path),
            Self::NextHop(ranges) => route
                .next_hop
                .and_then(host)
                .is_some_and(|next_hop| ranges.iter().any(|range| range.contains(&next_hop))),
            Self::Source(source) => route.source == *source,
            Self::Not(condition) => !condition.holds(route),
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Prefix(prefixes) if prefixes.is_empty() => Err(
                "has an empty list of prefixes, which nothing matches: leave the condition out to match all"
                    .into(),
            ),
            Self::Prefix(prefixes) => prefixes.iter().try_for_each(PrefixMatch::check),
            Self::Communities(all) if all.is_empty() => {
                Err("has an empty list of communities: leave the condition out to match all".into())
            }
            Self::NextHop(ranges) if ranges.is_empty() => Err(
                "has an empty list of next hops, which nothing matches: leave the condition out to match all"
                    .into(),
            ),
            Self::AsPath(AsPathMatch::Contains(0) | AsPathMatch::From(0) | AsPathMatch::Origin(0)) => {
                Err("matches AS number 0, which is never in a path (RFC 7607)".into())
            }
            Self::Not(condition) => condition.check(),
            Self::Communities(_) | Self::AsPath(_) | Self::NextHop(_) | Self::Source(_) => Ok(()),
        }
    }
}

impl PrefixMatch {
    /// Returns a match on the prefixes within `within` of these lengths.
    pub fn new(within: Prefix, min_length: u8, max_length: u8) -> Self {
        Self { within, min_length, max_length }
    }

    /// Returns whether `prefix` is within the covering prefix and has one of the lengths.
    pub fn matches(&self, prefix: &Prefix) -> bool {
        self.within.contains(prefix) && (self.min_length..=self.max_length).contains(&prefix.length())
    }

    fn check(&self) -> Result<(), String> {
        let Self { within, min_length, max_length } = self;
        let longest = within.family().max_length();
        if within.length() <= *min_length && min_length <= max_length && *max_length <= longest {
            return Ok(());
        }
        Err(format!(
            "lengths {min_length} to {max_length} within {within}: they must go up, from {} to {longest}",
            within.length()
        ))
    }
}

impl AsPathMatch {
    fn matches(self, path: &AsPath) -> bool {
        let numbers = || {
            path.0.iter().flat_map(|segment| match segment {
                Segment::Sequence(numbers) | Segment::Set(numbers) => numbers.iter().copied(),
            })
        };
        match self {
            Self::Empty => numbers().next().is_none(),
            Self::Contains(asn) => numbers().any(|number| number == asn),
            Self::From(asn) => {
                matches!(path.0.first(), Some(Segment::Sequence(numbers)) if numbers.first() == Some(&asn))
            }
            Self::Origin(asn) => {
                matches!(path.0.last(), Some(Segment::Sequence(numbers)) if numbers.last() == Some(&asn))
            }
            Self::AtMost(most) => path.hops() <= most,
        }
    }
}

impl Community {
    fn is_in(self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(value) => attributes.communities.contains(&value),
            Self::Extended(value) => attributes.extended_communities.contains(&value),
            Self::Large(value) => attributes.large_communities.contains(&value),
        }
    }

    /// Octets of its value in an UPDATE.
    pub(crate) fn octets(self) -> usize {
        match self {
            Self::Standard(_) => 4,
            Self::Extended(_) => 8,
            Self::Large(_) => 12,
        }
    }

    /// Adds it to attributes that do not carry it yet.
    pub(crate) fn add(self, attributes: &mut Attributes) {
        match self {
            Self::Standard(value) => insert(&mut attributes.communities, value),
            Self::Extended(value) => insert(&mut attributes.extended_communities, value),
            Self::Large(value) => insert(&mut attributes.large_communities, value),
        }
    }

    fn remove(self, attributes: &mut Attributes) {
        match self {
            Self::Standard(value) => attributes.communities.retain(|other| *other != value),
            Self::Extended(value) => attributes.extended_communities.retain(|other| *other != value),
            Self::Large(value) => attributes.large_communities.retain(|other| *other != value),
        }
    }
}

/// Inserts a value in order, once.
fn insert<T: Ord>(values: &mut List<T>, value: T) {
    if let Err(at) = values.binary_search(&value) {
        values.insert(at, value);
    }
}

fn host(address: IpAddr) -> Option<Prefix> {
    Prefix::new(address, if address.is_ipv4() { Ipv4Addr::BITS as u8 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn within(text: &str, min_length: u8, max_length: u8) -> Condition {
        Condition::Prefix(vec![PrefixMatch { within: prefix(text), min_length, max_length }])
    }

    fn rule(conditions: Vec<Condition>, modifications: Vec<Modification>, action: Option<Action>) -> Rule {
        Rule { name: String::new(), conditions, modifications, action }
    }

    fn attributes() -> Attributes {
        Attributes {
            as_path: AsPath(vec![Segment::Sequence(vec![64500, 64501]), Segment::Set(vec![64502, 64503])]),
            communities: vec![7, 9].into(),
            ..Attributes::local()
        }
    }

    fn holds(condition: &Condition) -> bool {
        let (prefix, attributes) = (prefix("10.1.2.0/24"), attributes());
        let next_hop = Some("192.0.2.7".parse().expect("an address"));
        let route =
            Route { prefix: &prefix, attributes: &attributes, next_hop, source: RouteSource::External };
        condition.holds(&route)
    }

    #[test]
    fn conditions() {
        use AsPathMatch::{AtMost, Contains, Empty, From, Origin};
        for (condition, expected) in [
            (within("10.0.0.0/8", 24, 24), true),
            (within("10.0.0.0/8", 8, 23), false),
            (within("10.0.0.0/8", 25, 32), false),
            (within("10.2.0.0/16", 16, 32), false),
            (within("::/0", 0, 128), false),
            (Condition::Communities(vec![Community::Standard(7), Community::Standard(9)]), true),
            (Condition::Communities(vec![Community::Standard(7), Community::Standard(8)]), false),
            (Condition::Communities(vec![Community::Extended(ExtendedCommunity([0; 8]))]), false),
            (Condition::AsPath(Empty), false),
            (Condition::AsPath(Contains(64503)), true),
            (Condition::AsPath(Contains(1)), false),
            (Condition::AsPath(From(64500)), true),
            (Condition::AsPath(From(64501)), false),
            (Condition::AsPath(Origin(64503)), false),
            (Condition::AsPath(AtMost(3)), true),
            (Condition::AsPath(AtMost(2)), false),
            (Condition::NextHop(vec![prefix("10.0.0.0/8"), prefix("192.0.2.0/29")]), true),
            (Condition::NextHop(vec![prefix("192.0.2.0/30")]), false),
            (Condition::Source(RouteSource::External), true),
            (Condition::Source(RouteSource::Local), false),
        ] {
            assert_eq!(holds(&condition), expected, "{condition:?}");
            assert_eq!(holds(&Condition::Not(Box::new(condition))), !expected);
        }
    }

    #[test]
    fn the_first_action_ends_the_evaluation_and_earlier_modifications_are_kept() {
        let policy = Policy::new(
            vec![
                rule(vec![within("10.0.0.0/8", 8, 32)], vec![Modification::Med(Some(5))], None),
                rule(
                    vec![within("10.1.0.0/16", 16, 32)],
                    vec![Modification::LocalPref(50)],
                    Some(Action::Accept),
                ),
                Rule {
                    name: "no-tens".into(),
                    ..rule(vec![within("10.0.0.0/8", 8, 32)], vec![], Some(Action::Reject))
                },
                rule(vec![], vec![Modification::LocalPref(1)], None),
            ],
            Action::Accept,
        )
        .expect("valid");
        let attributes = attributes();
        let evaluate = |text: &str| {
            let prefix = prefix(text);
            let route = Route {
                prefix: &prefix,
                attributes: &attributes,
                next_hop: None,
                source: RouteSource::Local,
            };
            let evaluation = policy.evaluate(&route);
            let rule = evaluation.rule.map(|rule| rule.name.clone());
            (evaluation.accepts(), rule, evaluation.modifications.len())
        };
        let (accepted, _, modifications) = evaluate("10.1.2.0/24");
        assert_eq!((accepted, modifications), (true, 2));
        let (accepted, rule, _) = evaluate("10.2.0.0/16");
        assert_eq!((accepted, rule.as_deref()), (false, Some("no-tens")));
        assert_eq!((evaluate("11.0.0.0/8").0, evaluate("11.0.0.0/8").2), (true, 1));
    }

    #[test]
    fn modifications_keep_communities_in_order() {
        let modifications = vec![
            Modification::Add(Community::Standard(8)),
            Modification::Add(Community::Standard(9)),
            Modification::Remove(Community::Standard(7)),
            Modification::Prepend(2),
            Modification::NextHopSelf,
        ];
        let policy = Policy::new(vec![rule(vec![], modifications, None)], Action::Accept).expect("valid");
        let mut changed = attributes();
        let hop = |text: &str| NextHop { address: text.parse().expect("an address"), link_local: None };
        let (mut next_hop, own_address) = (hop("192.0.2.1"), hop("192.0.2.2"));
        let (before, prefix) = (attributes(), prefix("10.0.0.0/8"));
        let route =
            Route { prefix: &prefix, attributes: &before, next_hop: None, source: RouteSource::Local };
        policy.evaluate(&route).apply(&mut changed, &mut next_hop, Some(64512), Some(own_address));
        assert_eq!(changed.communities, [8, 9]);
        assert_eq!(changed.as_path.hops(), 5);
        assert_eq!(next_hop, own_address);
    }

    #[test]
    fn invalid_rules_are_rejected() {
        let reject =
            |rule: Rule| Policy::new(vec![Rule::default(), rule], Action::Reject).expect_err("invalid");
        let error = reject(rule(vec![within("10.0.0.0/8", 7, 9)], vec![], None));
        assert_eq!(
            error.to_string(),
            "rule 2: lengths 7 to 9 within 10.0.0.0/8: they must go up, from 8 to 32"
        );
        for (condition, modifications) in [
            (within("10.0.0.0/8", 24, 16), vec![]),
            (within("10.0.0.0/8", 24, 33), vec![]),
            (Condition::Prefix(vec![]), vec![]),
            (Condition::Communities(vec![]), vec![]),
            (Condition::NextHop(vec![]), vec![]),
            (Condition::Not(Box::new(Condition::AsPath(AsPathMatch::From(0)))), vec![]),
            (within("10.0.0.0/8", 8, 8), vec![Modification::Prepend(0)]),
            (within("10.0.0.0/8", 8, 8), vec![Modification::Prepend(33)]),
            (within("10.0.0.0/8", 8, 8), vec![Modification::LocalPref(1)]),
        ] {
            reject(rule(vec![condition], modifications, Some(Action::Reject)));
        }
    }
}
