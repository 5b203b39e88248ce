use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use everburn_backend::random;
use everburn_core::Key;

use crate::layers::{LayerNorm, Linear};
use crate::vit::{Block, VitConfig};

/// y = γ⊙z + β for each channel.
#[derive(Module, Debug)]
pub struct ScaleShift {
    /// γ, `[channels]`.
    pub scale: Param<Tensor<1>>,
    /// β, `[channels]`.
    pub shift: Param<Tensor<1>>,
}

impl ScaleShift {
    /// γ ~ N(1, σ²), β ~ N(0, σ²).
    pub(super) fn new(channels: usize, deviation: f64, key: Key, device: &Device) -> Self {
        let draw = |name: &str| -> Tensor<1> {
            random::normal(key.child(name), [channels], deviation as f32, device)
        };
        Self {
            scale: Param::from_tensor(draw("scale") + 1.0),
            shift: Param::from_tensor(draw("shift")),
        }
    }

    /// `[batch, tokens, channels]` to the same.
    fn forward(&self, z: Tensor<3>) -> Tensor<3> {
        z * self.scale.val().unsqueeze() + self.shift.val().unsqueeze()
    }

    /// γ⊙b + β.
    pub(super) fn fold_bias(&self, bias: Tensor<1>) -> Tensor<1> {
        bias * self.scale.val() + self.shift.val()
    }

    fn fold_into(&self, linear: &mut Linear) {
        let weight = linear.weight.val() * self.scale.val().unsqueeze();
        *linear = Linear {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(self.fold_bias(linear.bias.val())),
        };
    }

    pub(super) fn fold_into_norm(&self, norm: &mut LayerNorm) {
        norm.weight = Param::from_tensor(norm.weight.val() * self.scale.val());
        norm.bias = Param::from_tensor(self.fold_bias(norm.bias.val()));
    }
}

/// z, scaled and shifted where that is wanted.
pub(crate) fn scale_shift(ssf: Option<&ScaleShift>, z: Tensor<3>) -> Tensor<3> {
    match ssf {
        Some(ssf) => ssf.forward(z),
        None => z,
    }
}

/// Scales and shifts of a block.
#[derive(Module, Debug)]
pub struct BlockSsf {
    /// After LN₁, `[D]`.
    pub norm1: ScaleShift,
    /// After the fused projection, `[3D]`.
    pub qkv: ScaleShift,
    /// After the output projection, `[D]`.
    pub proj: ScaleShift,
    /// After LN₂, `[D]`.
    pub norm2: ScaleShift,
    /// After the MLP's first layer, before the GELU, `[hidden]`.
    pub fc1: ScaleShift,
    /// After its second layer, `[D]`.
    pub fc2: ScaleShift,
}

impl BlockSsf {
    pub(super) fn new(vit: &VitConfig, deviation: f64, key: Key, device: &Device) -> Self {
        let make = |name, channels| ScaleShift::new(channels, deviation, key.child(name), device);
        Self {
            norm1: make("norm1", vit.dim),
            qkv: make("qkv", 3 * vit.dim),
            proj: make("proj", vit.dim),
            norm2: make("norm2", vit.dim),
            fc1: make("fc1", vit.hidden),
            fc2: make("fc2", vit.dim),
        }
    }

    pub(super) fn merge_into(&self, block: &mut Block) {
        self.norm1.fold_into_norm(&mut block.norm1);
        self.qkv.fold_into(&mut block.attn.qkv);
        self.proj.fold_into(&mut block.attn.proj);
        self.norm2.fold_into_norm(&mut block.norm2);
        self.fc1.fold_into(&mut block.mlp.fc1);
        self.fc2.fold_into(&mut block.mlp.fc2);
    }
}
