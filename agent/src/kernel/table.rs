//! Heliograph's nftables table: the guard of the tunnels, and NAT outgoing.
//!
//! The guard drops tunnelled packets (protocol 4, over IPv6 also 41) that don't come from a node: without it every node
//! would be an open decapsulator (CVE-2020-10136). It hooks into `input`, which the kernel runs before the tunnel gets the
//! packet. It filters only packets to this node: forwarded packets of foreign tunnels are not affected.
//!
//! NAT outgoing masquerades packets of this node's pods to addresses that are neither in the cluster's networks nor of a
//! node. It runs after routing and after a service proxy has translated a service's address to a pod's.
//!
//! One transaction replaces the whole table; foreign tables are never read or written. The kernel's table is compared with
//! the desired one, expression by expression, so that a change by another program is noticed.

use super::desired::{NatOutgoing, Rules};
use super::error::KernelResult;
use super::nft::attribute::{Attribute, find_number, find_text};
use super::nft::rule::{DATA_VALUE, Expression, LIST_ELEMENT, Rule, field};
use super::nft::{self, Object, Transaction};
use super::ranges::{self, Ranges};
use super::{IpFamily, TableState};
use heliograph_cni::codec::{attributes, find, ip_address};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The name of Heliograph's table, which is of family `inet`.
pub const TABLE: &str = "heliograph";

/// Attribute types (NFTA_TABLE_…, NFTA_CHAIN_…, NFTA_SET_…, NFTA_SET_ELEM_LIST_…, NFTA_SET_ELEM_…).
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
/// The flag of a set whose elements are the ends of ranges (NFT_SET_INTERVAL).
const INTERVALS: u32 = 4;
/// The flag of an element that is the first address after a range (NFT_SET_ELEM_INTERVAL_END).
const RANGE_END: u32 = 1;
/// The number of elements in one message. An element has at most 48 octets, and their list is one attribute of at most
/// 65,531.
const ELEMENTS_PER_MESSAGE: usize = 1000;
/// The policy of a chain that accepts (NF_ACCEPT).
const ACCEPT: u32 = 1;

/// A base chain.
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
    rules: Vec<Rule>,
}

/// The content of the table for some rules.
struct Table {
    sets: BTreeMap<&'static str, Ranges>,
    chains: Vec<Chain>,
}

/// A pair of sets with the same content, one per family: nf_tables has no set of both.
struct SetPair {
    v4: &'static str,
    v6: &'static str,
}

const NODES: SetPair = SetPair { v4: "nodes4", v6: "nodes6" };
const PODS: SetPair = SetPair { v4: "pods4", v6: "pods6" };
const INSIDE: SetPair = SetPair { v4: "inside4", v6: "inside6" };

impl SetPair {
    /// Returns the name of the set of a family.
    fn name(&self, family: IpFamily) -> &'static str {
        match family {
            IpFamily::V4 => self.v4,
            IpFamily::V6 => self.v6,
        }
    }

    /// Returns both sets by name, each with the addresses of its family.
    fn split(&self, all: &Ranges) -> [(&'static str, Ranges); 2] {
        IpFamily::ALL.map(|family| {
            let mut ranges = Ranges::default();
            all.family(family).for_each(|(first, last)| ranges.insert(first, last));
            (self.name(family), ranges)
        })
    }
}

/// Returns the family of a set's elements.
fn family_of(set: &str) -> IpFamily {
    if set.ends_with('4') { IpFamily::V4 } else { IpFamily::V6 }
}

/// Returns the number by which `nft` recognizes the type of a set's elements: ipv4_addr or ipv6_addr.
fn key_type(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => 7,
        IpFamily::V6 => 8,
    }
}

/// Returns the flags of a set: nodes are single addresses, the other sets contain ranges.
fn set_flags(set: &str) -> u32 {
    if IpFamily::ALL.iter().any(|family| NODES.name(*family) == set) { 0 } else { INTERVALS }
}

