//! The Vision Transformer (Dosovitskiy et al., ICLR 2021) in timm's layout.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use everburn_backend::{kernels, random};
use everburn_core::{Checker, Error, Key, Result};
use serde::{Deserialize, Serialize};

use crate::layers::{Conv2d, LayerNorm, Linear};
use crate::pet::{AdaptFormer, BlockPet, Pet, add_to, append, scale_shift};

/// The sizes of a Vision Transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Rows and columns of the input image.
    pub image: usize,
    /// Rows and columns of a patch.
    pub patch: usize,
    /// Width D of a token.
    pub dim: usize,
    /// Number of blocks L.
    pub depth: usize,
    /// Number of attention heads H; D must be a multiple.
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
}

impl VitConfig {
    /// ViT-B/16 at 224 pixels: 85,798,656 parameters.
    pub fn base16_224() -> Self {
        Self {
            image: 224,
            patch: 16,
            dim: 768,
            depth: 12,
            heads: 12,
            hidden: 3072,
        }
    }

    /// ViT-Ti/16 at 224 pixels: 5,524,416 parameters.
    pub fn tiny16_224() -> Self {
        Self {
            image: 224,
            patch: 16,
            dim: 192,
            depth: 12,
            heads: 3,
            hidden: 768,
        }
    }

    /// The layout of the embedded backbone: 1,204,608 parameters.
    pub fn micro4_32() -> Self {
        Self {
            image: 32,
            patch: 4,
            dim: 128,
            depth: 6,
            heads: 4,
            hidden: 512,
        }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        let check = Checker::new("vit");
        for (field, value) in [
            ("image", self.image),
            ("patch", self.patch),
            ("dim", self.dim),
            ("depth", self.depth),
            ("heads", self.heads),
            ("hidden", self.hidden),
        ] {
            check.positive(field, value)?;
        }
        if !self.image.is_multiple_of(self.patch) {
            let expected = format!("a divisor of the image size {}", self.image);
            return Err(Error::config("vit.patch", self.patch, expected));
        }
        if !self.dim.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.dim);
            return Err(Error::config("vit.heads", self.heads, expected));
        }
        Ok(())
    }

    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    /// Tokens N: the class token and the patches.
    pub fn tokens(&self) -> usize {
        1 + self.grid() * self.grid()
    }

    /// Multiply-accumulate operations of a forward pass for one image.
    pub fn macs(&self) -> u64 {
        let patch = 3 * self.patch * self.patch;
        let embed = (self.grid() * self.grid() * self.dim * patch) as u64;
        embed + self.macs_from(0, self.tokens())
    }

    /// Those of all blocks from one on, for so many tokens. In the last only one of them goes through the MLP.
    pub(crate) fn macs_from(&self, block: usize, tokens: usize) -> u64 {
        let [n, d, hidden] = [tokens, self.dim, self.hidden].map(|x| x as u64);
        let blocks = self.depth.saturating_sub(block) as u64;
        let attention = n * d * 4 * d + 2 * n * n * d;
        let through_mlp = blocks.saturating_sub(1) * n + blocks.min(1);
        blocks * attention + through_mlp * 2 * d * hidden
    }
}

/// Multi-head self-attention with a fused projection.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[D, 3D]`: queries, keys, values; in each, head h owns columns h·d..(h+1)·d.
    pub qkv: Linear,
    /// `[D, D]`.
    pub proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    /// `[batch, tokens, dim]` to the same, with what acts in the block.
    fn forward(&self, h: Tensor<3>, pet: &BlockPet) -> Tensor<3> {
        let (ssf, lora) = (pet.ssf.as_ref(), pet.lora.as_ref());
        let qkv = self.qkv.forward(h.clone());
        let qkv = match lora {
            Some(lora) => lora.add_to_qkv(qkv, h),
            None => qkv,
        };
        let qkv = scale_shift(ssf.map(|ssf| &ssf.qkv), qkv);
        let joined = match &pet.prefix {
            Some(prefix) => prefix.attend(qkv, self.heads),
            None => kernels::self_attention(qkv, self.heads),
        };
        let out = self.proj.forward(joined.clone());
        let out = add_to(lora.and_then(|lora| lora.proj.as_ref()), out, joined);
        scale_shift(ssf.map(|ssf| &ssf.proj), out)
    }
}

