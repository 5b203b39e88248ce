use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use everburn_core::ImageKey;

/// A map from images, which uses that their keys are hashes already.
pub(crate) type KeyMap<T> = HashMap<ImageKey, T, BuildHasherDefault<KeyHasher>>;

/// Takes the first eight bytes of a key for its hash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length that slices put before their content; it is the same for all keys.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn the_hash_of_a_key_is_its_beginning() {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        let map = KeyMap::<u32>::default();
        assert_eq!(map.hasher().hash_one(ImageKey(key)), 0x0123_4567_89ab_cdef);
    }
}
