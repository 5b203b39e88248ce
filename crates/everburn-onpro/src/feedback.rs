//! Adaptive prototypical feedback: what is replayed, by how close the prototypes of classes are.
//!
//! All of it is numbers of slots in the memory; the images are put together on the device.

use burn::tensor::{Tensor, TensorData};
use everburn_core::Rng;
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_distr::{Beta, Distribution as _};

use crate::config::Adaptive;

/// A replayed image: (1 − share)·first + share·second, by their slots in the memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// The slot of the first.
    pub first: usize,
    /// The slot of the second.
    pub second: usize,
    /// The share of the second, from 0 to 1.
    pub share: f32,
}

impl Mix {
    /// An image as it is.
    pub fn plain(slot: usize) -> Self {
        Self {
            first: slot,
            second: slot,
            share: 0.0,
        }
    }
}

/// (1 − share)·first + share·second of images `[n, 3, height, width]`, for n shares.
pub fn mix_images(first: Tensor<4>, second: Tensor<4>, shares: &[f32]) -> Tensor<4> {
    let shares = TensorData::new(shares.to_vec(), [shares.len(), 1, 1, 1]);
    let shares = Tensor::<4>::from_data(shares, &first.device());
    first * (-shares.clone() + 1.0) + second * shares
}

/// The label of a mixed image for the instance loss, between those of its classes: (1 − share)·first + share·second.
pub fn mix_labels(first: &[usize], second: &[usize], shares: &[f32]) -> Vec<f32> {
    let pairs = first.iter().zip(second).zip(shares);
    let mixed = pairs.map(|((a, b), share)| (1.0 - share) * *a as f32 + share * *b as f32);
    mixed.collect()
}

/// Where feedback draws from: a generator, or a list of what another program drew.
pub trait Draws {
    /// `count` different numbers below `below`.
    fn distinct(&mut self, below: usize, count: usize) -> Vec<usize>;
    /// `count` of `list`, repeats included.
    fn among(&mut self, list: &[usize], count: usize) -> Vec<usize>;
    /// The numbers below `n` in random order.
    fn permutation(&mut self, n: usize) -> Vec<usize>;
    /// A number in 0..1.
    fn coin(&mut self) -> f64;
    /// Numbers in 0..1.
    fn uniform(&mut self, count: usize) -> Vec<f64>;
    /// Numbers of Beta(α, α).
    fn beta(&mut self, alpha: f64, count: usize) -> Vec<f64>;
}

impl Draws for Rng {
    fn distinct(&mut self, below: usize, count: usize) -> Vec<usize> {
        rand::seq::index::sample(self, below, count.min(below)).into_vec()
    }

    fn among(&mut self, list: &[usize], count: usize) -> Vec<usize> {
        (0..count)
            .filter_map(|_| list.choose(self).copied())
            .collect()
    }

    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(self);
        order
    }

    fn coin(&mut self) -> f64 {
        self.random()
    }

    fn uniform(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.random()).collect()
    }

    fn beta(&mut self, alpha: f64, count: usize) -> Vec<f64> {
        // α is above 0, as its settings were checked; else nothing is mixed.
        let share = Beta::new(alpha, alpha).ok();
        let draw = |_| share.as_ref().map_or(0.0, |share| share.sample(self));
        (0..count).map(draw).collect()
    }
}

/// The means of some classes' projections.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// The class of each row, ascending.
    pub classes: &'a [usize],
    /// `[classes, width]`, row-major.
    pub rows: &'a [f32],
}

