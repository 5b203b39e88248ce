//! The batches of an epoch, cut when they are asked for: only an order that is not the stream's own
//! takes memory, four bytes for each sample.

use std::borrow::Cow;
use std::ops::Range;

use everburn_core::{ClassId, Order, SeenClasses, Source, Stage, TaskId};
use everburn_stream::Manifest;

use crate::positions::Positions;

/// What an epoch amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) steps: usize,
    pub(crate) samples: usize,
}

impl Amount {
    /// What one epoch of a stage amounts to, without its batches.
    pub(crate) fn of(
        manifest: &Manifest,
        positions: &Positions,
        labels: &[ClassId],
        task: Option<TaskId>,
        stage: &Stage,
    ) -> Self {
        if let Source::Synthetic { steps } = stage.source {
            return Self { steps, samples: 0 };
        }
        let cut = Cut::of(stage, task);
        let tasks = tasks_of(manifest, task, stage);
        let mut amount = Self::default();
        if cut.at_tasks {
            for task in tasks {
                amount.add(cut, positions.samples(task..task + 1));
            }
        } else if stage.order == Order::ByClass {
            let mut counts = Vec::new();
            let mut seen = SeenClasses::default();
            for index in indices(manifest, tasks) {
                if let Some(label) = labels.get(index as usize) {
                    let class = seen.insert(*label);
                    counts.resize(seen.len(), 0);
                    counts[class] += 1;
                }
            }
            counts.into_iter().for_each(|count| amount.add(cut, count));
        } else {
            amount.add(cut, positions.samples(tasks));
        }
        amount
    }

    fn add(&mut self, cut: Cut, samples: usize) {
        let steps = cut.steps(samples);
        self.steps += steps;
        self.samples += samples.min(steps * cut.batch);
    }
}

/// How samples are cut into batches.
#[derive(Clone, Copy, Debug)]
struct Cut {
    batch: usize,
    drop_last: bool,
    /// Whether a batch ends where a task does: a stream without borders never mixes two of its hidden
    /// tasks, as in the official trainer, and leaves nothing out.
    at_tasks: bool,
}

impl Cut {
    fn of(stage: &Stage, task: Option<TaskId>) -> Self {
        let at_tasks = stage.source == Source::Stream && task.is_none();
        Self {
            batch: stage.batch.max(1),
            drop_last: stage.drop_last && !at_tasks,
            at_tasks,
        }
    }

    /// How many batches so many samples give.
    fn steps(self, samples: usize) -> usize {
        if self.drop_last {
            samples / self.batch
        } else {
            samples.div_ceil(self.batch)
        }
    }
}

/// The batches of one epoch of a stage, as indices of the data set.
#[derive(Debug)]
pub(crate) struct Epoch<'a> {
    runs: Vec<Run<'a>>,
    batch: usize,
    steps: usize,
}

/// Samples that are cut from first to last.
#[derive(Debug)]
struct Run<'a> {
    indices: Cow<'a, [u32]>,
    /// The step of its first batch.
    first: usize,
}

