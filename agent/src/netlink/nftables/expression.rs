//! Expressions, the steps of a rule: one loads a value into a register, the next one tests it.

use super::attribute::{Attribute, find_text, same};
use super::{DATA_VALUE, DATA_VERDICT, LIST_ELEMENT, Name};
use heliograph_cni::codec::find;

/// The register that holds the verdict (NFT_REG_VERDICT).
const VERDICT: u32 = 0;

/// A register of four octets. A longer value, or a concatenation, begins in one and continues in the following ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    /// The first register, which is enough for a rule without concatenations.
    pub const FIRST: Self = Self(0);

    /// Returns the kernel's number. The kernel returns the old numbers of registers of 16 octets (NFT_REG_1 to NFT_REG_4)
    /// wherever one begins, and NFT_REG32_00 onwards elsewhere.
    fn number(self) -> u32 {
        /// NFT_REG32_00.
        const WORDS: u32 = 8;
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { WORDS + self.0 }
    }
}

/// The end of a rule or chain for a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Drop the packet.
    Drop,
    /// Accept the packet: the chain ends for it.
    Accept,
    /// Continue with the next rule.
    Continue,
    /// Return to the calling chain.
    Return,
    /// Continue in another chain, and return here after it.
    Jump(Name),
    /// Continue in another chain, and don't return.
    Goto(Name),
}

impl Verdict {
    /// Returns the attributes of the verdict (NFTA_VERDICT_…).
    pub(super) fn attributes(&self) -> Vec<Attribute> {
        // NF_DROP, NF_ACCEPT, NFT_CONTINUE, NFT_JUMP, NFT_GOTO, NFT_RETURN.
        let (code, chain) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Continue => (-1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5_i32, None),
        };
        let chain = chain.map(|chain| Attribute::text(2, chain));
        [Attribute::number(1, code.cast_unsigned())].into_iter().chain(chain).collect()
    }

    /// Decodes the attributes of a verdict.
    pub(super) fn decode(attributes: &[u8]) -> Option<Self> {
        let chain = || Some(Name::from(find_text(attributes, 2)?));
        match super::attribute::find_number(attributes, 1)?.cast_signed() {
            0 => Some(Verdict::Drop),
            1 => Some(Verdict::Accept),
            -1 => Some(Verdict::Continue),
            -3 => Some(Verdict::Jump(chain()?)),
            -4 => Some(Verdict::Goto(chain()?)),
            -5 => Some(Verdict::Return),
            _ => None,
        }
    }
}

/// The operator of a comparison (NFT_CMP_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
    /// Less.
    Less = 2,
    /// Less or equal.
    LessOrEqual = 3,
    /// Greater.
    Greater = 4,
    /// Greater or equal.
    GreaterOrEqual = 5,
}

/// Metadata of a packet (NFT_META_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The packet mark.
    Mark = 3,
    /// The index of the incoming interface.
    InputInterface = 4,
    /// The index of the outgoing interface.
    OutputInterface = 5,
    /// The name of the incoming interface.
    InputName = 6,
    /// The name of the outgoing interface.
    OutputName = 7,
    /// The family of the packet: 2 for IPv4, 10 for IPv6.
    Family = 15,
    /// The protocol of the transport header.
    Protocol = 16,
}

/// A field of a connection (NFT_CT_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ct {
    /// The state as a bit mask: see [`ct_state`].
    State = 0,
    /// The direction of the packet.
    Direction = 1,
    /// The status, for example whether the destination was translated.
    Status = 2,
    /// The connection mark.
    Mark = 3,
}

/// The bits of [`Ct::State`].
pub mod ct_state {
    /// The packet belongs to no connection that could be.
    pub const INVALID: u32 = 1;
    /// The connection has had packets in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// The connection belongs to another one.
    pub const RELATED: u32 = 4;
    /// The packet begins a connection.
    pub const NEW: u32 = 8;
}

/// The header to which an offset applies (NFT_PAYLOAD_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The network header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

/// One step of a rule: after it, the next one is executed, or the rule ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    name: &'static str,
    attributes: Vec<Attribute>,
}

/// Loading, changing and testing values.
impl Expression {
    /// Makes an expression of its attributes, for what has no function here.
    pub fn raw(name: &'static str, attributes: Vec<Attribute>) -> Self {
        Self { name, attributes }
    }

    /// Loads metadata of the packet.
    pub fn meta(key: Meta, to: Register) -> Self {
        Self::raw("meta", vec![Attribute::number(1, to.number()), Attribute::number(2, key as u32)])
    }

    /// Sets metadata of the packet, for example its mark.
    pub fn set_meta(key: Meta, from: Register) -> Self {
        Self::raw("meta", vec![Attribute::number(2, key as u32), Attribute::number(3, from.number())])
    }

    /// Loads a field of the packet's connection.
    pub fn ct(key: Ct, to: Register) -> Self {
        Self::raw("ct", vec![Attribute::number(1, to.number()), Attribute::number(2, key as u32)])
    }

    /// Sets a field of the packet's connection, for example its mark.
    pub fn set_ct(key: Ct, from: Register) -> Self {
        Self::raw("ct", vec![Attribute::number(2, key as u32), Attribute::number(4, from.number())])
    }

