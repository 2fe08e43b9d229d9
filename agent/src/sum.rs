//! Sums that tell things apart.

/// FNV-1a: the same in every version of this program, unlike the standard library's. Nobody is kept from making two that
/// are alike.
pub fn fnv1a(bytes: impl AsRef<[u8]>) -> u64 {
    let bytes = bytes.as_ref().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_published() {
        let cases =
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)];
        for (text, sum) in cases {
            assert_eq!(fnv1a(text), sum, "{text}");
        }
    }
}
