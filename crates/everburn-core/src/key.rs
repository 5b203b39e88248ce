use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The generator that a [`Key`] opens: ChaCha with 8 rounds, the same on every platform.
pub type Rng = ChaCha8Rng;

/// A place in the tree of all randomness of a run.
///
/// Nothing draws from a shared generator. Whoever needs random numbers walks from the run's seed to
/// the place where they are needed — (purpose, task, stage, step) — and opens a generator there. So
/// the numbers depend on the place alone, not on what was drawn before, on which thread, or on
/// whether the run was interrupted.
///
/// ```
/// use everburn_core::Key;
/// let step = Key::from_seed(1).child("step").at(17);
/// assert_ne!(step.child("flip"), step.child("crop"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key([u8; 32]);

impl Key {
    /// The root of a run's randomness.
    pub fn from_seed(seed: u64) -> Self {
        Self(blake3::derive_key(
            "everburn 2026-11 run seed",
            &seed.to_le_bytes(),
        ))
    }

    /// The place below this one for a purpose.
    pub fn child(&self, purpose: &str) -> Self {
        Self(*blake3::keyed_hash(&self.0, purpose.as_bytes()).as_bytes())
    }

    /// The `number`-th place below this one. Never equal to a [`child`](Self::child).
    pub fn at(&self, number: u64) -> Self {
        let mut label = [0xff; 9];
        label[1..].copy_from_slice(&number.to_le_bytes());
        // 0xff starts no UTF-8 text, so this is no purpose's hash.
        Self(*blake3::keyed_hash(&self.0, &label).as_bytes())
    }

    /// A generator at this place.
    pub fn rng(&self) -> Rng {
        ChaCha8Rng::from_seed(self.0)
    }

    /// The numbers `0..n` in random order.
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut self.rng());
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn places_are_distinct() {
        let root = Key::from_seed(0);
        let places = [
            root,
            Key::from_seed(1),
            root.at(0),
            root.at(1),
            root.child("a"),
            root.child("b"),
            root.child("a").child("b"),
            root.child("ab"),
        ];
        for (i, a) in places.iter().enumerate() {
            for b in &places[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn numbers_are_pinned() {
        // Changing these changes every result of every run: do so only on purpose.
        let key = Key::from_seed(42).child("step").at(3);
        assert_eq!(key.rng().next_u32(), PINNED_WORD);
        assert_eq!(key.permutation(8), PINNED_PERMUTATION);
    }

    const PINNED_WORD: u32 = 3_728_718_547;
    const PINNED_PERMUTATION: [usize; 8] = [2, 3, 5, 4, 1, 7, 6, 0];
}
