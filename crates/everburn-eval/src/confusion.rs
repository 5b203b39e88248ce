use std::collections::{BTreeMap, BTreeSet};

use everburn_core::{ClassId, Error, Result};
use serde::{Deserialize, Serialize};

/// So many test images of one class were taken for another (or for their own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// The true class.
    pub label: ClassId,
    /// The predicted class.
    pub predicted: ClassId,
    /// How many images.
    pub count: u64,
}

/// What each class's test images were taken for. Only what occurred is kept, so it stays small
/// however many classes there are.
///
/// Labels are exposed classes, as in [`Evaluation`](crate::Evaluation); predictions may be any
/// class.
///
/// ```
/// use everburn_core::ClassId;
/// use everburn_eval::ConfusionMatrix;
/// let [cat, dog] = [ClassId(0), ClassId(1)];
/// let matrix = ConfusionMatrix::from_predictions(&[cat, dog], &[cat, cat, dog], &[cat, dog, dog])?;
/// assert_eq!(matrix.count(cat, dog), 1);
/// assert_eq!(matrix.recalls()[&cat], 0.5);
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Confusion>", into = "Vec<Confusion>")]
pub struct ConfusionMatrix {
    counts: BTreeMap<Pair, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    label: ClassId,
    predicted: ClassId,
}

/// A confusion matrix summed up over the classes of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskConfusion {
    /// How many images of task `i` were taken for a class of task `j`; `[tasks, tasks]`.
    pub counts: Vec<Vec<u64>>,
    /// Images whose true or predicted class belongs to no task.
    pub outside: u64,
}

impl From<Vec<Confusion>> for ConfusionMatrix {
    fn from(entries: Vec<Confusion>) -> Self {
        let mut matrix = Self::default();
        for entry in entries {
            matrix.add(entry.label, entry.predicted, entry.count);
        }
        matrix
    }
}

impl From<ConfusionMatrix> for Vec<Confusion> {
    fn from(matrix: ConfusionMatrix) -> Self {
        matrix.entries().collect()
    }
}

impl ConfusionMatrix {
    /// Counts what the test images of `exposed` classes were taken for. `labels[i]` is the true and
    /// `predicted[i]` the predicted class of test image `i`; images of other classes are left out.
    ///
    /// # Errors
    /// If there are not as many predictions as labels.
    pub fn from_predictions(
        exposed: &[ClassId],
        labels: &[ClassId],
        predicted: &[ClassId],
    ) -> Result<Self> {
        if labels.len() != predicted.len() {
            return Err(Error::input(
                "predicted classes of a confusion matrix",
                predicted.len(),
                format!("{}, one for each label", labels.len()),
            ));
        }
        let exposed: BTreeSet<_> = exposed.iter().collect();
        let mut matrix = Self::default();
        for (label, predicted) in labels.iter().zip(predicted) {
            if exposed.contains(label) {
                matrix.add(*label, *predicted, 1);
            }
        }
        Ok(matrix)
    }

    fn add(&mut self, label: ClassId, predicted: ClassId, count: u64) {
        if count > 0 {
            let sum = self.counts.entry(Pair { label, predicted }).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Adds the counts of another matrix, of other images.
    pub fn merge(&mut self, other: &Self) {
        for entry in other.entries() {
            self.add(entry.label, entry.predicted, entry.count);
        }
    }

    /// What occurred, by label and then by prediction.
    pub fn entries(&self) -> impl Iterator<Item = Confusion> {
        self.counts.iter().map(|(pair, &count)| Confusion {
            label: pair.label,
            predicted: pair.predicted,
            count,
        })
    }

    /// How many images of one class were taken for another.
    pub fn count(&self, label: ClassId, predicted: ClassId) -> u64 {
        let count = self.counts.get(&Pair { label, predicted });
        count.copied().unwrap_or(0)
    }

    /// All images.
    pub fn total(&self) -> u64 {
        sum(self.entries())
    }

    /// Right answers over all images; `None` without images.
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.entries().filter(|e| e.label == e.predicted);
        let (correct, total) = (sum(right), self.total());
        (total > 0).then(|| correct as f64 / total as f64)
    }

    /// The recall of each class that has test images, which is the accuracy on that class.
    pub fn recalls(&self) -> BTreeMap<ClassId, f64> {
        self.shares(|entry| entry.label)
    }

    /// The precision of each class that was predicted: of the images taken for it, the share that
    /// are of it.
    pub fn precisions(&self) -> BTreeMap<ClassId, f64> {
        self.shares(|entry| entry.predicted)
    }

    /// Right answers over all images, in groups.
    fn shares(&self, group: fn(&Confusion) -> ClassId) -> BTreeMap<ClassId, f64> {
        let mut totals: BTreeMap<ClassId, u64> = BTreeMap::new();
        for entry in self.entries() {
            let total = totals.entry(group(&entry)).or_default();
            *total = total.saturating_add(entry.count);
        }
        let share = |(class, total)| (class, self.count(class, class) as f64 / total as f64);
        totals.into_iter().map(share).collect()
    }

    /// How many images of each task were taken for a class of each task.
    ///
    /// # Errors
    /// If a class belongs to two tasks.
    pub fn by_task(&self, task_classes: &[Vec<ClassId>]) -> Result<TaskConfusion> {
        let mut task_of = BTreeMap::new();
        for (task, class) in (task_classes.iter().enumerate())
            .flat_map(|(task, classes)| classes.iter().map(move |class| (task, *class)))
        {
            if task_of
                .insert(class, task)
                .is_some_and(|other| other != task)
            {
                return Err(Error::input(
                    "tasks of a confusion matrix",
                    format!("{class} in two tasks"),
                    "each class in one task",
                ));
            }
        }
        let mut sums = TaskConfusion {
            counts: vec![vec![0; task_classes.len()]; task_classes.len()],
            outside: 0,
        };
        for entry in self.entries() {
            let (row, column) = (task_of.get(&entry.label), task_of.get(&entry.predicted));
            let cell = match (row, column) {
                (Some(&row), Some(&column)) => {
                    let row = sums.counts.get_mut(row);
                    row.and_then(|row| row.get_mut(column))
                }
                _ => None,
            };
            let sum = cell.unwrap_or(&mut sums.outside);
            *sum = sum.saturating_add(entry.count);
        }
        Ok(sums)
    }

    /// What occurred, as CSV with the head `label,predicted,count`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn to_csv(&self) -> Result<String> {
        let head = ["label", "predicted", "count"].map(str::to_owned);
        let entries = self.entries();
        let lines = entries.map(|e| [e.label.0.into(), e.predicted.0.into(), e.count]);
        let lines = lines.map(|numbers| numbers.map(|number: u64| number.to_string()));
        crate::format::csv(std::iter::once(head).chain(lines))
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote; `file` is the name to put into errors.
    ///
    /// # Errors
    /// Names the file and the first line that is wrong.
    pub fn from_csv(file: &str, text: &str) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let entries = reader
            .deserialize()
            .collect::<csv::Result<Vec<Confusion>>>();
        let entries = entries.map_err(|error| Error::other(file, error))?;
        Ok(entries.into())
    }
}

