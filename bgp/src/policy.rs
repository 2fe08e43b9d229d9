//! Policy: rules that say which routes pass, and with what changes.
//!
//! Rules are tried in turn. One whose conditions all hold adds its changes, and ends the search where it says accept or
//! reject; what no rule ends is treated as the policy says at its end. Conditions look at the route as it was received,
//! or, on export, as it stands in the table: what one rule changes another does not see. So the order of changes never
//! hides a condition, and a policy can be explained for each route by itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::wire::{AsPath, Attributes, ExtendedCommunity, LargeCommunity, List, NextHop, Prefix, Segment};

/// The most times that an AS number may be prepended by one rule: more only makes paths that others refuse.
const MAX_PREPEND: u8 = 32;

/// What a rule, or a policy's end, decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The route passes, with all changes so far.
    Accept,
    /// It doesn't.
    Reject,
}

/// A checked list of rules. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy(Arc<Inner>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Inner {
    rules: Vec<Rule>,
    otherwise: Verdict,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What people call it, for reports.
    pub name: String,
    /// All must hold; none holds always.
    pub conditions: Vec<Condition>,
    /// Made where all hold, in this order.
    pub changes: Vec<Change>,
    /// `None`: the next rule has a say, too.
    pub verdict: Option<Verdict>,
}

/// Something about a route that holds or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The prefix matches one of these.
    Prefix(Vec<PrefixMatch>),
    /// It carries all of these.
    Communities(Vec<Community>),
    /// Its AS path is like this.
    AsPath(AsPathMatch),
    /// Its next hop lies in one of these.
    NextHop(Vec<Prefix>),
    /// It was learned like this.
    Source(RouteSource),
    /// That does not hold.
    Not(Box<Condition>),
}

/// Prefixes within another, of some lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    /// The covering prefix.
    pub within: Prefix,
    /// The shortest length that matches.
    pub min_length: u8,
    /// The longest.
    pub max_length: u8,
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Community {
    /// RFC 1997: AS number and value in one.
    Standard(u32),
    /// RFC 4360.
    Extended(ExtendedCommunity),
    /// RFC 8092.
    Large(LargeCommunity),
}

/// What an AS path is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsPathMatch {
    /// Empty: from our own AS.
    Empty,
    /// This AS is in it.
    Contains(u32),
    /// This AS is the first: the neighbouring one.
    From(u32),
    /// This AS is the last: the origin.
    Origin(u32),
    /// No longer than this many ASes.
    AtMost(usize),
}

/// How a route was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteSource {
    /// We originate it.
    Local,
    /// From a neighbour in our AS.
    Internal,
    /// From a neighbour in another AS.
    External,
}

/// A change to a route that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Adds a community.
    Add(Community),
    /// Takes a community away.
    Remove(Community),
    /// Sets LOCAL_PREF; means nothing towards external neighbours.
    LocalPref(u32),
    /// Sets MULTI_EXIT_DISC, or takes it away.
    Med(Option<u32>),
    /// Makes the AS path longer by this many: on export by our AS number, on import by the neighbour's.
    Prepend(u8),
    /// Makes our own address on the session the next hop; on export only.
    NextHopSelf,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {problem}")]
pub struct PolicyError {
    /// Which rule, by name, or by number from 1 where it has none.
    pub rule: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// A route, as conditions see it.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The destination.
    pub prefix: &'a Prefix,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Its next hop; `None` for our own without one.
    pub next_hop: Option<IpAddr>,
    /// How it was learned.
    pub source: RouteSource,
}

/// What a policy says about one route.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Whether it passes.
    pub verdict: Verdict,
    /// The rule that decided; `None`: none did.
    pub rule: Option<&'a Rule>,
    /// What is to be changed.
    pub changes: Vec<&'a Change>,
}

impl Policy {
    /// Checks `rules`; `otherwise` holds for what none of them ends.
    ///
    /// # Errors
    /// The first rule that cannot be meant as it stands.
    pub fn new(rules: Vec<Rule>, otherwise: Verdict) -> Result<Self, PolicyError> {
        for (number, rule) in (1..).zip(&rules) {
            rule.check().map_err(|problem| {
                let rule = if rule.name.is_empty() { format!("{number}") } else { rule.name.clone() };
                PolicyError { rule, problem }
            })?;
        }
        Ok(Self(Arc::new(Inner { rules, otherwise })))
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// What becomes of a route.
    pub fn judge(&self, route: &Route<'_>) -> Judgement<'_> {
        let mut changes = Vec::new();
        for rule in self.0.rules.iter().filter(|rule| rule.holds(route)) {
            changes.extend(&rule.changes);
            if let Some(verdict) = rule.verdict {
                return Judgement { verdict, rule: Some(rule), changes };
            }
        }
        Judgement { verdict: self.0.otherwise, rule: None, changes }
    }

    /// Whether a rule makes our own address the next hop.
    pub(crate) fn sets_next_hop(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.changes.contains(&Change::NextHopSelf))
    }
}

impl Judgement<'_> {
    /// Whether the route passes.
    pub fn accepts(&self) -> bool {
        self.verdict == Verdict::Accept
    }