impl<'a> Epoch<'a> {
    /// `shuffle(n)` gives a permutation of `0..n`.
    pub(crate) fn new(
        manifest: &'a Manifest,
        labels: &[ClassId],
        task: Option<TaskId>,
        stage: &Stage,
        shuffle: impl FnOnce(usize) -> Vec<usize>,
    ) -> Self {
        let cut = Cut::of(stage, task);
        let mut epoch = Self {
            runs: Vec::new(),
            batch: cut.batch,
            steps: 0,
        };
        if let Source::Synthetic { steps } = stage.source {
            epoch.steps = steps;
            return epoch;
        }
        let tasks = tasks_of(manifest, task, stage);
        let own = manifest.tasks.get(tasks.clone()).unwrap_or_default();
        match (stage.order, own) {
            (Order::Stream, _) if cut.at_tasks || own.len() == 1 => {
                for task in own {
                    epoch.push(cut, Cow::Borrowed(&task.indices));
                }
            }
            (Order::Stream, _) => {
                epoch.push(cut, Cow::Owned(indices(manifest, tasks).collect()));
            }
            (Order::Shuffled, _) => {
                let indices: Cow<'_, [u32]> = match own {
                    [only] => Cow::Borrowed(&only.indices),
                    _ => Cow::Owned(indices(manifest, tasks).collect()),
                };
                let order = shuffle(indices.len()).into_iter();
                let shuffled = order.filter_map(|at| indices.get(at).copied()).collect();
                epoch.push(cut, Cow::Owned(shuffled));
            }
            (Order::ByClass, _) => {
                for class in by_class(indices(manifest, tasks), labels) {
                    epoch.push(cut, Cow::Owned(class));
                }
            }
        }
        epoch
    }

    fn push(&mut self, cut: Cut, indices: Cow<'a, [u32]>) {
        let (first, steps) = (self.steps, cut.steps(indices.len()));
        if steps > 0 {
            self.runs.push(Run { indices, first });
            self.steps += steps;
        }
    }

    /// How many batches there are.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// The samples of a batch; none past the end, and where the learner makes its own.
    pub(crate) fn batch(&self, step: usize) -> &[u32] {
        let next = self.runs.partition_point(|run| run.first <= step);
        let run = next.checked_sub(1).and_then(|run| self.runs.get(run));
        let Some(run) = run.filter(|_| step < self.steps) else {
            return &[];
        };
        let start = (step - run.first) * self.batch;
        let end = run.indices.len().min(start.saturating_add(self.batch));
        run.indices.get(start..end).unwrap_or_default()
    }
}

/// The tasks whose samples a stage is fed.
fn tasks_of(manifest: &Manifest, task: Option<TaskId>, stage: &Stage) -> Range<usize> {
    let all = manifest.tasks.len();
    match task.map(|task| task.0 as usize) {
        None => 0..all,
        Some(task) if stage.source == Source::AllSeen => 0..all.min(task + 1),
        Some(task) => task.min(all)..all.min(task + 1),
    }
}

fn indices(manifest: &Manifest, tasks: Range<usize>) -> impl Iterator<Item = u32> {
    let tasks = manifest.tasks.get(tasks).unwrap_or_default();
    tasks.iter().flat_map(|task| task.indices.iter().copied())
}

