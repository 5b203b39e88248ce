//! Self-refined adapter retrieval: which task's adapters an image is for.

use std::collections::BTreeMap;

use everburn_core::{Error, Result};

/// How the adapters of an image were found: the tasks whose adapters were asked, round by round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrieved {
    first: usize,
    later: Vec<usize>,
}

impl Retrieved {
    /// The first guess alone.
    pub(crate) fn guess(task: usize) -> Self {
        Self {
            first: task,
            later: Vec::new(),
        }
    }

    /// The task of the first guess.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The task whose adapters were asked last, which made the logits.
    pub fn last(&self) -> usize {
        self.later.last().copied().unwrap_or(self.first)
    }

    /// How often the head was asked, or would have been where prototypes predict alone.
    pub fn rounds(&self) -> usize {
        1 + self.later.len()
    }

    /// All tasks, in the order in which they were asked; one may come twice.
    pub fn path(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.first).chain(self.later.iter().copied())
    }
}

/// The number of the largest value; the first of several equal ones.
pub(crate) fn largest(row: &[f32]) -> usize {
    let larger = |best: usize, (number, value): (usize, &f32)| match *value > row[best] {
        true => number,
        false => best,
    };
    row.iter().enumerate().fold(0, larger)
}

/// Asks the head with the adapters of a task, and goes on to the task of the class that it names, until it names one of
/// that task or has been asked `most` times (`_eval_cnn`).
///
/// `first` is the first guess for each image, `task_of` the task of each class. `logits` gives those of pairs of an image
/// and a task, `classes` values for each; it is asked for each pair at most once, and for none that no image
/// needs. Returns the logits of each image's last round as well, `[images, classes]`: where it was cut short, those of
/// the adapters that were asked last.
///
/// # Errors
/// If there is no class, or `logits` fails or gives another number of values.
pub fn refine(
    first: &[usize],
    most: usize,
    task_of: &[usize],
    mut logits: impl FnMut(&[(usize, usize)]) -> Result<Vec<f32>>,
) -> Result<(Vec<Retrieved>, Vec<f32>)> {
    let classes = task_of.len();
    if classes == 0 {
        return Err(Error::input(
            "classes",
            0,
            "at least one to retrieve adapters for",
        ));
    }
    let mut found: Vec<Retrieved> = first.iter().copied().map(Retrieved::guess).collect();
    let mut known: BTreeMap<(usize, usize), Vec<f32>> = BTreeMap::new();
    let mut unsettled: Vec<usize> = (0..first.len()).collect();
    for round in 1..=most.max(1) {
        let asked = unsettled.iter().map(|image| (*image, found[*image].last()));
        let missing: Vec<(usize, usize)> = asked.filter(|pair| !known.contains_key(pair)).collect();
        if !missing.is_empty() {
            let values = logits(&missing)?;
            if values.len() != missing.len() * classes {
                let expected = format!("{} of {classes} classes", missing.len());
                return Err(Error::input("logits", values.len(), expected));
            }
            let rows = values.chunks_exact(classes).map(<[f32]>::to_vec);
            known.extend(missing.into_iter().zip(rows));
        }
        unsettled.retain(|image| {
            let retrieved = &mut found[*image];
            let named = task_of[largest(&known[&(*image, retrieved.last())])];
            let goes_on = named != retrieved.last() && round < most;
            if goes_on {
                retrieved.later.push(named);
            }
            goes_on
        });
    }
    let last = found.iter().enumerate();
    let refined = last.flat_map(|(image, retrieved)| known[&(image, retrieved.last())].clone());
    let refined = refined.collect();
    Ok((found, refined))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes in each task; the adapters of a task name a class of the task that `next` says.
    fn walk(next: &[usize], first: usize, most: usize) -> (Retrieved, Vec<f32>, usize) {
        let task_of: Vec<usize> = (0..2 * next.len()).map(|class| class / 2).collect();
        let mut asked = 0;
        let logits = |pairs: &[(usize, usize)]| {
            asked += pairs.len();
            let row = |(_, task): &(usize, usize)| {
                let named = 2 * next[*task] + 1;
                (0..2 * next.len()).map(move |class| if class == named { 1.0 } else { 0.0 })
            };
            Ok(pairs.iter().flat_map(row).collect())
        };
        let (found, refined) = refine(&[first], most, &task_of, logits).unwrap();
        (found[0].clone(), refined, asked)
    }

    #[test]
    fn it_stops_where_the_adapters_name_their_own_task() {
        let (found, refined, asked) = walk(&[0, 0, 1], 0, 4);
        assert_eq!((found.last(), found.rounds(), asked), (0, 1, 1));
        assert_eq!(refined, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let (found, _, asked) = walk(&[0, 0, 1], 2, 4);
        assert_eq!(
            (found.first(), found.last(), found.rounds(), asked),
            (2, 0, 3, 3)
        );
    }

    #[test]
    fn a_cycle_ends_after_four_rounds_with_the_adapters_asked_last() {
        // 0 → 1 → 0 → 1, which still names 0; each set was run once.
        let (found, refined, asked) = walk(&[1, 0], 0, 4);
        assert_eq!((found.last(), found.rounds(), asked), (1, 4, 2));
        assert_eq!(refined, [0.0, 1.0, 0.0, 0.0]);
        // 0 → 1 → 2 → 0.
        let (found, _, asked) = walk(&[1, 2, 0], 0, 4);
        assert_eq!((found.last(), found.rounds(), asked), (0, 4, 3));
    }

    #[test]
    fn the_number_of_rounds_is_capped() {
        let chain = [1, 2, 3, 4, 5, 5];
        for most in 1..=6 {
            let (found, _, asked) = walk(&chain, 0, most);
            assert_eq!(
                (found.last(), found.rounds(), asked),
                (most - 1, most, most)
            );
        }
        assert_eq!(walk(&chain, 0, 9).0.rounds(), 6);
    }

    #[test]
    fn too_few_logits_are_an_error() {
        assert!(refine(&[0], 4, &[0, 1], |_| Ok(vec![1.0])).is_err());
    }
}
