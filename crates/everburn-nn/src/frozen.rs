//! A backbone that is never trained, and what it computes for each image.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use everburn_cache::FeatureStore;
use everburn_core::profile::{Part, span};
use everburn_core::{Error, ImageKey, ImageSource, Images, Result};

use crate::backbone::{Backbone, some};
use crate::layers::Norm;
use crate::network::timed;

/// A backbone that is never trained, with a store of what it computes. Clones share the store.
///
/// [`cut`](Self::cut) at a block, it computes and stores the tokens before that block, from which modules that
/// are tuned go on.
#[derive(Clone, Debug)]
pub struct Frozen {
    backbone: Arc<Backbone>,
    device: Device,
    /// The block before which it stops, if not after the last.
    cut: Option<usize>,
    store: FeatureStore,
}

/// Images of a forward pass that fills the store.
///
/// Kernels round differently by the size of a batch, so this is always the size, whatever is missing: a
/// feature then does not depend on which images happened to be computed with it, and a run that was
/// killed and resumed, or that finds features of another suite, gets the same bytes.
const STORE_BATCH: usize = 64;

impl Frozen {
    /// A frozen backbone whose features are kept in memory.
    pub fn new(backbone: Backbone, device: &Device) -> Self {
        let store = FeatureStore::in_memory(backbone.dim());
        Self {
            backbone: Arc::new(backbone),
            device: device.clone(),
            cut: None,
            store,
        }
    }

    /// The same backbone, stopping before a block, with a store in memory of the tokens there. One that is cut
    /// there already keeps its store.
    ///
    /// # Errors
    /// If it is no Vision Transformer, or has no such block.
    pub fn cut(self, block: usize) -> Result<Self> {
        if self.cut == Some(block) {
            return Ok(self);
        }
        let vit = self.backbone.as_vit()?;
        let depth = vit.blocks.len();
        if block >= depth {
            let expected = format!("a block of the backbone, which has {depth}");
            return Err(Error::input("cutting a backbone, block", block, expected));
        }
        let values = vit.config().tokens() * vit.config().dim;
        Ok(Self {
            cut: Some(block),
            store: FeatureStore::in_memory(values),
            ..self
        })
    }

    /// The block at which it is cut; 0, where already the modules begin, if it is not.
    pub fn cut_at(&self) -> usize {
        self.cut.unwrap_or(0)
    }

    /// Values that it computes and stores for an image: of a feature, or of all tokens where it is cut.
    pub fn row(&self) -> usize {
        self.store.dim()
    }

    /// The same backbone with another store, of [`extractor`](Self::extractor)'s name where it lies on
    /// the disk.
    ///
    /// # Errors
    /// If its rows are of another width than [`row`](Self::row).
    pub fn with_store(self, store: FeatureStore) -> Result<Self> {
        if store.dim() != self.row() {
            let expected = format!("{}, the values of an image", self.row());
            return Err(Error::input(
                "width of a feature store",
                store.dim(),
                expected,
            ));
        }
        Ok(Self { store, ..self })
    }

    /// The store of what it computes.
    pub fn store(&self) -> &FeatureStore {
        &self.store
    }

