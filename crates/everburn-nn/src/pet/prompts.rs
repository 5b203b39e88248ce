use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use everburn_backend::random;
use everburn_core::Key;

use super::{VptConfig, VptInit};
use crate::vit::VitConfig;

/// Tokens that are appended to an image's.
#[derive(Module, Debug)]
pub struct Prompts {
    /// `[p, dim]`.
    pub tokens: Param<Tensor<2>>,
}

impl Prompts {
    pub(super) fn new(config: &VptConfig, vit: &VitConfig, key: Key, device: &Device) -> Self {
        let shape = [config.tokens, vit.dim];
        let tokens = match config.init {
            VptInit::Zeros => Tensor::zeros(shape, device),
            VptInit::Uniform => {
                let bound = (6.0 / (3 * vit.patch * vit.patch + vit.dim) as f32).sqrt();
                random::uniform(key, shape, -bound, bound, device)
            }
        };
        Self {
            tokens: Param::from_tensor(tokens),
        }
    }

    /// `[batch, tokens, dim]` to `[batch, tokens + p, dim]`.
    pub fn append_to(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, dim] = x.dims();
        let [count, _] = self.tokens.dims();
        let tokens = self.tokens.val().unsqueeze::<3>();
        Tensor::cat(vec![x, tokens.expand([batch, count, dim])], 1)
    }
}

/// `[batch, tokens, dim]`, with prompts behind them where there are any.
pub(crate) fn append(prompts: Option<&Prompts>, x: Tensor<3>) -> Tensor<3> {
    match prompts {
        Some(prompts) => prompts.append_to(x),
        None => x,
    }
}
