//! A hash that never changes.

/// Returns the FNV-1a hash (64 bits). It is the same in every build, unlike that of the standard library. It is not secure
/// against collisions that are made on purpose.
pub fn fnv1a(bytes: impl AsRef<[u8]>) -> u64 {
    let bytes = bytes.as_ref().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
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
