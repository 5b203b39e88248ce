//! Parameter-efficient tuning (PET): small modules that change what a frozen Vision Transformer computes.
//!
//! A [`Pet`] says what acts in which block; the backbone's forward pass
//! ([`VisionTransformer::finish`](crate::vit::VisionTransformer::finish)) asks it at each place. It holds
//! only its own parameters, so its state is small, and many of them can share one backbone.
//!
//! ```
//! use everburn_backend::{DeviceChoice, param_bytes};
//! use everburn_core::Key;
//! use everburn_nn::{PetConfig, pet::{AdapterConfig, Pet}, vit::{VisionTransformer, VitConfig}};
//!
//! let device = DeviceChoice::CPU.open()?;
//! let vit = VisionTransformer::new(VitConfig::micro4_32(), Key::from_seed(1), &device)?;
//! let adapter = PetConfig::Adapter(AdapterConfig::default());
//! let pet = Pet::new(&adapter, &vit, Key::from_seed(2), &device)?;
//! assert_eq!(param_bytes(&pet), 4 * 5 * (2 * 128 * 5 + 5 + 128 + 1));
//!
//! let images = burn::tensor::Tensor::zeros([2, 3, 32, 32], &device);
//! let tokens = vit.embed(images.clone());
//! let tuned = vit.finish(tokens, 0, Some(&pet), None);
//! assert_eq!(tuned.to_data(), vit.forward(images).to_data()); // it begins as nothing
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod adapter;
mod config;
mod lora;
mod prefix;
mod prompts;
mod scaler;
mod ssf;

use burn::module::{Module, Param};
use burn::tensor::Device;
use everburn_core::{Error, Key, Result};

pub use adapter::{AdaptFormer, Adapter};
pub use config::{
    AdaptFormerConfig, AdapterConfig, AdapterNorm, AttentionPlace, Blocks, LoraConfig, LoraInit,
    LoraTarget, MlpPlace, PetConfig, PrefixConfig, Scale, SsfConfig, VptConfig, VptDepth, VptInit,
    Width,
};
pub(crate) use lora::add_to;
pub use lora::{BlockLora, Lora};
pub use prefix::Prefix;
pub use prompts::Prompts;
pub(crate) use prompts::append;
pub use scaler::Scaler;
pub(crate) use ssf::scale_shift;
pub use ssf::{BlockSsf, ScaleShift};

use crate::vit::{VisionTransformer, VitConfig};

/// What acts in one block; nothing by default.
#[derive(Module, Debug, Default)]
pub struct BlockPet {
    /// LAE's adapter, beside the attention.
    pub adapter: Option<Adapter>,
    /// AdaptFormer's adapter, beside the MLP.
    pub adaptformer: Option<AdaptFormer>,
    /// Low-rank changes of weights.
    pub lora: Option<BlockLora>,
    /// Further keys and values.
    pub prefix: Option<Prefix>,
    /// Scales and shifts.
    pub ssf: Option<BlockSsf>,
    /// Prompts of this block alone.
    pub prompts: Option<Prompts>,
}

impl BlockPet {
    fn is_empty(&self) -> bool {
        let Self {
            adapter,
            adaptformer,
            lora,
            prefix,
            ssf,
            prompts,
        } = self;
        let one = adapter.is_some() || adaptformer.is_some() || lora.is_some();
        !(one || prefix.is_some() || ssf.is_some() || prompts.is_some())
    }

    /// Multiply-accumulate operations for one token: beside the attention, and beside the MLP.
    fn macs(&self, vit: &VitConfig) -> [usize; 2] {
        let lora = self.lora.as_ref().map_or([0, 0], BlockLora::macs);
        let ssf = self
            .ssf
            .as_ref()
            .map_or([0, 0], |_| [5 * vit.dim, 2 * vit.dim + vit.hidden]);
        let adapter = self.adapter.as_ref().map_or(0, Adapter::macs);
        let prefix = self.prefix.as_ref().map_or(0, Prefix::macs);
        let adaptformer = self.adaptformer.as_ref().map_or(0, AdaptFormer::macs);
        [
            adapter + prefix + lora[0] + ssf[0],
            adaptformer + lora[1] + ssf[1],
        ]
    }
}

