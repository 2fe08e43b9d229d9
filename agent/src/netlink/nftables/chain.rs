//! Chains and their rules.

use super::attribute::{Attribute, find_text};
use super::expression::Expression;
use super::table::DumpedChain;
use super::{Name, TABLE};
use heliograph_cni::codec::{attributes, find};

/// Attributes of a chain (NFTA_CHAIN_…) and of its hook (NFTA_HOOK_…).
const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// Attributes of a rule (NFTA_RULE_…).
const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
/// The type of the comment in a rule's user data, which `nft` shows (NFTNL_UDATA_RULE_COMMENT of libnftnl).
const COMMENT: u8 = 0;
/// The policy of a base chain that accepts (NF_ACCEPT).
const ACCEPT: u32 = 1;

/// The hook of a base chain. Its policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The type: `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// The hook (NF_INET_…): 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// The priority among the chains of a hook.
    pub priority: i32,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name.
    pub name: Name,
    /// The hook; `None`: packets get here only from other chains.
    pub base: Option<Base>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Returns the attributes of a chain's name and table.
    pub(super) fn named(name: &str) -> [Attribute; 2] {
        [Attribute::text(CHAIN_TABLE, TABLE), Attribute::text(CHAIN_NAME, name)]
    }

    /// Returns the attributes that select the rules of a chain, or one of them.
    pub(super) fn rules_of(name: &str, handle: Option<u64>) -> Vec<Attribute> {
        let handle = handle.map(|handle| Attribute::octets(RULE_HANDLE, handle.to_be_bytes()));
        let chain = [Attribute::text(RULE_TABLE, TABLE), Attribute::text(RULE_CHAIN, name)];
        chain.into_iter().chain(handle).collect()
    }

    /// Returns the attributes of the chain, without its rules.
    pub(super) fn attributes(&self) -> Vec<Attribute> {
        Self::named(&self.name).into_iter().chain(self.base_attributes()).collect()
    }

    fn base_attributes(&self) -> Vec<Attribute> {
        let Some(base) = self.base else { return Vec::new() };
        let hook = vec![
            Attribute::number(HOOK_NUMBER, base.hook),
            Attribute::octets(HOOK_PRIORITY, base.priority.to_be_bytes()),
        ];
        vec![
            Attribute::nested(CHAIN_HOOK, hook),
            Attribute::number(CHAIN_POLICY, ACCEPT),
            Attribute::text(CHAIN_TYPE, base.kind),
        ]
    }

    /// Returns whether this is the chain that the kernel returned.
    pub fn is(&self, actual: &DumpedChain) -> bool {
        let base = self.base_attributes();
        base.iter().all(|attribute| attribute.is_in(&actual.attributes))
            && (self.base.is_some() || find(&actual.attributes, CHAIN_HOOK).is_none())
            && self.rules.len() == actual.rules.len()
            && self.rules.iter().zip(&actual.rules).all(|(rule, actual)| rule.is(actual))
    }
}

/// A rule with its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The expressions, in order.
    pub expressions: Vec<Expression>,
    /// The comment, which `nft` shows.
    pub comment: Name,
}

impl Rule {
    /// Makes a rule of groups of expressions.
    pub fn new(comment: &str, parts: &[&[Expression]]) -> Self {
        Self { expressions: parts.concat(), comment: comment.into() }
    }

    /// Returns the attributes of the rule in a chain.
    pub(super) fn attributes(&self, chain: &str) -> Vec<Attribute> {
        let expressions = self.expressions.iter().map(Expression::attribute).collect();
        let mut attributes = Chain::rules_of(chain, None);
        attributes.push(Attribute::nested(RULE_EXPRESSIONS, expressions));
        // The length of a comment is one octet.
        let comment = self.comment.as_bytes().get(..254).unwrap_or(self.comment.as_bytes());
        let user_data = [&[COMMENT, comment.len() as u8 + 1], comment, &[0]].concat();
        attributes.push(Attribute::octets(RULE_USER_DATA, user_data));
        attributes
    }

    /// Returns whether this is the rule that the kernel returned.
    pub fn is(&self, actual: &[u8]) -> bool {
        let actual: Vec<_> = attributes(find(actual, RULE_EXPRESSIONS).unwrap_or_default()).collect();
        actual.len() == self.expressions.len()
            && self.expressions.iter().zip(actual).all(|(expression, (_, actual))| expression.is(actual))
    }
}

/// Returns the handle of a rule that the kernel returned, by which it can be deleted.
pub fn handle_of(rule: &[u8]) -> Option<u64> {
    find(rule, RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)
}

/// Returns the name of the chain of a rule that the kernel returned.
pub(super) fn chain_of(rule: &[u8]) -> Option<&str> {
    find_text(rule, RULE_CHAIN)
}