    /// Makes the changes. `prepended` is the AS number to prepend, `ours` the next hop that we are; where that is `None`
    /// the next hop stays.
    pub fn apply(
        &self,
        attributes: &mut Attributes,
        next_hop: &mut NextHop,
        prepended: Option<u32>,
        ours: Option<NextHop>,
    ) {
        for change in &self.changes {
            match **change {
                Change::Add(community) => community.add(attributes),
                Change::Remove(community) => community.remove(attributes),
                Change::LocalPref(value) => attributes.local_pref = Some(value),
                Change::Med(value) => attributes.med = value,
                Change::Prepend(times) => {
                    for asn in std::iter::repeat_n(prepended, times.into()).flatten() {
                        attributes.as_path.prepend(asn);
                    }
                }
                Change::NextHopSelf => *next_hop = ours.unwrap_or(*next_hop),
            }
        }
    }

    /// Why the route does not pass, in words.
    pub fn reason(&self) -> String {
        match self.rule {
            Some(rule) if !rule.name.is_empty() => format!("rule {} rejects it", rule.name),
            Some(_) => "a rule rejects it".into(),
            None => "no rule accepts it".into(),
        }
    }
}

impl Rule {
    fn holds(&self, route: &Route<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(route))
    }

    fn check(&self) -> Result<(), String> {
        for condition in &self.conditions {
            condition.check()?;
        }
        for change in &self.changes {
            if matches!(change, Change::Prepend(times) if !(1..=MAX_PREPEND).contains(times)) {
                return Err(format!("prepends not once, or more than {MAX_PREPEND} times"));
            }
        }
        if self.verdict == Some(Verdict::Reject) && !self.changes.is_empty() {
            return Err("changes what it rejects: leave the changes out".into());
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
    /// Whether `prefix` lies within and has one of the lengths.
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

/// Communities are kept in order.
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
        text.parse::<ipnetwork::IpNetwork>().expect("a prefix").into()
    }

    fn within(text: &str, min_length: u8, max_length: u8) -> Condition {
        Condition::Prefix(vec![PrefixMatch { within: prefix(text), min_length, max_length }])
    }

    fn rule(conditions: Vec<Condition>, changes: Vec<Change>, verdict: Option<Verdict>) -> Rule {
        Rule { name: String::new(), conditions, changes, verdict }
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
    fn the_first_verdict_counts_and_earlier_changes_with_it() {
        let policy = Policy::new(
            vec![
                rule(vec![within("10.0.0.0/8", 8, 32)], vec![Change::Med(Some(5))], None),
                rule(vec![within("10.1.0.0/16", 16, 32)], vec![Change::LocalPref(50)], Some(Verdict::Accept)),
                Rule {
                    name: "no-tens".into(),
                    ..rule(vec![within("10.0.0.0/8", 8, 32)], vec![], Some(Verdict::Reject))
                },
                rule(vec![], vec![Change::LocalPref(1)], None),
            ],
            Verdict::Accept,
        )
        .expect("valid");
        let attributes = attributes();
        let judge = |text: &str| {
            let prefix = prefix(text);
            let route = Route {
                prefix: &prefix,
                attributes: &attributes,
                next_hop: None,
                source: RouteSource::Local,
            };
            let judgement = policy.judge(&route);
            (judgement.accepts(), judgement.reason(), judgement.changes.len())
        };
        let (accepted, _, changes) = judge("10.1.2.0/24");
        assert_eq!((accepted, changes), (true, 2));
        let (accepted, reason, _) = judge("10.2.0.0/16");
        assert_eq!((accepted, &reason[..]), (false, "rule no-tens rejects it"));
        assert_eq!((judge("11.0.0.0/8").0, judge("11.0.0.0/8").2), (true, 1));
    }

    #[test]
    fn changes_keep_communities_in_order() {
        let changes = vec![
            Change::Add(Community::Standard(8)),
            Change::Add(Community::Standard(9)),
            Change::Remove(Community::Standard(7)),
            Change::Prepend(2),
            Change::NextHopSelf,
        ];
        let policy = Policy::new(vec![rule(vec![], changes, None)], Verdict::Accept).expect("valid");
        let mut changed = attributes();
        let hop = |text: &str| NextHop { address: text.parse().expect("an address"), link_local: None };
        let (mut next_hop, ours) = (hop("192.0.2.1"), hop("192.0.2.2"));
        let (before, prefix) = (attributes(), prefix("10.0.0.0/8"));
        let route =
            Route { prefix: &prefix, attributes: &before, next_hop: None, source: RouteSource::Local };
        policy.judge(&route).apply(&mut changed, &mut next_hop, Some(64512), Some(ours));
        assert_eq!(changed.communities, [8, 9]);
        assert_eq!(changed.as_path.hops(), 5);
        assert_eq!(next_hop, ours);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let reject =
            |rule: Rule| Policy::new(vec![Rule::default(), rule], Verdict::Reject).expect_err("refused");
        let error = reject(rule(vec![within("10.0.0.0/8", 7, 9)], vec![], None));
        assert_eq!(
            error.to_string(),
            "rule 2: lengths 7 to 9 within 10.0.0.0/8: they must go up, from 8 to 32"
        );
        for (condition, changes) in [
            (within("10.0.0.0/8", 24, 16), vec![]),
            (within("10.0.0.0/8", 24, 33), vec![]),
            (Condition::Prefix(vec![]), vec![]),
            (Condition::Communities(vec![]), vec![]),
            (Condition::NextHop(vec![]), vec![]),
            (Condition::Not(Box::new(Condition::AsPath(AsPathMatch::From(0)))), vec![]),
            (within("10.0.0.0/8", 8, 8), vec![Change::Prepend(0)]),
            (within("10.0.0.0/8", 8, 8), vec![Change::Prepend(33)]),
            (within("10.0.0.0/8", 8, 8), vec![Change::LocalPref(1)]),
        ] {
            reject(rule(vec![condition], changes, Some(Verdict::Reject)));
        }
    }
}
