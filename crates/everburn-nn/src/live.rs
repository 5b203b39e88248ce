//! A network during one step: with a tape, and augmented images.

use burn::tensor::{Device, Int, Tensor};
use everburn_core::profile::Part;
use everburn_core::{ClassId, Error, Images, Key, Result, SeenClasses, View};

use crate::augment::Augment;
use crate::backbone::targets;
use crate::frozen::Frozen;
use crate::head::Classifier;
use crate::layers::{BatchStatistics, Norm, cross_entropy};
use crate::network::{Trained, timed};
use crate::pet::Pet;
use crate::stem::Stem;

/// A network with a tape behind its trained parameters, for one step.
pub struct Live<'a> {
    pub(crate) frozen: &'a Frozen,
    pub(crate) classifier: Classifier,
    pub(crate) augment: &'a Augment,
    pub(crate) device: &'a Device,
    pub(crate) seen: &'a SeenClasses,
    pub(crate) trained: Trained,
    pub(crate) statistics: Vec<Vec<BatchStatistics>>,
}

/// A step's parameters and batch statistics, detached from the network that they came from.
pub struct Tape {
    pub(crate) trained: Trained,
    pub(crate) statistics: Vec<Vec<BatchStatistics>>,
    /// Where the step of the modules begins, if not where their gradient was taken.
    pub(crate) modules: Option<Pet>,
}

impl Tape {
    /// A step of the modules from other values than those at which their gradient was taken.
    #[must_use]
    pub fn stepping_from(self, modules: Pet) -> Self {
        Self {
            modules: Some(modules),
            ..self
        }
    }
}

/// The numbers of the labels' columns, `[batch]`.
pub(crate) fn columns(
    seen: &SeenClasses,
    labels: &[ClassId],
    device: &Device,
) -> Result<Tensor<1, Int>> {
    Ok(targets(&seen.indices(labels)?, device))
}

