//! The FNV-1a hash.

/// Returns the FNV-1a hash (64 bits), which is the same in all versions of this program, unlike the standard library's. It
/// is not collision-resistant.
pub fn fnv1a(bytes: impl AsRef<[u8]>) -> u64 {
    let bytes = bytes.as_ref().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_published_ones() {
        let cases =
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)];
        for (text, hash) in cases {
            assert_eq!(fnv1a(text), hash, "{text}");
        }
    }
}
