//! Decoding of UPDATEs, with the error handling of RFC 7606.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::super::reader::Reader;
use super::super::{
    Aggregator, AsPath, Attributes, Codec, Error, ExtendedCommunity, Family, Fault, FaultAction,
    LargeCommunity, List, NextHop, Nlri, Origin, Reach, Unknown, Update, code,
};
use super::rules::{self, Cost, EXTENDED_LENGTH, OPTIONAL, PARTIAL, Rule, TRANSITIVE, subcode};
use super::{as_path, mp, nlri};

/// Decodes the body of an UPDATE.
pub(crate) fn decode(body: &[u8], codec: &Codec, families: &[Family]) -> Result<Update, Error> {
    let mut reader = Reader::new(body);
    let mut field = |name: &str| {
        let field = reader.u16().and_then(|length| reader.take(usize::from(length)));
        // RFC 4271 §6.3, unchanged by RFC 7606 §3 (j): the NLRI cannot be found.
        field.ok_or_else(|| reset(subcode::MALFORMED_LIST, &[], format!("the {name} go beyond the UPDATE")))
    };
    let withdrawn = field("withdrawn routes")?;
    let attributes = field("path attributes")?;
    let announced = reader.rest();

    let carries_v4 = families.contains(&Family::Ipv4Unicast);
    let path_ids = codec.path_ids.receive.contains(Family::Ipv4Unicast);
    let read_prefixes = |name, field, out: &mut Vec<Nlri>| {
        read_prefixes(name, field, path_ids, out)?;
        if !carries_v4 {
            out.clear();
        }
        Ok::<_, Error>(())
    };
    let mut update = Update::default();
    read_prefixes("withdrawn routes", withdrawn, &mut update.withdrawn)?;
    let mut block = Block::new(codec, families);
    block.read(attributes)?;
    let mut prefixes = Vec::new();
    read_prefixes("NLRI", announced, &mut prefixes)?;

    update.end_of_rib = match &block.unreach {
        _ if !withdrawn.is_empty() || !announced.is_empty() => None,
        None if attributes.is_empty() && carries_v4 => Some(Family::Ipv4Unicast),
        Some((family, prefixes)) if prefixes.is_empty() && block.count == 1 => Some(*family),
        _ => None,
    };
    if let Some((_, prefixes)) = block.unreach.take() {
        update.withdrawn.extend(prefixes);
    }
    block.finish(announced, prefixes, update)
}

/// Returns an error that ends the session.
fn reset(subcode: u8, data: &[u8], reason: String) -> Error {
    Error::new(code::UPDATE, subcode, data, reason)
}

/// Decodes a field of IPv4 prefixes. It must be well-formed even if IPv4 is not carried, as it is part of every UPDATE.
fn read_prefixes(name: &str, field: &[u8], path_ids: bool, out: &mut Vec<Nlri>) -> Result<(), Error> {
    nlri::decode(Family::Ipv4Unicast, path_ids, field, out)
        .map_err(|reason| reset(subcode::NETWORK, &[], format!("the {name} field holds {reason}")))
}

/// An error that does not end the session by itself.
struct Problem<'a> {
    attribute: u8,
    cost: Cost,
    /// The subcode of the NOTIFICATION, if the session ends.
    subcode: u8,
    data: &'a [u8],
    reason: String,
}

/// One attribute, whose value is not decoded yet.
struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// The attribute with its header, as in a NOTIFICATION's data.
    whole: &'a [u8],
}

/// The set of type codes that occurred.
#[derive(Default)]
struct Seen([u128; 2]);

impl Seen {
    fn contains(&self, code: u8) -> bool {
        self.0.get(usize::from(code >> 7)).is_some_and(|bits| bits >> (code & 0x7f) & 1 == 1)
    }

    /// Adds a type code. Returns false if it was there already.
    fn insert(&mut self, code: u8) -> bool {
        let new = !self.contains(code);
        if let Some(bits) = self.0.get_mut(usize::from(code >> 7)) {
            *bits |= 1 << (code & 0x7f);
        }
        new
    }
}

/// The path attributes of one UPDATE during decoding.
struct Block<'a> {
    codec: &'a Codec,
    families: &'a [Family],
    attributes: Attributes,
    next_hop: Option<Ipv4Addr>,
    reach: Option<mp::Reach>,
    unreach: Option<(Family, Vec<Nlri>)>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    seen: Seen,
    /// The number of attributes, malformed ones included.
    count: usize,
    problems: Vec<Problem<'a>>,
}

impl<'a> Block<'a> {
    fn new(codec: &'a Codec, families: &'a [Family]) -> Self {
        Self {
            codec,
            families,
            attributes: Attributes::local(),
            next_hop: None,
            reach: None,
            unreach: None,
            as4_path: None,
            as4_aggregator: None,
            seen: Seen::default(),
            count: 0,
            problems: Vec::new(),
        }
    }

