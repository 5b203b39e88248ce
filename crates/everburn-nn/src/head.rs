//! The classifier on a backbone's features.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use everburn_backend::random;
use everburn_core::{Checker, Key, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a head's rows become logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Classifier {
    /// w·f + b.
    #[default]
    Linear,
    /// s · (w/(‖w‖ + ε))·(f/(‖f‖ + ε)) with ε = 1e-5, without bias: ER-ACE's and the online codes'
    /// `distLinear`.
    Cosine {
        /// s; 10 in ER-ACE.
        scale: f64,
    },
}

/// ε of [`Classifier::Cosine`].
const COSINE_EPS: f64 = 1e-5;

impl Classifier {
    /// Logits `[batch, classes]` of features `[batch, dim]` and rows `[classes, dim]`.
    pub fn logits(
        self,
        features: Tensor<2>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<2> {
        match self {
            Self::Linear => {
                let logits = features.matmul(weight.transpose());
                match bias {
                    Some(bias) => logits + bias.unsqueeze(),
                    None => logits,
                }
            }
            Self::Cosine { scale } => {
                let unit = |rows: Tensor<2>| {
                    let norm = rows.clone().powi_scalar(2).sum_dim(1).sqrt();
                    rows / (norm + COSINE_EPS)
                };
                unit(features).matmul(unit(weight).transpose()) * scale
            }
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If a scale is not above 0.
    pub fn validate(self) -> Result<()> {
        let Self::Cosine { scale } = self else {
            return Ok(());
        };
        let range = f64::MIN_POSITIVE..f64::INFINITY;
        Checker::new("classifier").within("scale", scale, range, "a finite number above 0")
    }

    pub(crate) fn has_bias(self) -> bool {
        self == Self::Linear
    }
}

/// A classifier with one row per class, `[classes, dim]` as in PyTorch: a new class appends a row and
/// leaves the old ones where they are.
#[derive(Module, Debug)]
pub struct Head {
    /// `[classes, dim]`.
    pub weight: Param<Tensor<2>>,
    /// `[classes]`, where the classifier has one.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Head {
    /// With the rows that `chosen` says, one for each, as in another head of the same shape.
    #[must_use]
    pub fn with_rows_of(&self, other: &Self, chosen: &[bool]) -> Self {
        let (weight, device) = (self.weight.val(), self.weight.val().device());
        let data = TensorData::new(chosen.to_vec(), [chosen.len()]);
        let rows = Tensor::<1, Bool>::from_data(data, &device);
        let wide = rows.clone().unsqueeze_dim::<2>(1).expand(weight.dims());
        let biases = self.bias.as_ref().zip(other.bias.as_ref());
        let bias = biases.map(|(own, other)| own.val().mask_where(rows, other.val()));
        Self {
            weight: Param::from_tensor(weight.mask_where(wide, other.weight.val())),
            bias: bias.map(Param::from_tensor),
        }
    }

    /// With the rows that a head of more rows has after this one's.
    #[must_use]
    pub fn extended_by(&self, longer: &Self) -> Self {
        let rows = self.weight.dims()[0];
        fn extended<const D: usize>(own: Tensor<D>, longer: Tensor<D>, rows: usize) -> Tensor<D> {
            let more = longer.dims()[0].saturating_sub(rows);
            match more {
                0 => own,
                _ => Tensor::cat(vec![own, longer.narrow(0, rows, more)], 0),
            }
        }
        let biases = self.bias.as_ref().zip(longer.bias.as_ref());
        let bias = biases.map(|(own, longer)| extended(own.val(), longer.val(), rows));
        let weight = extended(self.weight.val(), longer.weight.val(), rows);
        Self {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
        }
    }

    /// Features `[batch, dim]` to logits `[batch, classes]`.
    pub fn forward(&self, features: Tensor<2>, classifier: Classifier) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Param::val);
        classifier.logits(features, self.weight.val(), bias)
    }
}

/// How a head begins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum HeadInit {
    /// Uniform in ±1/√D, the bias too: PyTorch's linear layer.
    #[default]
    Torch,
    /// Normal with this standard deviation, the bias 0.
    Normal(f32),
    /// Normal with deviation 0.02, cut at ±2, the bias 0: timm's `trunc_normal_`.
    Timm,
}

impl HeadInit {
    /// Weight `[1, dim]` and bias `[1]` of one class.
    pub(crate) fn row(self, dim: usize, key: Key, device: &Device) -> (Tensor<2>, Tensor<1>) {
        match self {
            Self::Torch => (
                random::torch_default(key.child("weight"), [1, dim], dim, device),
                random::torch_default(key.child("bias"), [1], dim, device),
            ),
            Self::Normal(std) => (
                random::normal(key.child("weight"), [1, dim], std, device),
                Tensor::zeros([1], device),
            ),
            Self::Timm => (
                random::truncated_normal(key.child("weight"), [1, dim], 0.02, 2.0, device),
                Tensor::zeros([1], device),
            ),
        }
    }
}