/// The modules that tune a Vision Transformer.
#[derive(Module, Debug)]
pub struct Pet {
    /// What acts in each block of the backbone.
    pub blocks: Vec<BlockPet>,
    /// Prompts that go through all blocks.
    pub prompts: Option<Prompts>,
    /// Scale and shift of the patches.
    pub patches: Option<ScaleShift>,
    /// Scale and shift of the final norm's output.
    pub norm: Option<ScaleShift>,
}

impl Pet {
    /// Modules for a backbone, drawn from `key`.
    ///
    /// # Errors
    /// If a setting is wrong, or the backbone lacks a block.
    pub fn new(
        config: &PetConfig,
        vit: &VisionTransformer,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        let depth = vit.blocks.len();
        let nothing = Self {
            blocks: (0..depth).map(|_| BlockPet::default()).collect(),
            prompts: None,
            patches: None,
            norm: None,
        };
        nothing.with(config, vit, key, device)
    }

    /// The same with modules of one more kind.
    ///
    /// # Errors
    /// If a setting is wrong, the backbone lacks a block, or a block has modules of this kind already.
    pub fn with(
        mut self,
        config: &PetConfig,
        vit: &VisionTransformer,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        self.check(vit)?;
        let (sizes, depth) = (vit.config(), vit.blocks.len());
        let (dim, all) = (sizes.dim, Blocks::All);
        let blocks = match config {
            PetConfig::Adaptformer(config) => &config.blocks,
            PetConfig::Adapter(config) => &config.blocks,
            PetConfig::Lora(config) => &config.blocks,
            PetConfig::Prefix(config) => &config.blocks,
            PetConfig::Ssf(_) | PetConfig::Vpt(_) => &all,
        };
        for number in blocks.numbers(depth)? {
            let key = key.child("block").at(number as u64);
            let (block, pet) = (&vit.blocks[number], &mut self.blocks[number]);
            match config {
                PetConfig::Adaptformer(config) => {
                    let new = AdaptFormer::new(config, dim, key, device)?;
                    put(&mut pet.adaptformer, new)
                }
                PetConfig::Adapter(config) => {
                    put(&mut pet.adapter, Adapter::new(config, dim, key, device)?)
                }
                PetConfig::Lora(config) => put(&mut pet.lora, BlockLora::new(config, block, key)?),
                PetConfig::Prefix(config) => {
                    put(&mut pet.prefix, Prefix::new(config, dim, key, device))
                }
                PetConfig::Ssf(config) => {
                    let new = BlockSsf::new(sizes, config.deviation, key, device);
                    put(&mut pet.ssf, new)
                }
                PetConfig::Vpt(config) => {
                    let new = || Prompts::new(config, sizes, key, device);
                    match config.depth {
                        VptDepth::Deep => put(&mut pet.prompts, new()),
                        VptDepth::Shallow if number == 0 => put(&mut self.prompts, new()),
                        VptDepth::Shallow => Ok(()),
                    }
                }
            }?;
        }
        if let PetConfig::Ssf(config) = config {
            let new = |name| ScaleShift::new(dim, config.deviation, key.child(name), device);
            put(&mut self.patches, new("patches"))?;
            put(&mut self.norm, new("norm"))?;
        }
        Ok(self)
    }

    /// The block before which everything is as in the pre-trained backbone; none where already the patches
    /// are changed.
    pub fn first_block(&self) -> Option<usize> {
        if self.patches.is_some() {
            return None;
        }
        if self.prompts.is_some() {
            return Some(0);
        }
        let acts = self.blocks.iter().position(|block| !block.is_empty());
        Some(acts.unwrap_or(self.blocks.len()))
    }

