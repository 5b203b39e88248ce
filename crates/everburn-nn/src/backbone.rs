//! A backbone with all that turns an image into a feature: input size, normalisation, weights.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use everburn_backend::{from_array, param_bytes, save_params};
use everburn_core::{Error, ImageShape, Images, Key, Result, State};
use serde::{Deserialize, Serialize};

use crate::layers::{BatchStatistics, Norm};
use crate::pet::Pet;
use crate::resample::resize_pos_embed;
use crate::resnet::ResNet18;
use crate::vit::{VisionTransformer, VitConfig};
use crate::weights::{LoadReport, RawTensor, WeightFile};
use crate::{embedded_weights, is_trainable};

/// Per-channel mean and standard deviation, of values in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalise {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by, after that.
    pub std: [f32; 3],
}

impl Normalise {
    /// x/127.5 − 1.
    pub const HALF: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };

    /// The values as they are, in 0..=1: what prompt and PILOT code feeds its ViTs.
    pub const NONE: Self = Self {
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    /// Normalises `[batch, 3, height, width]`.
    pub fn apply(&self, images: Tensor<4>) -> Tensor<4> {
        if *self == Self::NONE {
            return images;
        }
        let device = images.device();
        let channels = |values: [f32; 3]| {
            Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
        };
        (images - channels(self.mean)) / channels(self.std)
    }
}

/// Checks that there is an image. burn-flex's matrix product of no rows reads memory that is not its own.
pub(crate) fn some(images: &Images) -> Result<()> {
    match images.is_empty() {
        true => Err(Error::input("a batch", "no image", "at least one")),
        false => Ok(()),
    }
}

/// Images as `[batch, channels, height, width]` with values in 0..=1.
///
/// # Errors
/// If there are none.
pub fn to_tensor(images: &Images, device: &Device) -> Result<Tensor<4>> {
    some(images)?;
    let ImageShape {
        height,
        width,
        channels,
    } = images.shape();
    let values: Vec<f32> = images
        .pixels()
        .iter()
        .map(|p| f32::from(*p) / 255.0)
        .collect();
    let data = TensorData::new(values, [images.len(), height, width, channels]);
    Ok(Tensor::<4>::from_data(data, device).permute([0, 3, 1, 2]))
}

