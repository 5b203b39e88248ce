//! The formulas: pure functions from an [`AccuracyMatrix`](crate::AccuracyMatrix), a
//! [`History`](crate::History) or plain numbers to one number.
//!
//! Notation of the comments: T tasks, counted from 1; `R[i][j]` the accuracy on task j after task
//! i; `n_j` the test images of task j; `b_j` the accuracy of the untrained model. Every function
//! returns `None` where its formula is not defined (most need two tasks) or a value that it needs
//! was not measured.

mod accuracy;
mod anytime;
mod forgetting;
mod learning;
mod memory;
mod transfer;
mod worst_case;

pub use accuracy::{
    accuracies_sample_weighted, accuracies_task_mean, incremental_accuracy_sample_weighted,
    incremental_accuracy_task_mean, last_accuracy, last_accuracy_class_mean,
    last_accuracy_sample_weighted, last_accuracy_task_mean, lower_triangle_accuracy,
};
pub use anytime::{
    CLASS_EPSILON, anytime_accuracy, class_accuracies, forgetting_class_wise,
    forgetting_of_classes, mean_of_accuracies, prequential_accuracy, task_end_accuracy,
};
pub use forgetting::{
    forgetting_all_tasks, forgetting_initial, forgetting_libcontinual, forgetting_max_all,
    forgetting_max_before, forgetting_normalised, forgetting_one_step, forgetting_row_max,
};
pub use learning::{
    harmonic_mean, intransigence, plasticity, plasticity_stability_mean, stability,
    stability_of_forgetting,
};
pub use memory::{
    MemoryPoint, area_over_memory, auc_average, auc_last, equal_exemplars, model_mebibytes,
};
pub use transfer::{
    backward_transfer, backward_transfer_all_pairs, backward_transfer_libcontinual,
    backward_transfer_positive, forward_transfer, forward_transfer_no_baseline,
    forward_transfer_upper_triangle, remembering,
};
pub use worst_case::{worst_case_accuracy, worst_old_accuracy};

/// The mean of values that must all be there; `None` without values.
fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    for value in values {
        sum += value?;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// The largest of some values; `None` without values.
fn largest(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    values.into_iter().reduce(f64::max)
}

/// T(T-1)/2, the number of pairs of tasks.
fn pairs(tasks: usize) -> f64 {
    tasks as f64 * (tasks as f64 - 1.0) / 2.0
}
