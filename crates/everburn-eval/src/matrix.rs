use everburn_core::{ClassId, Error, Result, TaskId};
use serde::{Deserialize, Serialize};

use crate::{Evaluation, History};

/// Accuracies `R[i][j]` on the test images of task `j` after learning task `i`, as fractions.
///
/// `[tasks, tasks]`, `None` where not measured; beside it the number of test images of each task,
/// and, where somebody measured it, the accuracy `b[j]` of the untrained model on task `j`.
///
/// ```
/// use everburn_eval::{AccuracyMatrix, metrics};
/// // Rows may be ragged: what is not given has not been measured.
/// let rows = vec![vec![Some(0.9)], vec![Some(0.7), Some(0.8)]];
/// let matrix = AccuracyMatrix::new(rows, vec![100, 100])?;
/// assert_eq!(metrics::last_accuracy_task_mean(&matrix), Some(0.75));
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct AccuracyMatrix {
    rows: Vec<Vec<Option<f64>>>,
    test_sizes: Vec<u64>,
    baseline: Vec<Option<f64>>,
}

/// The matrix as it is written, before it is checked.
#[derive(Serialize, Deserialize)]
struct Raw {
    rows: Vec<Vec<Option<f64>>>,
    test_sizes: Vec<u64>,
    #[serde(default)]
    baseline: Vec<Option<f64>>,
}

impl TryFrom<Raw> for AccuracyMatrix {
    type Error = Error;

    fn try_from(raw: Raw) -> Result<Self> {
        Self::new(raw.rows, raw.test_sizes)?.with_baseline(raw.baseline)
    }
}

impl From<AccuracyMatrix> for Raw {
    fn from(matrix: AccuracyMatrix) -> Self {
        Self {
            rows: matrix.rows,
            test_sizes: matrix.test_sizes,
            baseline: matrix.baseline,
        }
    }
}

impl AccuracyMatrix {
    /// A matrix of as many tasks as there are test sizes. Rows may be shorter or fewer than that;
    /// what is missing has not been measured.
    ///
    /// # Errors
    /// If there are more rows or columns than tasks, a value is not a fraction from 0 to 1, or a
    /// task was measured without test images.
    pub fn new(mut rows: Vec<Vec<Option<f64>>>, test_sizes: Vec<u64>) -> Result<Self> {
        let tasks = test_sizes.len();
        if rows.len() > tasks {
            return Err(Error::input(
                "rows of an accuracy matrix",
                rows.len(),
                format!("at most {tasks}, the number of test sizes"),
            ));
        }
        rows.resize(tasks, Vec::new());
        for (i, row) in rows.iter_mut().enumerate() {
            if row.len() > tasks {
                return Err(Error::input(
                    format!("columns of row {i} of an accuracy matrix"),
                    row.len(),
                    format!("at most {tasks}, the number of test sizes"),
                ));
            }
            for (j, (value, size)) in row.iter().zip(&test_sizes).enumerate() {
                check_fraction(&format!("R[{i}][{j}]"), *value)?;
                if value.is_some() && *size == 0 {
                    return Err(Error::input(
                        format!("test_sizes[{j}]"),
                        0,
                        format!("at least 1, because R[{i}][{j}] was measured"),
                    ));
                }
            }
            row.resize(tasks, None);
        }
        Ok(Self {
            rows,
            baseline: vec![None; tasks],
            test_sizes,
        })
    }

    /// Adds the accuracies of the untrained model, one for each task; fewer are allowed.
    ///
    /// # Errors
    /// If there are more than tasks, or one is not a fraction from 0 to 1.
    pub fn with_baseline(mut self, mut baseline: Vec<Option<f64>>) -> Result<Self> {
        if baseline.len() > self.tasks() {
            return Err(Error::input(
                "baseline of an accuracy matrix",
                baseline.len(),
                format!("at most {}, the number of tasks", self.tasks()),
            ));
        }
        for (j, value) in baseline.iter().enumerate() {
            check_fraction(&format!("baseline[{j}]"), *value)?;
        }
        baseline.resize(self.tasks(), None);
        self.baseline = baseline;
        Ok(self)
    }

