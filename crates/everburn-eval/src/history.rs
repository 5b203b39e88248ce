use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use everburn_core::{ClassId, Error, Result, TaskId};
use serde::{Deserialize, Serialize};

use crate::{AccuracyMatrix, Evaluation, METRICS, Measured, Prequential};

/// How often a run was evaluated for anytime accuracy. Part of the metric's name, because the
/// number depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// Once for every so many samples of the stream (Si-Blurry: 1000).
    Samples(u64),
    /// So many times over the whole stream.
    Evaluations(u64),
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Samples(samples) => write!(f, "P={samples}"),
            Self::Evaluations(count) => write!(f, "{count} evals"),
        }
    }
}

/// All evaluations of one run, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The classes of which each task has samples, task by task; empty for a stream without tasks.
    pub task_classes: Vec<Vec<ClassId>>,
    /// Whether no class belongs to two tasks. Only then does an accuracy matrix exist.
    pub disjoint: bool,
    /// How often the periodic evaluations were made, as the stream's settings have it. Without it
    /// their number goes into the name of anytime accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// The evaluations.
    pub evaluations: Vec<Evaluation>,
    /// Answers on the training samples before they were learned, where somebody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prequential: Option<Prequential>,
}

impl History {
    /// Checks what the metrics rely on: evaluations in order, counts that make sense, known tasks,
    /// tasks that are disjoint if they are said to be, and prequential counts for each task.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut samples = 0;
        let mut next_task = 0;
        for (index, evaluation) in self.evaluations.iter().enumerate() {
            let field = format!("history.evaluations[{index}]");
            evaluation.check(&field)?;
            if evaluation.samples_seen < samples {
                return Err(Error::input(
                    format!("{field}.samples_seen"),
                    evaluation.samples_seen,
                    format!("at least the {samples} of the evaluation before"),
                ));
            }
            samples = evaluation.samples_seen;
            if let Some(task) = evaluation.task_end {
                let tasks = self.task_classes.len();
                if u64::from(task.0) < next_task || task.0 as usize >= tasks {
                    return Err(Error::input(
                        format!("{field}.task_end"),
                        task,
                        format!("a task from {next_task} on, of {tasks}, each ending once"),
                    ));
                }
                next_task = u64::from(task.0) + 1;
            }
        }
        if let Some(prequential) = &self.prequential {
            prequential.check(self.task_classes.len())?;
        }
        self.check_disjoint()
    }

    fn check_disjoint(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let classes = self.task_classes.iter().flatten();
        match classes.into_iter().find(|&&class| !seen.insert(class)) {
            Some(class) if self.disjoint => Err(Error::input(
                "history.task_classes",
                format!("{class} twice"),
                "each class once, because `disjoint` is true",
            )),
            _ => Ok(()),
        }
    }

    /// The evaluation at the end of a task.
    pub fn task_end(&self, task: TaskId) -> Option<&Evaluation> {
        let ends = |e: &&Evaluation| e.task_end == Some(task);
        self.evaluations.iter().find(ends)
    }

    /// The evaluations at the ends of all tasks that have samples (Si-Blurry draws tasks without), or
    /// `None` if one is missing or there is no task.
    pub fn task_ends(&self) -> Option<Vec<&Evaluation>> {
        let tasks = self.task_classes.iter().enumerate();
        let ends: Vec<&Evaluation> = tasks
            .filter(|(_, classes)| !classes.is_empty())
            .map(|(task, _)| self.task_end(TaskId(u32::try_from(task).ok()?)))
            .collect::<Option<_>>()?;
        (!ends.is_empty()).then_some(ends)
    }

    /// The evaluation after the whole stream: at the end of the last task, or the last one of all
    /// where the stream has no tasks.
    pub fn last(&self) -> Option<&Evaluation> {
        match self.task_classes.len().checked_sub(1) {
            Some(task) => self.task_end(TaskId(u32::try_from(task).ok()?)),
            None => self.evaluations.last(),
        }
    }

    /// The accuracy on each exposed class that has test images, after the whole stream; empty if
    /// nothing was tested then.
    pub fn class_accuracies_last(&self) -> BTreeMap<ClassId, f64> {
        let counts = self.last().into_iter().flat_map(|last| &last.classes);
        counts
            .filter_map(|count| Some((count.class, count.accuracy()?)))
            .collect()
    }

    /// The accuracy on the classes of each task after the whole stream; `None` where not all of
    /// them were tested then. A class of several tasks counts in each of them.
    pub fn task_accuracies_last(&self) -> Vec<Option<f64>> {
        let tasks = self.task_classes.iter();
        tasks
            .map(|classes| self.last()?.accuracy_over_all(classes))
            .collect()
    }

    /// The evaluations that anytime accuracy averages.
    pub fn periodic(&self) -> impl Iterator<Item = &Evaluation> {
        self.evaluations.iter().filter(|e| e.periodic)
    }

    /// How often the periodic evaluations were made, in the words that go into the name of anytime
    /// accuracy: `P=1000`, `50 evals`.
    pub fn period_name(&self) -> String {
        let counted = || Period::Evaluations(self.periodic().count() as u64);
        self.period.unwrap_or_else(counted).to_string()
    }

    /// The accuracy matrix; see [`AccuracyMatrix::from_history`].
    ///
    /// # Errors
    /// If the tasks are not disjoint, or the history is not in order.
    pub fn matrix(&self) -> Result<AccuracyMatrix> {
        AccuracyMatrix::from_history(self)
    }

    /// Every registered metric that this history defines, by its key (see [`crate::Metric::key`]).
    ///
    /// # Errors
    /// If the history is not in order; see [`check`](Self::check).
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let measured = Measured::of(self)?;
        let value = |metric: &crate::Metric| Some((metric.key(self), metric.compute(&measured)?));
        Ok(METRICS.iter().filter_map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClassCount;

    fn evaluation(samples_seen: u64, task_end: Option<u32>, correct: u32) -> Evaluation {
        Evaluation {
            samples_seen,
            task_end: task_end.map(TaskId),
            periodic: task_end.is_none(),
            classes: vec![ClassCount {
                class: ClassId(0),
                correct,
                total: 10,
            }],
        }
    }

    fn history(evaluations: Vec<Evaluation>) -> History {
        History {
            task_classes: vec![vec![ClassId(0)], vec![ClassId(1)]],
            disjoint: true,
            period: None,
            evaluations,
            prequential: None,
        }
    }

    #[test]
    fn what_is_out_of_order_is_named() {
        let found = |h: History| h.check().unwrap_err().to_string();
        let late = history(vec![evaluation(9, None, 1), evaluation(8, None, 1)]);
        assert!(found(late).contains("history.evaluations[1].samples_seen: found 8"));
        let wrong = history(vec![evaluation(9, None, 11)]);
        assert!(found(wrong).contains("class 0: correct: found 11"));
        let unknown = history(vec![evaluation(9, Some(2), 1)]);
        assert!(found(unknown).contains("task_end: found task 2"));
        let twice = history(vec![evaluation(9, Some(1), 1), evaluation(9, Some(1), 1)]);
        assert!(found(twice).contains("history.evaluations[1].task_end"));
        let mut shared = history(vec![]);
        shared.task_classes = vec![vec![ClassId(3)], vec![ClassId(3)]];
        assert!(found(shared.clone()).contains("class 3 twice"));
        shared.disjoint = false;
        assert!(shared.check().is_ok());
    }

    #[test]
    fn the_period_is_told_or_counted() {
        let mut told = history(vec![evaluation(1, None, 1), evaluation(2, None, 1)]);
        assert_eq!(told.period_name(), "2 evals");
        told.period = Some(Period::Samples(1000));
        assert_eq!(told.period_name(), "P=1000");
        let text = serde_json::to_string(&told.period).unwrap();
        assert_eq!(text, r#"{"samples":1000}"#);
    }

    #[test]
    fn the_end_of_the_stream_by_class_and_by_task() {
        let mut both = history(vec![evaluation(9, Some(1), 3)]);
        assert_eq!(both.class_accuracies_last(), [(ClassId(0), 0.3)].into());
        // Class 1 of task 1 was not tested.
        assert_eq!(both.task_accuracies_last(), [Some(0.3), None]);
        both.evaluations.clear();
        assert!(both.class_accuracies_last().is_empty());
        assert_eq!(both.task_accuracies_last(), [None, None]);
    }

    #[test]
    fn a_stream_without_tasks_ends_with_its_last_evaluation() {
        let mut free = history(vec![evaluation(1, None, 1), evaluation(2, None, 5)]);
        assert_eq!(free.last(), None);
        free.task_classes.clear();
        assert_eq!(free.last().and_then(Evaluation::accuracy), Some(0.5));
        assert_eq!(free.task_ends(), None);
    }
}
