//! Our nftables table, whole: who may send us tunnelled packets, and what leaves the cluster under the node's address.
//!
//! The guard of the tunnels drops tunnelled packets (protocol 4, over IPv6 also 41) which don't come from a known node:
//! without it every node would be an open decapsulator (CVE-2020-10136). It hooks into `input`, which the kernel runs
//! before it hands a packet to the tunnel, and touches only packets for this node: tunnels of others that pass through
//! are let be.
//!
//! NAT outgoing masquerades what this node's pods send to addresses that are neither in the cluster's networks nor a
//! node's. It comes after routing and after the service proxy has put a pod's address in a service's place.
//!
//! The table is put in place in one transaction that replaces the one before; tables of others are never read or
//! written. What the kernel holds is compared with what we would write, step by step, so that a change by somebody else
//! shows.

use super::TableState;
use super::desired::{NatOutgoing, Rules};
use super::error::KernelResult;
use super::nft::attribute::{Attribute, find, find_number, find_text, read};
use super::nft::rule::{DATA_VALUE, Expression, LIST_ELEMENT, Rule, field};
use super::nft::{self, Object, Transaction};
use super::ranges::{self, Ranges};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Name of our table in family `inet`.
pub const TABLE: &str = "heliograph";

/// Attributes (NFTA_TABLE_…, NFTA_CHAIN_…, NFTA_SET_…, NFTA_SET_ELEM_LIST_…, NFTA_SET_ELEM_…).
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
/// Elements are the ends of ranges (NFT_SET_INTERVAL).
const INTERVALS: u32 = 4;
/// An element is the first address after a range (NFT_SET_ELEM_INTERVAL_END).
const RANGE_END: u32 = 1;
/// Elements a message: at most 48 octets each, and a list must not exceed what an attribute can say.
const ELEMENTS_A_MESSAGE: usize = 1000;
/// What an accepting chain does at its end (NF_ACCEPT).
const ACCEPT: u32 = 1;

/// A chain that sees packets.
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
    rules: Vec<Rule>,
}

/// The table that does what the rules say.
struct Table {
    sets: BTreeMap<&'static str, Ranges>,
    chains: Vec<Chain>,
}

const NODES: [&str; 2] = ["nodes4", "nodes6"];
const PODS: [&str; 2] = ["pods4", "pods6"];
const INSIDE: [&str; 2] = ["inside4", "inside6"];

fn is_v4(set: &str) -> bool {
    set.ends_with('4')
}

/// What a set is made of: nodes are single addresses, everything else may be ranges.
fn set_flags(set: &str) -> u32 {
    if NODES.contains(&set) { 0 } else { INTERVALS }
}

/// A set's own half of addresses of both families.
fn half(set: &'static str, all: &Ranges) -> (&'static str, Ranges) {
    let mut half = Ranges::default();
    all.family(is_v4(set)).for_each(|(first, last)| half.insert(first, last));
    (set, half)
}

impl Table {
    fn of(rules: &Rules) -> Self {
        let mut table = Self { sets: BTreeMap::new(), chains: Vec::new() };
        if let Some(sources) = &rules.tunnel_sources {
            let nodes = sources.iter().map(|address| IpNetwork::from(*address)).collect();
            table.sets.extend(NODES.map(|set| half(set, &nodes)));
            // The priority named `raw`: before connection tracking, so that strangers' packets leave no state.
            let rules = guard_rules();
            table.chains.push(Chain { name: "tunnels", kind: "filter", hook: 1, priority: -300, rules });
        }
        if let Some(nat) = &rules.nat {
            table.sets.extend(PODS.map(|set| half(set, &nat.pods)));
            table.sets.extend(INSIDE.map(|set| half(set, &nat.inside)));
            // The priority named `srcnat`.
            let rules = vec![outgoing_rule(true), outgoing_rule(false)];
            table.chains.push(Chain { name: "nat-outgoing", kind: "nat", hook: 4, priority: 100, rules });
        }
        table
    }
}

/// The value of a packet's `meta nfproto`.
fn protocol_family(v4: bool) -> u8 {
    if v4 { 2 } else { 10 }
}

/// Goes on with packets of a family.
fn of_family(v4: bool) -> [Expression; 2] {
    const NFPROTO: u32 = 15;
    [Expression::meta(NFPROTO), Expression::compare(true, protocol_family(v4))]
}