impl Table {
    fn of(rules: &Rules) -> Self {
        let mut table = Self { sets: BTreeMap::new(), chains: Vec::new() };
        if let Some(sources) = &rules.tunnel_sources {
            let nodes = sources.iter().map(|address| IpNetwork::from(*address)).collect();
            table.sets.extend(NODES.split(&nodes));
            // The priority named `raw`: before connection tracking, so that dropped packets leave no state.
            let rules = guard_rules();
            table.chains.push(Chain { name: "tunnels", kind: "filter", hook: 1, priority: -300, rules });
        }
        if let Some(nat) = &rules.nat {
            table.sets.extend(PODS.split(&nat.pods));
            table.sets.extend(INSIDE.split(&nat.inside));
            // The priority named `srcnat`.
            let rules = IpFamily::ALL.map(outgoing_rule).into();
            table.chains.push(Chain { name: "nat-outgoing", kind: "nat", hook: 4, priority: 100, rules });
        }
        table
    }
}

/// Continues with packets of a family.
fn of_family(family: IpFamily) -> [Expression; 2] {
    /// NFT_META_NFPROTO.
    const NFPROTO: u32 = 15;
    // NFPROTO_IPV4 and NFPROTO_IPV6.
    let number = match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    };
    [Expression::meta(NFPROTO), Expression::compare(true, number)]
}

/// Continues with packets of any other protocol than this.
fn not_of_protocol(protocol: u8) -> [Expression; 2] {
    /// NFT_META_L4PROTO.
    const L4PROTO: u32 = 16;
    [Expression::meta(L4PROTO), Expression::compare(false, protocol)]
}

fn source(family: IpFamily) -> Expression {
    match family {
        IpFamily::V4 => Expression::network_header(12, 4),
        IpFamily::V6 => Expression::network_header(8, 16),
    }
}

fn destination(family: IpFamily) -> Expression {
    match family {
        IpFamily::V4 => Expression::network_header(16, 4),
        IpFamily::V6 => Expression::network_header(24, 16),
    }
}

fn guard_rules() -> Vec<Rule> {
    let rule = |comment, parts: &[&[Expression]]| Rule {
        expressions: parts.iter().copied().flatten().cloned().collect(),
        comment,
    };
    let counted = |verdict| [Expression::counter(), verdict];
    let from_node = |family| [source(family), Expression::lookup(true, NODES.name(family))];
    let [v4, v6] = IpFamily::ALL.map(of_family);
    vec![
        // The tunnel doesn't accept protocol 41 over IPv4: it may be a foreign 6in4 tunnel.
        rule("not tunnelled", &[&v4, &not_of_protocol(4), &[Expression::accept()]]),
        rule(
            "not tunnelled over IPv6",
            &[&v6, &not_of_protocol(4), &not_of_protocol(41), &[Expression::accept()]],
        ),
        rule("tunnelled by a node", &[&v4, &from_node(IpFamily::V4), &counted(Expression::accept())]),
        rule(
            "tunnelled by a node over IPv6",
            &[&v6, &from_node(IpFamily::V6), &counted(Expression::accept())],
        ),
        rule("tunnelled by a stranger", &[&counted(Expression::drop())]),
    ]
}

fn outgoing_rule(family: IpFamily) -> Rule {
    let [load_family, compare_family] = of_family(family);
    let expressions = vec![
        load_family,
        compare_family,
        source(family),
        Expression::lookup(true, PODS.name(family)),
        destination(family),
        Expression::lookup(false, INSIDE.name(family)),
        Expression::counter(),
        Expression::masquerade(),
    ];
    let comment = match family {
        IpFamily::V4 => "leaves the cluster",
        IpFamily::V6 => "leaves the cluster over IPv6",
    };
    Rule { expressions, comment }
}

/// Replaces the table in one transaction.
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
            "check that the kernel has nftables with NAT (modprobe nf_tables nft_masq), or set natOutgoing: Disabled and \
             encapsulation: Never",
        ),
        false => error,
    })
}

/// Deletes the table, if there is one.
pub(super) fn delete(what: &str) -> KernelResult<()> {
    removal().commit(what)
}