    /// Whether all that it does is to add something beside MLPs.
    pub(crate) fn is_beside_mlps(&self) -> bool {
        let nowhere_else = |block: &BlockPet| {
            let BlockPet {
                adapter,
                adaptformer: _,
                lora,
                prefix,
                ssf,
                prompts,
            } = block;
            let one = adapter.is_some() || lora.is_some() || prefix.is_some();
            !(one || ssf.is_some() || prompts.is_some())
        };
        let ends = self.prompts.is_some() || self.patches.is_some() || self.norm.is_some();
        !ends && self.blocks.iter().all(nowhere_else)
    }

    /// Checks that it was made for a backbone like this.
    pub(crate) fn check(&self, vit: &VisionTransformer) -> Result<()> {
        if self.blocks.len() == vit.blocks.len() {
            return Ok(());
        }
        let (found, expected) = (self.blocks.len(), vit.blocks.len());
        Err(Error::input(
            "modules for a backbone, blocks",
            found,
            expected,
        ))
    }

    /// Multiply-accumulate operations that it adds to a forward pass for one image.
    pub fn macs(&self, vit: &VitConfig) -> u64 {
        let tokens = vit.tokens();
        let count = |prompts: &Option<Prompts>| {
            prompts
                .as_ref()
                .map_or(0, |prompts| prompts.tokens.dims()[0])
        };
        // All blocks have as many, of their own or carried through.
        let prompts = count(&self.prompts) + self.blocks.first().map_or(0, |b| count(&b.prompts));
        let of_prompts = vit.macs_from(0, tokens + prompts) - vit.macs_from(0, tokens);
        let last = self.blocks.len().saturating_sub(1);
        let of_block = |(number, block): (usize, &BlockPet)| {
            let [attention, mlp] = block.macs(vit);
            // In the last block only the class token goes through the MLP.
            attention * tokens + mlp * if number == last { 1 } else { tokens }
        };
        let of_blocks: usize = self.blocks.iter().enumerate().map(of_block).sum();
        let ends = self.patches.as_ref().map_or(0, |_| (tokens - 1) * vit.dim)
            + self.norm.as_ref().map_or(0, |_| vit.dim);
        of_prompts + (of_blocks + ends) as u64
    }
}

/// Puts a module where none is.
fn put<T>(place: &mut Option<T>, new: T) -> Result<()> {
    if place.is_some() {
        return Err(Error::config("pet", "two of one kind in one block", "one"));
    }
    *place = Some(new);
    Ok(())
}

impl VisionTransformer {
    /// The backbone with the changes of LoRA and SSF in its own weights: it computes what it computes with
    /// `pet`, up to rounding, and costs what it costs without.
    ///
    /// # Errors
    /// If there are modules of another kind, which no weight can hold, or they are for another backbone.
    pub fn merged(&self, pet: &Pet) -> Result<Self> {
        pet.check(self)?;
        let other = |block: &BlockPet| {
            block.adapter.is_some()
                || block.adaptformer.is_some()
                || block.prefix.is_some()
                || block.prompts.is_some()
        };
        if pet.prompts.is_some() || pet.blocks.iter().any(other) {
            return Err(Error::unsupported(
                "merging",
                "only LoRA and SSF can be merged into weights",
            ));
        }
        let mut vit = self.clone();
        for (block, pet) in vit.blocks.iter_mut().zip(&pet.blocks) {
            if let Some(lora) = &pet.lora {
                lora.merge_into(block);
            }
            if let Some(ssf) = &pet.ssf {
                ssf.merge_into(block);
            }
        }
        if let Some(ssf) = &pet.patches {
            let proj = &mut vit.patch_embed.proj;
            let weight = proj.weight.val() * ssf.scale.val().reshape([-1, 1, 1, 1]);
            proj.weight = Param::from_tensor(weight);
            let bias = proj.bias.as_ref().map(Param::val);
            let zeros = || ssf.shift.val().zeros_like();
            let bias = ssf.fold_bias(bias.unwrap_or_else(zeros));
            proj.bias = Some(Param::from_tensor(bias));
        }
        if let Some(ssf) = &pet.norm {
            ssf.fold_into_norm(&mut vit.norm);
        }
        Ok(vit)
    }
}
