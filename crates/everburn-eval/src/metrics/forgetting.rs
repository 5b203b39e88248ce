use super::{largest, mean};
use crate::AccuracyMatrix;

/// `f_j = max_{j≤l<T} R[l][j] - R[T][j]`, the mean over j < T. May be negative.
///
/// Chaudhry et al. (2018), eq. 3 and 4; OVOR and Continuum.
pub fn forgetting_max_before(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..last).map(|j| Some(largest(matrix.column(j, j..last))? - matrix.at(last, j)?)))
}

/// `f_j = max_l R[l][j] - R[T][j]` over all rows, the last one included, the mean over j < T.
/// Never negative.
///
/// PILOT, PyCIL, Mammoth, the PyTorch ports of L2P and DualPrompt. They store accuracies on tasks
/// not met yet as 0; here such entries, if not measured, are left out, which is the same.
pub fn forgetting_max_all(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..last).map(|j| drop_from_all(matrix, j, last)))
}

/// As [`forgetting_max_all`], but the mean over all T tasks, the last one (f_T = 0) included.
///
/// `compute_performance` of online-continual-learning (RaptorMai).
pub fn forgetting_all_tasks(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..=last).map(|j| drop_from_all(matrix, j, last)))
}

fn drop_from_all(matrix: &AccuracyMatrix, j: usize, last: usize) -> Option<f64> {
    Some(largest(matrix.column(j, 0..=last))? - matrix.at(last, j)?)
}

/// `f_j = R[j][j] - R[T][j]`, the mean over j < T. The negative of
/// [`backward_transfer`](super::backward_transfer).
///
/// Avalanche.
pub fn forgetting_initial(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    mean((0..last).map(|j| Some(matrix.at(j, j)? - matrix.at(last, j)?)))
}

/// `(1/(T-1)) Σ_{t≥2} (1/(t-1)) Σ_{i<t} (R[t-1][i] - R[t][i])`: what is lost from one task to the
/// next. Much smaller than the others.
///
/// CODA-Prompt's `calc_forgetting`.
pub fn forgetting_one_step(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    let step = |t| mean((0..t).map(|i| Some(matrix.at(t - 1, i)? - matrix.at(t, i)?)));
    mean((1..=last).map(step))
}

/// `(1/(T-1)) Σ_{j≤T-2} (R[j][j] - R[T][j])`: the most recent old task is left out of the sum but
/// counted in the divisor; 0 for two tasks.
///
/// LibContinual's `compute_frgt`, as written.
pub fn forgetting_libcontinual(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    // The sum is empty for two tasks: 0, as written, but not if nothing was measured.
    forgetting_initial(matrix)?;
    let mut sum = 0.0;
    for j in 0..last - 1 {
        sum += matrix.at(j, j)? - matrix.at(last, j)?;
    }
    Some(sum / last as f64)
}

/// `(1/T) Σ_i (max_j R[i][j] - R[T][i])`: the maximum runs over tasks where it should run over
/// time. Useful only to reproduce what was published with it.
///
/// `single_run_avg_end_fgt` of online-continual-learning (RaptorMai), as written.
pub fn forgetting_row_max(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    let best = |i| largest((0..=last).filter_map(|j| matrix.at(i, j)));
    mean((0..=last).map(|i| Some(best(i)? - matrix.at(last, i)?)))
}

/// `f_j / max_{j≤l<T} R[l][j]` with f_j of [`forgetting_max_before`], the mean over those j < T
/// whose maximum is not 0: a task that was never known cannot be forgotten.
pub fn forgetting_normalised(matrix: &AccuracyMatrix) -> Option<f64> {
    let last = matrix.last_of_several()?;
    let mut shares = Vec::new();
    for j in 0..last {
        let best = largest(matrix.column(j, j..last))?;
        let now = matrix.at(last, j)?;
        if best > 0.0 {
            shares.push(Some((best - now) / best));
        }
    }
    mean(shares)
}
