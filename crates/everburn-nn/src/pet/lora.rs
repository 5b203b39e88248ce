use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{kernels, random, to_vec};
use everburn_core::{Error, Key, Result};
use faer::Mat;

use super::{LoraConfig, LoraInit, LoraTarget, Scaler};
use crate::linalg::eigen;
use crate::vit::Block;

/// A low-rank change ΔW = s·B·A of one weight.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub b: Param<Tensor<2>>,
    /// s, on B.
    pub scaler: Scaler,
}

impl Lora {
    /// A change of a weight `[in, out]` that begins as none.
    fn new(config: &LoraConfig, weight: &Tensor<2>, key: Key) -> Result<Self> {
        let ([inputs, outputs], device) = (weight.dims(), weight.device());
        let a = match config.init {
            LoraInit::Uniform => random::torch_default(key, [config.rank, inputs], inputs, &device),
            LoraInit::Singular => singular(weight, config.rank)?,
        };
        Ok(Self {
            a: Param::from_tensor(a),
            b: Param::from_tensor(Tensor::zeros([outputs, config.rank], &device)),
            scaler: Scaler::new(config.scale, &device),
        })
    }

    /// (s·B)ᵀ, `[r, out]`.
    fn scaled_b(&self) -> Tensor<2> {
        self.scaler.of(self.b.val()).transpose()
    }

    /// y + ΔW·x, with y `[batch, tokens, out]` what the weight itself makes of x `[batch, tokens, in]`.
    fn add_to(&self, y: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let narrow = product(x, self.a.val().transpose());
        kernels::add(y, product(narrow, self.scaled_b()))
    }

    /// ΔW as ours is laid out, `[in, out]`.
    fn change(&self) -> Tensor<2> {
        self.a.val().transpose().matmul(self.scaled_b())
    }

    fn macs(&self) -> usize {
        self.a.val().shape().num_elements() + self.b.val().shape().num_elements()
    }
}

/// The first right singular vectors of Wᵀ `[out, in]`, with W `[in, out]` as ours is laid out, as the rows of a
/// matrix `[rank, in]`: the eigenvectors of W·Wᵀ, in 64 bits. The sign of each is the solver's, and means nothing.
fn singular(weight: &Tensor<2>, rank: usize) -> Result<Tensor<2>> {
    let ([inputs, outputs], values) = (weight.dims(), to_vec(weight)?);
    if rank > inputs.min(outputs) {
        let expected = format!("at most {} for singular vectors", inputs.min(outputs));
        return Err(Error::config("pet.rank", rank, expected));
    }
    let w = Mat::from_fn(inputs, outputs, |row, column| {
        f64::from(values[row * outputs + column])
    });
    let (_, vectors) = eigen(&(&w * w.transpose())).ok_or_else(|| {
        let why = "the eigenvalues of a weight do not converge";
        Error::other("singular vectors", why)
    })?;
    let places = (0..rank).flat_map(|k| (0..inputs).map(move |row| (row, k)));
    let values: Vec<f32> = places.map(|place| vectors[place] as f32).collect();
    let data = TensorData::new(values, [rank, inputs]);
    Ok(Tensor::from_data(data, &weight.device()))
}

/// `[batch, tokens, in]` times `[in, out]`, as one matrix product.
fn product(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let ([batch, tokens, inputs], [_, outputs]) = (x.dims(), weight.dims());
    let rows = x.reshape([batch * tokens, inputs]);
    rows.matmul(weight).reshape([batch, tokens, outputs])
}

/// The changed weights of a block.
#[derive(Module, Debug)]
pub struct BlockLora {
    /// Of queries, keys and values, each where it is changed.
    pub thirds: [Option<Lora>; 3],
    /// Of the fused projection as a whole.
    pub qkv: Option<Lora>,
    /// Of the attention's output projection.
    pub proj: Option<Lora>,
    /// Of the MLP's first layer.
    pub fc1: Option<Lora>,
    /// Of the MLP's second layer.
    pub fc2: Option<Lora>,
}

