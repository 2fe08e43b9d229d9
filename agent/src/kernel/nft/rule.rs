//! Rules of nf_tables: a rule is a list of expressions. One loads a value into a register, the next one tests it.

use super::attribute::{Attribute, find_text, same};
use heliograph_cni::codec::{attributes, find};

/// The register that all expressions use (NFT_REG_1).
const REGISTER: u32 = 1;
/// The register that holds the verdict (NFT_REG_VERDICT).
const VERDICT: u32 = 0;
/// The attribute for one element of a list (NFTA_LIST_ELEM).
pub const LIST_ELEMENT: u16 = 1;
/// The attribute for a plain value (NFTA_DATA_VALUE).
pub const DATA_VALUE: u16 = 1;
/// The type of the comment in a rule's user data, which `nft` shows (NFTNL_UDATA_RULE_COMMENT of libnftnl).
const COMMENT: u8 = 0;

/// Attributes of a rule (NFTA_RULE_…).
pub mod field {
    /// The table.
    pub const TABLE: u16 = 1;
    /// The chain.
    pub const CHAIN: u16 = 2;
    /// The expressions.
    pub const EXPRESSIONS: u16 = 4;
    /// Data of user space.
    pub const USER_DATA: u16 = 7;
}

/// One step of a rule: after it, the next one is executed, or the rule ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    name: &'static str,
    attributes: Vec<Attribute>,
}

impl Expression {
    fn new(name: &'static str, attributes: Vec<Attribute>) -> Self {
        Self { name, attributes }
    }

    /// Loads metadata of the packet (NFT_META_…).
    pub fn meta(key: u32) -> Self {
        Self::new("meta", vec![Attribute::number(1, REGISTER), Attribute::number(2, key)])
    }

    /// Loads octets of the network header.
    pub fn network_header(offset: u32, length: u32) -> Self {
        const NETWORK: u32 = 1;
        let [destination, base] = [Attribute::number(1, REGISTER), Attribute::number(2, NETWORK)];
        Self::new(
            "payload",
            vec![destination, base, Attribute::number(3, offset), Attribute::number(4, length)],
        )
    }

    /// Continues if the register equals this octet, or, without `equal`, if it doesn't.
    pub fn compare(equal: bool, octet: u8) -> Self {
        let data = Attribute::nested(3, vec![Attribute::octets(DATA_VALUE, [octet])]);
        Self::new("cmp", vec![Attribute::number(1, REGISTER), Attribute::number(2, u32::from(!equal)), data])
    }

    /// Continues if the register is in the set, or, without `inside`, if it isn't.
    pub fn lookup(inside: bool, set: &str) -> Self {
        let (set, register) = (Attribute::text(1, set), Attribute::number(2, REGISTER));
        Self::new("lookup", vec![set, register, Attribute::number(5, u32::from(!inside))])
    }

    /// Counts packets and octets.
    pub fn counter() -> Self {
        Self::new("counter", Vec::new())
    }

    /// Accepts the packet: the chain ends for it.
    pub fn accept() -> Self {
        Self::verdict(1)
    }

    /// Drops the packet.
    pub fn drop() -> Self {
        Self::verdict(0)
    }

    fn verdict(code: u32) -> Self {
        const DATA_VERDICT: u16 = 2;
        let verdict = Attribute::nested(DATA_VERDICT, vec![Attribute::number(1, code)]);
        Self::new("immediate", vec![Attribute::number(1, VERDICT), Attribute::nested(2, vec![verdict])])
    }

    /// Translates the source of the connection to the address of the outgoing interface. The port is random, so that two
    /// connections that begin at the same time don't get the same one, which would lose a packet.
    pub fn masquerade() -> Self {
        const RANDOM_FULLY: u32 = 1 << 4;
        Self::new("masq", vec![Attribute::number(1, RANDOM_FULLY)])
    }

    /// Returns whether this is the expression that the kernel returned. The values of a counter don't matter.
    fn is(&self, actual: &[u8]) -> bool {
        find_text(actual, 1) == Some(self.name)
            && (self.name == "counter" || same(&self.attributes, find(actual, 2).unwrap_or_default()))
    }

    fn attribute(&self) -> Attribute {
        let (name, data) = (Attribute::text(1, self.name), Attribute::nested(2, self.attributes.clone()));
        Attribute::nested(LIST_ELEMENT, vec![name, data])
    }
}

/// A rule with its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The expressions, in order.
    pub expressions: Vec<Expression>,
    /// The comment, which `nft` shows.
    pub comment: &'static str,
}

impl Rule {
    /// Returns the attributes of the rule, without table and chain.
    pub fn attributes(&self) -> Vec<Attribute> {
        let expressions = self.expressions.iter().map(Expression::attribute).collect();
        let comment = [self.comment.as_bytes(), &[0]].concat();
        let user_data = [&[COMMENT, comment.len() as u8], comment.as_slice()].concat();
        vec![
            Attribute::nested(field::EXPRESSIONS, expressions),
            Attribute::octets(field::USER_DATA, user_data),
        ]
    }

    /// Returns whether this is the rule that the kernel returned.
    pub fn is(&self, actual: &[u8]) -> bool {
        let actual: Vec<_> = attributes(find(actual, field::EXPRESSIONS).unwrap_or_default()).collect();
        actual.len() == self.expressions.len()
            && self.expressions.iter().zip(actual).all(|(expression, (_, actual))| expression.is(actual))
    }
}
