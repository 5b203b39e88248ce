use std::collections::BTreeMap;

use everburn_core::{ClassId, Error, Result, TaskId};
use serde::{Deserialize, Serialize};

/// When an evaluation was made, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Training samples of the stream seen so far.
    pub samples_seen: u64,
    /// The task that has just ended, if one has.
    pub task_end: Option<TaskId>,
    /// Whether the evaluation belongs to the regular ones that anytime accuracy averages.
    pub periodic: bool,
}

/// Right answers among the test images of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// The class.
    pub class: ClassId,
    /// Test images of the class for which it was predicted.
    pub correct: u32,
    /// Test images of the class.
    pub total: u32,
}

impl ClassCount {
    /// The share of right answers among the class's test images; `None` without any.
    pub fn accuracy(&self) -> Option<f64> {
        pooled([self])
    }
}

/// What a learner got right at one moment of the stream, class by class.
///
/// Only exposed classes are counted: those of which the learner can have seen a sample. All
/// metrics of all streams and learners follow from these counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Training samples of the stream seen so far.
    pub samples_seen: u64,
    /// The task that has just ended, if one has.
    #[serde(default)]
    pub task_end: Option<TaskId>,
    /// Whether the evaluation belongs to the regular ones that anytime accuracy averages.
    #[serde(default)]
    pub periodic: bool,
    /// The exposed classes, ascending.
    pub classes: Vec<ClassCount>,
}

impl Evaluation {
    /// Counts the right answers among test images of `exposed` classes.
    ///
    /// `labels[i]` is the true and `predicted[i]` the predicted class of test image `i`. Images of
    /// other classes are left out; a prediction that is not an exposed class is simply wrong. An
    /// exposed class without test images is listed with a total of 0. The order and repetitions of
    /// `exposed` do not matter.
    ///
    /// # Errors
    /// If there are not as many predictions as labels.
    pub fn from_predictions(
        moment: Moment,
        exposed: &[ClassId],
        labels: &[ClassId],
        predicted: &[ClassId],
    ) -> Result<Self> {
        if labels.len() != predicted.len() {
            return Err(Error::input(
                "predicted classes of an evaluation",
                predicted.len(),
                format!("{}, one for each label", labels.len()),
            ));
        }
        let empty = |&class| (class, (0_u32, 0_u32));
        let mut counts: BTreeMap<ClassId, (u32, u32)> = exposed.iter().map(empty).collect();
        for (label, prediction) in labels.iter().zip(predicted) {
            if let Some((correct, total)) = counts.get_mut(label) {
                *correct = correct.saturating_add(u32::from(label == prediction));
                *total = total.saturating_add(1);
            }
        }
        let count = |(class, (correct, total))| ClassCount {
            class,
            correct,
            total,
        };
        Ok(Self {
            samples_seen: moment.samples_seen,
            task_end: moment.task_end,
            periodic: moment.periodic,
            classes: counts.into_iter().map(count).collect(),
        })
    }

    /// When and why it was made.
    pub fn moment(&self) -> Moment {
        Moment {
            samples_seen: self.samples_seen,
            task_end: self.task_end,
            periodic: self.periodic,
        }
    }

    /// The share of right answers, pooled over the exposed classes (each test image counts the
    /// same); `None` without test images.
    pub fn accuracy(&self) -> Option<f64> {
        pooled(&self.classes)
    }

    /// The share of right answers, pooled over those of `classes` that are exposed; `None` without
    /// test images.
    pub fn accuracy_over(&self, classes: &[ClassId]) -> Option<f64> {
        let wanted = |count: &&ClassCount| classes.contains(&count.class);
        pooled(self.classes.iter().filter(wanted))
    }

    /// [`accuracy_over`](Self::accuracy_over) if all of `classes` are exposed, `None` otherwise.
    pub fn accuracy_over_all(&self, classes: &[ClassId]) -> Option<f64> {
        let exposed = classes.iter().all(|class| self.class(*class).is_some());
        exposed.then(|| self.accuracy_over(classes)).flatten()
    }

    /// The count of one class; `None` if it is not exposed.
    pub fn class(&self, class: ClassId) -> Option<&ClassCount> {
        self.classes.iter().find(|count| count.class == class)
    }

    /// Checks that the classes ascend and that no class has more right answers than images.
    pub(crate) fn check(&self, field: &str) -> Result<()> {
        for count in &self.classes {
            if count.correct > count.total {
                return Err(Error::input(
                    format!("{field}.classes, {}: correct", count.class),
                    count.correct,
                    format!("at most the total of {}", count.total),
                ));
            }
        }
        for (before, after) in self.classes.iter().zip(self.classes.iter().skip(1)) {
            if before.class >= after.class {
                return Err(Error::input(
                    format!("{field}.classes"),
                    format!("{} before {}", before.class, after.class),
                    "classes in ascending order, each once",
                ));
            }
        }
        Ok(())
    }
}

/// Right answers over test images, summed over classes first.
fn pooled<'a>(counts: impl IntoIterator<Item = &'a ClassCount>) -> Option<f64> {
    let (mut correct, mut total) = (0_u64, 0_u64);
    for count in counts {
        correct += u64::from(count.correct);
        total += u64::from(count.total);
    }
    (total > 0).then(|| correct as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(classes: &[u32]) -> Vec<ClassId> {
        classes.iter().copied().map(ClassId).collect()
    }

    #[test]
    fn only_exposed_classes_count() {
        let evaluation = Evaluation::from_predictions(
            Moment::default(),
            &ids(&[4, 1, 1, 7]),
            &ids(&[1, 1, 4, 9, 9]),
            &ids(&[1, 9, 4, 9, 9]),
        )
        .unwrap();
        let classes: Vec<_> = evaluation.classes.iter().map(|c| c.class.0).collect();
        assert_eq!(classes, [1, 4, 7]);
        assert_eq!(evaluation.accuracy(), Some(2.0 / 3.0));
        assert_eq!(evaluation.accuracy_over(&ids(&[1, 9])), Some(0.5));
        assert_eq!(evaluation.accuracy_over(&ids(&[7])), None);
        assert_eq!(evaluation.class(ClassId(9)), None);
    }

    #[test]
    fn lengths_must_agree_and_nothing_is_nothing() {
        let wrong = Evaluation::from_predictions(Moment::default(), &[], &ids(&[1]), &[]);
        assert!(wrong.unwrap_err().to_string().contains("found 0"));
        let empty = Evaluation::from_predictions(Moment::default(), &[], &[], &[]).unwrap();
        assert_eq!(empty.accuracy(), None);
    }
}
