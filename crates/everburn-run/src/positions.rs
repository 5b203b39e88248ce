use std::ops::Range;

use everburn_core::TaskId;
use everburn_stream::Manifest;

/// Where the tasks of a stream begin and end, added up once, so that what asks at every step finds
/// its answer in logarithmic time.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    /// The first position of each task, and the end of the stream.
    cuts: Vec<usize>,
}

impl Positions {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let mut cuts = manifest.starts();
        cuts.push(manifest.len());
        Self { cuts }
    }

    fn tasks(&self) -> usize {
        self.cuts.len() - 1
    }

    /// How many samples a range of tasks has.
    pub(crate) fn samples(&self, tasks: Range<usize>) -> usize {
        let cut = |task: usize| self.cuts.get(task).copied().unwrap_or_default();
        cut(tasks.end.min(self.tasks())).saturating_sub(cut(tasks.start))
    }

    /// The task that the sample after the first `passed` ones belongs to; the last task after the end.
    pub(crate) fn task_at(&self, passed: u64) -> TaskId {
        let starts = self.cuts.get(..self.tasks()).unwrap_or_default();
        let begun = starts.partition_point(|start| *start as u64 <= passed);
        TaskId(begun.saturating_sub(1) as u32)
    }

    /// The task whose last sample is the last of the first `passed` ones. A task without samples has
    /// no end of its own.
    pub(crate) fn ended_at(&self, passed: u64) -> Option<TaskId> {
        let ends = self.cuts.get(1..).unwrap_or_default();
        // Among tasks with one end the first has the samples.
        let task = ends.partition_point(|end| (*end as u64) < passed);
        let ends_here = passed > 0 && ends.get(task).is_some_and(|end| *end as u64 == passed);
        ends_here.then_some(TaskId(task as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everburn_stream::ManifestTask;

    /// A stream with tasks of so many samples.
    fn manifest(sizes: &[usize]) -> Manifest {
        let task = |size: &usize| ManifestTask {
            classes: Vec::new(),
            indices: vec![0; *size],
        };
        Manifest {
            tasks: sizes.iter().map(task).collect(),
            ..Manifest::default()
        }
    }

    #[test]
    fn the_answers_are_those_of_a_search_through_all_tasks() {
        let streams: [&[usize]; 6] = [
            &[3, 0, 2, 4],
            &[0, 0, 5, 0],
            &[1],
            &[0],
            &[],
            &[2, 2, 0, 0, 1],
        ];
        for sizes in streams {
            let manifest = manifest(sizes);
            let (positions, starts) = (Positions::new(&manifest), manifest.starts());
            for passed in 0..=manifest.len() {
                let begun = starts.iter().filter(|start| **start <= passed).count();
                let at = TaskId(begun.saturating_sub(1) as u32);
                assert_eq!(positions.task_at(passed as u64), at, "{sizes:?} {passed}");
                let ended = (0..sizes.len())
                    .find(|task| sizes[*task] > 0 && starts[*task] + sizes[*task] == passed);
                let ended = ended.map(|task| TaskId(task as u32));
                assert_eq!(
                    positions.ended_at(passed as u64),
                    ended,
                    "{sizes:?} {passed}"
                );
            }
            for start in 0..=sizes.len() {
                for end in start..=sizes.len() {
                    let samples: usize = sizes[start..end].iter().sum();
                    assert_eq!(positions.samples(start..end), samples);
                }
            }
        }
    }
}
