use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Array, ClassId, Error, Held, ImageShape, Images, Key, Result, State};

/// How a reservoir decides what to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReservoirRule {
    /// Vitter's algorithm R, item by item: after n items each of them is kept with probability M/n.
    #[default]
    Exact,
    /// The rule of RaptorMai, MIR, OCM and OnPro: a batch draws its slots at once from the count
    /// *before* the batch, and the last writer of a slot wins. Slightly biased; kept to reproduce them.
    Batched,
}

/// The slot of the next item under [`ReservoirRule::Exact`], `seen` items having come before it.
/// `draw(u)` gives a uniform integer in `0..u`.
pub fn exact_slot(seen: u64, capacity: usize, draw: impl FnOnce(u64) -> u64) -> Option<usize> {
    let slot = if seen < capacity as u64 {
        seen
    } else {
        draw(seen + 1)
    };
    usize::try_from(slot).ok().filter(|slot| *slot < capacity)
}

/// The slots of a batch of `count` items under [`ReservoirRule::Batched`]. `draw(u)` gives a uniform
/// real number in `0..u`.
pub fn batched_slots(
    seen: u64,
    capacity: usize,
    count: usize,
    mut draw: impl FnMut(f64) -> f64,
) -> Vec<Option<usize>> {
    let filled = usize::try_from(seen).unwrap_or(usize::MAX);
    let fill = capacity.saturating_sub(filled).min(count);
    let upper = (seen + fill as u64) as f64;
    let place = |item: usize| {
        if item < fill {
            Some(filled + item)
        } else {
            Some(draw(upper) as usize).filter(|slot| *slot < capacity)
        }
    };
    (0..count).map(place).collect()
}

/// A memory of at most M labelled images, a uniform sample of all that it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservoir {
    capacity: usize,
    rule: ReservoirRule,
    seen: u64,
    images: Option<Images>,
    labels: Vec<ClassId>,
}

impl Reservoir {
    /// An empty memory for `capacity` images.
    pub fn new(capacity: usize, rule: ReservoirRule) -> Self {
        Self {
            capacity,
            rule,
            seen: 0,
            images: None,
            labels: Vec::new(),
        }
    }

    /// How many images it holds.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many images it was shown.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The labels that it holds, by slot.
    pub fn labels(&self) -> &[ClassId] {
        &self.labels
    }

    /// How many images it holds and may hold, for a footprint.
    pub fn held(&self) -> Held {
        Held {
            images: self.len() as u64,
            budget: self.capacity as u64,
        }
    }

    /// Bytes of images and labels, as [`save`](Self::save) writes them.
    pub fn bytes(&self) -> u64 {
        let pixels = self
            .images
            .as_ref()
            .map_or(0, |images| images.pixels().len());
        pixels as u64 + 8 * self.labels.len() as u64
    }

    /// Shows it a batch.
    ///
    /// # Errors
    /// If there are not as many labels as images, or they have another size than those it holds.
    pub fn insert(&mut self, images: &Images, labels: &[ClassId], key: Key) -> Result<()> {
        if images.len() != labels.len() {
            return Err(Error::input(
                "labels of a batch",
                labels.len(),
                images.len(),
            ));
        }
        let mut rng = key.rng();
        let slots = match self.rule {
            ReservoirRule::Exact => (0..labels.len() as u64)
                .map(|item| exact_slot(self.seen + item, self.capacity, |u| rng.random_range(0..u)))
                .collect(),
            ReservoirRule::Batched => batched_slots(self.seen, self.capacity, labels.len(), |u| {
                u * rng.random::<f64>()
            }),
        };
        let held = self
            .images
            .get_or_insert_with(|| Images::empty(images.shape()));
        for (item, slot) in slots.into_iter().enumerate() {
            match slot {
                Some(slot) if slot < held.len() => {
                    held.replace(slot, images, item)?;
                    self.labels[slot] = labels[item];
                }
                Some(_) => {
                    held.extend(&images.select(&[item])?)?;
                    self.labels.push(labels[item]);
                }
                None => {}
            }
        }
        self.seen += labels.len() as u64;
        Ok(())
    }

