//! A backbone under a linear head that grows with the classes: what the gradient-trained baselines
//! share.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use everburn_backend::{
    Clipping, Group, Optimiser, collect_grads, from_state, is_asynchronous, load_params_of,
    param_bytes, param_bytes_of, params, save_params_of, to_vec, track, untrack,
};
use everburn_cache::FeatureStore;
use everburn_core::profile::{self, Part, span};
use everburn_core::{
    Checker, ClassId, Error, Footprint, Images, Key, Kind, Output, Result, SeenClasses, State, View,
};

use crate::augment::Augment;
use crate::backbone::{Backbone, Encoder, targets};
use crate::frozen::Frozen;
use crate::head::{Classifier, Head, HeadInit};
use crate::layers::{LayerNorm, Linear, Norm, is_trainable};
use crate::live::{Live, Tape, columns};
use crate::losses::Losses;
use crate::pet::{Pet, PetConfig};
use crate::stem::Stem;
use crate::training::{BackbonePart, Training, Tuning};

#[derive(Module, Debug)]
pub(crate) struct Trained {
    /// `None` when the backbone is frozen, all of it.
    pub(crate) backbone: Option<Encoder>,
    /// The modules that tune a frozen backbone, where there are any.
    pub(crate) pet: Option<Pet>,
    /// `None` before the first class.
    pub(crate) head: Option<Head>,
    /// Beside the head, for losses that compare images: `None` where there is no such loss.
    pub(crate) projector: Option<Linear>,
}

