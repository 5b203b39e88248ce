//! Factorisations in 64 bits, on one core.

use faer::{Mat, Side};

/// L with Σ + ε·I = L·Lᵀ, and ε: the given one, or where rounding leaves that matrix without a factor a larger one, ten
/// times as much again and again, but at least what rounding makes of the largest entry. `None` if there is none.
pub(crate) fn cholesky(mut matrix: Mat<f64>, jitter: f64) -> Option<(Mat<f64>, f64)> {
    let dim = matrix.nrows();
    let largest = (0..dim).map(|d| matrix[(d, d)].abs()).fold(0.0, f64::max);
    let (mut added, mut next) = (0.0, jitter);
    loop {
        for d in 0..dim {
            matrix[(d, d)] += next - added;
        }
        added = next;
        if let Ok(factorised) = matrix.llt(Side::Lower) {
            return Some((factorised.L().to_owned(), added));
        }
        if !added.is_finite() || added > largest.max(1.0) {
            return None;
        }
        next = (10.0 * added).max(f64::EPSILON * largest.max(f64::EPSILON));
    }
}

/// Eigenvalues, the largest first, and the eigenvectors in the columns of a matrix.
pub(crate) fn eigen(symmetric: &Mat<f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let found = symmetric.self_adjoint_eigen(Side::Lower).ok()?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    let mut order: Vec<usize> = (0..symmetric.nrows()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let sorted = Mat::from_fn(order.len(), order.len(), |row, k| vectors[(row, order[k])]);
    Some((order.into_iter().map(|k| values[k]).collect(), sorted))
}
