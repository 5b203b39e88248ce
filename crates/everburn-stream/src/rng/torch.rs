use everburn_core::{Error, Result};
use rand_mt::Mt;

/// Above this many elements PyTorch shuffles by another rule.
const RANDPERM_LIMIT: usize = (u32::MAX / 20) as usize;

/// From this range on PyTorch draws two words for a number.
const TWO_WORDS: u64 = 1 << 28;

/// PyTorch's CPU generator, `torch.Generator().manual_seed(seed)`.
#[derive(Clone, Debug)]
pub struct TorchRandom(Mt);

impl TorchRandom {
    /// A generator from a seed. As in PyTorch, only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        Self(Mt::new((seed & u64::from(u32::MAX)) as u32))
    }

    /// The next raw word.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Two words, the first of them on top.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// The numbers `0..n` in random order: `torch.randperm(n)`, n − 1 words.
    ///
    /// # Errors
    /// If `n` is 214,748,364 (2³² / 20) or more, where PyTorch goes by another rule.
    pub fn randperm(&mut self, n: usize) -> Result<Vec<u32>> {
        let count = match u32::try_from(n) {
            Ok(count) if n < RANDPERM_LIMIT => count,
            _ => {
                let expected = format!("less than {RANDPERM_LIMIT}");
                return Err(Error::input("elements of torch.randperm", n, expected));
            }
        };
        let mut order: Vec<u32> = (0..count).collect();
        self.shuffle_by(&mut order, count);
        Ok(order)
    }

    /// `items[torch.randperm(items.len())]`, without the permutation in between.
    ///
    /// # Errors
    /// As [`randperm`](Self::randperm).
    pub fn shuffle<T>(&mut self, items: &mut [T]) -> Result<()> {
        match u32::try_from(items.len()) {
            Ok(count) if items.len() < RANDPERM_LIMIT => {
                self.shuffle_by(items, count);
                Ok(())
            }
            _ => {
                let expected = format!("less than {RANDPERM_LIMIT}");
                let what = "elements to shuffle as torch.randperm does";
                Err(Error::input(what, items.len(), expected))
            }
        }
    }

    /// Swaps each of `count` items with itself or a later one.
    fn shuffle_by<T>(&mut self, items: &mut [T], count: u32) {
        for i in 0..count.saturating_sub(1) {
            let z = self.next_u32() % (count - i);
            items.swap(i as usize, (i + z) as usize);
        }
    }

    /// `count` numbers from `low` to `high − 1`: `torch.randint(low, high, (count,))`.
    ///
    /// # Errors
    /// If `high` is not above `low`.
    pub fn randint(&mut self, low: i64, high: i64, count: usize) -> Result<Vec<i64>> {
        if high <= low {
            let expected = format!("more than the lower end {low}");
            return Err(Error::input("upper end of torch.randint", high, expected));
        }
        let range = high.abs_diff(low);
        let draw = |_| {
            let word = if range < TWO_WORDS {
                u64::from(self.next_u32())
            } else {
                self.next_u64()
            };
            low.wrapping_add_unsigned(word % range)
        };
        Ok((0..count).map(draw).collect())
    }

    /// A single-precision number in [0, 1): `torch.rand`, 24 bits of one word.
    pub fn rand_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// A double in [0, 1): `torch.rand(dtype=torch.float64)`, 53 bits of two words.
    pub fn rand_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_is_indexing_by_a_permutation() {
        for n in [0, 1, 2, 17, 1000] {
            let items: Vec<usize> = (0..n).map(|i| i * i).collect();
            let order = TorchRandom::new(9).randperm(n).unwrap();
            let indexed: Vec<usize> = order.iter().map(|i| items[*i as usize]).collect();
            let mut shuffled = items;
            TorchRandom::new(9).shuffle(&mut shuffled).unwrap();
            assert_eq!(shuffled, indexed);
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let mut random = TorchRandom::new(0);
        assert!(random.randint(0, 0, 1).is_err());
        assert!(random.randint(1, -1, 1).is_err());
        let error = random.randperm(usize::MAX).unwrap_err().to_string();
        assert!(error.contains("214748364"), "{error}");
        assert_eq!(random.randint(i64::MIN, i64::MAX, 2).unwrap().len(), 2);
    }
}