impl Live<'_> {
    /// Logits `[batch, classes]`, in train mode; `key` as for [`features`](Self::features).
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    pub fn logits(&mut self, images: &Images, view: View, key: Key) -> Result<Tensor<2>> {
        let features = self.features(images, view, key)?;
        self.logits_of(features)
    }

    /// Logits `[batch, classes]` of features `[batch, dim]`.
    ///
    /// # Errors
    /// If no class has been seen.
    pub fn logits_of(&self, features: Tensor<2>) -> Result<Tensor<2>> {
        match &self.trained.head {
            Some(head) => Ok(head.forward(features, self.classifier)),
            None => Err(Error::unsupported("logits", "no class has been seen yet")),
        }
    }

    /// Projections `[batch, width]` of features `[batch, dim]`.
    ///
    /// # Errors
    /// If the network has no projector.
    pub fn project(&self, features: Tensor<2>) -> Result<Tensor<2>> {
        match &self.trained.projector {
            Some(projector) => Ok(projector.forward(features)),
            None => Err(Error::unsupported(
                "projections",
                "the network has no projector",
            )),
        }
    }

    /// Features `[batch, dim]` of images as the backbone takes them, `[batch, 3, height, width]`, in train mode: for
    /// methods that make images of their own out of [`pixels`](Self::pixels). `key` draws the dropout of modules.
    ///
    /// # Errors
    /// If the images do not fit.
    pub fn features_of(&mut self, pixels: Tensor<4>, key: Key) -> Result<Tensor<2>> {
        let dropout = Some(key.child("dropout"));
        let encoder = match &self.trained.backbone {
            Some(encoder) => encoder,
            None => self.frozen.backbone().encoder(),
        };
        let (trains, pet) = (self.trained.backbone.is_some(), self.trained.pet.as_ref());
        let mut statistics = Vec::new();
        let features = timed(Part::Forward, self.device, || {
            let norm = &mut match trains {
                true => Norm::Train(&mut statistics),
                false => Norm::Eval,
            };
            encoder.forward_with(pixels, pet, dropout, norm)
        })?;
        if trains {
            self.statistics.push(statistics);
        }
        Ok(features)
    }

    /// Features `[batch, dim]`, in train mode. `key` draws the augmentation of [`View::Train`] and, whatever the
    /// view, the dropout of modules that have one.
    ///
    /// # Errors
    /// If the images do not fit.
    pub fn features(&mut self, images: &Images, view: View, key: Key) -> Result<Tensor<2>> {
        let augmented = view == View::Train && !self.augment.is_none();
        let is_frozen = self.trained.backbone.is_none();
        match self.trained.pet.as_ref() {
            Some(pet) if is_frozen => {
                let stem = match augmented || pet.first_block().is_none() {
                    true => Stem::pixels(self.viewed(images, augmented, key)?),
                    false => Stem::tokens(self.frozen.tokens(images)?),
                };
                let dropout = Some(key.child("dropout"));
                let finish = || stem.finish(self.frozen, pet, dropout);
                timed(Part::Forward, self.device, finish)
            }
            None if is_frozen && !augmented => self.frozen.features(images),
            _ => {
                let pixels = self.viewed(images, augmented, key)?;
                self.features_of(pixels, key)
            }
        }
    }

    /// Images as the backbone takes them, `[batch, 3, height, width]`: normalised, and not augmented.
    ///
    /// # Errors
    /// If the images do not fit.
    pub fn pixels(&self, images: &Images) -> Result<Tensor<4>> {
        Ok((self.frozen.backbone()).normalise(self.loaded(images)?))
    }

    /// Images with values in 0..=1.
    fn loaded(&self, images: &Images) -> Result<Tensor<4>> {
        let load = || self.frozen.backbone().load(images, self.device);
        timed(Part::Read, self.device, load)
    }

    /// [`pixels`](Self::pixels), augmented or not.
    fn viewed(&self, images: &Images, augmented: bool, key: Key) -> Result<Tensor<4>> {
        if !augmented {
            return self.pixels(images);
        }
        let pixels = self.augment(self.loaded(images)?, key.child("augment"));
        Ok(self.frozen.backbone().normalise(pixels))
    }

    /// Augments images `[batch, 3, height, width]` by the network's policy. Normalised ones are padded with the mean
    /// colour, and cannot change their brightness.
    pub fn augment(&self, pixels: Tensor<4>, key: Key) -> Tensor<4> {
        let augment = || self.augment.apply(pixels, key);
        timed(Part::Augment, self.device, augment)
    }

    /// Mean cross-entropy of a batch over all classes seen, in train mode. `key` as for
    /// [`logits`](Self::logits).
    ///
    /// # Errors
    /// If images and labels do not fit, or a class has not been seen.
    pub fn loss(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        view: View,
        key: Key,
    ) -> Result<Tensor<1>> {
        Self::check(images, labels)?;
        let targets = columns(self.seen, labels, self.device)?;
        Ok(cross_entropy(self.logits(images, view, key)?, targets))
    }

    /// Mean cross-entropy of a batch over some classes alone: the rows of all other classes get no
    /// gradient. With the classes of the current task it is the local cross-entropy of LAE and others,
    /// the "labels trick" of Zeno et al. (2018).
    ///
    /// # Errors
    /// If images and labels do not fit, or a label is none of the classes.
    pub fn local_loss(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        classes: &[ClassId],
        view: View,
        key: Key,
    ) -> Result<Tensor<1>> {
        let (logits, targets) = self.local(images, labels, classes, view, key)?;
        Ok(cross_entropy(logits, targets))
    }

    /// Logits over some classes alone, `[batch, classes]`, and the numbers of the labels among them, `[batch]`: what
    /// [`local_loss`](Self::local_loss) and other local losses are made of.
    ///
    /// # Errors
    /// As [`local_loss`](Self::local_loss).
    pub fn local(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        classes: &[ClassId],
        view: View,
        key: Key,
    ) -> Result<(Tensor<2>, Tensor<1, Int>)> {
        let (_, logits, targets) = self.local_with_features(images, labels, classes, view, key)?;
        Ok((logits, targets))
    }

    /// [`local`](Self::local) with the features `[batch, dim]` that the logits are made of, which come first.
    ///
    /// # Errors
    /// As [`local`](Self::local).
    pub fn local_with_features(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        classes: &[ClassId],
        view: View,
        key: Key,
    ) -> Result<(Tensor<2>, Tensor<2>, Tensor<1, Int>)> {
        Self::check(images, labels)?;
        let local = SeenClasses::from(classes.to_vec());
        if let Some(stranger) = labels.iter().find(|class| local.index(**class).is_none()) {
            let expected = "one of the classes over which the loss goes, such as the task's";
            return Err(Error::input("a label", stranger, expected));
        }
        let targets = columns(&local, labels, self.device)?;
        let rows = columns(self.seen, local.as_slice(), self.device)?;
        let features = self.features(images, view, key)?;
        let logits = self.logits_of(features.clone())?;
        Ok((features, logits.select(1, rows), targets))
    }

    /// Checks that each image has a label.
    fn check(images: &Images, labels: &[ClassId]) -> Result<()> {
        match images.len() == labels.len() {
            true => Ok(()),
            false => Err(Error::input(
                "labels of a batch",
                labels.len(),
                images.len(),
            )),
        }
    }

    /// What [`Network::update`](crate::Network::update) needs, without the borrow of the network.
    pub fn into_tape(self) -> Tape {
        Tape {
            trained: self.trained,
            statistics: self.statistics,
            modules: None,
        }
    }
}
