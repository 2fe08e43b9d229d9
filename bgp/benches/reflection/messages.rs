//! The messages of the load generator, which are built beforehand, and a reader that only counts.
//!
//! This does not use the crate's `wire` on purpose: the measured code must not measure itself, and this has to be cheap.

use std::net::Ipv4Addr;

/// The AS of all peers.
pub const ASN: u32 = 64512;
/// The hold time: so long that no KEEPALIVE is needed while a case runs.
pub const HOLD_SECONDS: u16 = 3600;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;
const HEADER: usize = 19;

/// Returns the encoded /24 of route number `n`.
fn prefix(n: u32) -> [u8; 4] {
    let [a, b, c, _] = ((n << 8) + (1 << 24)).to_be_bytes();
    [24, a, b, c]
}

fn route(prefix: &[u8]) -> u32 {
    u32::from_be_bytes([0, prefix[0], prefix[1], prefix[2]]) - (1 << 16)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend(((HEADER + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// Returns an OPEN with multiprotocol IPv4 (RFC 4760) and 4-octet AS numbers (RFC 6793), without capabilities that would
/// delay the routes.
pub fn open(router_id: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = ASN.to_be_bytes();
    let mut body = vec![4];
    body.extend((ASN as u16).to_be_bytes());
    body.extend(HOLD_SECONDS.to_be_bytes());
    body.extend(router_id.octets());
    body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4, a, b, c, d]);
    message(OPEN, &body)
}

/// Returns a KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

/// The attributes of routes.
pub struct Attributes<'a> {
    pub next_hop: Ipv4Addr,
    pub as_path: &'a [u32],
    pub med: u32,
    pub communities: &'a [u32],
}

/// Returns an UPDATE that advertises a range of routes.
pub fn advertise(attributes: &Attributes<'_>, routes: std::ops::Range<u32>) -> Vec<u8> {
    let mut block = vec![0x40, 1, 1, 0, 0x40, 2];
    if attributes.as_path.is_empty() {
        block.push(0);
    } else {
        block.extend([2 + 4 * attributes.as_path.len() as u8, 2, attributes.as_path.len() as u8]);
        attributes.as_path.iter().for_each(|asn| block.extend(asn.to_be_bytes()));
    }
    block.extend([0x40, 3, 4]);
    block.extend(attributes.next_hop.octets());
    block.extend([0x80, 4, 4]);
    block.extend(attributes.med.to_be_bytes());
    block.extend([0x40, 5, 4, 0, 0, 0, 100]);
    if !attributes.communities.is_empty() {
        block.extend([0xc0, 8, 4 * attributes.communities.len() as u8]);
        attributes.communities.iter().for_each(|community| block.extend(community.to_be_bytes()));
    }
    let mut body = vec![0, 0];
    body.extend((block.len() as u16).to_be_bytes());
    body.extend(block);
    routes.for_each(|n| body.extend(prefix(n)));
    message(UPDATE, &body)
}

/// Returns an UPDATE that withdraws one route.
pub fn withdraw(route: u32) -> Vec<u8> {
    let mut body = vec![0, 4];
    body.extend(prefix(route));
    body.extend([0, 0]);
    message(UPDATE, &body)
}

/// The routes that one client has received.
#[derive(Default)]
pub struct Received {
    bits: Vec<u64>,
    /// The number of routes.
    pub count: usize,
    /// The last MED received.
    pub med: u32,
    pub opened: bool,
    pub confirmed: bool,
    /// The NOTIFICATION or unexpected message received, if any.
    pub broken: Option<String>,
    rest: Vec<u8>,
}

impl Received {
    pub fn has(&self, route: u32) -> bool {
        self.bits.get(route as usize / 64).is_some_and(|word| word >> (route % 64) & 1 == 1)
    }

    /// Processes received bytes, and keeps an incomplete message for the next call.
    pub fn read(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            let used = self.messages(bytes);
            self.rest.extend(&bytes[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend(bytes);
            let used = self.messages(&rest);
            rest.drain(..used);
            self.rest = rest;
        }
    }

    fn messages(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + HEADER) {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let Some(body) = bytes.get(at + HEADER..at + length.max(HEADER)) else { break };
            match header[18] {
                OPEN => self.opened = true,
                UPDATE => self.update(body),
                KEEPALIVE => self.confirmed = true,
                kind => {
                    self.broken = Some(format!("a message of type {kind}: {:?}", &body[..body.len().min(2)]))
                }
            }
            at += length.max(HEADER);
        }
        at
    }

    fn update(&mut self, body: &[u8]) {
        let (withdrawn, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
        let (block, advertised) = rest[2..].split_at(usize::from(u16::from_be_bytes([rest[0], rest[1]])));
        self.prefixes(withdrawn, false);
        let mut left = block;
        while let [flags, code, ..] = *left {
            let (length, head) = match flags & 0x10 {
                0 => (usize::from(left[2]), 3),
                _ => (usize::from(u16::from_be_bytes([left[2], left[3]])), 4),
            };
            let value = &left[head..head + length];
            match code {
                4 => self.med = u32::from_be_bytes([value[0], value[1], value[2], value[3]]),
                // Some daemons send IPv4 in MP_REACH_NLRI and MP_UNREACH_NLRI.
                14 if value[..3] == [0, 1, 1] => self.prefixes(&value[5 + usize::from(value[3])..], true),
                15 if value[..3] == [0, 1, 1] => self.prefixes(&value[3..], false),
                _ => {}
            }
            left = &left[head + length..];
        }
        self.prefixes(advertised, true);
    }

    fn prefixes(&mut self, mut field: &[u8], advertised: bool) {
        while let [24, a, b, c, rest @ ..] = field {
            let n = route(&[*a, *b, *c]);
            let (at, bit) = (n as usize / 64, 1 << (n % 64));
            if at >= self.bits.len() {
                self.bits.resize(at + 1, 0);
            }
            let had = self.bits[at] & bit != 0;
            if advertised && !had {
                self.bits[at] |= bit;
                self.count += 1;
            } else if !advertised && had {
                self.bits[at] &= !bit;
                self.count -= 1;
            }
            field = rest;
        }
    }
}
