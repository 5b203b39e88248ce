use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use everburn_backend::{kernels, random};
use everburn_core::Key;

use super::{PrefixConfig, Scaler};

/// Keys and values that every query of a block sees beside the tokens'.
#[derive(Module, Debug)]
pub struct Prefix {
    /// P_k, `[length, dim]`.
    pub keys: Param<Tensor<2>>,
    /// P_v, `[length, dim]`.
    pub values: Param<Tensor<2>>,
    /// s_k.
    pub key_scaler: Scaler,
    /// s_v.
    pub value_scaler: Scaler,
    #[module(skip)]
    compensate: bool,
}

impl Prefix {
    pub(super) fn new(config: &PrefixConfig, dim: usize, key: Key, device: &Device) -> Self {
        let tokens = |name: &str| {
            let shape = [config.length, dim];
            Param::from_tensor(random::uniform(key.child(name), shape, 0.0, 0.01, device))
        };
        Self {
            keys: tokens("keys"),
            values: tokens("values"),
            key_scaler: Scaler::new(config.scale, device),
            value_scaler: Scaler::new(config.scale, device),
            compensate: config.compensate,
        }
    }

    /// Self-attention of a fused projection `[batch, tokens, 3·dim]` in which keys and values are
    /// [K; s_k·P_k] and [V; s_v·P_v]: `[batch, tokens, dim]`.
    pub fn attend(&self, qkv: Tensor<3>, heads: usize) -> Tensor<3> {
        let keys = self.key_scaler.of(self.keys.val());
        let values = self.value_scaler.of(self.values.val());
        kernels::prefix_attention(qkv, keys, values, heads, self.compensate)
    }

    pub(super) fn macs(&self) -> usize {
        2 * self.keys.val().shape().num_elements()
    }
}
