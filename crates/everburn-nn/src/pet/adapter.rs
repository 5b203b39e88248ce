use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use everburn_backend::{kernels, random};
use everburn_core::{Key, Result};

use super::{
    AdaptFormerConfig, AdapterConfig, AdapterNorm, AttentionPlace, MlpPlace, Scale, Scaler, Width,
};
use crate::layers::{LayerNorm, Linear, dropout};

/// A bottleneck D → r → D that begins as nothing: the way down is random, the way up zero.
#[derive(Module, Debug)]
struct Bottleneck {
    /// `[D, r]`.
    down: Linear,
    /// `[r, D]`.
    up: Linear,
    /// s, on the way up.
    scaler: Scaler,
}

impl Bottleneck {
    fn new(width: Width, scale: Scale, dim: usize, key: Key, device: &Device) -> Result<Self> {
        let width = width.units(dim)?;
        let zeros = |inputs, outputs| Linear {
            weight: Param::from_tensor(Tensor::zeros([inputs, outputs], device)),
            bias: Param::from_tensor(Tensor::zeros([outputs], device)),
        };
        let down = random::torch_default(key, [dim, width], dim, device);
        Ok(Self {
            down: Linear {
                weight: Param::from_tensor(down),
                ..zeros(dim, width)
            },
            up: zeros(width, dim),
            scaler: Scaler::new(scale, device),
        })
    }

    /// s·(W₂·z + b₂).
    fn up_scaled(&self, z: Tensor<3>) -> Tensor<3> {
        let weight = self.scaler.of(self.up.weight.val());
        let bias = self.scaler.of(self.up.bias.val());
        kernels::linear(z, weight, bias)
    }

    fn macs(&self) -> usize {
        let [dim, width] = self.down.weight.dims();
        2 * dim * width
    }
}

/// AdaptFormer's adapter beside the MLP of a block.
#[derive(Module, Debug)]
pub struct AdaptFormer {
    bottleneck: Bottleneck,
    /// Where it has one.
    norm: Option<LayerNorm>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    place: MlpPlace,
    #[module(skip)]
    layer_norm: AdapterNorm,
}

impl AdaptFormer {
    pub(super) fn new(
        config: &AdaptFormerConfig,
        dim: usize,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        let has_norm = config.layer_norm != AdapterNorm::None;
        Ok(Self {
            bottleneck: Bottleneck::new(config.bottleneck, config.scale, dim, key, device)?,
            norm: has_norm.then(|| LayerNorm::new(dim, device)),
            dropout: config.dropout,
            place: config.place,
            layer_norm: config.layer_norm,
        })
    }

    /// a(z) = s·up(drop(ReLU(down(z)))), `[batch, tokens, dim]` to the same.
    fn change(&self, z: Tensor<3>, key: Option<Key>) -> Tensor<3> {
        let norm = |at, z| match &self.norm {
            Some(norm) if self.layer_norm == at => norm.forward(z),
            _ => z,
        };
        let z = norm(AdapterNorm::In, z);
        let z = kernels::relu(self.bottleneck.down.forward(z));
        norm(
            AdapterNorm::Out,
            self.bottleneck.up_scaled(dropout(z, self.dropout, key)),
        )
    }

    /// u + m + a, with u the tokens before the MLP and m = MLP(LN₂ u). `key` draws the dropout of training.
    pub fn join(&self, u: Tensor<3>, m: Tensor<3>, key: Option<Key>) -> Tensor<3> {
        let read = match self.place {
            MlpPlace::Parallel => u.clone(),
            MlpPlace::Sequential => m.clone(),
        };
        let a = self.change(read, key);
        kernels::add(kernels::add(u, m), a)
    }

    pub(super) fn macs(&self) -> usize {
        self.bottleneck.macs()
    }
}

/// LAE's adapter beside the attention of a block.
#[derive(Module, Debug)]
pub struct Adapter {
    bottleneck: Bottleneck,
    #[module(skip)]
    place: AttentionPlace,
}

impl Adapter {
    pub(super) fn new(
        config: &AdapterConfig,
        dim: usize,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            bottleneck: Bottleneck::new(config.bottleneck, config.scale, dim, key, device)?,
            place: config.place,
        })
    }

    /// A(h) = s·(W₂·GELU(W₁·h + b₁) + b₂), `[batch, tokens, dim]` to the same.
    fn change(&self, h: Tensor<3>) -> Tensor<3> {
        self.bottleneck
            .up_scaled(kernels::gelu(self.bottleneck.down.forward(h)))
    }

    /// What the attention and the adapter make of h = LN₁ x.
    pub fn around(
        &self,
        h: Tensor<3>,
        attention: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        match self.place {
            AttentionPlace::Parallel => kernels::add(attention(h.clone()), self.change(h)),
            AttentionPlace::Before => attention(kernels::add(self.change(h.clone()), h)),
            AttentionPlace::After => kernels::add(self.change(attention(h.clone())), h),
        }
    }

    pub(super) fn macs(&self) -> usize {
        self.bottleneck.macs()
    }
}
