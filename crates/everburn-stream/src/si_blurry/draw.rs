use everburn_core::{ClassId, Error, Result};

use super::{SiBlurry, SiBlurryMode};
use crate::rng::TorchRandom;

/// The list of a class that is not in the stream.
const DROPPED: usize = usize::MAX;

/// A Si-Blurry stream with what was drawn on the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiBlurryParts {
    /// All classes in the order drawn: the disjoint ones, the blurry ones, the dropped ones.
    pub class_order: Vec<ClassId>,
    /// How many classes are disjoint.
    pub disjoint_num: usize,
    /// How many classes are blurry.
    pub blurry_num: usize,
    /// The cuts of the disjoint classes, tasks + 1 of them; empty if there are none.
    pub disjoint_slice: Vec<usize>,
    /// The cuts of the blurry classes, tasks + 1 of them; empty if there are none.
    pub blurry_slice: Vec<usize>,
    /// How many samples each task was to give and to receive. In static mode, how many it gave.
    pub quotas: Vec<usize>,
    /// How many samples of its blurry classes each task gave away.
    pub moved: Vec<usize>,
    /// How many samples of blurry classes each task received, perhaps some of its own.
    pub received: Vec<usize>,
    /// The samples of each task, as indices into the data set, in the order of the stream.
    pub indices: Vec<Vec<u32>>,
}

impl SiBlurryParts {
    /// The disjoint classes of each task, in the order drawn.
    pub fn disjoint_classes(&self) -> Vec<&[ClassId]> {
        self.classes_of_tasks(0, &self.disjoint_slice)
    }

    /// The blurry classes of each task, in the order drawn.
    pub fn blurry_classes(&self) -> Vec<&[ClassId]> {
        self.classes_of_tasks(self.disjoint_num, &self.blurry_slice)
    }

    /// The classes that are not in the stream.
    pub fn dropped_classes(&self) -> &[ClassId] {
        let kept = self.disjoint_num + self.blurry_num;
        self.class_order.get(kept..).unwrap_or_default()
    }

    fn classes_of_tasks(&self, offset: usize, slice: &[usize]) -> Vec<&[ClassId]> {
        let pool = self.class_order.get(offset..).unwrap_or_default();
        if slice.is_empty() {
            return vec![&[]; self.indices.len()];
        }
        let part = |cut: &[usize]| match cut {
            [from, to] => pool.get(*from..*to).unwrap_or_default(),
            _ => &[],
        };
        slice.windows(2).map(part).collect()
    }
}

impl SiBlurry {
    /// The class order, and the cuts by which its classes go to the tasks.
    pub(super) fn draw_classes(
        &self,
        num_classes: usize,
        random: &mut TorchRandom,
    ) -> Result<SiBlurryParts> {
        let tasks = self.tasks;
        let whole = |classes: usize| classes - classes % tasks;
        let disjoint_num = whole(percent_of(num_classes, self.disjoint_percent));
        let blurry_num = whole(num_classes - disjoint_num);
        let order = random.randperm(num_classes)?;
        let mut cuts = |classes: usize| match (classes, self.mode) {
            (0, _) => Ok(Vec::new()),
            (_, SiBlurryMode::Stochastic) => random_cuts(classes, tasks, random),
            (_, SiBlurryMode::Static) => Ok((0..=tasks).map(|t| classes / tasks * t).collect()),
        };
        Ok(SiBlurryParts {
            class_order: order.into_iter().map(ClassId).collect(),
            disjoint_num,
            blurry_num,
            disjoint_slice: cuts(disjoint_num)?,
            blurry_slice: cuts(blurry_num)?,
            quotas: vec![0; tasks],
            moved: vec![0; tasks],
            received: vec![0; tasks],
            indices: vec![Vec::new(); tasks],
        })
    }

