use everburn_core::{Error, Result};
use rand_mt::Mt;

use super::res53;

/// numpy's legacy generator, `numpy.random.RandomState(seed)`, which is also what
/// `numpy.random.seed(seed)` seeds. Not `numpy.random.default_rng`, a different generator.
#[derive(Clone, Debug)]
pub struct NumpyRandom(Mt);

impl NumpyRandom {
    /// A generator from a seed. numpy refuses seeds of more than 32 bits.
    pub fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// The next raw word.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A number from 0 to `max`, `max` included: `random_interval`. A `max` of 0 draws nothing.
    pub fn interval(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// A number from `low` to `high − 1`: `randint(low, high)`.
    ///
    /// # Errors
    /// If there is no such number, or more than 2³² of them.
    pub fn randint(&mut self, low: i64, high: i64) -> Result<i64> {
        let span = high.checked_sub(low).and_then(|span| span.checked_sub(1));
        let max = span
            .and_then(|max| u32::try_from(max).ok())
            .ok_or_else(|| {
                let range = format!("{low}..{high}");
                Error::input("range of randint", range, "1 to 2^32 numbers")
            })?;
        Ok(low + i64::from(self.interval(max)))
    }

    /// Brings `items` into random order: `shuffle`.
    ///
    /// Only the first 2³² items take part; longer slices are out of this generator's reach.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.interval(u32::try_from(i).unwrap_or(u32::MAX));
            items.swap(i, j as usize);
        }
    }

    /// The numbers `0..n` in random order: `permutation(n)`.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// A double in [0, 1): `random_sample()`, two words each.
    pub fn random_sample(&mut self) -> f64 {
        let first = self.next_u32();
        res53(first, self.next_u32())
    }

    /// A double in [low, high): `uniform(low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random_sample()
    }

    /// `count` of the numbers `0..n`, repeats allowed: `choice(n, count)`.
    ///
    /// # Errors
    /// If something is to be chosen from nothing.
    pub fn choice(&mut self, n: u32, count: usize) -> Result<Vec<u32>> {
        match n.checked_sub(1) {
            Some(max) => Ok((0..count).map(|_| self.interval(max)).collect()),
            None if count == 0 => Ok(Vec::new()),
            None => Err(Error::input("numbers to choose from", 0, "at least 1")),
        }
    }

    /// `count` different ones of the numbers `0..n`: `choice(n, count, replace=False)`.
    ///
    /// # Errors
    /// If `count` is more than `n`.
    pub fn choice_without_replacement(&mut self, n: u32, count: usize) -> Result<Vec<u32>> {
        if count > n as usize {
            let expected = format!("at most the {n} there are");
            return Err(Error::input("numbers to choose", count, expected));
        }
        let mut chosen = self.permutation(n);
        chosen.truncate(count);
        Ok(chosen)
    }

    /// `count` of the numbers `0..weights.len()`, each with its probability, repeats allowed:
    /// `choice(n, count, p=weights)`. The weights need not sum to 1.
    ///
    /// # Errors
    /// If there is no weight, or one is negative or not finite, or all are 0.
    pub fn choice_weighted(&mut self, weights: &[f64], count: usize) -> Result<Vec<usize>> {
        if let Some(bad) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
            let expected = "a finite number of at least 0";
            return Err(Error::input("weight of a choice", bad, expected));
        }
        let mut total = 0.0;
        let mut cumulative: Vec<f64> = weights
            .iter()
            .map(|weight| {
                total += weight;
                total
            })
            .collect();
        if !(total.is_finite() && total > 0.0) {
            let expected = "a finite number above 0";
            return Err(Error::input("sum of the weights", total, expected));
        }
        cumulative.iter_mut().for_each(|c| *c /= total);
        let mut draw = || {
            let sample = self.random_sample();
            cumulative.partition_point(|c| *c <= sample)
        };
        Ok((0..count).map(|_| draw()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_the_published_ones() {
        let words = |seed| {
            let mut random = NumpyRandom::new(seed);
            [(); 3].map(|()| random.next_u32())
        };
        assert_eq!(words(1993), [431_310_241, 1_195_554_489, 942_364_593]);
        assert_eq!(words(1), [1_791_095_845, 4_282_876_139, 3_093_770_124]);
        assert_eq!(words(5489), [3_499_211_612, 581_869_302, 3_890_346_734]);
        // The C++ standard's check of mt19937: the 10,000th word of seed 5489.
        let mut random = NumpyRandom::new(5489);
        assert_eq!(
            (0..10_000).map(|_| random.next_u32()).last(),
            Some(4_123_659_995)
        );
    }

    #[test]
    fn domain_draws_match_numpy() {
        // The goldens of the domain-incremental streams.
        let mut random = NumpyRandom::new(0);
        let angles = [(); 5].map(|()| random.randint(-180, 181).unwrap());
        assert_eq!(angles, [-8, -133, -63, 12, 143]);
        let mut random = NumpyRandom::new(0);
        let angles = [(); 3].map(|()| random.uniform(0.0, 180.0));
        let expected = [
            98.786_430_706_918_45,
            128.734_085_947_035_5,
            108.497_407_692_895_89,
        ];
        assert_eq!(angles, expected);
        let pixels = NumpyRandom::new(0).permutation(784);
        assert_eq!(pixels[..8], [693, 85, 647, 392, 765, 14, 299, 711]);
    }

    #[test]
    fn nothing_is_drawn_where_nothing_is_open() {
        let mut random = NumpyRandom::new(3);
        assert_eq!(random.interval(0), 0);
        assert!(random.permutation(0).is_empty());
        assert_eq!(random.permutation(1), [0]);
        assert_eq!(random.randint(7, 8).unwrap(), 7);
        assert_eq!(random.next_u32(), NumpyRandom::new(3).next_u32());
    }

    #[test]
    fn a_choice_from_nothing_is_refused() {
        let mut random = NumpyRandom::new(0);
        assert!(random.randint(3, 3).is_err());
        assert!(random.randint(i64::MIN, i64::MAX).is_err());
        assert!(random.choice(0, 1).is_err());
        assert!(random.choice_without_replacement(2, 3).is_err());
        assert!(random.choice_weighted(&[], 1).is_err());
        assert!(random.choice_weighted(&[0.0, 0.0], 1).is_err());
        assert!(random.choice_weighted(&[1.0, -1.0], 1).is_err());
        assert!(random.choice_weighted(&[f64::NAN], 1).is_err());
    }

    #[test]
    fn a_weighted_choice_never_takes_what_weighs_nothing() {
        let mut random = NumpyRandom::new(1);
        let chosen = random
            .choice_weighted(&[0.0, 3.0, 0.0, 1.0, 0.0], 400)
            .unwrap();
        assert!(chosen.iter().all(|c| *c == 1 || *c == 3));
        let ones = chosen.iter().filter(|c| **c == 1).count();
        assert!((250..350).contains(&ones), "{ones} of 400 at weight 3/4");
    }
}