    /// Draws `count` of its images without replacement, or all if it holds fewer; `None` if empty.
    ///
    /// # Errors
    /// Never in practice: only if its own slots were out of range.
    pub fn draw(&self, count: usize, key: Key) -> Result<Option<(Images, Vec<ClassId>)>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.select(&self.draw_slots(count, key)).map(Some)
    }

    /// Draws the slots of `count` of its images without replacement, or of all if it holds fewer.
    pub fn draw_slots(&self, count: usize, key: Key) -> Vec<usize> {
        let count = count.min(self.len());
        rand::seq::index::sample(&mut key.rng(), self.len(), count).into_vec()
    }

    /// The images and labels in some slots, in that order, repeats included.
    ///
    /// # Errors
    /// If a slot is empty.
    pub fn select(&self, slots: &[usize]) -> Result<(Images, Vec<ClassId>)> {
        let empty = || Error::input("a slot of the memory", "one", "none: it is empty");
        let images = self.images.as_ref().ok_or_else(empty)?.select(slots)?;
        Ok((
            images,
            slots.iter().map(|slot| self.labels[*slot]).collect(),
        ))
    }

    /// Everything that it holds.
    ///
    /// # Errors
    /// If a value cannot be written as JSON.
    pub fn save(&self) -> Result<State> {
        let mut state = State::default();
        state.put_value("seen", self.seen)?;
        state.put_value("capacity", self.capacity)?;
        if let Some(images) = &self.images {
            let s = images.shape();
            let shape = [images.len(), s.height, s.width, s.channels];
            state.put("images", Array::u8(shape, images.pixels().to_vec()));
            let labels: Vec<i64> = self.labels.iter().map(|c| i64::from(c.0)).collect();
            state.put("labels", Array::i64([labels.len()], labels));
        }
        Ok(state)
    }

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// If it is of another capacity, or its images and labels do not fit together.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        let capacity: usize = state.value("capacity")?;
        if capacity != self.capacity {
            return Err(Error::state("capacity", capacity, self.capacity));
        }
        let seen: u64 = state.value("seen")?;
        // Only a memory that was never shown anything has no arrays.
        let (images, labels) = if seen == 0 && state.arrays.is_empty() {
            (None, Vec::new())
        } else {
            let (shape, pixels) = state.u8("images")?;
            let &[_, height, width, channels] = shape else {
                return Err(Error::state("images", format!("{shape:?}"), "four sides"));
            };
            let images = Images::new(ImageShape::new(height, width, channels), pixels.to_vec())?;
            let label = |label: &i64| {
                let class = u32::try_from(*label);
                class
                    .map(ClassId)
                    .map_err(|_| Error::state("labels", label, "a class number"))
            };
            let labels = state
                .i64("labels")?
                .iter()
                .map(label)
                .collect::<Result<Vec<_>>>()?;
            (Some(images), labels)
        };
        let held = images.as_ref().map_or(0, Images::len);
        // Both rules fill every slot before they overwrite one.
        let expected = usize::try_from(seen).unwrap_or(usize::MAX).min(capacity);
        if held != expected || labels.len() != expected {
            let found = format!("{held} images, {} labels", labels.len());
            return Err(Error::state(
                "images",
                found,
                format!("{expected} of {seen} shown"),
            ));
        }
        (self.seen, self.images, self.labels) = (seen, images, labels);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(range: std::ops::Range<u8>) -> (Images, Vec<ClassId>) {
        let labels = range.clone().map(|i| ClassId(i.into())).collect();
        (
            Images::new(ImageShape::new(1, 1, 1), range.collect()).unwrap(),
            labels,
        )
    }

    /// Chi-square of how often each of 40 items ends up in a memory of 8.
    fn chi_square(rule: ReservoirRule) -> f64 {
        let (items, capacity, runs) = (40_u8, 8, 4000_u64);
        let mut kept = [0_u64; 40];
        for run in 0..runs {
            let mut memory = Reservoir::new(capacity, rule);
            for batch in 0..items / 10 {
                let (images, labels) = numbered(batch * 10..(batch + 1) * 10);
                let key = Key::from_seed(run).at(batch.into());
                memory.insert(&images, &labels, key).unwrap();
            }
            for label in memory.labels() {
                kept[label.0 as usize] += 1;
            }
        }
        let expected = runs as f64 * capacity as f64 / f64::from(items);
        kept.iter()
            .map(|k| (*k as f64 - expected).powi(2) / expected)
            .sum()
    }

    #[test]
    fn every_item_is_kept_equally_often_under_the_exact_rule_alone() {
        // 99.9 % of a chi-square with 39 degrees of freedom: 72.1 (less here: without replacement).
        let exact = chi_square(ReservoirRule::Exact);
        let batched = chi_square(ReservoirRule::Batched);
        assert!(exact < 72.1, "{exact}");
        assert!(batched > 72.1, "{batched}");
    }

    #[test]
    fn images_stay_with_their_labels_and_the_budget_holds() {
        let mut memory = Reservoir::new(7, ReservoirRule::Exact);
        for batch in 0..20 {
            let (images, labels) = numbered(batch * 10..batch * 10 + 10);
            memory
                .insert(&images, &labels, Key::from_seed(batch.into()))
                .unwrap();
            assert!(memory.len() <= 7 && memory.seen() == 10 * (u64::from(batch) + 1));
        }
        let (images, labels) = memory.draw(100, Key::from_seed(1)).unwrap().unwrap();
        assert_eq!(labels.len(), 7);
        for (pixel, label) in images.pixels().iter().zip(&labels) {
            assert_eq!(u32::from(*pixel), label.0);
        }
        let few = memory.draw(3, Key::from_seed(2)).unwrap().unwrap().1;
        assert_eq!(few.len(), 3);
    }

    #[test]
    fn a_saved_memory_comes_back() {
        let mut memory = Reservoir::new(4, ReservoirRule::Exact);
        let (images, labels) = numbered(0..9);
        memory.insert(&images, &labels, Key::from_seed(3)).unwrap();
        let state = memory.save().unwrap();
        assert_eq!(state.array_bytes(), memory.bytes());
        let mut other = Reservoir::new(4, ReservoirRule::Exact);
        other.restore(&state).unwrap();
        assert_eq!(other, memory);
        assert!(
            Reservoir::new(5, ReservoirRule::Exact)
                .restore(&state)
                .is_err()
        );
    }

    #[test]
    fn a_memory_without_room_keeps_nothing() {
        let mut memory = Reservoir::new(0, ReservoirRule::Exact);
        let (images, labels) = numbered(0..3);
        memory.insert(&images, &labels, Key::from_seed(3)).unwrap();
        assert!(memory.draw(2, Key::from_seed(4)).unwrap().is_none());
    }
}