impl BlockLora {
    pub(super) fn new(config: &LoraConfig, block: &Block, key: Key) -> Result<Self> {
        let qkv = block.attn.qkv.weight.val();
        let [dim, _] = qkv.dims();
        let make = |target: LoraTarget, name: &str, weight: Tensor<2>| {
            let wanted = config.targets.contains(&target);
            let make = || Lora::new(config, &weight, key.child(name));
            wanted.then(make).transpose()
        };
        let third = |number: usize| qkv.clone().narrow(1, number * dim, dim);
        Ok(Self {
            thirds: [
                make(LoraTarget::Queries, "queries", third(0))?,
                make(LoraTarget::Keys, "keys", third(1))?,
                make(LoraTarget::Values, "values", third(2))?,
            ],
            qkv: make(LoraTarget::Qkv, "qkv", qkv.clone())?,
            proj: make(LoraTarget::Proj, "proj", block.attn.proj.weight.val())?,
            fc1: make(LoraTarget::Fc1, "fc1", block.mlp.fc1.weight.val())?,
            fc2: make(LoraTarget::Fc2, "fc2", block.mlp.fc2.weight.val())?,
        })
    }

    /// The fused projection `[batch, tokens, 3·dim]` of h `[batch, tokens, dim]`, changed.
    pub(crate) fn add_to_qkv(&self, qkv: Tensor<3>, h: Tensor<3>) -> Tensor<3> {
        let qkv = add_to(self.qkv.as_ref(), qkv, h.clone());
        let Some((a, b)) = self.joined() else {
            return qkv;
        };
        kernels::add(qkv, product(product(h, a), b))
    }

    /// The changes of the thirds as one: Aᵀ `[dim, Σr]` and s·Bᵀ `[Σr, 3·dim]`, which is zero outside of
    /// each one's own third.
    fn joined(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (number, lora) in self.thirds.iter().enumerate() {
            let Some(lora) = lora else { continue };
            a.push(lora.a.val().transpose());
            b.push(in_third(lora.scaled_b(), number));
        }
        (!a.is_empty()).then(|| (Tensor::cat(a, 1), Tensor::cat(b, 0)))
    }

    /// The changed weights, in place of the block's own.
    pub(super) fn merge_into(&self, block: &mut Block) {
        for (number, lora) in self.thirds.iter().enumerate() {
            if let Some(lora) = lora {
                let weight = &mut block.attn.qkv.weight;
                *weight = Param::from_tensor(weight.val() + in_third(lora.change(), number));
            }
        }
        for (lora, linear) in [
            (&self.qkv, &mut block.attn.qkv),
            (&self.proj, &mut block.attn.proj),
            (&self.fc1, &mut block.mlp.fc1),
            (&self.fc2, &mut block.mlp.fc2),
        ] {
            if let Some(lora) = lora {
                linear.weight = Param::from_tensor(linear.weight.val() + lora.change());
            }
        }
    }

    /// For one token: beside the attention, and beside the MLP.
    pub(super) fn macs(&self) -> [usize; 2] {
        let sum = |loras: &[&Option<Lora>]| loras.iter().copied().flatten().map(Lora::macs).sum();
        let [q, k, v] = &self.thirds;
        [
            sum(&[q, k, v, &self.qkv, &self.proj]),
            sum(&[&self.fc1, &self.fc2]),
        ]
    }
}

/// y + ΔW·x where there is a change.
pub(crate) fn add_to(lora: Option<&Lora>, y: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
    match lora {
        Some(lora) => lora.add_to(y, x),
        None => y,
    }
}

/// `[rows, dim]` as one third of `[rows, 3·dim]`, the rest zero.
fn in_third(part: Tensor<2>, number: usize) -> Tensor<2> {
    let zeros = part.zeros_like();
    let third = |third| if third == number { &part } else { &zeros };
    Tensor::cat((0..3).map(|number| third(number).clone()).collect(), 1)
}