    /// The matrix of a history with disjoint tasks.
    ///
    /// Row `i` is the evaluation at the end of task `i`; `R[i][j]` pools the classes of task `j`
    /// and is `None` unless all of them were exposed. The baseline is an evaluation before the
    /// first sample that is neither periodic nor the end of a task.
    ///
    /// # Errors
    /// If the tasks are not disjoint, the history is not in order, or a task's number of test
    /// images changes.
    pub fn from_history(history: &History) -> Result<Self> {
        if !history.disjoint {
            return Err(Error::unsupported(
                "accuracy matrix",
                "the tasks of the stream share classes, so that no test image belongs to one task",
            ));
        }
        history.check()?;
        let tasks = &history.task_classes;
        let mut test_sizes = vec![0; tasks.len()];
        let mut rows = vec![Vec::new(); tasks.len()];
        let mut baseline = Vec::new();
        for evaluation in &history.evaluations {
            let row = match evaluation.task_end {
                Some(task) => rows.get_mut(task.0 as usize),
                None if evaluation.samples_seen == 0 && !evaluation.periodic => Some(&mut baseline),
                None => None,
            };
            let Some(row) = row else { continue };
            for (task, (classes, size)) in (0..).zip(tasks.iter().zip(&mut test_sizes)) {
                row.push(task_accuracy(evaluation, TaskId(task), classes, size)?);
            }
        }
        baseline.truncate(tasks.len());
        Self::new(rows, test_sizes)?.with_baseline(baseline)
    }

    /// How many tasks, T.
    pub fn tasks(&self) -> usize {
        self.test_sizes.len()
    }

    /// The accuracy on task `test` after task `after`; `None` where not measured.
    pub fn get(&self, after: TaskId, test: TaskId) -> Option<f64> {
        self.at(after.0 as usize, test.0 as usize)
    }

    /// The accuracy of the untrained model on a task; `None` where not measured.
    pub fn baseline(&self, task: TaskId) -> Option<f64> {
        self.untrained(task.0 as usize)
    }

    /// How many test images a task has; 0 where that is not known.
    pub fn test_size(&self, task: TaskId) -> u64 {
        self.size(task.0 as usize)
    }

    /// The rows, `[tasks, tasks]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[Option<f64>]> {
        self.rows.iter().map(Vec::as_slice)
    }

    /// The matrix as it stood after the first `tasks` tasks, so that every metric can be had for
    /// every stage; the whole matrix if there are not so many.
    pub fn until(&self, tasks: usize) -> Self {
        let tasks = tasks.min(self.tasks());
        let row = |row: &Vec<Option<f64>>| row.iter().take(tasks).copied().collect();
        Self {
            rows: self.rows.iter().take(tasks).map(row).collect(),
            test_sizes: self.test_sizes.iter().take(tasks).copied().collect(),
            baseline: self.baseline.iter().take(tasks).copied().collect(),
        }
    }

    pub(crate) fn at(&self, after: usize, test: usize) -> Option<f64> {
        *self.rows.get(after)?.get(test)?
    }

    pub(crate) fn untrained(&self, task: usize) -> Option<f64> {
        *self.baseline.get(task)?
    }

    pub(crate) fn size(&self, task: usize) -> u64 {
        self.test_sizes.get(task).copied().unwrap_or(0)
    }

    /// The measured accuracies on task `test` after each of the tasks `after`.
    pub(crate) fn column(
        &self,
        test: usize,
        after: impl IntoIterator<Item = usize>,
    ) -> impl Iterator<Item = f64> {
        after.into_iter().filter_map(move |i| self.at(i, test))
    }

    /// The tasks and the last of them, if there are two at least.
    pub(crate) fn last_of_several(&self) -> Option<usize> {
        self.tasks().checked_sub(1).filter(|&last| last > 0)
    }
}

/// The accuracy over the classes of a task if all are exposed; checks the number of test images.
fn task_accuracy(
    evaluation: &Evaluation,
    task: TaskId,
    classes: &[ClassId],
    size: &mut u64,
) -> Result<Option<f64>> {
    let counts: Option<Vec<_>> = classes.iter().map(|c| evaluation.class(*c)).collect();
    let Some(counts) = counts else {
        return Ok(None);
    };
    let total = counts.iter().map(|count| u64::from(count.total)).sum();
    if *size != 0 && total != *size {
        return Err(Error::input(
            format!(
                "test images of {task} after {} samples",
                evaluation.samples_seen
            ),
            total,
            format!("{size}, as in the evaluations before"),
        ));
    }
    *size = total;
    Ok(evaluation.accuracy_over(classes))
}

fn check_fraction(field: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if !(0.0..=1.0).contains(&value) => Err(Error::input(
            field,
            value,
            "an accuracy as a fraction from 0 to 1",
        )),
        _ => Ok(()),
    }
}
