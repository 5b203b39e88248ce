use super::{mean, pairs};
use crate::AccuracyMatrix;

/// BWT = `(1/(T-1)) Σ_{j<T} (R[T][j] - R[j][j])`.
///
/// Lopez-Paz and Ranzato (2017), eq. 3; Mammoth, Avalanche, the ports of L2P and DualPrompt.
pub fn backward_transfer(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..last).map(|j| Some(matrix.at(last, j)? - matrix.at(j, j)?)))
}

/// BWT = `Σ_{i>j} (R[i][j] - R[j][j]) / (T(T-1)/2)`, over all pairs.
///
/// Díaz-Rodríguez et al. (2018); Continuum.
pub fn backward_transfer_all_pairs(matrix: &AccuracyMatrix) -> Option<f64> {
    matrix.last_of_several()?;
    Some(changes(matrix, 1)? / pairs(matrix.tasks()))
}

/// BWT = `Σ_{i>j+1} (R[i][j] - R[j][j]) / (T(T-1)/2)`: pairs of neighbours are left out of the sum
/// but counted in the divisor; 0 for two tasks.
///
/// LibContinual's `compute_bwt`, as written.
pub fn backward_transfer_libcontinual(matrix: &AccuracyMatrix) -> Option<f64> {
    // The sum is empty for two tasks: 0, as written, but not if nothing was measured.
    backward_transfer(matrix)?;
    Some(changes(matrix, 2)? / pairs(matrix.tasks()))
}

/// The sum of `R[i][j] - R[j][j]` over all i ≥ j + `distance`.
fn changes(matrix: &AccuracyMatrix, distance: usize) -> Option<f64> {
    let mut sum = 0.0;
    for j in 0..matrix.tasks() {
        for i in j + distance..matrix.tasks() {
            sum += matrix.at(i, j)? - matrix.at(j, j)?;
        }
    }
    Some(sum)
}

/// BWT+ = `max(0, BWT)` with BWT of [`backward_transfer_all_pairs`].
///
/// Díaz-Rodríguez et al. (2018); Continuum; what online-continual-learning (RaptorMai) reports.
pub fn backward_transfer_positive(matrix: &AccuracyMatrix) -> Option<f64> {
    Some(backward_transfer_all_pairs(matrix)?.max(0.0))
}

/// Remembering REM = `1 - |min(0, BWT)|` with BWT of [`backward_transfer_all_pairs`].
///
/// Díaz-Rodríguez et al. (2018); Continuum.
pub fn remembering(matrix: &AccuracyMatrix) -> Option<f64> {
    Some(1.0 - backward_transfer_all_pairs(matrix)?.min(0.0).abs())
}

/// FWT = `(1/(T-1)) Σ_{j≥2} (R[j-1][j] - b_j)`. Needs tasks tested before they are learned, and
/// the untrained model.
///
/// Lopez-Paz and Ranzato (2017), eq. 4; Mammoth, Avalanche.
pub fn forward_transfer(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((1..=last).map(|j| Some(matrix.at(j - 1, j)? - matrix.untrained(j)?)))
}

/// FWT without baseline = `(1/(T-1)) Σ_{j≥2} R[j-1][j]`.
///
/// Continuum.
pub fn forward_transfer_no_baseline(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((1..=last).map(|j| matrix.at(j - 1, j)))
}

/// FWT = `Σ_{i<j} R[i][j] / (T(T-1)/2)`, the mean of the upper triangle.
///
/// Díaz-Rodríguez et al. (2018); online-continual-learning (RaptorMai).
pub fn forward_transfer_upper_triangle(matrix: &AccuracyMatrix) -> Option<f64> {
    let tasks = matrix.tasks();
    let entries = (0..tasks).flat_map(|i| (i + 1..tasks).map(move |j| (i, j)));
    mean(entries.map(|(i, j)| matrix.at(i, j)))
}
