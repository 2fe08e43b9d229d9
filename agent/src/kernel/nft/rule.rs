//! Rules of nf_tables: a rule is a list of expressions, and what one loads into the register the next one judges.

use super::attribute::{Attribute, find, find_text, read, same};

/// The register that all of our expressions use (NFT_REG_1).
const REGISTER: u32 = 1;
/// The register that holds the verdict (NFT_REG_VERDICT).
const VERDICT: u32 = 0;
/// One of a list (NFTA_LIST_ELEM).
pub const LIST_ELEMENT: u16 = 1;
/// A plain value (NFTA_DATA_VALUE).
pub const DATA_VALUE: u16 = 1;
/// In a rule's user data: the comment that `nft` shows (libnftnl's NFTNL_UDATA_RULE_COMMENT).
const COMMENT: u8 = 0;

/// Attributes of a rule (NFTA_RULE_…).
pub mod field {
    /// Its table.
    pub const TABLE: u16 = 1;
    /// Its chain.
    pub const CHAIN: u16 = 2;
    /// Its expressions.
    pub const EXPRESSIONS: u16 = 4;
    /// What user space wants to be kept with it.
    pub const USER_DATA: u16 = 7;
}

/// One step of a rule: the rule goes on to the next or ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    name: &'static str,
    attributes: Vec<Attribute>,
}

impl Expression {
    fn new(name: &'static str, attributes: Vec<Attribute>) -> Self {
        Self { name, attributes }
    }

    /// Loads something that the kernel knows of the packet (NFT_META_…).
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

    /// Goes on if what is loaded is this octet, or with `equal` off, if it isn't.
    pub fn compare(equal: bool, octet: u8) -> Self {
        let data = Attribute::nested(3, vec![Attribute::octets(DATA_VALUE, [octet])]);
        Self::new("cmp", vec![Attribute::number(1, REGISTER), Attribute::number(2, u32::from(!equal)), data])
    }

    /// Goes on if what is loaded is in the set, or with `inside` off, if it isn't.
    pub fn lookup(inside: bool, set: &str) -> Self {
        let (set, register) = (Attribute::text(1, set), Attribute::number(2, REGISTER));
        Self::new("lookup", vec![set, register, Attribute::number(5, u32::from(!inside))])
    }

    /// Counts.
    pub fn counter() -> Self {
        Self::new("counter", Vec::new())
    }

    /// Ends the chain for the packet: it goes on its way.
    pub fn accept() -> Self {
        Self::verdict(1)
    }

    /// Ends the packet.
    pub fn drop() -> Self {
        Self::verdict(0)
    }

    fn verdict(code: u32) -> Self {
        const DATA_VERDICT: u16 = 2;
        let verdict = Attribute::nested(DATA_VERDICT, vec![Attribute::number(1, code)]);
        Self::new("immediate", vec![Attribute::number(1, VERDICT), Attribute::nested(2, vec![verdict])])
    }

    /// Gives the connection the address of the interface it leaves by. Its port is drawn at random, so that two
    /// connections which begin in the same moment don't get the same one and lose a packet.
    pub fn masquerade() -> Self {
        const RANDOM_FULLY: u32 = 1 << 4;
        Self::new("masq", vec![Attribute::number(1, RANDOM_FULLY)])
    }

    /// Whether the kernel shows this expression. A counter may have counted.
    fn is(&self, shown: &[u8]) -> bool {
        find_text(shown, 1) == Some(self.name)
            && (self.name == "counter" || same(&self.attributes, find(shown, 2).unwrap_or_default()))
    }

    fn written(&self) -> Attribute {
        let (name, data) = (Attribute::text(1, self.name), Attribute::nested(2, self.attributes.clone()));
        Attribute::nested(LIST_ELEMENT, vec![name, data])
    }
}

/// A rule, and the comment by which people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its steps.
    pub expressions: Vec<Expression>,
    /// For people.
    pub comment: &'static str,
}

impl Rule {
    /// For the kernel, less table and chain.
    pub fn attributes(&self) -> Vec<Attribute> {
        let expressions = self.expressions.iter().map(Expression::written).collect();
        let comment = [self.comment.as_bytes(), &[0]].concat();
        let user_data = [&[COMMENT, comment.len() as u8], comment.as_slice()].concat();
        vec![
            Attribute::nested(field::EXPRESSIONS, expressions),
            Attribute::octets(field::USER_DATA, user_data),
        ]
    }

    /// Whether the kernel shows this rule.
    pub fn is(&self, shown: &[u8]) -> bool {
        let shown = read(find(shown, field::EXPRESSIONS).unwrap_or_default());
        shown.len() == self.expressions.len()
            && self.expressions.iter().zip(shown).all(|(expression, (_, shown))| expression.is(shown))
    }
}
