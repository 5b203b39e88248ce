use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a learning rate changes over the epochs (or steps) of a stage.
///
/// PyTorch's schedulers, in closed form: no state, so nothing to save. The point `t` counts from 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// Always the base rate.
    #[default]
    Constant,
    /// `CosineAnnealingLR`: from the base rate at 0 to `min` at `period`.
    Cosine {
        /// The lowest rate.
        #[serde(default)]
        min: f64,
    },
    /// `MultiStepLR`: times `gamma` at each milestone.
    MultiStep {
        /// The points from which on the rate is multiplied once more.
        milestones: Vec<usize>,
        /// The factor.
        gamma: f64,
    },
    /// `LinearLR`: from `start_factor` times the base rate at 0 to the base rate at `steps`.
    WarmUp {
        /// How many points the rise takes.
        steps: usize,
        /// The factor at point 0.
        start_factor: f64,
    },
    /// [`WarmUp`](Self::WarmUp), then [`Cosine`](Self::Cosine) over what is left of the period.
    WarmUpCosine {
        /// How many points the rise takes.
        steps: usize,
        /// The factor at point 0.
        start_factor: f64,
        /// The lowest rate.
        #[serde(default)]
        min: f64,
    },
    /// LAE's `linear` (gqk/LAE, `create_scheduler`): base · (m + (1 − m)(1 − t/period)).
    LaeLinear {
        /// m, the part of the base rate that is left at the end.
        scale_min: f64,
    },
    /// LAE's `cosine`: base · (m + (1 − m) cos(π/2 · t/period)), a quarter of a period.
    LaeCosine {
        /// m, the part of the base rate that is left at the end.
        scale_min: f64,
    },
    /// LAE's `cosine_pi`: base · (m + (1 − m)(1 + cos(π · t/period))/2).
    LaeCosinePi {
        /// m, the part of the base rate that is left at the end.
        scale_min: f64,
    },
}

impl Schedule {
    /// The rate at point `t` of `period` for a base rate.
    pub fn rate(&self, base: f64, t: usize, period: usize) -> f64 {
        let part = |t: usize, period: usize| t as f64 / period.max(1) as f64;
        let cosine = |min: f64, t: usize, period: usize| {
            min + (base - min) * (1.0 + (PI * part(t, period)).cos()) / 2.0
        };
        let rise = |start: f64, t: usize, steps: usize| {
            base * (start + (1.0 - start) * part(t, steps).min(1.0))
        };
        let down_to = |min: f64, shape: f64| base * (min + (1.0 - min) * shape);
        match self {
            Self::Constant => base,
            Self::Cosine { min } => cosine(*min, t, period),
            Self::MultiStep { milestones, gamma } => {
                let passed = milestones.iter().filter(|m| t >= **m).count();
                base * gamma.powi(i32::try_from(passed).unwrap_or(i32::MAX))
            }
            Self::WarmUp {
                steps,
                start_factor,
            } => rise(*start_factor, t, *steps),
            Self::WarmUpCosine {
                steps,
                start_factor,
                min,
            } => {
                if t < *steps {
                    rise(*start_factor, t, *steps)
                } else {
                    cosine(*min, t - steps, period.saturating_sub(*steps))
                }
            }
            Self::LaeLinear { scale_min } => down_to(*scale_min, 1.0 - part(t, period)),
            Self::LaeCosine { scale_min } => {
                down_to(*scale_min, (PI / 2.0 * part(t, period)).cos())
            }
            Self::LaeCosinePi { scale_min } => cosine(base * scale_min, t, period),
        }
    }
}