/// The two-layer perceptron of a block, with the exact GELU.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[D, hidden]`.
    pub fc1: Linear,
    /// `[hidden, D]`.
    pub fc2: Linear,
}

impl Mlp {
    /// `[batch, tokens, dim]` to the same, with what acts in the block.
    fn forward(&self, x: Tensor<3>, pet: &BlockPet) -> Tensor<3> {
        let (ssf, lora) = (pet.ssf.as_ref(), pet.lora.as_ref());
        let z = self.fc1.forward(x.clone());
        let z = add_to(lora.and_then(|lora| lora.fc1.as_ref()), z, x);
        let z = kernels::gelu(scale_shift(ssf.map(|ssf| &ssf.fc1), z));
        let y = self.fc2.forward(z.clone());
        let y = add_to(lora.and_then(|lora| lora.fc2.as_ref()), y, z);
        scale_shift(ssf.map(|ssf| &ssf.fc2), y)
    }
}

/// A pre-norm block: x ← x + Attn(LN₁ x), x ← x + MLP(LN₂ x).
#[derive(Module, Debug)]
pub struct Block {
    /// LN₁.
    pub norm1: LayerNorm,
    /// Attn.
    pub attn: Attention,
    /// LN₂.
    pub norm2: LayerNorm,
    /// MLP.
    pub mlp: Mlp,
}

impl Block {
    fn new(config: &VitConfig, key: Key, device: &Device) -> Self {
        let VitConfig { dim, hidden, .. } = *config;
        let linear = |name, inputs, outputs| Linear::timm(inputs, outputs, key.child(name), device);
        Self {
            norm1: LayerNorm::new(dim, device),
            attn: Attention {
                qkv: linear("qkv", dim, 3 * dim),
                proj: linear("proj", dim, dim),
                heads: config.heads,
            },
            norm2: LayerNorm::new(dim, device),
            mlp: Mlp {
                fc1: linear("fc1", dim, hidden),
                fc2: linear("fc2", hidden, dim),
            },
        }
    }

    /// `[batch, tokens, dim]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_with(x, &BlockPet::default(), None)
    }

    /// [`forward`](Self::forward) with what acts in the block. `key` draws the dropout of training; without one
    /// there is none.
    pub fn forward_with(&self, x: Tensor<3>, pet: &BlockPet, key: Option<Key>) -> Tensor<3> {
        let [_, tokens, _] = x.dims();
        let u = self.attention_half(append(pet.prompts.as_ref(), x), pet);
        let x = self.mlp_half(u, pet, key);
        match pet.prompts {
            Some(_) => x.narrow(1, 0, tokens),
            None => x,
        }
    }

    /// [`forward_with`](Self::forward_with) for the first token alone, `[batch, 1, dim]`: the MLP works token by
    /// token, so in the last block it need not see the others.
    fn forward_first(&self, x: Tensor<3>, pet: &BlockPet, key: Option<Key>) -> Tensor<3> {
        let u = self.attention_half(append(pet.prompts.as_ref(), x), pet);
        self.mlp_half(u.narrow(1, 0, 1), pet, key)
    }

    /// u = x + Attn(LN₁ x).
    fn attention_half(&self, x: Tensor<3>, pet: &BlockPet) -> Tensor<3> {
        let ssf = pet.ssf.as_ref();
        let h = scale_shift(ssf.map(|ssf| &ssf.norm1), self.norm1.forward(x.clone()));
        let attention = |h| self.attn.forward(h, pet);
        let change = match &pet.adapter {
            Some(adapter) => adapter.around(h, attention),
            None => attention(h),
        };
        kernels::add(x, change)
    }

    /// u + MLP(LN₂ u).
    fn mlp_half(&self, u: Tensor<3>, pet: &BlockPet, key: Option<Key>) -> Tensor<3> {
        let ssf = pet.ssf.as_ref();
        let z = scale_shift(ssf.map(|ssf| &ssf.norm2), self.norm2.forward(u.clone()));
        let m = self.mlp.forward(z, pet);
        join(pet.adaptformer.as_ref(), u, m, key)
    }

    /// u = x + Attn(LN₁ x) and m = MLP(LN₂ u), `[batch, tokens, dim]` each, as pre-trained: all that AdaptFormer's
    /// adapter begins from. In the last block of all, for the first token alone.
    fn halves(&self, x: Tensor<3>, is_last: bool) -> Halves {
        let nothing = BlockPet::default();
        let u = self.attention_half(x, &nothing);
        let u = if is_last { u.narrow(1, 0, 1) } else { u };
        let m = (self.mlp).forward(self.norm2.forward(u.clone()), &nothing);
        Halves { u, m }
    }
}

