//! A backbone under a linear head that grows with the classes: what the gradient-trained baselines
//! share.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use everburn_backend::{
    Clipping, Group, Optimiser, Rule, collect_grads, from_state, is_asynchronous, load_params,
    param_bytes, params, save_params, to_vec, track, untrack,
};
use everburn_cache::FeatureStore;
use everburn_core::profile::{self, Part, span};
use everburn_core::{
    ClassId, Error, Footprint, Images, Key, Kind, Output, Result, SeenClasses, State, View,
};

use crate::augment::Augment;
use crate::backbone::{Backbone, Encoder};
use crate::frozen::Frozen;
use crate::head::{Classifier, Head, HeadInit};
use crate::layers::{Norm, is_trainable};
use crate::live::{Live, Stem, Tape, columns};
use crate::pet::{Pet, PetConfig};
use crate::training::{Training, Tuning};

#[derive(Module, Debug)]
pub(crate) struct Trained {
    /// `None` when the backbone is frozen.
    pub(crate) backbone: Option<Encoder>,
    /// The modules that tune a frozen backbone, where there are any.
    pub(crate) pet: Option<Pet>,
    /// `None` before the first class.
    pub(crate) head: Option<Head>,
}

/// The groups of parameters that have a rate of their own: what trains beside the head has one.
const GROUPS: [&str; 3] = ["head", "pet", "backbone"];

/// A backbone and a growing head, trained by gradient.
///
/// ```text
/// let mut live = net.live();                              // with a tape
/// let loss = live.loss(&batch.images, &batch.labels, batch.view, key)?;
/// let tape = live.into_tape();
/// net.update(tape, loss)?;                                // one step of the optimiser
/// ```
pub struct Network {
    frozen: Frozen,
    trained: Trained,
    tuning: Tuning,
    pet: Option<PetConfig>,
    classifier: Classifier,
    augment: Augment,
    rule: Rule,
    optimiser: Optimiser,
    clipping: Option<Clipping>,
    seen: SeenClasses,
    device: Device,
    head_key: Key,
    head_init: HeadInit,
    /// Losses that an asynchronous device still holds.
    unread: Vec<Tensor<1>>,
}

/// Steps after which the losses of an asynchronous device are read.
///
/// Reading one waits for all that was asked of the device before: the processor would prepare nothing
/// while the device computes, and the device compute nothing while the processor prepares.
const READ_EVERY: usize = 32;

/// A loss, if it is a number: a diverged network would go on in silence.
pub(crate) fn check_loss(training: impl Into<String>, loss: f32) -> Result<f32> {
    if loss.is_finite() {
        return Ok(loss);
    }
    Err(Error::other(
        training,
        format!("the loss is {loss}: it has diverged; try a smaller learning rate"),
    ))
}

/// The mean of losses, read from the device at once.
fn mean_loss(losses: &[Tensor<1>]) -> Result<f32> {
    let _span = span(Part::Idle);
    let values = to_vec(&Tensor::cat(losses.to_vec(), 0))?;
    Ok(values.iter().sum::<f32>() / values.len().max(1) as f32)
}

/// Does a part of the work. Where time is watched, it ends when the device has done what was asked.
pub(crate) fn timed<T>(part: Part, device: &Device, work: impl FnOnce() -> T) -> T {
    let _span = span(part);
    let value = work();
    if profile::is_on() && is_asynchronous(device) {
        // What has failed is an error where it is read.
        device.sync().unwrap_or_default();
    }
    value
}

impl Network {
    /// A network without classes. `frozen` gives the backbone; its cache serves whatever is not
    /// augmented while the backbone is not tuned.
    ///
    /// # Errors
    /// If a setting is out of its domain.
    pub fn new(
        frozen: Frozen,
        tuning: Tuning,
        training: &Training,
        augment: Augment,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        training.validate()?;
        augment.validate()?;
        let decay = training.weight_decay;
        let group = |name| Group::below(name, training.rate_of(name), decay);
        let backbone = (tuning == Tuning::Full).then(|| frozen.backbone().encoder().clone());
        Ok(Self {
            frozen,
            trained: Trained {
                backbone,
                pet: None,
                head: None,
            },
            tuning,
            pet: None,
            classifier: Classifier::default(),
            augment,
            rule: training.rule,
            optimiser: Optimiser::new(training.rule, GROUPS.map(group).to_vec())?,
            clipping: training.clipping,
            seen: SeenClasses::default(),
            device: device.clone(),
            head_key: key.child("head"),
            head_init: HeadInit::default(),
            unread: Vec::new(),
        })
    }