    /// Loads octets of a header.
    pub fn payload(header: Header, offset: u32, length: u32, to: Register) -> Self {
        let parts = [to.number(), header as u32, offset, length];
        Self::raw("payload", (1..).zip(parts).map(|(kind, part)| Attribute::number(kind, part)).collect())
    }

    /// Loads a constant.
    pub fn load(value: &[u8], to: Register) -> Self {
        let data = Attribute::nested(2, vec![Attribute::octets(DATA_VALUE, value)]);
        Self::raw("immediate", vec![Attribute::number(1, to.number()), data])
    }

    /// Continues if the comparison of a register with a constant is true.
    pub fn compare(from: Register, operator: Compare, value: &[u8]) -> Self {
        let data = Attribute::nested(3, vec![Attribute::octets(DATA_VALUE, value)]);
        Self::raw(
            "cmp",
            vec![Attribute::number(1, from.number()), Attribute::number(2, operator as u32), data],
        )
    }

    /// Computes `(register & mask) ^ xor` in place. Both have the same length.
    pub fn bitwise(register: Register, mask: &[u8], xor: &[u8]) -> Self {
        let value = |kind, octets| Attribute::nested(kind, vec![Attribute::octets(DATA_VALUE, octets)]);
        let number = register.number();
        Self::raw(
            "bitwise",
            vec![
                Attribute::number(1, number),
                Attribute::number(2, number),
                Attribute::number(3, u32::try_from(mask.len()).unwrap_or(0)),
                value(4, mask),
                value(5, xor),
            ],
        )
    }

    /// Continues if the value is in the set, or, without `inside`, if it isn't. A concatenation begins in the register.
    pub fn lookup(inside: bool, from: Register, set: &str) -> Self {
        let (set, register) = (Attribute::text(1, set), Attribute::number(2, from.number()));
        Self::raw("lookup", vec![set, register, Attribute::number(5, u32::from(!inside))])
    }

    /// Loads the value that the map has for a key; continues only if there is one.
    pub fn map(from: Register, map: &str, to: Register) -> Self {
        Self::lookup_in_map(from, map, to.number())
    }

    /// Executes the verdict that the map has for a key, if there is one.
    pub fn verdict_map(from: Register, map: &str) -> Self {
        Self::lookup_in_map(from, map, VERDICT)
    }

    fn lookup_in_map(from: Register, map: &str, to: u32) -> Self {
        let (map, register) = (Attribute::text(1, map), Attribute::number(2, from.number()));
        Self::raw("lookup", vec![map, register, Attribute::number(3, to)])
    }

    /// Loads a random number below `modulus`.
    pub fn random(modulus: u32, to: Register) -> Self {
        /// NFT_NG_RANDOM.
        const RANDOM: u32 = 1;
        let parts = [to.number(), modulus, RANDOM];
        Self::raw("numgen", (1..).zip(parts).map(|(kind, part)| Attribute::number(kind, part)).collect())
    }
}

/// Ends and effects.
impl Expression {
    /// Counts packets and octets.
    pub fn counter() -> Self {
        Self::raw("counter", Vec::new())
    }

    /// Executes a verdict.
    pub fn verdict(verdict: Verdict) -> Self {
        let data = Attribute::nested(2, vec![Attribute::nested(DATA_VERDICT, verdict.attributes())]);
        Self::raw("immediate", vec![Attribute::number(1, VERDICT), data])
    }

    /// Translates the destination of the connection to the address, and to the port if there is one, in these registers. The
    /// family is 2 for IPv4 or 10 for IPv6.
    pub fn dnat(family: u32, address: Register, port: Option<Register>) -> Self {
        /// NFT_NAT_DNAT.
        const DESTINATION: u32 = 1;
        /// NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED.
        const ADDRESS: u32 = 1;
        const PORT: u32 = 2;
        let mut attributes = vec![
            Attribute::number(1, DESTINATION),
            Attribute::number(2, family),
            Attribute::number(3, address.number()),
        ];
        // The kernel returns the ends of the ranges too.
        attributes.push(Attribute::number(4, address.number()));
        let mut flags = ADDRESS;
        if let Some(port) = port {
            attributes.extend([Attribute::number(5, port.number()), Attribute::number(6, port.number())]);
            flags |= PORT;
        }
        attributes.push(Attribute::number(7, flags));
        Self::raw("nat", attributes)
    }

    /// Translates the source of the connection to the address of the outgoing interface. The port is random, so that two
    /// connections that begin at the same time don't get the same one, which would lose a packet.
    pub fn masquerade() -> Self {
        const RANDOM_FULLY: u32 = 1 << 4;
        Self::raw("masq", vec![Attribute::number(1, RANDOM_FULLY)])
    }

    /// Returns whether this is the expression that the kernel returned. The values of a counter don't matter.
    pub(super) fn is(&self, actual: &[u8]) -> bool {
        find_text(actual, 1) == Some(self.name)
            && (self.name == "counter" || same(&self.attributes, find(actual, 2).unwrap_or_default()))
    }

    pub(super) fn attribute(&self) -> Attribute {
        let (name, data) = (Attribute::text(1, self.name), Attribute::nested(2, self.attributes.clone()));
        Attribute::nested(LIST_ELEMENT, vec![name, data])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_numbers_that_the_kernel_returns() {
        assert_eq!([0, 1, 3, 4, 5, 12].map(|word| Register(word).number()), [1, 9, 11, 2, 13, 4]);
    }
}