    /// Stochastic mode: each task gives its first samples, up to its quota, and receives as many
    /// as its quota from the shuffled pool while there are any.
    pub(super) fn move_by_quota(
        &self,
        parts: &mut SiBlurryParts,
        blurry: &mut [Vec<u32>],
        random: &mut TorchRandom,
    ) -> Result<()> {
        let total = blurry.iter().map(Vec::len).sum();
        let movable = percent_of(total, self.blurry_percent);
        if movable == 0 {
            return Ok(());
        }
        let cuts = random_cuts(movable, self.tasks, random)?;
        let ends = cuts.iter().skip(1);
        parts.quotas = cuts.iter().zip(ends).map(|(from, to)| to - from).collect();
        let mut pool = Vec::with_capacity(movable);
        for ((samples, quota), moved) in blurry.iter_mut().zip(&parts.quotas).zip(&mut parts.moved)
        {
            *moved = samples.len().min(*quota);
            pool.extend(samples.drain(..*moved));
        }
        random.shuffle(&mut pool)?;
        let mut pool = pool.into_iter();
        for ((samples, quota), received) in blurry
            .iter_mut()
            .zip(&parts.quotas)
            .zip(&mut parts.received)
        {
            let before = samples.len();
            samples.extend(pool.by_ref().take(*quota));
            *received = samples.len() - before;
        }
        Ok(())
    }

    /// Static mode: each task gives a percentage of its own samples, the first of them, and
    /// receives an equal part of the shuffled pool; what is left of the pool is dropped.
    pub(super) fn move_evenly(
        &self,
        parts: &mut SiBlurryParts,
        blurry: &mut [Vec<u32>],
        random: &mut TorchRandom,
    ) -> Result<()> {
        let mut pool = Vec::new();
        for (samples, moved) in blurry.iter_mut().zip(&mut parts.moved) {
            *moved = percent_of(samples.len(), self.blurry_percent);
            pool.extend(samples.drain(..*moved));
        }
        parts.quotas.clone_from(&parts.moved);
        random.shuffle(&mut pool)?;
        let share = pool.len() / self.tasks;
        let mut pool = pool.into_iter();
        for (samples, received) in blurry.iter_mut().zip(&mut parts.received) {
            samples.extend(pool.by_ref().take(share));
            *received = share;
        }
        Ok(())
    }
}

/// So many of a hundred, rounded down.
fn percent_of(count: usize, percent: u32) -> usize {
    let part = count as u128 * u128::from(percent) / 100;
    usize::try_from(part).unwrap_or(usize::MAX)
}

/// 0, then `tasks − 1` sorted draws below `count`, then `count`.
fn random_cuts(count: usize, tasks: usize, random: &mut TorchRandom) -> Result<Vec<usize>> {
    let end = i64::try_from(count).map_err(|error| Error::other("cutting into tasks", error))?;
    let drawn = random.randint(0, end, tasks.saturating_sub(1))?;
    let drawn = drawn
        .into_iter()
        .filter_map(|cut| usize::try_from(cut).ok());
    let mut cuts: Vec<usize> = [0, count].into_iter().chain(drawn).collect();
    cuts.sort_unstable();
    Ok(cuts)
}

/// The samples of the disjoint and of the blurry classes of each task, in data set order.
pub(super) fn collect_samples(
    parts: &SiBlurryParts,
    labels: &[ClassId],
) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let tasks = parts.indices.len();
    // The disjoint lists first, then the blurry ones.
    let mut owner = vec![DROPPED; parts.class_order.len()];
    let disjoint = parts.disjoint_classes();
    for (list, classes) in disjoint
        .into_iter()
        .chain(parts.blurry_classes())
        .enumerate()
    {
        for class in classes {
            if let Some(owner) = owner.get_mut(class.0 as usize) {
                *owner = list;
            }
        }
    }
    let mut lists = vec![Vec::new(); 2 * tasks];
    for (index, class) in (0..).zip(labels) {
        let list = owner.get(class.0 as usize).copied().unwrap_or(DROPPED);
        if let Some(list) = lists.get_mut(list) {
            list.push(index);
        }
    }
    let blurry = lists.split_off(tasks);
    (lists, blurry)
}
