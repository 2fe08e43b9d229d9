//! OPEN and its capabilities (RFC 4271 §4.2 and §6.2, RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{
    AS_TRANS, AddPathMode, Capability, Error, Family, GracefulRestart, LongLived, Open, Role, code,
    open_error,
};

/// The only BGP version.
const VERSION: u8 = 4;
/// The optional parameter that holds capabilities (RFC 5492 §4).
const PARAMETER_CAPABILITIES: u8 = 2;
/// The type of the first parameter if lengths are extended (RFC 9072 §2).
const PARAMETER_EXTENDED: u8 = 255;

/// Capability codes.
const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const ROLE: u8 = 9;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED: u8 = 71;

/// AFI and SAFI of the prefixes, AFI of their next hops, as RFC 8950 §4 encodes them.
const IPV4_BY_IPV6: (u16, u16, u16) = (1, 1, 2);
/// The F bit of a family (RFC 4724 §3, RFC 9494 §3.1).
const FORWARDING: u8 = 0x80;
/// The longest time that fits into 24 bits.
pub(crate) const MAX_STALE_TIME: u32 = (1 << 24) - 1;
/// The flags beside the restart time (RFC 4724 §3, RFC 8538 §2).
const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;

impl Open {
    /// Returns the families offered: IPv4 unicast if there is no multiprotocol capability at all (RFC 4760 §8).
    pub fn families(&self) -> Vec<Family> {
        let mut any = false;
        let mut families = Vec::new();
        for capability in &self.capabilities {
            match capability {
                Capability::Multiprotocol(family) => {
                    any = true;
                    if !families.contains(family) {
                        families.push(*family);
                    }
                }
                Capability::Other(MULTIPROTOCOL, _) => any = true,
                _ => {}
            }
        }
        if any { families } else { vec![Family::Ipv4Unicast] }
    }