/// Indices by class, the classes in the order of their first appearance.
fn by_class(indices: impl Iterator<Item = u32>, labels: &[ClassId]) -> Vec<Vec<u32>> {
    let mut seen = SeenClasses::default();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for index in indices {
        let Some(label) = labels.get(index as usize) else {
            continue;
        };
        let group = seen.insert(*label);
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(index);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use everburn_core::{Key, View};
    use everburn_stream::ManifestTask;

    const SIZES: [usize; 5] = [7, 0, 12, 1, 6];

    fn world() -> (Manifest, Vec<ClassId>) {
        let mut next = 0..;
        let mut task = |size: usize| ManifestTask {
            classes: Vec::new(),
            indices: next.by_ref().take(size).collect(),
        };
        let manifest = Manifest {
            tasks: SIZES.into_iter().map(&mut task).collect(),
            ..Manifest::default()
        };
        let labels = (0..26).map(|i| ClassId(i * i % 5)).collect();
        (manifest, labels)
    }

    /// The batches by the letter of the rules, all of them made at once.
    fn expanded(
        manifest: &Manifest,
        labels: &[ClassId],
        task: Option<TaskId>,
        stage: &Stage,
        order: &[usize],
    ) -> Vec<Vec<u32>> {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let chosen = manifest.tasks().filter(|(other, _)| match task {
            None => true,
            Some(task) if stage.source == Source::AllSeen => *other <= task,
            Some(task) => *other == task,
        });
        let lists: Vec<Vec<u32>> = chosen.map(|(_, task)| task.indices.clone()).collect();
        let whole = stage.source == Source::Stream && task.is_none();
        match stage.order {
            _ if whole => groups = lists,
            Order::Stream => groups.push(lists.concat()),
            Order::Shuffled => {
                let all = lists.concat();
                groups.push(order.iter().map(|at| all[*at]).collect());
            }
            Order::ByClass => {
                for index in lists.concat() {
                    let of = |i: u32| labels[i as usize];
                    match groups.iter_mut().find(|group| of(group[0]) == of(index)) {
                        Some(group) => group.push(index),
                        None => groups.push(vec![index]),
                    }
                }
            }
        }
        let keep = |batch: &&[u32]| whole || !stage.drop_last || batch.len() == stage.batch;
        let batches = groups.iter().flat_map(|group| group.chunks(stage.batch));
        batches.filter(keep).map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn batches_and_amounts_are_those_of_the_expanded_epoch() {
        let (manifest, labels) = world();
        let positions = Positions::new(&manifest);
        let mut cases = 0;
        let tasks = (0..5).map(|task| Some(TaskId(task))).chain([None]);
        for task in tasks {
            for source in [Source::Stream, Source::Task, Source::AllSeen] {
                for order in [Order::Stream, Order::Shuffled, Order::ByClass] {
                    if source == Source::Stream && order != Order::Stream {
                        continue; // refused by the plan
                    }
                    for (batch, drop_last) in [(1, true), (4, false), (4, true), (100, true)] {
                        let stage = Stage {
                            name: "s".to_owned(),
                            source,
                            epochs: 1,
                            batch,
                            view: View::Raw,
                            order,
                            drop_last,
                        };
                        let shuffle = |n| Key::from_seed(1).permutation(n);
                        let epoch = Epoch::new(&manifest, &labels, task, &stage, shuffle);
                        let n = positions.samples(tasks_of(&manifest, task, &stage));
                        let order = shuffle(n);
                        let expected = expanded(&manifest, &labels, task, &stage, &order);
                        let found: Vec<_> = (0..epoch.steps()).map(|s| epoch.batch(s)).collect();
                        assert_eq!(found, expected, "{task:?} {stage:?}");
                        assert!(epoch.batch(epoch.steps()).is_empty());
                        let amount = Amount::of(&manifest, &positions, &labels, task, &stage);
                        let samples = expected.iter().map(Vec::len).sum();
                        let steps = expected.len();
                        assert_eq!(amount, Amount { steps, samples }, "{task:?} {stage:?}");
                        cases += 1;
                    }
                }
            }
        }
        assert_eq!(cases, 6 * 7 * 4);
    }

    #[test]
    fn a_stream_in_its_own_order_is_not_copied() {
        let (manifest, labels) = world();
        for task in [None, Some(TaskId(2))] {
            let stage = Stage {
                name: "s".to_owned(),
                source: Source::Stream,
                epochs: 1,
                batch: 2,
                view: View::Raw,
                order: Order::Stream,
                drop_last: false,
            };
            let epoch = Epoch::new(&manifest, &labels, task, &stage, |n| (0..n).collect());
            let borrowed = |run: &Run<'_>| matches!(run.indices, Cow::Borrowed(_));
            assert!(!epoch.runs.is_empty() && epoch.runs.iter().all(borrowed));
        }
    }

    #[test]
    fn what_a_learner_makes_itself_has_steps_and_no_samples() {
        let (manifest, labels) = world();
        let stage = Stage {
            name: "s".to_owned(),
            source: Source::Synthetic { steps: 3 },
            epochs: 1,
            batch: 2,
            view: View::Raw,
            order: Order::Stream,
            drop_last: false,
        };
        let epoch = Epoch::new(&manifest, &labels, None, &stage, |n| (0..n).collect());
        assert_eq!((epoch.steps(), epoch.batch(0).len()), (3, 0));
        let positions = Positions::new(&manifest);
        let (steps, samples) = (3, 0);
        let amount = Amount::of(&manifest, &positions, &labels, None, &stage);
        assert_eq!(amount, Amount { steps, samples });
    }
}
