const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a with 64 bits over each value as 4 little-endian bytes.
///
/// The hash by which published streams and class orders are compared: quick to write in any
/// language, and no protection against anybody. [`Manifest::hash`](crate::Manifest::hash) is the
/// one to rely on.
///
/// ```
/// // numpy's permutation of 5 classes under seed 1993.
/// assert_eq!(everburn_stream::fnv1a64([0, 2, 3, 4, 1]), 0xd0c72b90758323b1);
/// ```
pub fn fnv1a64(values: impl IntoIterator<Item = u32>) -> u64 {
    let mut hash = OFFSET;
    for value in values {
        for byte in value.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    hash
}
