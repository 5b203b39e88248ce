use serde::{Deserialize, Serialize};

use super::mean;

/// One run of a sweep over memory budgets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryPoint {
    /// Model and exemplars, in MiB (2^20 bytes; the survey writes MB).
    pub mebibytes: f64,
    /// Average incremental accuracy, as a fraction.
    pub average: f64,
    /// Last accuracy, as a fraction.
    pub last: f64,
}

/// `(4 · parameters + exemplars · image_bytes) / 2^20`: the memory of f32 weights and 8-bit
/// exemplars in MiB.
///
/// Zhou et al., "Deep Class-Incremental Learning: A Survey", section on memory-aligned comparison.
pub fn model_mebibytes(parameters: u64, exemplars: u64, image_bytes: u64) -> f64 {
    let bytes = 4.0 * parameters as f64 + exemplars as f64 * image_bytes as f64;
    bytes / f64::from(1 << 20)
}

/// How many whole exemplars fit into the memory of so many f32 parameters; `None` for images of 0
/// bytes or a number that does not fit.
///
/// The same survey's exchange rate between models and exemplars.
pub fn equal_exemplars(parameters: u64, image_bytes: u64) -> Option<u64> {
    parameters.checked_mul(4)?.checked_div(image_bytes)
}

/// The area under accuracy over memory by the trapezoid rule, not divided by the range; the unit
/// is MiB. `points` are (MiB, accuracy) pairs in any order.
///
/// One point spans no area: 0. Without points, or with a number that is not finite: `None`.
pub fn area_over_memory(points: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    let mut points: Vec<_> = points.into_iter().collect();
    mean(
        points
            .iter()
            .map(|(m, a)| (m.is_finite() && a.is_finite()).then_some(*m)),
    )?;
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let neighbours = points.iter().zip(points.iter().skip(1));
    let area: f64 = neighbours
        .map(|(a, b)| (b.0 - a.0) * f64::midpoint(a.1, b.1))
        .sum();
    // The sum of nothing is -0.0.
    Some(area + 0.0)
}

/// AUC-A: [`area_over_memory`] of the average incremental accuracy.
pub fn auc_average(points: &[MemoryPoint]) -> Option<f64> {
    area_over_memory(points.iter().map(|p| (p.mebibytes, p.average)))
}

/// AUC-L: [`area_over_memory`] of the last accuracy.
pub fn auc_last(points: &[MemoryPoint]) -> Option<f64> {
    area_over_memory(points.iter().map(|p| (p.mebibytes, p.last)))
}
