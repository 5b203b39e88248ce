mod file;
mod validate;

use std::collections::BTreeMap;
use std::ops::Range;

use everburn_core::{ClassId, Error, Result, SeenClasses, TaskId, TaskInfo};

use crate::fnv1a64;

pub use file::FORMAT_VERSION;

/// A stream: what a scenario compiles to, and all that a runner needs beside the data set.
///
/// A sample is an index into the data set. A stream is the samples of its tasks, task after task,
/// each task's in the order of [`ManifestTask::indices`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The scenario as in tables, such as `split-5` or `si-blurry+borders`. Passed to
    /// [`scenario`](crate::scenario) it gives the scenario again, unless its class order was given
    /// as a list.
    pub scenario: String,
    /// All settings of the scenario, defaults included, as text.
    pub settings: BTreeMap<String, String>,
    /// The seed of everything that was drawn.
    pub seed: u64,
    /// How many samples the data set has.
    pub num_samples: usize,
    /// How many classes the data set has; labels are `0..num_classes`.
    pub num_classes: usize,
    /// All classes in the order in which the scenario took them; empty where it has no such order.
    pub class_order: Vec<ClassId>,
    /// Whether each sample may be seen only once.
    pub online: bool,
    /// Whether a learner is told where a task begins and ends.
    pub borders: bool,
    /// The tasks in the order of the stream. A task may be empty.
    pub tasks: Vec<ManifestTask>,
}

/// A task of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestTask {
    /// The classes of which it has samples, in the order of the stream's class order.
    pub classes: Vec<ClassId>,
    /// Its samples, as indices into the data set, in the order of the stream.
    pub indices: Vec<u32>,
}

impl Manifest {
    /// How many samples the stream has; no more than the data set.
    pub fn len(&self) -> usize {
        self.tasks.iter().map(|task| task.indices.len()).sum()
    }

    /// Whether the stream has no sample.
    pub fn is_empty(&self) -> bool {
        self.tasks.iter().all(|task| task.indices.is_empty())
    }

    /// The tasks with their numbers.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &ManifestTask)> {
        (0..).map(TaskId).zip(&self.tasks)
    }

    /// The task of a number, if there is one.
    pub fn task(&self, task: TaskId) -> Option<&ManifestTask> {
        self.tasks.get(usize::try_from(task.0).ok()?)
    }

    /// What a learner is told of a task at its border, if there is such a task.
    pub fn task_info(&self, task: TaskId) -> Option<TaskInfo> {
        self.task_infos().nth(task.0 as usize)
    }

    /// What a learner is told of each task, in order.
    pub fn task_infos(&self) -> impl Iterator<Item = TaskInfo> {
        let mut seen = SeenClasses::default();
        self.tasks().map(move |(task, found)| {
            for class in &found.classes {
                seen.insert(*class);
            }
            TaskInfo {
                task,
                classes: found.classes.clone(),
                seen: seen.len(),
                samples: found.indices.len(),
                single_pass: self.online,
            }
        })
    }

    /// The position in the stream at which each task begins.
    pub fn starts(&self) -> Vec<usize> {
        let mut position = 0;
        let start = |task: &ManifestTask| {
            let start = position;
            position += task.indices.len();
            start
        };
        self.tasks.iter().map(start).collect()
    }

    /// All samples, as indices into the data set, in the order of the stream.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.tasks
            .iter()
            .flat_map(|task| task.indices.iter().copied())
    }

    /// The stream cut into batches: the task, and the range within that task's
    /// [`indices`](ManifestTask::indices).
    ///
    /// No batch holds samples of two tasks, so the last batch of a task may be smaller; none is
    /// empty. This is how the official Si-Blurry trainer cuts. A batch of 0 is taken as 1.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = (TaskId, Range<usize>)> {
        let batch = batch.max(1);
        self.tasks().flat_map(move |(id, task)| {
            let samples = task.indices.len();
            (0..samples)
                .step_by(batch)
                .map(move |start| (id, start..samples.min(start.saturating_add(batch))))
        })
    }

    /// The classes in the order of their first appearance, which is the order of a learner's
    /// output columns. `labels` are the labels of the data set.
    ///
    /// # Errors
    /// If a sample has no label.
    pub fn exposure(&self, labels: &[ClassId]) -> Result<Vec<ClassId>> {
        let mut seen = SeenClasses::default();
        let mut last = None;
        for index in self.indices() {
            let class = *labels.get(index as usize).ok_or_else(|| {
                let expected = format!("below the {} labels", labels.len());
                Error::input("index in the manifest", index, expected)
            })?;
            // Streams sorted by class are common, and the look-up is the cost of this loop.
            if last != Some(class) {
                seen.insert(class);
                last = Some(class);
            }
        }
        Ok(seen.into())
    }

    /// The identity of the stream: BLAKE3 over everything in the manifest, as 64 hexadecimal digits.
    ///
    /// The encoding is the same on every platform: numbers as 8 little-endian bytes, except classes
    /// and indices, which take 4; truth values as one byte; text and lists preceded by their length;
    /// the fields in the order of their declaration, after the text `everburn manifest 1`.
    pub fn hash(&self) -> String {
        let mut hasher = Canonical::default();
        hasher.text("everburn manifest 1");
        hasher.text(&self.scenario);
        hasher.number(self.settings.len() as u64);
        for (key, value) in &self.settings {
            hasher.text(key);
            hasher.text(value);
        }
        hasher.number(self.seed);
        hasher.number(self.num_samples as u64);
        hasher.number(self.num_classes as u64);
        hasher.words(self.class_order.iter().map(|class| class.0));
        hasher.bytes(&[u8::from(self.online), u8::from(self.borders)]);
        hasher.number(self.tasks.len() as u64);
        for task in &self.tasks {
            hasher.words(task.classes.iter().map(|class| class.0));
            hasher.words(task.indices.iter().copied());
        }
        hasher.0.finalize().to_hex().to_string()
    }

    /// The hash by which published Si-Blurry streams are compared, as 16 hexadecimal digits:
    /// [`fnv1a64`] over every index, with `0xFFFFFFFF` after each task.
    pub fn official_hash(&self) -> String {
        let words = self.tasks.iter().flat_map(|task| {
            let indices = task.indices.iter().copied();
            indices.chain(std::iter::once(u32::MAX))
        });
        format!("{:016x}", fnv1a64(words))
    }
}