/// u + m, with what an adapter beside the MLP adds.
fn join(adapter: Option<&AdaptFormer>, u: Tensor<3>, m: Tensor<3>, key: Option<Key>) -> Tensor<3> {
    match adapter {
        Some(adapter) => adapter.join(u, m, key),
        None => kernels::add(u, m),
    }
}

/// What a block has computed where AdaptFormer's adapter comes in: u = x + Attn(LN₁ x) and m = MLP(LN₂ u),
/// `[batch, tokens, dim]` each.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    u: Tensor<3>,
    m: Tensor<3>,
}

impl Halves {
    /// Images in it.
    pub(crate) fn len(&self) -> usize {
        self.u.dims()[0]
    }

    /// Some of the images, in this order.
    pub(crate) fn select(&self, images: Tensor<1, Int>) -> Self {
        Self {
            u: self.u.clone().select(0, images.clone()),
            m: self.m.clone().select(0, images),
        }
    }

    /// So many of the images from one on.
    pub(crate) fn narrow(&self, first: usize, count: usize) -> Self {
        Self {
            u: self.u.clone().narrow(0, first, count),
            m: self.m.clone().narrow(0, first, count),
        }
    }

    /// The tokens behind the block, for rows that come set after set, each with its own adapter and so many rows.
    fn join<'a>(self, sets: impl Iterator<Item = (Option<&'a AdaptFormer>, usize)>) -> Tensor<3> {
        let sets: Vec<_> = sets.collect();
        if let [(adapter, _)] = sets[..] {
            return join(adapter, self.u, self.m, None);
        }
        let mut first = 0;
        let parts: Vec<Tensor<3>> = (sets.into_iter())
            .map(|(adapter, rows)| {
                let part = self.narrow(first, rows);
                first += rows;
                join(adapter, part.u, part.m, None)
            })
            .collect();
        Tensor::cat(parts, 0)
    }
}

/// The convolution that cuts an image into patches.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[D, 3, patch, patch]`, stride = patch.
    pub proj: Conv2d,
}

/// A Vision Transformer without a head; its feature is the class token after the final norm.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    /// `[1, 1, D]`.
    pub cls_token: Param<Tensor<3>>,
    /// `[1, N, D]`; row 0 belongs to the class token.
    pub pos_embed: Param<Tensor<3>>,
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// The L blocks.
    pub blocks: Vec<Block>,
    /// The final norm.
    pub norm: LayerNorm,
    #[module(skip)]
    config: VitConfig,
}