/// Class numbers `[batch]` as a tensor.
pub fn targets(numbers: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = numbers.iter().map(|n| *n as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// The network of a backbone.
#[derive(Module, Debug)]
pub enum Encoder {
    /// A Vision Transformer.
    Vit(VisionTransformer),
    /// The reduced ResNet-18.
    ResNet(ResNet18),
}

impl Encoder {
    /// Normalised images `[batch, 3, height, width]` to features `[batch, dim]`.
    pub fn forward(&self, images: Tensor<4>, norm: &mut Norm<'_>) -> Tensor<2> {
        match self {
            Self::Vit(vit) => vit.forward(images),
            Self::ResNet(resnet) => resnet.forward(images, norm),
        }
    }

    /// [`forward`](Self::forward) with modules that tune the network; `key` draws the dropout of training.
    ///
    /// # Errors
    /// If there are modules and the network is no Vision Transformer, or they are for another one.
    pub fn forward_with(
        &self,
        images: Tensor<4>,
        pet: Option<&Pet>,
        key: Option<Key>,
        norm: &mut Norm<'_>,
    ) -> Result<Tensor<2>> {
        match (self, pet) {
            (_, None) => Ok(self.forward(images, norm)),
            (Self::Vit(vit), Some(pet)) => {
                pet.check(vit)?;
                let tokens = vit.embed_with(images, Some(pet));
                Ok(vit.finish(tokens, 0, Some(pet), key))
            }
            (Self::ResNet(_), Some(_)) => Err(Error::unsupported(
                "modules in a ResNet",
                "parameter-efficient tuning needs a Vision Transformer",
            )),
        }
    }

    /// Takes in the batch statistics of a forward pass in train mode.
    pub fn absorb(&mut self, statistics: Vec<BatchStatistics>) {
        if let Self::ResNet(resnet) = self {
            resnet.absorb(statistics);
        }
    }

    /// Width of a feature.
    pub fn dim(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.config().dim,
            Self::ResNet(resnet) => resnet.dim(),
        }
    }
}

/// A network, the images that it takes and the way they are normalised.
#[derive(Clone, Debug)]
pub struct Backbone {
    name: String,
    encoder: Encoder,
    input: ImageShape,
    normalise: Normalise,
    weights_hash: String,
}

impl Backbone {
    /// The embedded pre-trained ViT.
    ///
    /// # Errors
    /// If the crate was built from a damaged file.
    pub fn embedded(device: &Device) -> Result<Self> {
        let file = embedded_weights()?;
        let (backbone, _) = Self::vit_from_file("vit_micro_patch4_32", file, None, None, device)?;
        Ok(backbone)
    }

    /// A ViT with weights from a file in timm's layout.
    ///
    /// The sizes are read off the tensors; the number of heads from the file's metadata
    /// (`num_heads`), or else D/64 as in all published ViTs. `image` resamples the position embedding
    /// for another input size. `normalise` defaults to the metadata's mean and std, or else
    /// [`Normalise::HALF`].
    ///
    /// # Errors
    /// If tensors are missing or of another shape, or the sizes do not fit together.
    pub fn vit_from_file(
        name: &str,
        mut file: WeightFile,
        image: Option<usize>,
        normalise: Option<Normalise>,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        let mut config = read_vit_config(&file)?;
        let mut hash = file.hash().to_owned();
        if let Some(image) = image.filter(|image| *image != config.image) {
            config.image = image;
            config.validate()?;
            fit_pos_embed(&mut file, config.grid(), device)?;
            let resampled = format!("{hash} at {image}");
            hash = blake3::hash(resampled.as_bytes()).to_hex().to_string();
        }
        let normalise = normalise
            .or_else(|| read_normalise(&file))
            .unwrap_or(Normalise::HALF);
        let input = ImageShape::new(config.image, config.image, 3);
        let vit = VisionTransformer::new(config, Key::from_seed(0), device)?;
        let (vit, report) = file.load_into(vit)?;
        let backbone = Self {
            name: name.to_owned(),
            encoder: Encoder::Vit(vit),
            input,
            normalise,
            weights_hash: hash,
        };
        Ok((backbone, report))
    }

    /// The reduced ResNet-18 with random weights, for square images of `side` pixels.
    ///
    /// # Errors
    /// If it has no filters or the images no pixels.
    pub fn resnet18(
        filters: usize,
        side: usize,
        normalise: Normalise,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        everburn_core::Checker::new("resnet18").positive("side", side)?;
        let encoder = Encoder::ResNet(ResNet18::new(filters, key, device)?);
        Self::hashed(format!("resnet18_nf{filters}"), encoder, side, normalise)
    }

    /// A ViT with random weights.
    ///
    /// # Errors
    /// If its sizes do not fit together.
    pub fn vit(config: VitConfig, normalise: Normalise, key: Key, device: &Device) -> Result<Self> {
        let (name, side) = (
            format!("vit_d{}_l{}", config.dim, config.depth),
            config.image,
        );
        let encoder = Encoder::Vit(VisionTransformer::new(config, key, device)?);
        Self::hashed(name, encoder, side, normalise)
    }

    /// A ViT as it is, under a name.
    ///
    /// # Errors
    /// If the device fails to hand over its weights, which are hashed.
    pub fn from_vit(name: &str, vit: VisionTransformer, normalise: Normalise) -> Result<Self> {
        let side = vit.config().image;
        Self::hashed(name.to_owned(), Encoder::Vit(vit), side, normalise)
    }

    fn hashed(name: String, encoder: Encoder, side: usize, normalise: Normalise) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        if let Encoder::Vit(vit) = &encoder {
            // The number of heads leaves no trace in the shapes.
            hasher.update(&(vit.config().heads as u64).to_le_bytes());
        }
        for (path, array) in &save_params(&encoder)?.arrays {
            hasher.update(path.as_bytes());
            if let everburn_core::Values::F32(values) = &array.values {
                hasher.update(bytemuck::cast_slice(values));
            }
        }
        Ok(Self {
            name,
            encoder,
            input: ImageShape::new(side, side, 3),
            normalise,
            weights_hash: hasher.finalize().to_hex().to_string(),
        })
    }

    /// What tables call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of the weights that it began with.
    pub fn weights_hash(&self) -> &str {
        &self.weights_hash
    }

    /// Identity of the function from images to features: weights, input size and normalisation.
    pub fn identity(&self) -> String {
        let text = format!("{} {} {:?}", self.weights_hash, self.input, self.normalise);
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// Checks that a saved state's value `backbone` is this one's [`identity`](Self::identity): what
    /// was learnt on other weights, or under another normalisation, does not fit.
    ///
    /// # Errors
    /// If it is missing or another.
    pub fn check_identity(&self, state: &State) -> Result<()> {
        let (found, expected): (String, _) = (state.value("backbone")?, self.identity());
        if found == expected {
            return Ok(());
        }
        Err(Error::state(
            "backbone",
            found,
            format!("{expected} ({})", self.name),
        ))
    }

    /// The images that it takes.
    pub fn input(&self) -> ImageShape {
        self.input
    }

    /// Width of a feature.
    pub fn dim(&self) -> usize {
        self.encoder.dim()
    }

    /// Bytes of its parameters.
    pub fn bytes(&self) -> u64 {
        param_bytes(&self.encoder)
    }

    /// Parameters that training would change.
    pub fn num_trainable(&self) -> usize {
        let params = everburn_backend::params(&self.encoder).into_iter();
        params
            .filter(|p| is_trainable(&p.path))
            .map(|p| p.shape.iter().product::<usize>())
            .sum()
    }

    /// Multiply-accumulate operations of a forward pass for one image.
    pub fn macs(&self) -> u64 {
        match &self.encoder {
            Encoder::Vit(vit) => vit.config().macs(),
            Encoder::ResNet(resnet) => resnet.macs(self.input.height),
        }
    }

    /// The network, as it was built.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The network as a Vision Transformer.
    ///
    /// # Errors
    /// If it is none.
    pub fn as_vit(&self) -> Result<&VisionTransformer> {
        match &self.encoder {
            Encoder::Vit(vit) => Ok(vit),
            Encoder::ResNet(_) => Err(Error::unsupported(
                format!("modules in the backbone {}", self.name),
                "parameter-efficient tuning needs a Vision Transformer; tune the whole of it instead",
            )),
        }
    }

    /// Images as a tensor in 0..=1, not yet normalised.
    ///
    /// # Errors
    /// If their size is not the one that the backbone takes.
    pub fn load(&self, images: &Images, device: &Device) -> Result<Tensor<4>> {
        if images.shape() != self.input {
            return Err(Error::input(
                format!("image size for the backbone {}", self.name),
                images.shape(),
                format!(
                    "{} (resize the data set, e.g. `resize-{}`)",
                    self.input, self.input.height
                ),
            ));
        }
        to_tensor(images, device)
    }

    /// Normalises images in 0..=1.
    pub fn normalise(&self, images: Tensor<4>) -> Tensor<4> {
        self.normalise.apply(images)
    }
}

fn read_vit_config(file: &WeightFile) -> Result<VitConfig> {
    let shape = |name: &str, sides: usize| -> Result<&[usize]> {
        let tensor = file.tensors().get(name);
        match tensor.map(|t| &t.shape[..]) {
            Some(shape) if shape.len() == sides => Ok(shape),
            other => Err(Error::input(
                format!("{}, tensor `{name}`", file.source()),
                other.map_or("nothing".to_owned(), |shape| format!("{shape:?}")),
                format!("{sides} sides, as in timm's VisionTransformer"),
            )),
        }
    };
    let (proj, pos) = (shape("patch_embed.proj.weight", 4)?, shape("pos_embed", 3)?);
    let (dim, patch) = (proj[0], proj[3]);
    let grid = pos[1].saturating_sub(1).isqrt();
    let hidden = shape("blocks.0.mlp.fc1.weight", 2)?[0];
    let depth = (0..).take_while(|i| {
        file.tensors()
            .contains_key(&format!("blocks.{i}.norm1.weight"))
    });
    let heads = match file.metadata().get("num_heads") {
        Some(text) => text.parse().map_err(|_| {
            Error::input(
                format!("{}, metadata `num_heads`", file.source()),
                text,
                "a number",
            )
        })?,
        None => (dim / 64).max(1),
    };
    let config = VitConfig {
        image: grid * patch,
        patch,
        dim,
        depth: depth.count(),
        heads,
        hidden,
    };
    config.validate()?;
    Ok(config)
}

fn read_normalise(file: &WeightFile) -> Option<Normalise> {
    let three = |name: &str| -> Option<[f32; 3]> {
        let text = file.metadata().get(name)?;
        let values: Vec<f32> = text
            .split(',')
            .map(|v| v.trim().parse().ok())
            .collect::<Option<_>>()?;
        values.try_into().ok()
    };
    Some(Normalise {
        mean: three("mean")?,
        std: three("std")?,
    })
}

fn fit_pos_embed(file: &mut WeightFile, grid: usize, device: &Device) -> Result<()> {
    let Some(raw) = file.tensors().get("pos_embed") else {
        return Ok(());
    };
    let array = everburn_core::Array::f32(raw.shape.clone(), raw.values.clone());
    let fitted = resize_pos_embed(
        from_array::<3>("pos_embed", &array, device)?,
        [grid, grid],
        false,
    )?;
    let tensor = RawTensor {
        shape: fitted.dims().to_vec(),
        values: everburn_backend::to_vec(&fitted)?,
    };
    file.replace("pos_embed", tensor);
    Ok(())
}