/// Feeds a hasher in the manifest's canonical encoding.
#[derive(Default)]
struct Canonical(blake3::Hasher);

impl Canonical {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    fn words(&mut self, words: impl ExactSizeIterator<Item = u32>) {
        self.number(words.len() as u64);
        // Word by word the hasher would be slow: hand it blocks.
        let mut block = Vec::with_capacity(BLOCK);
        for word in words {
            block.extend_from_slice(&word.to_le_bytes());
            if block.len() >= BLOCK {
                self.bytes(&block);
                block.clear();
            }
        }
        self.bytes(&block);
    }
}

const BLOCK: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            scenario: "split-2".to_owned(),
            num_samples: 5,
            num_classes: 2,
            borders: true,
            tasks: vec![
                ManifestTask {
                    classes: vec![ClassId(1)],
                    indices: vec![0, 2, 4],
                },
                ManifestTask::default(),
                ManifestTask {
                    classes: vec![ClassId(0)],
                    indices: vec![1, 3],
                },
            ],
            ..Manifest::default()
        }
    }

    #[test]
    fn batches_stop_at_the_end_of_a_task() {
        let batches: Vec<_> = sample().batches(2).collect();
        let expected = [(TaskId(0), 0..2), (TaskId(0), 2..3), (TaskId(2), 0..2)];
        assert_eq!(batches, expected);
        assert_eq!(sample().batches(0).count(), 5);
        assert_eq!(sample().batches(usize::MAX).count(), 2);
    }

    #[test]
    fn tasks_start_where_the_one_before_ends() {
        assert_eq!(sample().starts(), [0, 3, 3]);
        assert_eq!(sample().indices().collect::<Vec<_>>(), [0, 2, 4, 1, 3]);
        let info = sample().task_info(TaskId(2)).unwrap();
        assert_eq!((info.samples, info.classes), (2, vec![ClassId(0)]));
        let seen: Vec<usize> = sample().task_infos().map(|info| info.seen).collect();
        assert_eq!(seen, [1, 1, 2]);
        assert_eq!(sample().task_info(TaskId(3)), None);
    }

    #[test]
    fn exposure_follows_first_appearance() {
        let labels = [1, 0, 1, 0, 1].map(ClassId);
        assert_eq!(
            sample().exposure(&labels).unwrap(),
            [ClassId(1), ClassId(0)]
        );
        let error = sample().exposure(&labels[..4]).unwrap_err().to_string();
        assert!(error.contains("found 4"), "{error}");
    }

    #[test]
    fn the_hash_is_pinned() {
        // Changing this changes the identity of every stream: do so only on purpose, and with a new
        // format version.
        let expected = "115d38f22266b74fa363404486abf09f4deed52bf50350725d1467ca5a6860aa";
        assert_eq!(sample().hash(), expected);
    }
}