/// Begins a transaction that deletes the table. It adds it first, which doesn't change an existing one, because deleting a
/// table that doesn't exist is an error.
fn removal() -> Transaction {
    let mut transaction = Transaction::default();
    let name = [Attribute::text(TABLE_NAME, TABLE)];
    transaction.add(Object::Table, &name);
    transaction.delete(Object::Table, &name);
    transaction
}

fn add_set(transaction: &mut Transaction, number: u32, name: &str, members: &Ranges) {
    let family = family_of(name);
    let set = [
        Attribute::text(SET_TABLE, TABLE),
        Attribute::text(SET_NAME, name),
        Attribute::number(SET_FLAGS, set_flags(name)),
        Attribute::number(SET_KEY_TYPE, key_type(family)),
        Attribute::number(SET_KEY_LENGTH, u32::from(family.bits() / 8)),
        Attribute::number(SET_ID, number),
    ];
    transaction.add(Object::Set, &set);
    let elements = match set_flags(name) {
        INTERVALS => ends(members),
        _ => single_addresses(members).into_iter().map(|address| (address, false)).collect(),
    };
    for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
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

/// Returns ranges as their ends: the first address of each, and the first after it, if there is one.
fn ends(ranges: &Ranges) -> Vec<(IpAddr, bool)> {
    let all = IpFamily::ALL.into_iter().flat_map(|family| ranges.family(family));
    all.flat_map(|(first, last)| [Some((first, false)), ranges::after(last).map(|end| (end, true))])
        .flatten()
        .collect()
}

fn add_chain(transaction: &mut Transaction, chain: &Chain) {
    let named = [Attribute::text(CHAIN_TABLE, TABLE), Attribute::text(CHAIN_NAME, chain.name)];
    transaction.add(Object::Chain, &[named.as_slice(), &chain_attributes(chain)].concat());
    for rule in &chain.rules {
        let place = [Attribute::text(field::TABLE, TABLE), Attribute::text(field::CHAIN, chain.name)];
        transaction.add(Object::Rule, &[place.as_slice(), &rule.attributes()].concat());
    }
}

fn chain_attributes(chain: &Chain) -> [Attribute; 3] {
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

/// The table in the kernel; each object as its attributes.
struct ActualTable {
    flags: u32,
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
    sets: BTreeMap<String, ActualSet>,
}

/// A set in the kernel.
struct ActualSet {
    flags: u32,
    key_type: u32,
    members: Members,
}

/// The members of a set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Members {
    ranges: Ranges,
    /// Set if some elements could not be decoded.
    unknown: bool,
}

/// Reads the table. A kernel without nftables has none.
pub(super) fn dump() -> KernelResult<TableState> {
    let what = format!("read nftables table inet {TABLE}");
    match read(&what) {
        Ok(Some(actual)) => Ok(evaluate(&actual)),
        Ok(None) => Ok(TableState::Absent),
        Err(error) if nft::is_absent(&error) => Ok(TableState::Absent),
        Err(error) => Err(error),
    }
}

fn read(what: &str) -> KernelResult<Option<ActualTable>> {
    let tables = nft::dump(what, Object::Table, &[])?;
    let Some(table) = tables.iter().find(|table| find_text(table, TABLE_NAME) == Some(TABLE)) else {
        return Ok(None);
    };
    // The first attribute of tables, chains, rules and sets is their table. Some kernels don't filter by it.
    let ours = |object| {
        let all = nft::dump(what, object, &[Attribute::text(TABLE_NAME, TABLE)])?;
        Ok(all.into_iter().filter(|object| find_text(object, TABLE_NAME) == Some(TABLE)).collect::<Vec<_>>())
    };
    let mut sets = BTreeMap::new();
    for set in ours(Object::Set)? {
        let name = find_text(&set, SET_NAME).unwrap_or_default();
        let choice = [Attribute::text(SET_TABLE, TABLE), Attribute::text(ELEMENTS_SET, name)];
        let lists = nft::dump(what, Object::Elements, &choice)?;
        let number = |kind| find_number(&set, kind).unwrap_or(0);
        let (flags, key_type) = (number(SET_FLAGS), number(SET_KEY_TYPE));
        sets.insert(name.to_owned(), ActualSet { flags, key_type, members: members(flags, &lists) });
    }
    let flags = find_number(table, TABLE_FLAGS).unwrap_or(0);
    Ok(Some(ActualTable { flags, chains: ours(Object::Chain)?, rules: ours(Object::Rule)?, sets }))
}

fn members(set_flags: u32, lists: &[Vec<u8>]) -> Members {
    let mut members = Members::default();
    let mut elements = BTreeSet::new();
    for list in lists {
        for (_, element) in attributes(find(list, ELEMENTS).unwrap_or_default()) {
            let key = find(element, ELEMENT_KEY).and_then(|key| ip_address(find(key, DATA_VALUE)?));
            match (key, find_number(element, ELEMENT_FLAGS).unwrap_or(0)) {
                // If one range ends and the next begins at an address, the end comes first.
                (Some(address), flags @ (0 | RANGE_END)) => drop(elements.insert((address, flags == 0))),
                _ => members.unknown = true,
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
    /// Adds the ranges with these ends, which are in order.
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
                _ => self.unknown = true,
            }
        }
        if let Some(begin) = first {
            let last: IpAddr = match IpFamily::of(begin) {
                IpFamily::V4 => [255; 4].into(),
                IpFamily::V6 => [255; 16].into(),
            };
            self.ranges.insert(begin, last);
        }
    }
}

/// Returns the state of the table: its rules, and whether it is exactly as Heliograph writes it.
fn evaluate(actual: &ActualTable) -> TableState {
    let rules = rules_of(actual);
    if is_as_written(actual, &Table::of(&rules)) {
        TableState::Intact(rules)
    } else {
        TableState::Altered(rules)
    }
}

/// Returns the rules that the sets describe, as far as they exist.
fn rules_of(actual: &ActualTable) -> Rules {
    let union = |pair: SetPair| {
        let found: Vec<&Ranges> = IpFamily::ALL
            .iter()
            .filter_map(|family| Some(&actual.sets.get(pair.name(*family))?.members.ranges))
            .collect();
        let mut all = Ranges::default();
        found.iter().for_each(|ranges| all.extend(ranges));
        (!found.is_empty()).then_some(all)
    };
    let nat = union(PODS).zip(union(INSIDE)).map(|(pods, inside)| NatOutgoing { pods, inside });
    Rules { tunnel_sources: union(NODES).map(|nodes| single_addresses(&nodes)), nat }
}

/// Returns the single addresses in ranges, at most 65,536: a longer range, which only another program can have made, does
/// not consist of nodes.
fn single_addresses(ranges: &Ranges) -> BTreeSet<IpAddr> {
    const LONGEST: usize = 1 << 16;
    let one_range = |(first, last): (IpAddr, IpAddr)| {
        std::iter::successors(Some(first), move |address| {
            ranges::after(*address).filter(|next| *next <= last)
        })
    };
    IpFamily::ALL
        .into_iter()
        .flat_map(|family| ranges.family(family))
        .flat_map(one_range)
        .take(LONGEST)
        .collect()
}

fn is_as_written(actual: &ActualTable, table: &Table) -> bool {
    let sets = actual.sets.len() == table.sets.len()
        && table.sets.iter().all(|(name, members)| {
            actual.sets.get(*name).is_some_and(|set| {
                set.flags == set_flags(name)
                    && set.key_type == key_type(family_of(name))
                    && set.members == Members { ranges: members.clone(), unknown: false }
            })
        });
    let chains = actual.chains.len() == table.chains.len()
        && table.chains.iter().all(|chain| {
            actual.chains.iter().any(|actual| {
                let desired = chain_attributes(chain);
                find_text(actual, CHAIN_NAME) == Some(chain.name)
                    && desired.iter().all(|attribute| attribute.is_in(actual))
            })
        });
    let rules = table.chains.iter().all(|chain| {
        let in_chain: Vec<&Vec<u8>> =
            actual.rules.iter().filter(|rule| find_text(rule, field::CHAIN) == Some(chain.name)).collect();
        in_chain.len() == chain.rules.len()
            && chain.rules.iter().zip(in_chain).all(|(rule, actual)| rule.is(actual))
    });
    actual.flags == 0 && sets && chains && rules
}