    /// Decodes all attributes. Returns an error that ends the session; lesser ones become problems.
    fn read(&mut self, octets: &'a [u8]) -> Result<(), Error> {
        let mut reader = Reader::new(octets);
        while !reader.is_empty() {
            self.count += 1;
            let rest = reader.rest();
            let (flags, code) = (reader.u8().unwrap_or(0), reader.u8());
            let length = if flags & EXTENDED_LENGTH != 0 { reader.u16() } else { reader.u8().map(u16::from) };
            let value = length.and_then(|length| reader.take(usize::from(length)));
            let (Some(code), Some(value)) = (code, value) else {
                return self.cut_off(code, rest);
            };
            let whole = rest.get(..rest.len() - reader.len()).unwrap_or(rest);
            self.take(Raw { flags, code, value, whole })?;
        }
        Ok(())
    }

    /// Handles a last attribute that exceeds the field, or a rest too short for one: what follows cannot be decoded, but
    /// the length of the field still marks the start of the NLRI (RFC 7606 §4).
    fn cut_off(&mut self, code: Option<u8>, rest: &'a [u8]) -> Result<(), Error> {
        let reason = match code {
            Some(code) => format!("attribute {code} goes beyond the path attributes"),
            None => "a single octet is left where an attribute should start".into(),
        };
        if matches!(code, Some(rules::MP_REACH | rules::MP_UNREACH)) {
            // RFC 7606 §3 (j): its prefixes are unknown, so they cannot be treated as withdrawn.
            return Err(reset(subcode::OPTIONAL, rest, reason));
        }
        self.problem(code.unwrap_or(0), Cost::Withdraw, subcode::MALFORMED_LIST, &[], reason)
    }

    /// Records a problem, or returns it as an error if it ends the session.
    fn problem(
        &mut self,
        attribute: u8,
        cost: Cost,
        subcode: u8,
        data: &'a [u8],
        reason: String,
    ) -> Result<(), Error> {
        if cost == Cost::Reset {
            return Err(reset(subcode, data, reason));
        }
        self.problems.push(Problem { attribute, cost, subcode, data, reason });
        Ok(())
    }

    /// Decodes one attribute.
    fn take(&mut self, raw: Raw<'a>) -> Result<(), Error> {
        let rule = rules::find(raw.code);
        if rule.is_none() && raw.flags & OPTIONAL == 0 {
            // RFC 4271 §6.3, unchanged by RFC 7606.
            let reason = format!("attribute {} claims to be well-known and is not", raw.code);
            return Err(reset(subcode::UNRECOGNIZED, raw.whole, reason));
        }
        if !self.seen.insert(raw.code) {
            // RFC 7606 §3 (g): the first one applies, but prefixes must be unambiguous.
            let is_mp = matches!(raw.code, rules::MP_REACH | rules::MP_UNREACH);
            let cost = if is_mp { Cost::Reset } else { Cost::Discard };
            let reason = format!("{} appears more than once", name(raw.code, rule));
            return self.problem(raw.code, cost, subcode::MALFORMED_LIST, &[], reason);
        }
        let Some(rule) = rule else {
            self.keep_unrecognized(&raw);
            return Ok(());
        };
        match self.check(rule, &raw).and_then(|()| self.store(rule, &raw)) {
            Ok(()) => Ok(()),
            Err(Complaint { cost, subcode, reason }) => {
                let reason = format!("{}: {reason}", rule.name);
                self.problem(raw.code, cost, subcode, raw.whole, reason)
            }
        }
    }

    /// Keeps an unrecognized attribute that is transitive, to be passed on, and ignores all others (RFC 4271 §5).
    fn keep_unrecognized(&mut self, raw: &Raw) {
        if raw.flags & TRANSITIVE != 0 {
            self.keep(raw);
        }
    }

    /// Keeps an attribute as received. Its value is copied: a path may live for months and must not keep a read buffer
    /// alive.
    fn keep(&mut self, raw: &Raw) {
        let flags = raw.flags & (OPTIONAL | TRANSITIVE | PARTIAL);
        let value = Bytes::copy_from_slice(raw.value);
        self.attributes.unknown.push(Unknown { flags, code: raw.code, value });
    }