impl VisionTransformer {
    /// Random weights as timm draws them.
    ///
    /// # Errors
    /// If the sizes do not fit together.
    pub fn new(config: VitConfig, key: Key, device: &Device) -> Result<Self> {
        config.validate()?;
        let (dim, patch) = (config.dim, config.patch);
        let proj = Conv2d::new([3, dim], patch, patch, 0, key.child("patch"), device);
        let blocks = (0..config.depth).map(|i| {
            let key = key.child("block").at(i as u64);
            Block::new(&config, key, device)
        });
        let pos = [1, config.tokens(), dim];
        let pos = random::truncated_normal(key.child("pos"), pos, 0.02, 2.0, device);
        let cls = random::normal(key.child("cls"), [1, 1, dim], 1e-6, device);
        Ok(Self {
            cls_token: Param::from_tensor(cls),
            pos_embed: Param::from_tensor(pos),
            patch_embed: PatchEmbed {
                proj: proj.with_bias(key.child("patch bias"), device),
            },
            blocks: blocks.collect(),
            norm: LayerNorm::new(dim, device),
            config,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Images `[batch, 3, height, width]` to tokens `[batch, N, D]`, positions added, before block 0.
    pub fn embed(&self, images: Tensor<4>) -> Tensor<3> {
        self.embed_with(images, None)
    }

    /// [`embed`](Self::embed) with what acts on the patches.
    pub fn embed_with(&self, images: Tensor<4>, pet: Option<&Pet>) -> Tensor<3> {
        let [batch, ..] = images.dims();
        let patches = (self.patch_embed.proj.forward(images))
            .flatten::<3>(2, 3)
            .swap_dims(1, 2);
        let patches = scale_shift(pet.and_then(|pet| pet.patches.as_ref()), patches);
        let cls = self.cls_token.val().expand([batch, 1, self.config.dim]);
        Tensor::cat(vec![cls, patches], 1) + self.pos_embed.val()
    }

    /// Images `[batch, 3, height, width]` to features `[batch, D]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.finish(self.embed(images), 0, None, None)
    }

    /// Tokens `[batch, N, D]` before block `from` to tokens before block `to`, as pre-trained.
    pub fn through(&self, tokens: Tensor<3>, from: usize, to: usize) -> Tensor<3> {
        let blocks = self.blocks.iter().take(to).skip(from);
        blocks.fold(tokens, |x, block| block.forward(x))
    }

    /// Tokens `[batch, N, D]` before block `from` to features `[batch, D]`, with what acts in that block and
    /// those after it. `key` draws the dropout of training; without one there is none.
    pub fn finish(
        &self,
        tokens: Tensor<3>,
        from: usize,
        pet: Option<&Pet>,
        key: Option<Key>,
    ) -> Tensor<2> {
        let nothing = BlockPet::default();
        let mut x = append(pet.and_then(|pet| pet.prompts.as_ref()), tokens);
        for (number, block) in self.blocks.iter().enumerate().skip(from) {
            let acts = pet.and_then(|pet| pet.blocks.get(number));
            let key = key.map(|key| key.at(number as u64));
            let acts = acts.unwrap_or(&nothing);
            x = match number + 1 == self.blocks.len() {
                true => block.forward_first(x, acts, key),
                false => block.forward_with(x, acts, key),
            };
        }
        let cls = self.norm.forward(x.narrow(1, 0, 1));
        scale_shift(pet.and_then(|pet| pet.norm.as_ref()), cls).squeeze_dim(1)
    }

    /// What a block has computed where AdaptFormer's adapter comes in, of tokens `[batch, N, D]` before it.
    pub(crate) fn halves(&self, tokens: Tensor<3>, block: usize) -> Halves {
        self.blocks[block].halves(tokens, block + 1 == self.blocks.len())
    }

    /// [`finish`](Self::finish) from the middle of a block on, for rows that come set after set, each with its own
    /// modules and so many rows. These act beside the MLPs alone, so all else is computed in one batch.
    pub(crate) fn finish_by(
        &self,
        halves: Halves,
        block: usize,
        sets: &[(&Pet, usize)],
    ) -> Tensor<2> {
        let acts = |number: usize| {
            sets.iter().map(move |(pet, rows)| {
                let block = pet.blocks.get(number);
                (block.and_then(|block| block.adaptformer.as_ref()), *rows)
            })
        };
        let mut x = halves.join(acts(block));
        for number in block + 1..self.blocks.len() {
            x = self.halves(x, number).join(acts(number));
        }
        self.norm.forward(x.narrow(1, 0, 1)).squeeze_dim(1)
    }
}