    /// With another classifier; to be called before any class has been seen.
    #[must_use]
    pub fn with_classifier(mut self, classifier: Classifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// With another beginning of the head's rows; to be called before any class has been seen.
    #[must_use]
    pub fn with_head_init(mut self, init: HeadInit) -> Self {
        self.head_init = init;
        self
    }

    /// With modules that tune the frozen backbone, drawn from `key`.
    ///
    /// Where they begin behind block 0, tokens before that block are read from the backbone's store. A program that
    /// sees its images more than once cuts the backbone there itself ([`Frozen::cut`], [`PetConfig::first_block`])
    /// and fills the store ([`Frozen::warm`]); otherwise they are computed each time.
    ///
    /// # Errors
    /// If the tuning is another, a setting is wrong, or the backbone is no Vision Transformer.
    pub fn with_pet(mut self, config: &PetConfig, key: Key) -> Result<Self> {
        if self.tuning != Tuning::Pet {
            let expected = "`pet`, where there are modules to tune";
            return Err(Error::config("tuning", self.tuning.name(), expected));
        }
        let pet = Pet::new(config, self.frozen.backbone().as_vit()?, key, &self.device)?;
        self.frozen = self.frozen.cut(pet.first_block().unwrap_or(0))?;
        self.trained.pet = Some(pet);
        self.pet = Some(config.clone());
        Ok(self)
    }

    /// The modules that tune the backbone, where there are any.
    pub fn pet(&self) -> Option<&Pet> {
        self.trained.pet.as_ref()
    }

    /// The classes seen.
    pub fn seen(&self) -> &SeenClasses {
        &self.seen
    }

    /// The backbone as it began.
    pub fn backbone(&self) -> &Backbone {
        self.frozen.backbone()
    }

    /// The store of what the frozen backbone computes.
    pub fn store(&self) -> &FeatureStore {
        self.frozen.store()
    }

    /// Sets the learning rates: of the head, and of what else trains.
    pub fn set_rates(&mut self, training: &Training, change: impl Fn(f64) -> f64) {
        for name in GROUPS {
            self.optimiser
                .set_rate(name, change(training.rate_of(name)));
        }
    }

    /// Begins the optimiser anew, as at the beginning of a task.
    pub fn reset_optimiser(&mut self) {
        self.optimiser.reset();
    }

    /// Gives every class that is new a row of the head.
    pub fn see(&mut self, classes: &[ClassId]) {
        for class in classes {
            if self.seen.index(*class).is_none() {
                let row = self.seen.insert(*class);
                self.grow(row);
            }
        }
    }

    fn grow(&mut self, row: usize) {
        let (dim, key) = (self.frozen.backbone().dim(), self.head_key.at(row as u64));
        let (weight, bias) = self.head_init.row(dim, key, &self.device);
        let bias = self.classifier.has_bias().then_some(bias);
        let (weight, bias) = match self.trained.head.take() {
            None => (weight, bias),
            Some(old) => (
                Tensor::cat(vec![old.weight.val(), weight], 0),
                old.bias
                    .zip(bias)
                    .map(|(old, new)| Tensor::cat(vec![old.val(), new], 0)),
            ),
        };
        self.trained.head = Some(Head {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
        });
    }

    /// The numbers of the labels' columns, `[batch]`.
    ///
    /// # Errors
    /// If a class has not been [`see`](Self::see)n.
    pub fn targets(&self, labels: &[ClassId]) -> Result<Tensor<1, Int>> {
        columns(&self.seen, labels, &self.device)
    }

    /// The network with a tape, for one step.
    pub fn live(&self) -> Live<'_> {
        self.live_where(is_trainable)
    }