    /// Checks flags and length against the table of rules.
    fn check(&self, rule: &Rule, raw: &Raw) -> Result<(), Complaint> {
        if rule.internal_only && self.codec.external {
            return Err(Complaint::discard("it is not valid from another AS"));
        }
        let bits = raw.flags & (OPTIONAL | TRANSITIVE);
        if bits != rule.flags {
            // RFC 7606 §3 (c)
            let reason = format!("flags {bits:#04x} where {:#04x} belong", rule.flags);
            return Err(Complaint { cost: rule.cost, subcode: subcode::FLAGS, reason });
        }
        if !rule.length.admits(raw.value.len(), self.codec.four_octet_as) {
            let reason = format!("it cannot be {} octets long", raw.value.len());
            let subcode = if rule.cost == Cost::Reset { rule.subcode } else { subcode::LENGTH };
            return Err(Complaint { cost: rule.cost, subcode, reason });
        }
        Ok(())
    }

    /// Decodes the value of a recognized attribute whose flags and length are valid.
    fn store(&mut self, rule: &Rule, raw: &Raw<'a>) -> Result<(), Complaint> {
        let attributes = &mut self.attributes;
        let wide = self.codec.four_octet_as;
        let wrong = |reason| Complaint { cost: rule.cost, subcode: rule.subcode, reason };
        match rule.code {
            rules::ORIGIN => {
                attributes.origin = match raw.value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return Err(wrong("its value is undefined".into())),
                }
            }
            rules::AS_PATH => attributes.as_path = as_path::decode(raw.value, wide).map_err(wrong)?,
            rules::NEXT_HOP => self.next_hop = address(raw.value),
            rules::MED => attributes.med = number(raw.value),
            rules::LOCAL_PREF => attributes.local_pref = number(raw.value),
            rules::ATOMIC_AGGREGATE => attributes.atomic_aggregate = true,
            rules::AGGREGATOR => attributes.aggregator = Some(aggregator(raw.value, wide).map_err(wrong)?),
            rules::COMMUNITIES => {
                attributes.communities = sorted(numbers(raw.value).collect());
            }
            rules::ORIGINATOR_ID => attributes.originator_id = address(raw.value),
            rules::CLUSTER_LIST => {
                attributes.cluster_list = numbers(raw.value).map(Ipv4Addr::from_bits).collect();
            }
            rules::MP_REACH => {
                self.reach = Some(mp::reach(raw.value, self.families, self.codec).map_err(wrong)?);
            }
            rules::MP_UNREACH => {
                self.unreach = mp::unreach(raw.value, self.families, self.codec).map_err(wrong)?;
            }
            // RFC 6793 §4.1 and §6: not between two speakers with 4-octet AS numbers.
            rules::AS4_PATH | rules::AS4_AGGREGATOR if wide => {
                return Err(Complaint::discard("the session carries 4-octet AS numbers"));
            }
            rules::AS4_PATH => self.as4_path = Some(as_path::decode_as4(raw.value).map_err(wrong)?),
            rules::AS4_AGGREGATOR => {
                self.as4_aggregator = Some(aggregator(raw.value, true).map_err(wrong)?);
            }
            rules::EXTENDED_COMMUNITIES => {
                let values = raw.value.as_chunks().0.iter().map(|octets| ExtendedCommunity(*octets));
                attributes.extended_communities = sorted(values.collect());
            }
            rules::LARGE_COMMUNITIES => {
                let values = raw.value.as_chunks().0.iter().map(LargeCommunity::from_octets);
                attributes.large_communities = sorted(values.collect());
            }
            rules::ONLY_TO_CUSTOMER => attributes.only_to_customer = number(raw.value),
            // Communities of other kinds: well-formed, and passed on as they are.
            _ => self.keep(raw),
        }
        Ok(())
    }

    /// Checks the UPDATE as a whole, and decides whether its prefixes are advertised or withdrawn. `announced` is the NLRI
    /// field, `prefixes` those in it, if its family was negotiated.
    fn finish(mut self, announced: &[u8], prefixes: Vec<Nlri>, mut update: Update) -> Result<Update, Error> {
        let reaches = !announced.is_empty()
            || match &self.reach {
                Some(mp::Reach::Carried { prefixes, .. }) => !prefixes.is_empty(),
                Some(mp::Reach::Ignored) => true,
                None => false,
            };
        if reaches {
            self.check_mandatory(!announced.is_empty());
        }
        let worst = self.problems.iter().max_by_key(|problem| problem.cost);
        let withdraw = match worst {
            // RFC 7606 §5.2: without any advertised prefix, the prefixes may have been missed.
            Some(worst) if worst.cost >= Cost::Withdraw && !reaches => {
                return Err(reset(worst.subcode, worst.data, worst.reason.clone()));
            }
            Some(worst) => worst.cost >= Cost::Withdraw,
            None => false,
        };
        let mut settle = |family, next_hop, prefixes: Vec<Nlri>| match next_hop {
            _ if prefixes.is_empty() => {}
            Some(next_hop) if !withdraw => update.reach.push(Reach { family, next_hop, prefixes }),
            // RFC 7606 §2, treat-as-withdraw, which includes a missing next hop.
            _ => update.withdrawn.extend(prefixes),
        };
        let classic = self.next_hop.map(|address| NextHop { address: address.into(), link_local: None });
        settle(Family::Ipv4Unicast, classic, prefixes);
        if let Some(mp::Reach::Carried { family, next_hop, prefixes }) = self.reach.take() {
            settle(family, Some(next_hop), prefixes);
        }
        let faults = std::mem::take(&mut self.problems);
        update.faults = faults.into_iter().map(Fault::from).collect();
        if !update.reach.is_empty() {
            update.attributes = Some(self.into_attributes());
        }
        Ok(update)
    }

    /// Checks that the mandatory attributes are present if routes are advertised: RFC 7606 §3 (d) and (e). LOCAL_PREF is
    /// not among them: without one we use our default (RFC 4271 §5.1.5).
    fn check_mandatory(&mut self, classic: bool) {
        let mut withdraw = |attribute, subcode, data: &'static [u8], reason| {
            self.problems.push(Problem { attribute, cost: Cost::Withdraw, subcode, data, reason });
        };
        let missing = |name| format!("{name} is missing");
        if !self.seen.contains(rules::ORIGIN) {
            withdraw(rules::ORIGIN, subcode::MISSING, &[rules::ORIGIN], missing("ORIGIN"));
        }
        if !self.seen.contains(rules::AS_PATH) {
            withdraw(rules::AS_PATH, subcode::MISSING, &[rules::AS_PATH], missing("AS_PATH"));
        }
        // RFC 4760 §3: beside MP_REACH_NLRI alone, NEXT_HOP is ignored.
        if classic && !self.seen.contains(rules::NEXT_HOP) {
            withdraw(rules::NEXT_HOP, subcode::MISSING, &[rules::NEXT_HOP], missing("NEXT_HOP"));
        }
    }

    /// Returns the attributes, with the AS numbers that older speakers could not carry restored (RFC 6793 §4.2.3).
    fn into_attributes(self) -> Attributes {
        let mut attributes = self.attributes;
        attributes.unknown.sort_by_key(|unknown| unknown.code);
        match (attributes.aggregator, self.as4_aggregator) {
            // A speaker without support for AS4_* has aggregated since: they are outdated.
            (Some(aggregator), Some(_)) if aggregator.asn != u32::from(super::super::AS_TRANS) => {
                return attributes;
            }
            (Some(_), Some(wide)) => attributes.aggregator = Some(wide),
            _ => {}
        }
        if let Some(as4_path) = self.as4_path {
            attributes.as_path = as_path::merge(attributes.as_path, as4_path);
        }
        attributes
    }
}

