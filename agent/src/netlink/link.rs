//! Links and their addresses, decoded from the payload of a message.

use heliograph_cni::codec::{attributes, ip_address, text, u32_at};
use std::net::IpAddr;

/// The length of `struct ifinfomsg`, whose index is at octet 4.
pub const LINK_HEADER: usize = 16;
/// The length of `struct ifaddrmsg`, whose family, scope and index are at octets 0, 3 and 4.
pub const ADDRESS_HEADER: usize = 8;

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The index of the interface.
    pub index: u32,
    /// The name of the interface.
    pub name: String,
    /// The MTU in bytes.
    pub mtu: u32,
}

impl Link {
    /// Decodes the payload of a message about a link.
    pub fn new(payload: &[u8]) -> Option<Self> {
        const NAME: u16 = 3;
        const MTU: u16 = 4;
        let mut link = Self { index: u32_at(payload, 4)?, ..Self::default() };
        for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
            match kind {
                NAME => link.name = text(value),
                MTU => link.mtu = u32_at(value, 0)?,
                _ => {}
            }
        }
        Some(link)
    }
}

/// An address of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The index of the interface.
    pub index: u32,
    /// This node's own address.
    pub own: IpAddr,
    /// The scope (`RT_SCOPE_…`).
    pub scope: u8,
}

impl Address {
    /// Decodes the payload of a message about an address.
    pub fn new(payload: &[u8]) -> Option<Self> {
        // With a point-to-point peer, IFA_ADDRESS (1) is the peer and IFA_LOCAL (2) the own address.
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        let (mut local, mut address) = (None, None);
        for (kind, value) in attributes(payload.get(ADDRESS_HEADER..)?) {
            match kind {
                LOCAL => local = ip_address(value),
                ADDRESS => address = ip_address(value),
                _ => {}
            }
        }
        Some(Self { index: u32_at(payload, 4)?, own: local.or(address)?, scope: payload[3] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliograph_cni::codec::{HEADER, Message};

    fn payload(fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = Message::new(0, 0, fixed);
        attributes.iter().for_each(|(kind, value)| message.attribute(*kind, value));
        message.finish(0).split_off(HEADER)
    }

    #[test]
    fn links_and_addresses_are_decoded() {
        let mut fixed = [0; LINK_HEADER];
        fixed[4] = 9;
        let link = payload(&fixed, &[(3, b"eth0\0"), (4, &1500_u32.to_ne_bytes()), (6, b"pfifo\0")]);
        assert_eq!(Link::new(&link), Some(Link { index: 9, name: "eth0".to_owned(), mtu: 1500 }));
        let fixed = [2, 24, 0, 253, 5, 0, 0, 0];
        let address = |attributes: &[(u16, &[u8])]| Address::new(&payload(&fixed, attributes));
        let own = |own: [u8; 4]| Some(Address { index: 5, own: own.into(), scope: 253 });
        assert_eq!(
            address(&[(2, &[192, 0, 2, 1]), (1, &[192, 0, 2, 9])]),
            own([192, 0, 2, 1]),
            "not the peer"
        );
        assert_eq!(address(&[(1, &[192, 0, 2, 9])]), own([192, 0, 2, 9]));
        assert_eq!(address(&[]), None);
        assert_eq!((Link::new(&[0; 5]), Address::new(&[0; 5])), (None, None));
    }
}