impl Means<'_> {
    /// All pairs of rows, (0, 1), (0, 2), …, (1, 2), …
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.classes.len();
        let with = |first: usize| (first + 1..count).map(move |second| (first, second));
        (0..count).flat_map(with).collect()
    }

    /// P of each pair: the softmax over all pairs of 1/d, d being the distance of their means. Equal means share all
    /// of it.
    pub fn probabilities(&self) -> Vec<f64> {
        let width = self.rows.len() / self.classes.len().max(1);
        let row = |row: usize| &self.rows[row * width..(row + 1) * width];
        let closeness = |(first, second): &(usize, usize)| {
            let squares = row(*first).iter().zip(row(*second));
            let squares = squares.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
            // The reciprocal of 0 would be no number.
            1.0 / squares.sum::<f64>().sqrt().max(1e-12)
        };
        let closeness: Vec<f64> = self.pairs().iter().map(closeness).collect();
        let largest = closeness.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = closeness.iter().map(|c| (c - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }
}

/// How many of `count` images each pair gets: P·count, rounded (halves to even), and then one more or less for pairs by
/// lot until they sum to `count`; only pairs that have some can lose one.
pub fn pair_counts(probabilities: &[f64], count: usize, draws: &mut dyn Draws) -> Vec<usize> {
    let rounded = |p: &f64| (p * count as f64).round_ties_even() as usize;
    let mut counts: Vec<usize> = probabilities.iter().map(rounded).collect();
    let sum: usize = counts.iter().sum();
    if sum < count {
        for pair in draws
            .permutation(counts.len())
            .into_iter()
            .take(count - sum)
        {
            counts[pair] += 1;
        }
    } else if sum > count {
        let some: Vec<usize> = (0..counts.len()).filter(|pair| counts[*pair] > 0).collect();
        for chosen in draws.permutation(some.len()).into_iter().take(sum - count) {
            counts[some[chosen]] -= 1;
        }
    }
    counts
}

impl Adaptive {
    /// As many images as were drawn from the memory, whose slots have these classes: a part of the draw, and pairs of
    /// classes by the means of a step before. All are of the draw where there is no pair of classes to feed back.
    pub fn plan(
        &self,
        drawn: &[usize],
        slot_classes: &[usize],
        means: Means<'_>,
        draws: &mut dyn Draws,
    ) -> Vec<Mix> {
        let slots_of = |class: usize| -> Vec<usize> {
            let slots = 0..slot_classes.len();
            slots.filter(|slot| slot_classes[*slot] == class).collect()
        };
        let is_stored = |class: &usize| slot_classes.contains(class);
        let stored = means.classes.iter().copied().filter(is_stored);
        let stored: Vec<usize> = stored.collect();
        let is_possible = means.classes.len() > 1 && !stored.is_empty();
        let base = match is_possible {
            true => ((drawn.len() as f64 * self.base_rate) as usize).min(drawn.len()),
            false => drawn.len(),
        };
        let mut plan = self.of_draw(drawn, base, draws);
        if base == drawn.len() {
            return plan;
        }
        let counts = pair_counts(&means.probabilities(), drawn.len() - base, draws);
        for ((first, second), count) in means.pairs().into_iter().zip(counts) {
            if count == 0 {
                continue;
            }
            // A class that the memory has lost is replaced by one that it holds.
            let mut held = |row: usize| match is_stored(&means.classes[row]) {
                true => slots_of(means.classes[row]),
                false => draws
                    .among(&stored, 1)
                    .into_iter()
                    .flat_map(slots_of)
                    .collect(),
            };
            let (first, second) = (held(first), held(second));
            let (first, second) = (draws.among(&first, count), draws.among(&second, count));
            let shares = match draws.coin() < self.mixing {
                true => draws.beta(self.alpha, count),
                false => vec![0.0; count],
            };
            plan.extend(mixes(first, second, shares));
        }
        plan
    }

    /// `count` of the draw, mixed with each other or not.
    fn of_draw(&self, drawn: &[usize], count: usize, draws: &mut dyn Draws) -> Vec<Mix> {
        let chosen = draws.distinct(drawn.len(), count);
        let chosen: Vec<usize> = chosen.into_iter().map(|place| drawn[place]).collect();
        if draws.coin() >= self.mixing {
            return chosen.into_iter().map(Mix::plain).collect();
        }
        let others = draws
            .permutation(count)
            .into_iter()
            .map(|place| chosen[place]);
        let others: Vec<usize> = others.collect();
        let shares = draws.uniform(count).into_iter();
        let shares = shares.map(|share| share * self.most).collect();
        mixes(chosen, others, shares).collect()
    }
}

fn mixes(first: Vec<usize>, second: Vec<usize>, shares: Vec<f64>) -> impl Iterator<Item = Mix> {
    let pairs = first.into_iter().zip(second).zip(shares);
    pairs.map(|((first, second), share)| Mix {
        first,
        second,
        share: share as f32,
    })
}
