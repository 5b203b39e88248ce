use super::{forgetting_max_before, mean};
use crate::AccuracyMatrix;

/// Intransigence, `(1/T) Σ_k (a*_k - R[k][k])`: how much worse each task is learned than by a
/// reference that is trained jointly on the tasks 1..k and reaches `reference[k] = a*_k` on task
/// k. Negative if learned better.
///
/// Chaudhry et al. (2018), definition 2. `None` if there are not as many references as tasks.
pub fn intransigence(matrix: &AccuracyMatrix, reference: &[f64]) -> Option<f64> {
    if reference.len() != matrix.tasks() || reference.iter().any(|a| !a.is_finite()) {
        return None;
    }
    let lack = |(k, best): (usize, &f64)| Some(best - matrix.at(k, k)?);
    mean(reference.iter().enumerate().map(lack))
}

/// Plasticity or learning accuracy, `(1/T) Σ_k R[k][k]`.
pub fn plasticity(matrix: &AccuracyMatrix) -> Option<f64> {
    mean((0..matrix.tasks()).map(|k| matrix.at(k, k)))
}

/// Stability, `(1/(T-1)) Σ_{j<T} R[T][j]`: what is left of the old tasks.
pub fn stability(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..last).map(|j| matrix.at(last, j)))
}

/// Stability in its other form, 1 - F with F of [`forgetting_max_before`].
pub fn stability_of_forgetting(matrix: &AccuracyMatrix) -> Option<f64> {
    Some(1.0 - forgetting_max_before(matrix)?)
}

/// `2ab / (a + b)`; 0 if one of them is 0, `None` if one is negative or not a number.
pub fn harmonic_mean(a: f64, b: f64) -> Option<f64> {
    let valid = |value: f64| value.is_finite() && value >= 0.0;
    if !valid(a) || !valid(b) {
        return None;
    }
    Some(if a == 0.0 || b == 0.0 {
        0.0
    } else {
        2.0 / (a.recip() + b.recip())
    })
}

/// The harmonic mean of [`plasticity`] and [`stability`].
pub fn plasticity_stability_mean(matrix: &AccuracyMatrix) -> Option<f64> {
    harmonic_mean(plasticity(matrix)?, stability(matrix)?)
}
