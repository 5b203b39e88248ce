use rand_mt::Mt;

use super::res53;

/// Python's `random.Random(seed)`, for the class orders of CODA-Prompt and OVOR.
#[derive(Clone, Debug)]
pub struct PythonRandom(Mt);

impl PythonRandom {
    /// A generator from a seed; Python takes integers of any size, so all 64 bits count.
    pub fn new(seed: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = seed.to_le_bytes();
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from_le_bytes([e, f, g, h]);
        // The key has as many words as the seed needs, and at least one.
        let key: &[u32] = if high == 0 { &[low] } else { &[low, high] };
        Self(Mt::new_with_key(key.iter().copied()))
    }

    /// The next raw word, `getrandbits(32)`.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A number below `bound`: `randrange(bound)`. A bound of 0 gives 0 and draws nothing.
    pub fn below(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        loop {
            let value = self.next_u32() >> bound.leading_zeros();
            if value < bound {
                return value;
            }
        }
    }

    /// A double in [0, 1): `random()`.
    pub fn random(&mut self) -> f64 {
        let first = self.next_u32();
        res53(first, self.next_u32())
    }

    /// Brings `items` into random order: `shuffle`.
    ///
    /// Only the first 2³² − 1 items take part; longer slices are out of this generator's reach.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(u32::try_from(i + 1).unwrap_or(u32::MAX));
            items.swap(i, j as usize);
        }
    }

    /// One of the items, or `None` of none: `choice`.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let bound = u32::try_from(items.len()).unwrap_or(u32::MAX);
        items.get(self.below(bound) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_python() {
        let words = |seed| {
            let mut random = PythonRandom::new(seed);
            [(); 3].map(|()| random.next_u32())
        };
        assert_eq!(words(0), [3_626_764_237, 1_654_615_998, 3_255_389_356]);
        assert_eq!(words(42), [2_746_317_213, 478_163_327, 107_420_369]);
    }

    #[test]
    fn shuffles_match_python() {
        let shuffled = |seed, n| {
            let mut items: Vec<u32> = (0..n).collect();
            PythonRandom::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(0, 10), [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]);
        assert_eq!(shuffled(1, 10), [6, 8, 9, 7, 5, 3, 0, 4, 1, 2]);
        assert_eq!(shuffled(42, 10), [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]);
        assert_eq!(
            shuffled(1, 200)[..10],
            [33, 146, 79, 19, 23, 131, 12, 187, 174, 32]
        );
        assert_eq!(
            shuffled(2, 200)[..10],
            [51, 94, 55, 35, 170, 177, 20, 85, 50, 36]
        );
    }

    #[test]
    fn floats_and_wide_seeds_match_python() {
        // Printed by CPython: random.Random(s).random(), and .getrandbits(32) of a 64-bit seed.
        assert_eq!(PythonRandom::new(0).random(), 0.8444218515250481);
        assert_eq!(PythonRandom::new(u64::MAX).next_u32(), 93_740_670);
        let mut random = PythonRandom::new(5);
        let chosen = [(); 5].map(|()| *random.choice(&[10, 20, 30]).unwrap());
        assert_eq!(chosen, [30, 20, 30, 20, 30]);
        assert_eq!(random.choice::<u8>(&[]), None);
        assert_eq!(random.below(0), 0);
    }
}