/// The groups of parameters that have a rate of their own: what trains beside the head has one.
const GROUPS: [&str; 3] = ["head", "pet", "backbone"];
/// The group of the projector, where there is one; it has the head's rate.
const PROJECTOR: &str = "projector";

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
    /// Parts of the backbone that train beside modules.
    unfrozen: Vec<BackbonePart>,
    classifier: Classifier,
    augment: Augment,
    optimiser: Optimiser,
    clipping: Option<Clipping>,
    seen: SeenClasses,
    device: Device,
    head_key: Key,
    head_init: HeadInit,
    losses: Losses,
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
                projector: None,
            },
            tuning,
            pet: None,
            unfrozen: Vec::new(),
            classifier: Classifier::default(),
            augment,
            optimiser: Optimiser::new(training.rule, GROUPS.map(group).to_vec())?,
            clipping: training.clipping,
            seen: SeenClasses::default(),
            device: device.clone(),
            head_key: key.child("head"),
            head_init: HeadInit::default(),
            losses: Losses::default(),
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

    /// With a projector of features to `width` numbers beside the head, as PyTorch draws a linear layer, from `key`
    /// ([`Live::project`]). It trains at the head's rate.
    ///
    /// # Errors
    /// If it has no width.
    pub fn with_projector(mut self, width: usize, key: Key) -> Result<Self> {
        Checker::new(PROJECTOR).positive("width", width)?;
        let dim = self.frozen.backbone().dim();
        let head = self.optimiser.groups()[0].clone();
        let group = Group::below(PROJECTOR, head.rate, head.weight_decay);
        self.optimiser = self.optimiser.with_group(group)?;
        self.trained.projector = Some(Linear::new(dim, width, key, &self.device));
        Ok(self)
    }

    /// The width of its projections, where it has a projector.
    fn projection(&self) -> Option<usize> {
        let projector = self.trained.projector.as_ref()?;
        Some(projector.weight.dims()[1])
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

    /// With parts of the backbone trained beside the modules, at the backbone's rate. All of it is then computed
    /// anew for each image, as where it is tuned as a whole.
    ///
    /// # Errors
    /// If the tuning is another, or the backbone is no Vision Transformer.
    pub fn with_unfrozen(mut self, parts: &[BackbonePart]) -> Result<Self> {
        if parts.is_empty() {
            return Ok(self);
        }
        if self.tuning != Tuning::Pet {
            let expected = "`pet`, where parts of the backbone train beside modules";
            return Err(Error::config("tuning", self.tuning.name(), expected));
        }
        let vit = self.frozen.backbone().as_vit()?.clone();
        self.trained.backbone = Some(Encoder::Vit(vit));
        self.unfrozen = parts.to_vec();
        Ok(self)
    }

    /// With a new final norm in place of the pre-trained one: scale 1, shift 0, ε = 1e-5, as SLCA trains it.
    ///
    /// # Errors
    /// If the norm is not trained, or the backbone is no Vision Transformer.
    pub fn with_new_norm(mut self) -> Result<Self> {
        let trains = self.is_unfrozen("norm.weight");
        match &mut self.trained.backbone {
            Some(Encoder::Vit(vit)) if trains => {
                let dim = vit.config().dim;
                vit.norm = LayerNorm::new(dim, &self.device).with_epsilon(LayerNorm::TORCH_EPSILON);
                Ok(self)
            }
            _ => Err(Error::config(
                "new_norm",
                true,
                "false, unless the final norm of a Vision Transformer is tuned",
            )),
        }
    }

    /// ε of the final norm, where the network has one of its own: no parameter, and still part of what it computes.
    fn norm_epsilon(&self) -> Option<f64> {
        match &self.trained.backbone {
            Some(Encoder::Vit(vit)) => Some(vit.norm.epsilon()),
            _ => None,
        }
    }

    /// Whether a parameter of the backbone, by its path there, may differ from the pre-trained one.
    fn is_unfrozen(&self, path: &str) -> bool {
        match self.tuning {
            Tuning::Frozen => false,
            Tuning::Pet => self.unfrozen.iter().any(|part| part.contains(path)),
            Tuning::Full => true,
        }
    }

    /// Whether a parameter, by its path in [`Trained`], may differ from what the network began with.
    fn is_own(&self, path: &str) -> bool {
        path.strip_prefix("backbone.")
            .is_none_or(|path| self.is_unfrozen(path))
    }

    /// The modules that tune the backbone, where there are any.
    pub fn pet(&self) -> Option<&Pet> {
        self.trained.pet.as_ref()
    }

    /// The head; none before the first class.
    pub fn head(&self) -> Option<&Head> {
        self.trained.head.as_ref()
    }

    /// Puts a head in place of the network's own, with rows for the same classes.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn set_head(&mut self, head: Head) -> Result<()> {
        let bias = |head: &Head| head.bias.as_ref().map(|bias| bias.dims());
        let shape = |head: &Head| (head.weight.dims(), bias(head));
        let (found, expected) = (Some(shape(&head)), self.head().map(shape));
        if found != expected {
            let text = |shape| format!("{shape:?}");
            return Err(Error::input("a head", text(found), text(expected)));
        }
        self.trained.head = Some(head);
        Ok(())
    }

    /// Puts modules in place of the network's own, of the same kind and size.
    ///
    /// # Errors
    /// If their parameters are others.
    pub fn set_pet(&mut self, pet: Pet) -> Result<()> {
        let (found, expected) = (Some(params(&pet)), self.pet().map(params));
        if found != expected {
            let text = |params| format!("{params:?}");
            return Err(Error::input("modules", text(found), text(expected)));
        }
        self.trained.pet = Some(pet);
        Ok(())
    }

    /// How the head's rows become logits.
    pub fn classifier(&self) -> Classifier {
        self.classifier
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
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
        for name in GROUPS.into_iter().chain([PROJECTOR]) {
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
        let first = self.seen.len();
        for class in classes {
            self.seen.insert(*class);
        }
        if self.seen.len() == first {
            return;
        }
        let (dim, old) = (self.frozen.backbone().dim(), self.trained.head.take());
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        if let Some(old) = old {
            weights.push(old.weight.val());
            biases.extend(old.bias.map(|bias| bias.val()));
        }
        for row in first..self.seen.len() {
            let key = self.head_key.at(row as u64);
            let (weight, bias) = self.head_init.row(dim, key, &self.device);
            weights.push(weight);
            biases.push(bias);
        }
        let bias = || Param::from_tensor(Tensor::cat(biases, 0));
        self.trained.head = Some(Head {
            weight: Param::from_tensor(Tensor::cat(weights, 0)),
            bias: self.classifier.has_bias().then(bias),
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
        self.live_where(|path| is_trainable(path) && self.is_own(path))
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
            let mut trained = tape.trained;
            trained.pet = tape.modules.or(trained.pet);
            let mut trained = untrack(self.optimiser.step(trained, grads)?);
            if let Some(backbone) = &mut trained.backbone {
                for statistics in tape.statistics {
                    backbone.absorb(statistics);
                }
            }
            Ok::<_, Error>(trained)
        })?;
        self.losses.push(loss, &device)
    }

    /// [`update`](Self::update) in which the head's rows of all classes but these stay as they are, to the bit: a
    /// row without a gradient would still be moved by weight decay.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_rows(
        &mut self,
        tape: Tape,
        loss: Tensor<1>,
        classes: &[ClassId],
    ) -> Result<Option<f32>> {
        let before = self.trained.head.clone();
        let loss = self.update(tape, loss)?;
        if let (Some(before), Some(after)) = (before, self.trained.head.take()) {
            let seen = self.seen.as_slice().iter();
            let chosen: Vec<bool> = seen.map(|class| classes.contains(class)).collect();
            self.trained.head = Some(before.with_rows_of(&after, &chosen));
        }
        Ok(loss)
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
        let backbone = self.frozen.backbone();
        match (&self.trained.backbone, &self.trained.pet) {
            (None, None) => self.frozen.features(images),
            (None, Some(pet)) => self.features_with(&self.stem(images)?, pet),
            (Some(encoder), pet) => {
                let pixels = backbone.normalise(backbone.load(images, &self.device)?);
                encoder.forward_with(pixels, pet.as_ref(), None, &mut Norm::Eval)
            }
        }
    }

    /// What images are before the first module that tunes the backbone: the same for all modules of one
    /// kind, so it need be computed once.
    ///
    /// # Errors
    /// If the images do not fit, the backbone is no Vision Transformer, or parts of it train.
    pub fn stem(&self, images: &Images) -> Result<Stem> {
        if self.trained.backbone.is_some() {
            let why = "parts of the backbone train, so nothing of it stays";
            return Err(Error::unsupported("a stem", why));
        }
        let backbone = self.frozen.backbone();
        if self.pet().is_some_and(|pet| pet.first_block().is_none()) {
            let pixels = backbone.load(images, &self.device)?;
            return Ok(Stem::pixels(backbone.normalise(pixels)));
        }
        let tokens = Stem::tokens(self.frozen.tokens(images)?);
        match self.pet() {
            Some(pet) => timed(Part::Forward, &self.device, || {
                tokens.up_to(pet, &self.frozen)
            }),
            None => Ok(tokens),
        }
    }

    /// Features `[batch, dim]` with these modules in place of the network's own.
    ///
    /// # Errors
    /// If the backbone is no Vision Transformer, or the modules are for another one or begin before the stem
    /// ends.
    pub fn features_with(&self, stem: &Stem, pet: &Pet) -> Result<Tensor<2>> {
        let finish = || stem.clone().finish(&self.frozen, pet, None);
        timed(Part::Forward, &self.device, finish)
    }

    /// Features `[pairs, dim]` of pairs of an image of the stem and one of some sets of modules, by their numbers. The
    /// frozen computations between modules go through one batch, whichever sets there are, where modules act beside
    /// MLPs alone (AdaptFormer); others go set by set.
    ///
    /// # Errors
    /// As [`features_with`](Self::features_with), or if there is no pair or a number is too large.
    pub fn features_by(
        &self,
        stem: &Stem,
        pets: &[&Pet],
        pairs: &[(usize, usize)],
    ) -> Result<Tensor<2>> {
        let (images, sets) = (stem.len(), pets.len());
        if pairs.is_empty() {
            return Err(Error::input(
                "images and modules",
                "none",
                "at least one pair",
            ));
        }
        let fits = |(image, pet): &&(usize, usize)| *image < images && *pet < sets;
        if let Some(wrong) = pairs.iter().find(|pair| !fits(pair)) {
            let expected = format!("numbers below {images} and {sets}");
            let found = format!("{wrong:?}");
            return Err(Error::input("an image and its modules", found, expected));
        }
        // Set after set, and back.
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|pair| pairs[*pair].1);
        let mut places = vec![0; pairs.len()];
        for (place, pair) in order.iter().enumerate() {
            places[*pair] = place;
        }
        let rows: Vec<usize> = order.iter().map(|pair| pairs[*pair].0).collect();
        let used = order.chunk_by(|a, b| pairs[*a].1 == pairs[*b].1);
        let used: Vec<(&Pet, usize)> = used.map(|set| (pets[pairs[set[0]].1], set.len())).collect();
        let features = timed(Part::Forward, &self.device, || {
            let stem = stem.select(targets(&rows, &self.device));
            stem.finish_by(&self.frozen, &used)
        })?;
        Ok(features.select(0, targets(&places, &self.device)))
    }

    /// Logits `[batch, classes]` of features `[batch, dim]`.
    ///
    /// # Errors
    /// If no class has been seen.
    pub fn logits(&self, features: Tensor<2>) -> Result<Tensor<2>> {
        self.losses.check()?;
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
            // The first block's frozen half is in the stem.
            Some(first) if pet.is_beside_mlps() => config.macs_from(first + 1, config.tokens()),
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
                let own = param_bytes_of(encoder, |path| self.is_unfrozen(path));
                footprint.add(Kind::Trained, "backbone", own);
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
        if let Some(projector) = &self.trained.projector {
            footprint.add(Kind::Trained, PROJECTOR, param_bytes(projector));
        }
        footprint.memory.push(self.optimiser.memory());
        footprint
    }

    /// The complete state; a frozen backbone by its hash.
    ///
    /// # Errors
    /// If the device fails.
    pub fn save(&self) -> Result<State> {
        self.losses.check()?;
        let mut state = State::default();
        state.nest(
            "trained",
            save_params_of(&self.trained, |path| self.is_own(path))?,
        );
        state.nest("optimiser", self.optimiser.save()?);
        state.put_value("seen", &self.seen)?;
        state.put_value("tuning", self.tuning)?;
        state.put_value("pet", &self.pet)?;
        state.put_value("unfrozen", &self.unfrozen)?;
        state.put_value("norm_epsilon", self.norm_epsilon())?;
        if let Some(width) = self.projection() {
            state.put_value(PROJECTOR, width)?;
        }
        state.put_value("backbone", self.frozen.backbone().identity())?;
        // Rows for classes yet to come are drawn from it.
        state.put_value("head_key", self.head_key)?;
        Ok(state)
    }

    /// The head of a saved state of such a network; none before the first class.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn saved_head(&self, state: &State) -> Result<Option<Head>> {
        let (seen, head): (SeenClasses, _) = (state.value("seen")?, state.below("trained.head"));
        let rows = (!seen.is_empty()).then_some(seen.len());
        rows.map(|rows| self.head_from_state(&head, rows))
            .transpose()
    }

    /// A saved head of so many rows, for this network.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn head_from_state(&self, state: &State, rows: usize) -> Result<Head> {
        let weight = from_state::<2>(state, "weight", &self.device)?;
        let bias = (self.classifier.has_bias())
            .then(|| from_state::<1>(state, "bias", &self.device))
            .transpose()?;
        let expected = [rows, self.frozen.backbone().dim()];
        let bias_fits = bias.as_ref().is_none_or(|bias| bias.dims() == [rows]);
        if weight.dims() != expected || !bias_fits {
            let found = format!("{:?}", weight.dims());
            return Err(Error::state("head.weight", found, format!("{expected:?}")));
        }
        Ok(Head {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
        })
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
        let unfrozen: Vec<BackbonePart> = state.value("unfrozen")?;
        if unfrozen != self.unfrozen {
            let text = |parts: &[BackbonePart]| format!("{parts:?}");
            let (found, expected) = (text(&unfrozen), text(&self.unfrozen));
            return Err(Error::state("unfrozen", found, expected));
        }
        let epsilon: Option<f64> = state.value("norm_epsilon")?;
        if epsilon != self.norm_epsilon() {
            let text = |epsilon: Option<f64>| format!("{epsilon:?}");
            let (found, expected) = (text(epsilon), text(self.norm_epsilon()));
            return Err(Error::state("norm_epsilon", found, expected));
        }
        // States of networks without one do not speak of it.
        let has_projector = state.values.contains_key(PROJECTOR);
        let width: Option<usize> = has_projector.then(|| state.value(PROJECTOR)).transpose()?;
        if width != self.projection() {
            let text = |width: Option<usize>| format!("{width:?}");
            let (found, expected) = (text(width), text(self.projection()));
            return Err(Error::state(PROJECTOR, found, expected));
        }
        let seen: SeenClasses = state.value("seen")?;
        let arrays = state.below("trained");
        let shaped = Trained {
            backbone: self.trained.backbone.clone(),
            pet: self.trained.pet.clone(),
            head: self.saved_head(state)?,
            projector: self.trained.projector.clone(),
        };
        let trained = load_params_of(shaped, &arrays, |path| self.is_own(path))?;
        let moments = state.below("optimiser");
        self.optimiser.restore(&moments, &trained, &self.device)?;
        (self.trained, self.seen, self.head_key) = (trained, seen, head_key);
        self.losses.clear();
        Ok(())
    }
}
