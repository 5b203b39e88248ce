use everburn_core::TaskId;

use super::mean;
use crate::{Evaluation, History};

/// min-ACC, `(1/(T-1)) Σ_{j<T} min_n A(j, n)`: for each old task the smallest accuracy of all
/// evaluations n after its end, through the last one; the mean over old tasks.
///
/// De Lange, van de Ven and Tuytelaars (ICLR 2023), "Continual evaluation for lifelong learning:
/// identifying the stability gap". The paper evaluates after every update; with fewer evaluations
/// the minimum can only be larger, so the period is part of the metric's key. `None` unless every
/// task after the first was evaluated strictly inside: ends of tasks alone see no gap.
pub fn worst_old_accuracy(history: &History) -> Option<f64> {
    let ends = ends_of_disjoint_tasks(history)?;
    let (&last, old) = ends.split_last()?;
    if !ends.windows(2).all(|ends| evaluated_inside(history, ends)) {
        return None;
    }
    let tasks = old.iter().zip(&history.task_classes);
    mean(tasks.map(|(&end, classes)| {
        let later = history.evaluations.get(end + 1..=last)?;
        let accuracies = later.iter().map(|e| e.accuracy_over_all(classes));
        let accuracies: Vec<f64> = accuracies.collect::<Option<_>>()?;
        accuracies.into_iter().reduce(f64::min)
    }))
}

/// WC-ACC, worst-case accuracy: `(1/T) R[T][T] + (1 - 1/T) min-ACC` with min-ACC of
/// [`worst_old_accuracy`].
///
/// De Lange, van de Ven and Tuytelaars (ICLR 2023).
pub fn worst_case_accuracy(history: &History) -> Option<f64> {
    let old = worst_old_accuracy(history)?;
    let newest = history
        .last()?
        .accuracy_over_all(history.task_classes.last()?)?;
    let share = 1.0 / history.task_classes.len() as f64;
    Some(share * newest + (1.0 - share) * old)
}

/// Where in the history each task ends.
fn ends_of_disjoint_tasks(history: &History) -> Option<Vec<usize>> {
    let end = |task| {
        let ends = |e: &Evaluation| e.task_end == Some(TaskId(task));
        history.evaluations.iter().position(ends)
    };
    let tasks = u32::try_from(history.task_classes.len()).ok()?;
    if !history.disjoint {
        return None;
    }
    (0..tasks).map(end).collect()
}

/// Whether anything was evaluated after one end of a task and before the next, by samples: an
/// evaluation at the end itself shows what the end shows.
fn evaluated_inside(history: &History, ends: &[usize]) -> bool {
    let seen = |end: usize| Some(history.evaluations.get(end)?.samples_seen);
    let bounds = ends
        .iter()
        .map(|end| seen(*end))
        .collect::<Option<Vec<_>>>();
    let Some([from, to]) = bounds.as_deref() else {
        return false;
    };
    let mut evaluations = history.evaluations.iter();
    evaluations.any(|e| *from < e.samples_seen && e.samples_seen < *to)
}