/// An error in one attribute.
struct Complaint {
    cost: Cost,
    subcode: u8,
    reason: String,
}

impl Complaint {
    fn discard(reason: &str) -> Self {
        Self { cost: Cost::Discard, subcode: subcode::OPTIONAL, reason: reason.into() }
    }
}

impl From<Problem<'_>> for Fault {
    fn from(problem: Problem) -> Self {
        let action = match problem.cost {
            Cost::Discard => FaultAction::AttributeDiscard,
            Cost::Withdraw | Cost::Reset => FaultAction::TreatAsWithdraw,
        };
        Self { attribute: problem.attribute, action, reason: problem.reason }
    }
}

fn name(code: u8, rule: Option<&Rule>) -> String {
    rule.map_or_else(|| format!("attribute {code}"), |rule| rule.name.into())
}

/// Sorts communities and removes duplicates: they are sets (RFC 8092 §3, for example).
fn sorted<T: Ord>(mut values: List<T>) -> List<T> {
    values.sort_unstable();
    values.dedup();
    values
}

fn numbers(value: &[u8]) -> impl Iterator<Item = u32> {
    value.as_chunks().0.iter().map(|octets| u32::from_be_bytes(*octets))
}

fn number(value: &[u8]) -> Option<u32> {
    numbers(value).next()
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    number(value).map(Ipv4Addr::from_bits)
}

/// Decodes AGGREGATOR or AS4_AGGREGATOR, whose length has been checked.
fn aggregator(value: &[u8], four_octet_as: bool) -> Result<Aggregator, String> {
    let mut reader = Reader::new(value);
    let asn = if four_octet_as { reader.u32() } else { reader.u16().map(u32::from) };
    match (asn, reader.u32()) {
        // RFC 7607 §2
        (Some(0), _) => Err("it names AS number 0, which is reserved".into()),
        (Some(asn), Some(address)) => Ok(Aggregator { asn, address: Ipv4Addr::from_bits(address) }),
        _ => Err("it is cut off".into()),
    }
}