/// Counts come from files, too: a sum too large for a number must not end the program.
fn sum(entries: impl Iterator<Item = Confusion>) -> u64 {
    entries.fold(0, |sum, entry| sum.saturating_add(entry.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(classes: &[u32]) -> Vec<ClassId> {
        classes.iter().copied().map(ClassId).collect()
    }

    fn matrix() -> ConfusionMatrix {
        let (labels, predicted) = (ids(&[0, 0, 1, 1, 1, 2]), ids(&[0, 1, 1, 1, 9, 2]));
        // Class 2 is not exposed, class 3 has no test images, 9 is no class at all.
        ConfusionMatrix::from_predictions(&ids(&[0, 1, 3]), &labels, &predicted).unwrap()
    }

    #[test]
    fn recall_and_precision_by_hand() {
        let matrix = matrix();
        assert_eq!(matrix.count(ClassId(1), ClassId(9)), 1);
        assert_eq!(matrix.count(ClassId(2), ClassId(2)), 0);
        assert_eq!((matrix.total(), matrix.accuracy()), (5, Some(0.6)));
        let [zero, one, nine] = [0, 1, 9].map(ClassId);
        assert_eq!(matrix.recalls(), [(zero, 0.5), (one, 2.0 / 3.0)].into());
        let precisions = [(zero, 1.0), (one, 2.0 / 3.0), (nine, 0.0)];
        assert_eq!(matrix.precisions(), precisions.into());
        assert_eq!(ConfusionMatrix::default().accuracy(), None);
    }

    #[test]
    fn tasks_sum_up_and_shared_classes_are_refused() {
        let tasks = [ids(&[0]), ids(&[1, 3])];
        let sums = matrix().by_task(&tasks).unwrap();
        assert_eq!(sums.counts, [[1, 1], [0, 2]]);
        assert_eq!(sums.outside, 1);
        let error = matrix().by_task(&[ids(&[0]), ids(&[1, 0])]).unwrap_err();
        assert!(
            error.to_string().contains("class 0 in two tasks"),
            "{error}"
        );
    }

    #[test]
    fn files_come_back_and_wrong_lines_are_named() {
        let text = matrix().to_csv().unwrap();
        assert_eq!(text, "label,predicted,count\n0,0,1\n0,1,1\n1,1,2\n1,9,1\n");
        assert_eq!(ConfusionMatrix::from_csv("c.csv", &text).unwrap(), matrix());
        let json = serde_json::to_string(&matrix()).unwrap();
        assert!(json.starts_with(r#"[{"label":0,"predicted":0,"count":1},"#));
        assert_eq!(
            serde_json::from_str::<ConfusionMatrix>(&json).unwrap(),
            matrix()
        );
        let wrong = text.replace("0,1,1", "0,x,1");
        let error = ConfusionMatrix::from_csv("c.csv", &wrong)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("c.csv") && error.contains("line: 3"),
            "{error}"
        );
    }

    #[test]
    fn lengths_must_agree() {
        let error = ConfusionMatrix::from_predictions(&[], &ids(&[1]), &[]).unwrap_err();
        assert!(error.to_string().contains("found 0, expected 1"), "{error}");
    }
}