    /// The network with a tape behind its head alone: what tunes the backbone gets no gradient, not even one
    /// of zero.
    pub fn live_head(&self) -> Live<'_> {
        self.live_where(|path| path.starts_with("head"))
    }

    fn live_where(&self, wanted: impl Fn(&str) -> bool) -> Live<'_> {
        Live {
            frozen: &self.frozen,
            classifier: self.classifier,
            augment: &self.augment,
            device: &self.device,
            seen: &self.seen,
            trained: track(self.trained.clone(), wanted),
            statistics: Vec::new(),
        }
    }

    /// Goes back along the tape from the loss, and makes one step. Returns the loss; on a device that works
    /// on its own, every so many steps the mean of the losses since, and nothing otherwise.
    ///
    /// # Errors
    /// If the device fails.
    pub fn update(&mut self, tape: Tape, loss: Tensor<1>) -> Result<Option<f32>> {
        let device = self.device.clone();
        let mut grads = timed(Part::Backward, &device, || {
            collect_grads(&tape.trained, loss.backward())
        });
        self.trained = timed(Part::Optimiser, &device, || {
            if let Some(clipping) = self.clipping {
                clipping.apply(&mut grads);
            }
            let mut trained = untrack(self.optimiser.step(tape.trained, grads)?);
            if let Some(backbone) = &mut trained.backbone {
                for statistics in tape.statistics {
                    backbone.absorb(statistics);
                }
            }
            Ok::<_, Error>(trained)
        })?;
        self.unread.push(loss.without_autodiff());
        if is_asynchronous(&self.device) && self.unread.len() < READ_EVERY {
            return Ok(None);
        }
        let unread = std::mem::take(&mut self.unread);
        mean_loss(&unread).map(Some)
    }

    /// Checks the losses not yet read, so that no network that has diverged is saved or asked.
    fn check_unread(&self) -> Result<()> {
        if self.unread.is_empty() {
            return Ok(());
        }
        check_loss("training", mean_loss(&self.unread)?).map(|_| ())
    }

    /// One step on the mean cross-entropy of a batch over all classes seen.
    ///
    /// # Errors
    /// If the batch does not fit, or the device fails.
    pub fn step(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        view: View,
        key: Key,
    ) -> Result<Option<f32>> {
        let mut live = self.live();
        let loss = live.loss(images, labels, view, key)?;
        let tape = live.into_tape();
        self.update(tape, loss)
    }

    /// Features `[batch, dim]` as the network has them now.
    ///
    /// # Errors
    /// If the images do not fit.
    pub fn features(&self, images: &Images) -> Result<Tensor<2>> {
        match &self.trained.backbone {
            None => match &self.trained.pet {
                None => self.frozen.features(images),
                Some(pet) => self.features_with(&self.stem(images)?, pet),
            },
            Some(encoder) => {
                let backbone = self.frozen.backbone();
                let pixels = backbone.normalise(backbone.load(images, &self.device)?);
                Ok(encoder.forward(pixels, &mut Norm::Eval))
            }
        }
    }

    /// What images are before the first module that tunes the backbone: the same for all modules of one
    /// kind, so it need be computed once.
    ///
    /// # Errors
    /// If the images do not fit, or the backbone is no Vision Transformer.
    pub fn stem(&self, images: &Images) -> Result<Stem> {
        let backbone = self.frozen.backbone();
        if self.pet().is_some_and(|pet| pet.first_block().is_none()) {
            let pixels = backbone.load(images, &self.device)?;
            return Ok(Stem::Pixels(backbone.normalise(pixels)));
        }
        Ok(Stem::Tokens(self.frozen.tokens(images)?))
    }

    /// Features `[batch, dim]` with these modules in place of the network's own.
    ///
    /// # Errors
    /// If the backbone is no Vision Transformer, or the modules are for another one or begin before the stem
    /// ends.
    pub fn features_with(&self, stem: &Stem, pet: &Pet) -> Result<Tensor<2>> {
        stem.clone().finish(&self.frozen, pet, None)
    }

    /// Logits `[batch, classes]` of features `[batch, dim]`.
    ///
    /// # Errors
    /// If no class has been seen.
    pub fn logits(&self, features: Tensor<2>) -> Result<Tensor<2>> {
        self.check_unread()?;
        match &self.trained.head {
            Some(head) => Ok(head.forward(features, self.classifier)),
            None => Err(Error::unsupported("logits", "no class has been seen yet")),
        }
    }

    /// Logits over the classes seen.
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    pub fn predict(&self, images: &Images) -> Result<Output> {
        if self.trained.head.is_none() {
            return Output::new(Vec::new(), Vec::new());
        }
        let scores = to_vec(&self.logits(self.features(images)?)?)?;
        Output::new(self.seen.as_slice().to_vec(), scores)
    }

    /// Multiply-accumulate operations for one image from the [`stem`](Self::stem) on: what one more set of
    /// modules costs.
    pub fn macs_behind_stem(&self) -> u64 {
        let backbone = self.frozen.backbone();
        let head = (self.seen.len() * backbone.dim()) as u64;
        let (Ok(vit), Some(pet)) = (backbone.as_vit(), self.pet()) else {
            return backbone.macs() + head;
        };
        let config = vit.config();
        let blocks = match pet.first_block() {
            Some(first) => config.macs_from(first, config.tokens()),
            None => config.macs(),
        };
        blocks + pet.macs(config) + head
    }

    /// Bytes held and operations per prediction.
    pub fn footprint(&self) -> Footprint {
        let backbone = self.frozen.backbone();
        let mut footprint = Footprint {
            macs_per_image: backbone.macs() + (self.seen.len() * backbone.dim()) as u64,
            ..Footprint::default()
        };
        match &self.trained.backbone {
            Some(encoder) => {
                footprint.add(Kind::Trained, "backbone", param_bytes(encoder));
                footprint.add(Kind::Frozen, "backbone as it began", backbone.bytes());
            }
            None => footprint.add(Kind::Frozen, "backbone", backbone.bytes()),
        }
        if let (Some(pet), Ok(vit)) = (&self.trained.pet, backbone.as_vit()) {
            footprint.add(Kind::Trained, "modules", param_bytes(pet));
            footprint.macs_per_image += pet.macs(vit.config());
        }
        let head = self.trained.head.as_ref().map_or(0, param_bytes);
        footprint.add(Kind::Trained, "head", head);
        footprint.memory.push(self.optimiser.memory());
        footprint
    }

    /// The complete state; a frozen backbone by its hash.
    ///
    /// # Errors
    /// If the device fails.
    pub fn save(&self) -> Result<State> {
        self.check_unread()?;
        let mut state = State::default();
        state.nest("trained", save_params(&self.trained)?);
        state.nest("optimiser", self.optimiser.save()?);
        state.put_value("seen", &self.seen)?;
        state.put_value("tuning", self.tuning)?;
        state.put_value("pet", &self.pet)?;
        state.put_value("backbone", self.frozen.backbone().identity())?;
        // Rows for classes yet to come are drawn from it.
        state.put_value("head_key", self.head_key)?;
        Ok(state)
    }

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// If it belongs to another backbone, tuning or set of shapes.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.frozen.backbone().check_identity(state)?;
        let head_key: Key = state.value("head_key")?;
        let tuning: Tuning = state.value("tuning")?;
        if tuning != self.tuning {
            return Err(Error::state("tuning", tuning.name(), self.tuning.name()));
        }
        let pet: Option<PetConfig> = state.value("pet")?;
        if pet != self.pet {
            let text = |pet: &Option<PetConfig>| format!("{pet:?}");
            return Err(Error::state("pet", text(&pet), text(&self.pet)));
        }
        let seen: SeenClasses = state.value("seen")?;
        let arrays = state.below("trained");
        let head = if seen.is_empty() {
            None
        } else {
            let weight = from_state::<2>(&arrays, "head.weight", &self.device)?;
            let bias = (self.classifier.has_bias())
                .then(|| from_state::<1>(&arrays, "head.bias", &self.device))
                .transpose()?;
            let [rows, dim] = weight.dims();
            let bias_fits = bias.as_ref().is_none_or(|bias| bias.dims() == [rows]);
            if rows != seen.len() || !bias_fits || dim != self.frozen.backbone().dim() {
                let expected = format!("{:?}", [seen.len(), self.frozen.backbone().dim()]);
                return Err(Error::state(
                    "head.weight",
                    format!("{:?}", [rows, dim]),
                    expected,
                ));
            }
            Some(Head {
                weight: Param::from_tensor(weight),
                bias: bias.map(Param::from_tensor),
            })
        };
        let shaped = Trained {
            backbone: self.trained.backbone.clone(),
            pet: self.trained.pet.clone(),
            head,
        };
        let trained = load_params(shaped, &arrays)?;
        let moments = state.below("optimiser");
        check_moments(&moments, &trained, self.rule)?;
        self.optimiser.restore(&moments, &self.device)?;
        (self.trained, self.seen, self.head_key) = (trained, seen, head_key);
        self.unread.clear();
        Ok(())
    }
}