    /// Returns whether the 4-octet AS capability is present (RFC 6793 §3).
    pub fn four_octet_as(&self) -> bool {
        self.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)))
    }

    /// Returns whether a capability without a value is present.
    pub fn offers(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// Returns the roles: one, none, or several, which is an error (RFC 9234 §4.2). `None` among them is a value that is not
    /// assigned.
    pub fn roles(&self) -> Vec<Option<Role>> {
        let mut roles = Vec::new();
        for capability in &self.capabilities {
            let role = match capability {
                Capability::Role(role) => Some(*role),
                Capability::Other(ROLE, _) => None,
                _ => continue,
            };
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        roles
    }

    /// Returns the sender's mode for several paths to a prefix of the family; of several entries for a family, which are not
    /// permitted, the last one applies (RFC 7911 §4).
    pub fn add_path(&self, family: Family) -> Option<AddPathMode> {
        let entries = self.capabilities.iter().filter_map(|c| match c {
            Capability::AddPath(modes) => Some(modes),
            _ => None,
        });
        entries.flatten().filter(|(other, _)| *other == family).map(|(_, mode)| *mode).last()
    }

    /// Returns the graceful restart capability; of several, the last one applies (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|c| match c {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }

    /// Returns the families of the long-lived graceful restart capability, which is ignored without the graceful restart
    /// capability (RFC 9494 §4.5).
    pub fn long_lived(&self) -> Option<&[LongLived]> {
        self.graceful_restart()?;
        self.capabilities.iter().rev().find_map(|c| match c {
            Capability::LongLived(families) => Some(families.as_slice()),
            _ => None,
        })
    }
}

/// Returns an error in an OPEN (RFC 4271 §6.2).
fn error(subcode: u8, data: &[u8], reason: String) -> Error {
    Error::new(code::OPEN, subcode, data, reason)
}

/// Decodes the body of an OPEN, and checks everything that does not depend on the neighbor's configuration.
pub(super) fn decode(body: &[u8]) -> Result<Open, Error> {
    let short = || error(open_error::UNSPECIFIC, &[], "the OPEN ends before its optional parameters".into());
    let mut reader = Reader::new(body);
    let version = reader.u8().ok_or_else(short)?;
    if version != VERSION {
        // RFC 4271 §6.2: the data is the version that we support.
        let reason = format!("the peer speaks BGP version {version}; only 4 is spoken here");
        return Err(error(open_error::VERSION, &u16::from(VERSION).to_be_bytes(), reason));
    }
    let my_as = reader.u16().ok_or_else(short)?;
    let hold_time = reader.u16().ok_or_else(short)?;
    let router_id = Ipv4Addr::from_bits(reader.u32().ok_or_else(short)?);
    if matches!(hold_time, 1 | 2) {
        let reason = format!("a hold time of {hold_time} s was offered; it must be 0 or at least 3 s");
        return Err(error(open_error::HOLD_TIME, &[], reason));
    }
    if router_id.is_unspecified() {
        // RFC 6286 §2.2. The session compares it with our own.
        let reason = "the peer's BGP identifier is 0.0.0.0: it must be given another".into();
        return Err(error(open_error::IDENTIFIER, &[], reason));
    }
    let capabilities = decode_parameters(reader)?;
    let asn = peer_as(my_as, &capabilities)?;
    Ok(Open { asn, hold_time, router_id, capabilities })
}

/// Returns the peer's AS number (RFC 6793 §4.1), which is never 0 (RFC 7607 §2) nor AS_TRANS (RFC 6793 §9).
fn peer_as(my_as: u16, capabilities: &[Capability]) -> Result<u32, Error> {
    let bad = |reason| Err(error(open_error::PEER_AS, &[], reason));
    let mut asn = u32::from(my_as);
    for capability in capabilities {
        let Capability::FourOctetAs(wide) = capability else { continue };
        // Both numbers of the OPEN must be equal, unless the short one is AS_TRANS.
        if asn != *wide && asn != u32::from(AS_TRANS) {
            return bad(format!("the peer's OPEN names two AS numbers, {asn} and {wide}"));
        }
        asn = *wide;
    }
    match (my_as, asn) {
        (0, _) | (_, 0) => bad("the peer claims AS number 0, which is reserved".into()),
        (_, wide) if wide == u32::from(AS_TRANS) => {
            bad("the peer claims AS number 23456 (AS_TRANS), which only stands in for others".into())
        }
        (_, asn) => Ok(asn),
    }
}

/// Returns an error in recognized optional parameters that are malformed (RFC 4271 §6.2).
fn malformed(what: &str) -> Error {
    error(open_error::UNSPECIFIC, &[], format!("malformed optional parameters in the OPEN: {what}"))
}

/// Decodes the optional parameters, including their length.
fn decode_parameters(mut reader: Reader) -> Result<Vec<Capability>, Error> {
    let short_length = reader.u8().ok_or_else(|| malformed("their length is missing"))?;
    let mut ahead = reader;
    // RFC 9072 §2: the first type octet marks extended lengths; the short length is then ignored, unless it is 0.
    let extended = short_length != 0 && ahead.u8() == Some(PARAMETER_EXTENDED);
    let length = if extended {
        reader = ahead;
        reader.u16().map(usize::from).ok_or_else(|| malformed("the extended length is cut off"))?
    } else {
        usize::from(short_length)
    };
    if length != reader.len() {
        return Err(malformed(&format!("they claim {length} octets, {} are there", reader.len())));
    }
    let mut capabilities = Vec::new();
    while let Some(kind) = reader.u8() {
        let length = if extended { reader.u16() } else { reader.u8().map(u16::from) };
        let value = length.and_then(|length| reader.take(usize::from(length)));
        let value = value.ok_or_else(|| malformed("one goes beyond their end"))?;
        if kind != PARAMETER_CAPABILITIES {
            let reason = format!("optional parameter {kind} in the OPEN is not supported");
            return Err(error(open_error::PARAMETER, &[], reason));
        }
        decode_capabilities(value, &mut capabilities)?;
    }
    Ok(capabilities)
}

/// Decodes the capabilities of one parameter (RFC 5492 §4).
fn decode_capabilities(value: &[u8], capabilities: &mut Vec<Capability>) -> Result<(), Error> {
    let mut reader = Reader::new(value);
    while let Some(code) = reader.u8() {
        let value = reader.u8().and_then(|length| reader.take(usize::from(length)));
        let value = value.ok_or_else(|| malformed("a capability goes beyond its parameter"))?;
        let capability = decode_capability(code, value);
        capabilities.push(
            capability.ok_or_else(|| {
                malformed(&format!("capability {code} cannot be {} octets long", value.len()))
            })?,
        );
    }
    Ok(())
}

/// Decodes one capability; `None` if its length is wrong.
fn decode_capability(code: u8, value: &[u8]) -> Option<Capability> {
    let mut reader = Reader::new(value);
    let capability = match code {
        MULTIPROTOCOL => {
            let (afi, _reserved, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
            match Family::from_codes(afi, safi) {
                Some(family) => Capability::Multiprotocol(family),
                None => other(code, value),
            }
        }
        ROUTE_REFRESH => Capability::RouteRefresh,
        EXTENDED_MESSAGE => Capability::ExtendedMessage,
        ENHANCED_ROUTE_REFRESH => Capability::EnhancedRouteRefresh,
        EXTENDED_NEXT_HOP => {
            let mut found = false;
            while !reader.is_empty() {
                let (afi, safi, next_hop) = (reader.u16()?, reader.u16()?, reader.u16()?);
                found |= (afi, safi, next_hop) == IPV4_BY_IPV6;
            }
            // Other entries are for unsupported families.
            if found { Capability::ExtendedNextHop } else { other(code, value) }
        }
        ROLE => match Role::from_octet(reader.u8()?) {
            Some(role) => Capability::Role(role),
            None => other(code, value),
        },
        GRACEFUL_RESTART => {
            let head = reader.u16()?;
            let mut families = Vec::new();
            while !reader.is_empty() {
                let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
                families
                    .extend(Family::from_codes(afi, safi).map(|family| (family, flags & FORWARDING != 0)));
            }
            Capability::GracefulRestart(GracefulRestart {
                restarting: head & RESTARTING != 0,
                notification: head & NOTIFICATION != 0,
                restart_time: head & 0x0fff,
                families,
            })
        }
        FOUR_OCTET_AS => Capability::FourOctetAs(reader.u32()?),
        ADD_PATH => {
            let mut modes = Some(Vec::new());
            while !reader.is_empty() {
                let (afi, safi, mode) = (reader.u16()?, reader.u8()?, reader.u8()?);
                let family = Family::from_codes(afi, safi);
                modes = modes.zip(AddPathMode::from_octet(mode)).map(|(mut modes, mode)| {
                    modes.extend(family.map(|family| (family, mode)));
                    modes
                });
            }
            // RFC 7911 §4: with any other value of Send/Receive the whole capability is ignored.
            modes.map_or_else(|| other(code, value), Capability::AddPath)
        }
        LONG_LIVED => {
            let mut families = Vec::new();
            while !reader.is_empty() {
                let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
                let stale_time = u32::from(reader.u8()?) << 16 | u32::from(reader.u16()?);
                let forwarding = flags & FORWARDING != 0;
                families.extend(Family::from_codes(afi, safi).map(|family| LongLived {
                    family,
                    forwarding,
                    stale_time,
                }));
            }
            Capability::LongLived(families)
        }
        _ => return Some(other(code, value)),
    };
    (reader.is_empty() || matches!(capability, Capability::Other(..))).then_some(capability)
}

fn other(code: u8, value: &[u8]) -> Capability {
    // A copy: an OPEN lives as long as its session, and must not keep a read buffer alive.
    Capability::Other(code, Bytes::copy_from_slice(value))
}

/// Encodes the body of an OPEN. Its capabilities share one parameter, as RFC 5492 §4 advises.
pub(super) fn encode(open: &Open, out: &mut BytesMut) {
    out.put_u8(VERSION);
    out.put_u16(u16::try_from(open.asn).unwrap_or(AS_TRANS));
    out.put_u16(open.hold_time);
    out.put_u32(open.router_id.to_bits());
    let mut capabilities = BytesMut::new();
    for capability in &open.capabilities {
        encode_capability(capability, &mut capabilities);
    }
    match (u8::try_from(capabilities.len() + 2), u16::try_from(capabilities.len())) {
        _ if capabilities.is_empty() => out.put_u8(0),
        // A length of 255 would fit without RFC 9072, but that value announces the extension.
        (Ok(length), _) if length < PARAMETER_EXTENDED => {
            out.put_slice(&[length, PARAMETER_CAPABILITIES, length - 2]);
        }
        (_, length) => {
            let length = length.unwrap_or(u16::MAX);
            out.put_slice(&[255, PARAMETER_EXTENDED]);
            out.put_u16(length.saturating_add(3));
            out.put_u8(PARAMETER_CAPABILITIES);
            out.put_u16(length);
        }
    }
    out.put_slice(&capabilities);
}

fn encode_capability(capability: &Capability, out: &mut BytesMut) {
    match capability {
        Capability::Multiprotocol(family) => {
            let (afi, safi) = family.codes();
            out.put_slice(&[MULTIPROTOCOL, 4]);
            out.put_u16(afi);
            out.put_slice(&[0, safi]);
        }
        Capability::RouteRefresh => out.put_slice(&[ROUTE_REFRESH, 0]),
        Capability::GracefulRestart(restart) => {
            // As many as fit the length octet: far more than there are.
            let families = restart.families.get(..63).unwrap_or(&restart.families);
            out.put_slice(&[GRACEFUL_RESTART, (2 + 4 * families.len()) as u8]);
            let r = if restart.restarting { RESTARTING } else { 0 };
            let n = if restart.notification { NOTIFICATION } else { 0 };
            out.put_u16(r | n | restart.restart_time.min(0x0fff));
            for (family, forwarding) in families {
                let (afi, safi) = family.codes();
                out.put_u16(afi);
                out.put_slice(&[safi, if *forwarding { FORWARDING } else { 0 }]);
            }
        }
        Capability::LongLived(families) => {
            let families = families.get(..36).unwrap_or(families);
            out.put_slice(&[LONG_LIVED, (7 * families.len()) as u8]);
            for LongLived { family, forwarding, stale_time } in families {
                let (afi, safi) = family.codes();
                out.put_u16(afi);
                out.put_slice(&[safi, if *forwarding { FORWARDING } else { 0 }]);
                out.put_uint((*stale_time).min(MAX_STALE_TIME).into(), 3);
            }
        }
        Capability::ExtendedNextHop => {
            out.put_slice(&[EXTENDED_NEXT_HOP, 6]);
            let (afi, safi, next_hop) = IPV4_BY_IPV6;
            [afi, safi, next_hop].into_iter().for_each(|field| out.put_u16(field));
        }
        Capability::ExtendedMessage => out.put_slice(&[EXTENDED_MESSAGE, 0]),
        Capability::EnhancedRouteRefresh => out.put_slice(&[ENHANCED_ROUTE_REFRESH, 0]),
        Capability::Role(role) => out.put_slice(&[ROLE, 1, role.octet()]),
        Capability::AddPath(modes) => {
            // As many as fit the length octet: far more than there are.
            let modes = modes.get(..63).unwrap_or(modes);
            out.put_slice(&[ADD_PATH, 4 * modes.len() as u8]);
            for (family, mode) in modes {
                let (afi, safi) = family.codes();
                out.put_u16(afi);
                out.put_slice(&[safi, mode.octet()]);
            }
        }
        Capability::FourOctetAs(asn) => {
            out.put_slice(&[FOUR_OCTET_AS, 4]);
            out.put_u32(*asn);
        }
        Capability::Other(code, value) => {
            let value = value.get(..255).unwrap_or(value);
            out.put_slice(&[*code, value.len() as u8]);
            out.put_slice(value);
        }
    }
}