    /// The name in a store of what this computes: a hash of weights, input size, normalisation, kind of
    /// device, the cut, and `computed_by`, where the caller says what else may change the last bits of a
    /// feature: the code and the processor.
    pub fn extractor(&self, computed_by: &str) -> String {
        let identity = self.backbone.identity();
        let cut = self.cut.map(|block| format!(" before block {block}"));
        let text = format!(
            "{identity}{} {:?} {STORE_BATCH} {computed_by}",
            cut.unwrap_or_default(),
            self.device
        );
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// The backbone.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// The device that it computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Computes and keeps the rows of images that the store lacks, which alone are read. `progress` is
    /// told before and after each batch how many images of how many are done, and says whether to go on.
    ///
    /// # Errors
    /// If the images do not fit or the device fails.
    pub fn warm(
        &self,
        images: &dyn ImageSource,
        mut progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<()> {
        let (missing, total) = (self.store.load(images.keys()), images.len());
        let mut done = total - missing.len();
        for batch in missing.chunks(STORE_BATCH) {
            if !progress(done, total) {
                return Ok(());
            }
            let (chosen, values) = self.batch_of_store(images, batch)?;
            self.store.put(&chosen, &values)?;
            done += batch.len();
        }
        self.store.flush();
        progress(done, total);
        Ok(())
    }

    /// The keys and rows of at most [`STORE_BATCH`] images, computed in a batch of just that size.
    fn batch_of_store(
        &self,
        images: &dyn ImageSource,
        batch: &[usize],
    ) -> Result<(Vec<ImageKey>, Vec<f32>)> {
        let mut filled: Vec<usize> = batch.to_vec();
        filled.resize(STORE_BATCH, batch[0]);
        let chosen = images.select(&filled)?;
        let mut values = everburn_backend::to_vec(&self.compute(&chosen)?)?;
        values.truncate(batch.len() * self.row());
        let mut keys = chosen.keys().to_vec();
        keys.truncate(batch.len());
        Ok((keys, values))
    }

    /// Features `[batch, dim]`, from the store where all of them are known.
    ///
    /// # Errors
    /// If the images do not fit.
    pub fn features(&self, images: &Images) -> Result<Tensor<2>> {
        if self.cut.is_some() {
            let (vit, tokens) = (self.backbone.as_vit()?, self.tokens(images)?);
            let finish = || vit.finish(tokens, self.cut_at(), None, None);
            return Ok(timed(Part::Forward, &self.device, finish));
        }
        match self.stored(images) {
            Some(rows) => Ok(rows),
            None => timed(Part::Forward, &self.device, || self.compute(images)),
        }
    }

    /// Tokens `[batch, N, D]` before the block at which it is cut, or before block 0.
    ///
    /// Behind the first block, those of an image are the same bit for bit whether they come from the store or are
    /// computed, and whichever images come with it.
    ///
    /// # Errors
    /// If the images do not fit, or it is no Vision Transformer.
    pub fn tokens(&self, images: &Images) -> Result<Tensor<3>> {
        some(images)?;
        let vit = self.backbone.as_vit()?;
        let shape = [images.len(), vit.config().tokens(), vit.config().dim];
        let stored = self.cut.and_then(|_| self.stored(images));
        if let Some(rows) = stored {
            return Ok(rows.reshape(shape));
        }
        if self.cut_at() == 0 {
            let pixels = timed(Part::Read, &self.device, || {
                self.backbone.load(images, &self.device)
            })?;
            return Ok(timed(Part::Forward, &self.device, || {
                vit.embed(self.backbone.normalise(pixels))
            }));
        }
        let compute = || self.fixed_batches(images);
        Ok(timed(Part::Forward, &self.device, compute)?.reshape(shape))
    }

    /// Rows `[batch, row]` computed in batches of one size.
    fn fixed_batches(&self, images: &Images) -> Result<Tensor<2>> {
        let numbers: Vec<usize> = (0..images.len()).collect();
        let mut rows = Vec::with_capacity(images.len() * self.row());
        for batch in numbers.chunks(STORE_BATCH) {
            rows.extend(self.batch_of_store(images, batch)?.1);
        }
        Ok(self.on_device(rows, images.len()))
    }

    /// Rows `[batch, row]` from the store, if all of them are there.
    fn stored(&self, images: &Images) -> Option<Tensor<2>> {
        let _read = span(Part::Read);
        let known = self.store.get(images.keys());
        let rows = known.filter(|_| !images.is_empty())?;
        Some(self.on_device(rows, images.len()))
    }

    fn on_device(&self, rows: Vec<f32>, count: usize) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows, [count, self.row()]), &self.device)
    }

    /// Features `[batch, dim]` of images in 0..=1 that were changed after loading.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let images = self.backbone.normalise(images);
        self.backbone.encoder().forward(images, &mut Norm::Eval)
    }

    /// Rows `[batch, row]`.
    fn compute(&self, images: &Images) -> Result<Tensor<2>> {
        let pixels = self.backbone.load(images, &self.device)?;
        let Some(block) = self.cut else {
            return Ok(self.forward(pixels));
        };
        let vit = self.backbone.as_vit()?;
        let tokens = vit.embed(self.backbone.normalise(pixels));
        Ok(vit.through(tokens, 0, block).flatten(1, 2))
    }
}
