//! What images are where the modules begin that tune a backbone.

use burn::tensor::{Int, Tensor};
use everburn_core::{Error, Key, Result};

use crate::frozen::Frozen;
use crate::pet::Pet;
use crate::vit::{Halves, VisionTransformer};

/// What images are where the modules that tune a backbone begin: the same for all modules of one kind.
#[derive(Clone, Debug)]
pub struct Stem(Begun);

/// How far they have come.
#[derive(Clone, Debug)]
enum Begun {
    /// Normalised images `[batch, 3, height, width]`: already the patches are changed.
    Pixels(Tensor<4>),
    /// Tokens `[batch, N, D]` before the block at which the backbone is cut.
    Tokens(Tensor<3>),
    /// The two halves of that block: modules act beside MLPs and nowhere else.
    Halves(Box<Halves>),
}

impl Stem {
    /// Of normalised images `[batch, 3, height, width]`.
    pub(crate) fn pixels(images: Tensor<4>) -> Self {
        Self(Begun::Pixels(images))
    }

    /// Of tokens `[batch, N, D]` before the block at which the backbone is cut.
    pub(crate) fn tokens(tokens: Tensor<3>) -> Self {
        Self(Begun::Tokens(tokens))
    }

    /// As far as modules like these let it come. What is computed here has no tape, nor dropout.
    pub(crate) fn up_to(self, pet: &Pet, frozen: &Frozen) -> Result<Self> {
        match self.0 {
            Begun::Tokens(tokens) if pet.is_beside_mlps() => {
                let halves = (frozen.backbone().as_vit()?).halves(tokens, frozen.cut_at());
                Ok(Self(Begun::Halves(Box::new(halves))))
            }
            begun => Ok(Self(begun)),
        }
    }

    /// Images in it.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Begun::Pixels(pixels) => pixels.dims()[0],
            Begun::Tokens(tokens) => tokens.dims()[0],
            Begun::Halves(halves) => halves.len(),
        }
    }

    /// Some of the images, in this order.
    pub(crate) fn select(&self, images: Tensor<1, Int>) -> Self {
        Self(match &self.0 {
            Begun::Pixels(pixels) => Begun::Pixels(pixels.clone().select(0, images)),
            Begun::Tokens(tokens) => Begun::Tokens(tokens.clone().select(0, images)),
            Begun::Halves(halves) => Begun::Halves(Box::new(halves.select(images))),
        })
    }

    /// So many of the images from one on.
    fn narrow(&self, first: usize, count: usize) -> Self {
        Self(match &self.0 {
            Begun::Pixels(pixels) => Begun::Pixels(pixels.clone().narrow(0, first, count)),
            Begun::Tokens(tokens) => Begun::Tokens(tokens.clone().narrow(0, first, count)),
            Begun::Halves(halves) => Begun::Halves(Box::new(halves.narrow(first, count))),
        })
    }

    /// Features `[batch, dim]`, with the modules' changes. `key` draws the dropout of training.
    pub(crate) fn finish(self, frozen: &Frozen, pet: &Pet, key: Option<Key>) -> Result<Tensor<2>> {
        let (vit, cut) = (frozen.backbone().as_vit()?, frozen.cut_at());
        self.check(pet, vit, cut)?;
        Ok(match self.0 {
            Begun::Pixels(pixels) => {
                vit.finish(vit.embed_with(pixels, Some(pet)), 0, Some(pet), key)
            }
            Begun::Tokens(tokens) => vit.finish(tokens, cut, Some(pet), key),
            Begun::Halves(halves) => {
                let rows = halves.len();
                vit.finish_by(*halves, cut, &[(pet, rows)])
            }
        })
    }

    /// Features `[batch, dim]` of images that come set after set, each with its own modules and so many images: in one
    /// batch where modules act beside MLPs alone, otherwise set by set.
    pub(crate) fn finish_by(self, frozen: &Frozen, sets: &[(&Pet, usize)]) -> Result<Tensor<2>> {
        let (vit, cut) = (frozen.backbone().as_vit()?, frozen.cut_at());
        for (pet, _) in sets {
            self.check(pet, vit, cut)?;
        }
        if let Begun::Halves(halves) = self.0 {
            return Ok(vit.finish_by(*halves, cut, sets));
        }
        let mut first = 0;
        let mut parts = Vec::with_capacity(sets.len());
        for (pet, rows) in sets {
            parts.push(self.narrow(first, *rows).finish(frozen, pet, None)?);
            first += rows;
        }
        Ok(Tensor::cat(parts, 0))
    }

    /// Checks that modules are for this backbone, and begin where the stem ends or later.
    fn check(&self, pet: &Pet, vit: &VisionTransformer, cut: usize) -> Result<()> {
        pet.check(vit)?;
        let begins = pet.first_block();
        let is_later = begins.is_some_and(|block| block >= cut);
        let fits = match self.0 {
            Begun::Pixels(_) => true,
            Begun::Tokens(_) => is_later,
            Begun::Halves(_) => is_later && pet.is_beside_mlps(),
        };
        if fits {
            return Ok(());
        }
        let found = begins.map_or("the patches".to_owned(), |block| format!("block {block}"));
        let expected = format!("block {cut} or later, where the stem ends, and of its kind");
        Err(Error::input("modules that begin at", found, expected))
    }
}
