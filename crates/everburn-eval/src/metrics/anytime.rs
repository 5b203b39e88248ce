use std::collections::BTreeMap;

use everburn_core::ClassId;

use super::{largest, mean};
use crate::{Evaluation, History};

/// What Si-Blurry's trainer adds to a class's number of test images before it divides.
pub const CLASS_EPSILON: f64 = 1e-5;

/// `(1/m) Σ_k a_k`; `None` without values or if one is not a number.
pub fn mean_of_accuracies(accuracies: &[f64]) -> Option<f64> {
    mean(accuracies.iter().map(|a| a.is_finite().then_some(*a)))
}

/// Anytime accuracy A_AUC: the mean of the accuracies over exposed classes at regular sample
/// counts (Koh et al. 2022, i-Blurry; Moon et al. 2023, Si-Blurry).
///
/// The number depends on the period, which is therefore part of the metric's key and label.
pub fn anytime_accuracy(history: &History) -> Option<f64> {
    mean(history.periodic().map(Evaluation::accuracy))
}

/// Si-Blurry's A_avg: the mean over tasks of the accuracy over exposed classes at the task's end.
///
/// On disjoint tasks this is the sample-weighted average incremental accuracy.
pub fn task_end_accuracy(history: &History) -> Option<f64> {
    mean(history.task_ends()?.into_iter().map(Evaluation::accuracy))
}

/// Prequential accuracy, `(1/N) Σ_i 1[ŷ_i = y_i]`: each of the N samples of the stream is predicted
/// before it is learned (Gama, Sebastião and Rodrigues 2013).
pub fn prequential_accuracy(history: &History) -> Option<f64> {
    history.prequential.as_ref()?.accuracy()
}

/// a_c of each exposed class as Si-Blurry computes it: right answers over (test images + 1e-5).
pub fn class_accuracies(evaluation: &Evaluation) -> BTreeMap<ClassId, f64> {
    let accuracy = |correct, total| f64::from(correct) / (f64::from(total) + CLASS_EPSILON);
    let counts = evaluation.classes.iter();
    counts
        .map(|count| (count.class, accuracy(count.correct, count.total)))
        .collect()
}

/// Si-Blurry's F_last from the class accuracies `a[t]` at the end of each task: over the classes
/// with `max_{t<T} a[t][c] > 0`, the mean of `max_{t<T} a[t][c] - a[T][c]`. A class that is not
/// listed counts as 0. May be negative.
pub fn forgetting_of_classes(task_ends: &[BTreeMap<ClassId, f64>]) -> Option<f64> {
    let (last, earlier) = task_ends.split_last()?;
    let mut best = BTreeMap::new();
    for (class, accuracy) in earlier.iter().flatten() {
        if !accuracy.is_finite() {
            return None;
        }
        let entry = best.entry(*class).or_insert(*accuracy);
        *entry = largest([*entry, *accuracy])?;
    }
    best.retain(|_, accuracy| *accuracy > 0.0);
    mean(best.iter().map(|(class, best)| {
        let now = last.get(class).copied().unwrap_or(0.0);
        now.is_finite().then_some(best - now)
    }))
}

/// Si-Blurry's F_last, class-wise forgetting: [`forgetting_of_classes`] of the ends of all tasks.
pub fn forgetting_class_wise(history: &History) -> Option<f64> {
    let ends = history.task_ends()?;
    let accuracies: Vec<_> = ends.into_iter().map(class_accuracies).collect();
    forgetting_of_classes(&accuracies)
}