/// Every parameter that has been stepped has the moments of the rule. They are as long as each other,
/// and no longer than it: shorter ones belong to a head that has grown since.
fn check_moments(moments: &State, trained: &Trained, rule: Rule) -> Result<()> {
    let count = match rule {
        Rule::Sgd(settings) => usize::from(settings.momentum > 0.0),
        Rule::Adam(_) | Rule::AdamW(_) => 2,
    };
    let steps: BTreeMap<String, u64> = moments.value("steps")?;
    let mut lengths: BTreeMap<&str, Vec<usize>> = steps
        .keys()
        .map(|path| (path.as_str(), Vec::new()))
        .collect();
    for (name, array) in &moments.arrays {
        let path = name.split_once('/').map_or(name.as_str(), |(path, _)| path);
        let of_path = lengths.get_mut(path).ok_or_else(|| {
            Error::state(
                format!("optimiser.{name}"),
                "no number of steps",
                "one in `steps`",
            )
        })?;
        of_path.push(array.values.len());
    }
    let sizes: BTreeMap<String, usize> = (params(trained).into_iter())
        .map(|param| (param.path, param.shape.iter().product()))
        .collect();
    for (path, lengths) in lengths {
        let largest = sizes.get(path).copied().unwrap_or(0);
        let fits = |length: &usize| *length <= largest && Some(length) == lengths.first();
        if lengths.len() != count || !lengths.iter().all(fits) {
            let expected = format!("{count} of one length, at most {largest}");
            return Err(Error::state(
                format!("optimiser.{path}"),
                format!("{lengths:?}"),
                expected,
            ));
        }
    }
    Ok(())
}
