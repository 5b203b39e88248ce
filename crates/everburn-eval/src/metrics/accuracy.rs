use super::mean;
use crate::{AccuracyMatrix, Evaluation, History};

/// A_i for every task i: the mean over tasks, `(1/i) Σ_{j≤i} R[i][j]`.
///
/// What L2P, DualPrompt, CODA-Prompt, Mammoth and online-continual-learning call accuracy.
pub fn accuracies_task_mean(matrix: &AccuracyMatrix) -> Vec<Option<f64>> {
    let stage = |i| mean((0..=i).map(|j| matrix.at(i, j)));
    (0..matrix.tasks()).map(stage).collect()
}

/// A_i for every task i: the mean over test images, `Σ_{j≤i} n_j R[i][j] / Σ_{j≤i} n_j`.
///
/// What PyCIL and PILOT call accuracy. Equal to [`accuracies_task_mean`] if all tasks have equally
/// many test images (CIFAR-100), and not otherwise (ImageNet-R).
pub fn accuracies_sample_weighted(matrix: &AccuracyMatrix) -> Vec<Option<f64>> {
    let stage = |i| {
        let (mut correct, mut total) = (0.0, 0.0);
        for j in 0..=i {
            let size = matrix.size(j) as f64;
            correct += matrix.at(i, j)? * size;
            total += size;
        }
        (total > 0.0).then(|| correct / total)
    };
    (0..matrix.tasks()).map(stage).collect()
}

/// Last accuracy A_T, the mean over tasks: the last of [`accuracies_task_mean`].
pub fn last_accuracy_task_mean(matrix: &AccuracyMatrix) -> Option<f64> {
    accuracies_task_mean(matrix).last().copied().flatten()
}

/// Last accuracy A_T, the mean over test images: the last of [`accuracies_sample_weighted`].
pub fn last_accuracy_sample_weighted(matrix: &AccuracyMatrix) -> Option<f64> {
    accuracies_sample_weighted(matrix).last().copied().flatten()
}

/// Last accuracy on any stream: right answers over test images of all exposed classes, after the
/// last task (Si-Blurry's A_last).
///
/// On disjoint tasks this is [`last_accuracy_sample_weighted`].
pub fn last_accuracy(history: &History) -> Option<f64> {
    history.last().and_then(Evaluation::accuracy)
}

/// Balanced accuracy, `(1/C) Σ_c a_c` after the last task, over the exposed classes that have test
/// images: every class counts the same, however many images it has.
pub fn last_accuracy_class_mean(history: &History) -> Option<f64> {
    let accuracies = history.class_accuracies_last();
    mean(accuracies.into_values().map(Some))
}

/// Average incremental accuracy over tasks, `(1/T) Σ_i A_i` with A_i of [`accuracies_task_mean`].
pub fn incremental_accuracy_task_mean(matrix: &AccuracyMatrix) -> Option<f64> {
    mean(accuracies_task_mean(matrix))
}

/// Average incremental accuracy over test images, `(1/T) Σ_i A_i` with A_i of
/// [`accuracies_sample_weighted`]: the A-bar of PyCIL, PILOT and the papers around them (iCaRL).
pub fn incremental_accuracy_sample_weighted(matrix: &AccuracyMatrix) -> Option<f64> {
    mean(accuracies_sample_weighted(matrix))
}

/// The mean of the lower triangle, `Σ_{i≥j} R[i][j] / (T(T+1)/2)`: the "A" of Díaz-Rodríguez et
/// al. (2018) and Continuum's `accuracy_A`.
pub fn lower_triangle_accuracy(matrix: &AccuracyMatrix) -> Option<f64> {
    let entries = (0..matrix.tasks()).flat_map(|i| (0..=i).map(move |j| (i, j)));
    mean(entries.map(|(i, j)| matrix.at(i, j)))
}
