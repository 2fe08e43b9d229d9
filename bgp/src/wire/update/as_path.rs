//! AS_PATH and AS4_PATH (RFC 4271 §4.3 and §5.1.2, RFC 6793 §4.2).

use bytes::{BufMut, BytesMut};

use super::super::reader::Reader;
use super::super::{AS_TRANS, AsPath, Segment};

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// The highest number of ASes in one segment: its count is one octet.
const MAX_SEGMENT: usize = 255;

/// Decodes AS_PATH, with AS numbers of 4 octets or 2.
///
/// # Errors
/// The reason why it is malformed (RFC 7606 §7.2, RFC 7607 §2). Confederation segments are an error: we are in no
/// confederation, so no peer is in ours (RFC 5065 §5).
pub(crate) fn decode(value: &[u8], four_octet_as: bool) -> Result<AsPath, String> {
    let mut segments = Vec::new();
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        let (kind, numbers) = segment(&mut reader, four_octet_as)?;
        segments.push(match kind {
            SET => Segment::Set(numbers),
            SEQUENCE => Segment::Sequence(numbers),
            CONFED_SEQUENCE | CONFED_SET => {
                return Err("a confederation's segment from outside of one".into());
            }
            _ => return Err(format!("segment type {kind} is unknown")),
        });
    }
    Ok(AsPath(segments))
}

/// Decodes AS4_PATH.
///
/// # Errors
/// The reason why it is malformed (RFC 6793 §6). Confederation segments are left out instead.
pub(crate) fn decode_as4(value: &[u8]) -> Result<AsPath, String> {
    let mut segments = Vec::new();
    let mut reader = Reader::new(value);
    if reader.is_empty() {
        return Err("it is empty".into());
    }
    while !reader.is_empty() {
        match segment(&mut reader, true)? {
            (SET, numbers) => segments.push(Segment::Set(numbers)),
            (SEQUENCE, numbers) => segments.push(Segment::Sequence(numbers)),
            (CONFED_SEQUENCE | CONFED_SET, _) => {}
            (kind, _) => return Err(format!("segment type {kind} is unknown")),
        }
    }
    Ok(AsPath(segments))
}

/// Decodes one segment: its type and AS numbers.
fn segment(reader: &mut Reader, four_octet_as: bool) -> Result<(u8, Vec<u32>), String> {
    let (Some(kind), Some(count)) = (reader.u8(), reader.u8()) else {
        return Err("a single octet is left where a segment should start".into());
    };
    if count == 0 {
        return Err("a segment is empty".into());
    }
    let width = if four_octet_as { 4 } else { 2 };
    let octets = reader.take(usize::from(count) * width);
    let octets = octets.ok_or_else(|| format!("a segment of {count} AS numbers is cut off"))?;
    let number = |octets: &[u8]| octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet));
    let numbers: Vec<u32> = octets.chunks_exact(width).map(number).collect();
    if numbers.contains(&0) {
        return Err("it holds AS number 0, which is reserved".into());
    }
    Ok((kind, numbers))
}

/// Returns the AS numbers as they count for length: a set counts as one (RFC 4271 §9.1.2.2).
fn hops(path: &AsPath) -> usize {
    let hops = |segment: &Segment| match segment {
        Segment::Sequence(numbers) => numbers.len(),
        Segment::Set(_) => 1,
    };
    path.0.iter().map(hops).sum()
}

/// Returns the real path, from an AS_PATH with AS_TRANS and the AS4_PATH beside it (RFC 6793 §4.2.3): the leading part of
/// the first, which speakers with 2-octet AS numbers have added, and the whole second.
pub(crate) fn merge(path: AsPath, as4_path: AsPath) -> AsPath {
    let Some(mut lead) = hops(&path).checked_sub(hops(&as4_path)) else { return path };
    let mut merged: Vec<Segment> = Vec::new();
    for segment in path.0 {
        if lead == 0 {
            break;
        }
        match segment {
            Segment::Sequence(mut numbers) => {
                numbers.truncate(lead);
                lead -= numbers.len();
                merged.push(Segment::Sequence(numbers));
            }
            Segment::Set(numbers) => {
                lead -= 1;
                merged.push(Segment::Set(numbers));
            }
        }
    }
    let mut tail = as4_path.0.into_iter().peekable();
    if let (Some(Segment::Sequence(head)), Some(Segment::Sequence(next))) = (merged.last_mut(), tail.peek())
        && head.len() + next.len() <= MAX_SEGMENT
    {
        // A sequence that was cut in two becomes one again.
        head.extend(next);
        tail.next();
    }
    merged.extend(tail);
    AsPath(merged)
}

/// Returns whether the path contains an AS number that does not fit into 2 octets.
pub(crate) fn is_wide(path: &AsPath) -> bool {
    path.0.iter().any(|segment| numbers(segment).iter().any(|number| u16::try_from(*number).is_err()))
}

fn numbers(segment: &Segment) -> &[u32] {
    match segment {
        Segment::Sequence(numbers) | Segment::Set(numbers) => numbers,
    }
}

/// Returns the number of octets that [`encode`] appends.
pub(crate) fn size(path: &AsPath, four_octet_as: bool) -> usize {
    let width = if four_octet_as { 4 } else { 2 };
    let size = |count: usize| 2 * count.div_ceil(MAX_SEGMENT) + width * count;
    path.0.iter().map(|segment| size(numbers(segment).len())).sum()
}

/// Appends the value of AS_PATH or AS4_PATH; in 2 octets, AS_TRANS replaces numbers of 4 (RFC 6793 §4.2.2).
pub(crate) fn encode(path: &AsPath, four_octet_as: bool, out: &mut BytesMut) {
    for segment in &path.0 {
        let kind = match segment {
            Segment::Sequence(_) => SEQUENCE,
            Segment::Set(_) => SET,
        };
        // Chunks have at most 255 numbers: the count fits its octet.
        for chunk in numbers(segment).chunks(MAX_SEGMENT) {
            out.put_slice(&[kind, chunk.len() as u8]);
            for number in chunk {
                put_asn(*number, four_octet_as, out);
            }
        }
    }
}

/// Appends one AS number.
pub(crate) fn put_asn(number: u32, four_octet_as: bool, out: &mut BytesMut) {
    if four_octet_as {
        out.put_u32(number);
    } else {
        out.put_u16(u16::try_from(number).unwrap_or(AS_TRANS));
    }
}
