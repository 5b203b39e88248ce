use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::Scale;

/// The factor s of a module, learnt or constant.
///
/// It is put on weights, never on activations: the products are the same, and its gradient is a sum over a
/// few weights.
#[derive(Module, Debug)]
pub struct Scaler {
    /// `[1]`, where it is learnt.
    pub scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    constant: f64,
}

impl Scaler {
    pub(super) fn new(scale: Scale, device: &Device) -> Self {
        match scale {
            Scale::Learnable => Self {
                scale: Some(Param::from_tensor(Tensor::ones([1], device))),
                constant: 1.0,
            },
            Scale::Constant(constant) => Self {
                scale: None,
                constant,
            },
        }
    }

    /// s·w.
    pub fn of<const D: usize>(&self, weight: Tensor<D>) -> Tensor<D> {
        match &self.scale {
            Some(scale) => weight * scale.val().reshape([1; D]),
            None if self.constant == 1.0 => weight,
            None => weight * self.constant,
        }
    }
}