/// Goes on with packets that carry something else than this protocol.
fn not_carrying(protocol: u8) -> [Expression; 2] {
    const L4PROTO: u32 = 16;
    [Expression::meta(L4PROTO), Expression::compare(false, protocol)]
}

fn source(v4: bool) -> Expression {
    if v4 { Expression::network_header(12, 4) } else { Expression::network_header(8, 16) }
}

fn destination(v4: bool) -> Expression {
    if v4 { Expression::network_header(16, 4) } else { Expression::network_header(24, 16) }
}

fn set_of(sets: [&'static str; 2], v4: bool) -> &'static str {
    sets[usize::from(!v4)]
}

fn guard_rules() -> Vec<Rule> {
    let rule = |comment, parts: &[&[Expression]]| Rule {
        expressions: parts.iter().copied().flatten().cloned().collect(),
        comment,
    };
    let counted = |verdict| [Expression::counter(), verdict];
    let by_a_node = |v4| [source(v4), Expression::lookup(true, set_of(NODES, v4))];
    vec![
        // Protocol 41 over IPv4 can't enter our tunnel: it may be somebody's own 6in4.
        rule("not tunnelled", &[&of_family(true), &not_carrying(4), &[Expression::accept()]]),
        rule(
            "not tunnelled over IPv6",
            &[&of_family(false), &not_carrying(4), &not_carrying(41), &[Expression::accept()]],
        ),
        rule("tunnelled by a node", &[&of_family(true), &by_a_node(true), &counted(Expression::accept())]),
        rule(
            "tunnelled by a node over IPv6",
            &[&of_family(false), &by_a_node(false), &counted(Expression::accept())],
        ),
        rule("tunnelled by a stranger", &[&counted(Expression::drop())]),
    ]
}

fn outgoing_rule(v4: bool) -> Rule {
    let [family, is_family] = of_family(v4);
    let from_a_pod = Expression::lookup(true, set_of(PODS, v4));
    let to_outside = Expression::lookup(false, set_of(INSIDE, v4));
    let expressions = vec![
        family,
        is_family,
        source(v4),
        from_a_pod,
        destination(v4),
        to_outside,
        Expression::counter(),
        Expression::masquerade(),
    ];
    Rule { expressions, comment: if v4 { "leaves the cluster" } else { "leaves the cluster over IPv6" } }
}

/// Puts the table in place, in one step with taking the former away.
pub(super) fn put(what: &str, rules: &Rules) -> KernelResult<()> {
    let table = Table::of(rules);
    let mut transaction = removal();
    transaction.add(Object::Table, &[Attribute::text(TABLE_NAME, TABLE)]);
    for (number, (name, members)) in (1..).zip(&table.sets) {
        add_set(&mut transaction, number, name, members);
    }
    for chain in &table.chains {
        add_chain(&mut transaction, chain);
    }
    transaction.commit(what).map_err(|error| match nft::is_absent(&error) {
        true => error.with_remedy(
            "see that the kernel has nftables with NAT (modprobe nf_tables nft_masq), or set natOutgoing: Disabled and \
             encapsulation: Never",
        ),
        false => error,
    })
}

/// Removes the table, also if there is none.
pub(super) fn delete(what: &str) -> KernelResult<()> {
    removal().commit(what)
}

/// Deleting what isn't there is an error, so it is added first: that does nothing to one that is there.
fn removal() -> Transaction {
    let mut transaction = Transaction::default();
    let name = [Attribute::text(TABLE_NAME, TABLE)];
    transaction.add(Object::Table, &name);
    transaction.delete(Object::Table, &name);
    transaction
}

fn add_set(transaction: &mut Transaction, number: u32, name: &str, members: &Ranges) {
    // The types by which `nft` knows how to show the members: ipv4_addr and ipv6_addr.
    let (kind, length) = if is_v4(name) { (7, 4) } else { (8, 16) };
    let set = [
        Attribute::text(SET_TABLE, TABLE),
        Attribute::text(SET_NAME, name),
        Attribute::number(SET_FLAGS, set_flags(name)),
        Attribute::number(SET_KEY_TYPE, kind),
        Attribute::number(SET_KEY_LENGTH, length),
        Attribute::number(SET_ID, number),
    ];
    transaction.add(Object::Set, &set);
    let elements = match set_flags(name) {
        INTERVALS => ends(members),
        _ => single_addresses(members).into_iter().map(|address| (address, false)).collect(),
    };
    for elements in elements.chunks(ELEMENTS_A_MESSAGE) {
        let elements = elements.iter().map(|(address, end)| {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let key = Attribute::nested(ELEMENT_KEY, vec![Attribute::octets(DATA_VALUE, octets)]);
            let flags = Attribute::number(ELEMENT_FLAGS, if *end { RANGE_END } else { 0 });
            Attribute::nested(LIST_ELEMENT, vec![key, flags])
        });
        let list = [
            Attribute::text(SET_TABLE, TABLE),
            Attribute::text(ELEMENTS_SET, name),
            Attribute::nested(ELEMENTS, elements.collect()),
        ];
        transaction.add(Object::Elements, &list);
    }
}

/// Ranges as their ends: the first address of each, and the first after it, unless there is none.
fn ends(ranges: &Ranges) -> Vec<(IpAddr, bool)> {
    let all = ranges.family(true).chain(ranges.family(false));
    all.flat_map(|(first, last)| [Some((first, false)), ranges::after(last).map(|end| (end, true))])
        .flatten()
        .collect()
}

fn add_chain(transaction: &mut Transaction, chain: &Chain) {
    let named = [Attribute::text(CHAIN_TABLE, TABLE), Attribute::text(CHAIN_NAME, chain.name)];
    transaction.add(Object::Chain, &[named.as_slice(), &chain_says(chain)].concat());
    for rule in &chain.rules {
        let place = [Attribute::text(field::TABLE, TABLE), Attribute::text(field::CHAIN, chain.name)];
        transaction.add(Object::Rule, &[place.as_slice(), &rule.attributes()].concat());
    }
}

fn chain_says(chain: &Chain) -> [Attribute; 3] {
    let hook = vec![
        Attribute::number(HOOK_NUMBER, chain.hook),
        Attribute::octets(HOOK_PRIORITY, chain.priority.to_be_bytes()),
    ];
    [
        Attribute::nested(CHAIN_HOOK, hook),
        Attribute::number(CHAIN_POLICY, ACCEPT),
        Attribute::text(CHAIN_TYPE, chain.kind),
    ]
}

/// What the kernel shows of our table; each thing as its attributes.
struct Shown {
    flags: u32,
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
    sets: BTreeMap<String, ShownSet>,
}

/// What the kernel shows of a set.
struct ShownSet {
    flags: u32,
    key_type: u32,
    members: Members,
}

/// Members of a set: ranges, and whether all that was shown made sense.
#[derive(Debug, Default, PartialEq, Eq)]
struct Members {
    ranges: Ranges,
    strange: bool,
}

/// Reads the table. Where there is no nftables in the kernel there can't be one of ours.
pub(super) fn dump() -> KernelResult<TableState> {
    let what = format!("read nftables table inet {TABLE}");
    match show(&what) {
        Ok(Some(shown)) => Ok(judge(&shown)),
        Ok(None) => Ok(TableState::Absent),
        Err(error) if nft::is_absent(&error) => Ok(TableState::Absent),
        Err(error) => Err(error),
    }
}

fn show(what: &str) -> KernelResult<Option<Shown>> {
    let tables = nft::dump(what, Object::Table, &[])?;
    let Some(table) = tables.iter().find(|table| find_text(table, TABLE_NAME) == Some(TABLE)) else {
        return Ok(None);
    };
    // Tables, chains, rules and sets all name their table first; not every kernel chooses by it.
    let ours = |object| {
        let all = nft::dump(what, object, &[Attribute::text(TABLE_NAME, TABLE)])?;
        Ok(all.into_iter().filter(|shown| find_text(shown, TABLE_NAME) == Some(TABLE)).collect::<Vec<_>>())
    };
    let mut sets = BTreeMap::new();
    for set in ours(Object::Set)? {
        let name = find_text(&set, SET_NAME).unwrap_or_default();
        let choice = [Attribute::text(SET_TABLE, TABLE), Attribute::text(ELEMENTS_SET, name)];
        let lists = nft::dump(what, Object::Elements, &choice)?;
        let number = |kind| find_number(&set, kind).unwrap_or(0);
        let (flags, key_type) = (number(SET_FLAGS), number(SET_KEY_TYPE));
        sets.insert(name.to_owned(), ShownSet { flags, key_type, members: members(flags, &lists) });
    }
    let flags = find_number(table, TABLE_FLAGS).unwrap_or(0);
    Ok(Some(Shown { flags, chains: ours(Object::Chain)?, rules: ours(Object::Rule)?, sets }))
}

fn members(set_flags: u32, lists: &[Vec<u8>]) -> Members {
    let mut members = Members::default();
    let mut elements = BTreeSet::new();
    for list in lists {
        for (_, element) in read(find(list, ELEMENTS).unwrap_or_default()) {
            let key = find(element, ELEMENT_KEY).and_then(|key| address_in(find(key, DATA_VALUE)?));
            match (key, find_number(element, ELEMENT_FLAGS).unwrap_or(0)) {
                // At an address where one range ends and the next begins the end comes first.
                (Some(address), flags @ (0 | RANGE_END)) => drop(elements.insert((address, flags == 0))),
                _ => members.strange = true,
            }
        }
    }
    if set_flags & INTERVALS == 0 {
        elements.iter().for_each(|(address, _)| members.ranges.insert(*address, *address));
    } else {
        members.join(&elements);
    }
    members
}

impl Members {
    /// Makes ranges of their ends, in order.
    fn join(&mut self, ends: &BTreeSet<(IpAddr, bool)>) {
        let mut first = None;
        for (address, begins) in ends {
            match (begins, first) {
                (true, None) => first = Some(*address),
                (false, Some(begin)) => {
                    first = None;
                    ranges::before(*address).into_iter().for_each(|last| self.ranges.insert(begin, last));
                }
                // `nft` puts an end before the first range.
                (false, None) if self.ranges.is_empty() => {}
                _ => self.strange = true,
            }
        }
        if let Some(begin) = first {
            let last: IpAddr = if begin.is_ipv4() { [255; 4].into() } else { [255; 16].into() };
            self.ranges.insert(begin, last);
        }
    }
}

fn address_in(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

/// What the table that is shown does, and whether it is as we would write it.
fn judge(shown: &Shown) -> TableState {
    let rules = rules_of(shown);
    if is_as_written(shown, &Table::of(&rules)) {
        TableState::Intact(rules)
    } else {
        TableState::Altered(rules)
    }
}

/// What the sets say, as far as they are there.
fn rules_of(shown: &Shown) -> Rules {
    let union = |names: [&str; 2]| {
        let found: Vec<&Ranges> =
            names.iter().filter_map(|name| Some(&shown.sets.get(*name)?.members.ranges)).collect();
        let mut all = Ranges::default();
        found.iter().for_each(|ranges| all.extend(ranges));
        (!found.is_empty()).then_some(all)
    };
    let nat = union(PODS).zip(union(INSIDE)).map(|(pods, inside)| NatOutgoing { pods, inside });
    Rules { tunnel_sources: union(NODES).map(|nodes| single_addresses(&nodes)), nat }
}

/// The addresses in ranges, as far as nodes stand for them: a range that somebody else made long isn't one of nodes.
fn single_addresses(ranges: &Ranges) -> BTreeSet<IpAddr> {
    const LONGEST: usize = 1 << 16;
    let one_range = |(first, last): (IpAddr, IpAddr)| {
        std::iter::successors(Some(first), move |address| {
            ranges::after(*address).filter(|next| *next <= last)
        })
    };
    ranges.family(true).chain(ranges.family(false)).flat_map(one_range).take(LONGEST).collect()
}

fn is_as_written(shown: &Shown, table: &Table) -> bool {
    let sets = shown.sets.len() == table.sets.len()
        && table.sets.iter().all(|(name, members)| {
            shown.sets.get(*name).is_some_and(|set| {
                set.flags == set_flags(name)
                    && set.key_type == if is_v4(name) { 7 } else { 8 }
                    && set.members == Members { ranges: members.clone(), strange: false }
            })
        });
    let chains = shown.chains.len() == table.chains.len()
        && table.chains.iter().all(|chain| {
            shown.chains.iter().any(|shown| {
                let wanted = chain_says(chain);
                find_text(shown, CHAIN_NAME) == Some(chain.name)
                    && wanted.iter().all(|attribute| attribute.is_in(shown))
            })
        });
    let rules = table.chains.iter().all(|chain| {
        let in_chain: Vec<&Vec<u8>> =
            shown.rules.iter().filter(|rule| find_text(rule, field::CHAIN) == Some(chain.name)).collect();
        in_chain.len() == chain.rules.len()
            && chain.rules.iter().zip(in_chain).all(|(rule, shown)| rule.is(shown))
    });
    shown.flags == 0 && sets && chains && rules
}
