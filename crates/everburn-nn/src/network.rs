//! A backbone under a linear head that grows with the classes: what the gradient-trained baselines
//! share.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use everburn_backend::{
    Clipping, Group, Optimiser, Rule, collect_grads, from_state, is_asynchronous, load_params,
    param_bytes, params, random, save_params, to_vec, track, untrack,
};
use everburn_cache::FeatureStore;
use everburn_core::profile::{self, Part, span};
use everburn_core::{
    Checker, ClassId, Error, Footprint, Images, Key, Kind, Output, Result, SeenClasses, State, View,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::backbone::{Backbone, Encoder, Frozen, targets};
use crate::layers::{BatchStatistics, Norm, cross_entropy, is_trainable};
use crate::pet::{Pet, PetConfig};

/// Which parameters training changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tuning {
    /// The head alone.
    Frozen,
    /// The head and small modules in a frozen backbone.
    Pet,
    /// The head and the whole backbone.
    Full,
}

impl Tuning {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Frozen, Self::Pet, Self::Full];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Pet => "pet",
            Self::Full => "full",
        }
    }
}

impl std::str::FromStr for Tuning {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|tuning| tuning.name() == name)
            .ok_or_else(|| Error::unknown("tuning", name, Self::ALL.map(Self::name)))
    }
}

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The update rule. Published: Adam for a linear head (Si-Blurry) and for modules (LAE), SGD with momentum 0.9 for full
    /// tuning (SLCA), SGD without from scratch (RaptorMai).
    pub rule: Rule,
    /// Learning rate of the head. Published: 0.005 (Si-Blurry), 0.01 for full tuning (SLCA), the modules' (LAE),
    /// 0.1 from scratch (RaptorMai).
    pub head_rate: f64,
    /// Learning rate of the backbone, or of the modules in it, where they are tuned. Published: 0.01 (sequential
    /// fine-tuning in SLCA), 0.0028125 and 0.00046875 (LAE's modules on CIFAR-100 and on ImageNet-R), 0.1 from
    /// scratch (RaptorMai).
    pub backbone_rate: f64,
    /// Weight decay of both. Published: 5e-4 for full tuning (SLCA), else none.
    pub weight_decay: f64,
    /// Clipping of the gradients' norm, if any. Published: none.
    #[serde(default)]
    pub clipping: Option<Clipping>,
}

impl Training {
    /// The rate of a group.
    fn rate_of(&self, group: &str) -> f64 {
        match group {
            "head" => self.head_rate,
            _ => self.backbone_rate,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        self.rule.validate()?;
        let check = Checker::new("training");
        for (field, value) in [
            ("head_rate", self.head_rate),
            ("backbone_rate", self.backbone_rate),
            ("weight_decay", self.weight_decay),
        ] {
            check.within(
                field,
                value,
                0.0..f64::INFINITY,
                "a finite number of at least 0",
            )?;
        }
        if let Some(clipping) = self.clipping {
            let range = f64::MIN_POSITIVE..f64::INFINITY;
            check.within("clipping.max_norm", clipping.max_norm, range, "above 0")?;
        }
        Ok(())
    }
}

/// How a head's rows become logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Classifier {
    /// w·f + b.
    #[default]
    Linear,
    /// s · (w/(‖w‖ + ε))·(f/(‖f‖ + ε)) with ε = 1e-5, without bias: ER-ACE's and the online codes'
    /// `distLinear`.
    Cosine {
        /// s; 10 in ER-ACE.
        scale: f64,
    },
}

/// ε of [`Classifier::Cosine`].
const COSINE_EPS: f64 = 1e-5;

impl Classifier {
    /// Logits `[batch, classes]` of features `[batch, dim]` and rows `[classes, dim]`.
    pub fn logits(
        self,
        features: Tensor<2>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<2> {
        match self {
            Self::Linear => {
                let logits = features.matmul(weight.transpose());
                match bias {
                    Some(bias) => logits + bias.unsqueeze(),
                    None => logits,
                }
            }
            Self::Cosine { scale } => {
                let unit = |rows: Tensor<2>| {
                    let norm = rows.clone().powi_scalar(2).sum_dim(1).sqrt();
                    rows / (norm + COSINE_EPS)
                };
                unit(features).matmul(unit(weight).transpose()) * scale
            }
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If a scale is not above 0.
    pub fn validate(self) -> Result<()> {
        let Self::Cosine { scale } = self else {
            return Ok(());
        };
        let range = f64::MIN_POSITIVE..f64::INFINITY;
        Checker::new("classifier").within("scale", scale, range, "a finite number above 0")
    }

    fn has_bias(self) -> bool {
        self == Self::Linear
    }
}

/// A classifier with one row per class, `[classes, dim]` as in PyTorch: a new class appends a row and
/// leaves the old ones where they are.
#[derive(Module, Debug)]
pub struct Head {
    /// `[classes, dim]`.
    pub weight: Param<Tensor<2>>,
    /// `[classes]`, where the classifier has one.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Head {
    /// Features `[batch, dim]` to logits `[batch, classes]`.
    pub fn forward(&self, features: Tensor<2>, classifier: Classifier) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Param::val);
        classifier.logits(features, self.weight.val(), bias)
    }
}

/// How a head begins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum HeadInit {
    /// Uniform in ±1/√D, the bias too: PyTorch's linear layer.
    #[default]
    Torch,
    /// Normal with this standard deviation, the bias 0.
    Normal(f32),
}

#[derive(Module, Debug)]
struct Trained {
    /// `None` when the backbone is frozen.
    backbone: Option<Encoder>,
    /// The modules that tune a frozen backbone, where there are any.
    pet: Option<Pet>,
    /// `None` before the first class.
    head: Option<Head>,
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

fn columns(seen: &SeenClasses, labels: &[ClassId], device: &Device) -> Result<Tensor<1, Int>> {
    let number = |class: &ClassId| {
        let column = seen.index(*class);
        column.ok_or_else(|| Error::input("a label", class, "a class that has been seen"))
    };
    let numbers = labels.iter().map(number).collect::<Result<Vec<_>>>()?;
    Ok(targets(&numbers, device))
}

/// A network with a tape behind its trained parameters, for one step.
pub struct Live<'a> {
    frozen: &'a Frozen,
    classifier: Classifier,
    augment: &'a Augment,
    device: &'a Device,
    seen: &'a SeenClasses,
    trained: Trained,
    statistics: Vec<Vec<BatchStatistics>>,
}

/// A step's parameters and batch statistics, detached from the network that they came from.
pub struct Tape {
    trained: Trained,
    statistics: Vec<Vec<BatchStatistics>>,
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
        let device = &self.device;
        let (weight, bias) = match self.head_init {
            HeadInit::Torch => (
                random::torch_default(key.child("weight"), [1, dim], dim, device),
                random::torch_default(key.child("bias"), [1], dim, device),
            ),
            HeadInit::Normal(std) => (
                random::normal(key.child("weight"), [1, dim], std, device),
                Tensor::zeros([1], device),
            ),
        };
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
    /// If the backbone is no Vision Transformer.
    pub fn features_with(&self, stem: &Stem, pet: &Pet) -> Result<Tensor<2>> {
        finish(&self.frozen, stem.clone(), Some(pet), None)
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

/// Where the modules that tune a backbone begin.
#[derive(Clone, Debug)]
pub enum Stem {
    /// Normalised images `[batch, 3, height, width]`: already the patches are changed.
    Pixels(Tensor<4>),
    /// Tokens `[batch, N, D]` before the block at which the backbone is cut.
    Tokens(Tensor<3>),
}

/// Features `[batch, dim]`, with the modules' changes.
fn finish(
    frozen: &Frozen,
    stem: Stem,
    pet: Option<&Pet>,
    dropout: Option<Key>,
) -> Result<Tensor<2>> {
    let vit = match (frozen.backbone().encoder(), stem, pet) {
        // No module: any backbone will do.
        (encoder, Stem::Pixels(pixels), None) => {
            return Ok(encoder.forward(pixels, &mut Norm::Eval));
        }
        (_, stem, _) => (frozen.backbone().as_vit()?, stem),
    };
    Ok(match vit {
        (vit, Stem::Tokens(tokens)) => vit.finish(tokens, frozen.cut_at(), pet, dropout),
        (vit, Stem::Pixels(pixels)) => vit.finish(vit.embed_with(pixels, pet), 0, pet, dropout),
    })
}

impl Live<'_> {
    /// Logits `[batch, classes]`, in train mode. `key` draws the augmentation of [`View::Train`].
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    pub fn logits(&mut self, images: &Images, view: View, key: Key) -> Result<Tensor<2>> {
        let augmented = view == View::Train && !self.augment.is_none();
        let (backbone, pet) = (self.frozen.backbone(), self.trained.pet.as_ref());
        let dropout = Some(key.child("dropout"));
        let features = match &self.trained.backbone {
            None if !augmented && pet.is_none() => self.frozen.features(images)?,
            // What comes before the modules is the same for every view but an augmented one.
            None if !augmented && pet.is_some_and(|pet| pet.first_block().is_some()) => {
                let tokens = self.frozen.tokens(images)?;
                let finish = || finish(self.frozen, Stem::Tokens(tokens), pet, dropout);
                timed(Part::Forward, self.device, finish)?
            }
            encoder => {
                let load = || backbone.load(images, self.device);
                let mut pixels = timed(Part::Read, self.device, load)?;
                if augmented {
                    let augment = || self.augment.apply(pixels, key.child("augment"));
                    pixels = timed(Part::Augment, self.device, augment);
                }
                timed(Part::Forward, self.device, || match encoder {
                    None => {
                        let pixels = Stem::Pixels(backbone.normalise(pixels));
                        finish(self.frozen, pixels, pet, dropout)
                    }
                    Some(encoder) => {
                        let mut statistics = Vec::new();
                        let pixels = backbone.normalise(pixels);
                        let features = encoder.forward(pixels, &mut Norm::Train(&mut statistics));
                        self.statistics.push(statistics);
                        Ok(features)
                    }
                })?
            }
        };
        match &self.trained.head {
            Some(head) => Ok(head.forward(features, self.classifier)),
            None => Err(Error::unsupported("logits", "no class has been seen yet")),
        }
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
        self.loss_over(images, labels, None, view, key)
    }

    /// Mean cross-entropy of a batch over some classes alone: what their rows of the head say of the others
    /// gets no gradient. With the classes of the current task it is the local cross-entropy of LAE and others,
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
        self.loss_over(images, labels, Some(classes), view, key)
    }

    fn loss_over(
        &mut self,
        images: &Images,
        labels: &[ClassId],
        classes: Option<&[ClassId]>,
        view: View,
        key: Key,
    ) -> Result<Tensor<1>> {
        if images.len() != labels.len() {
            return Err(Error::input(
                "labels of a batch",
                labels.len(),
                images.len(),
            ));
        }
        let Some(classes) = classes else {
            let targets = columns(self.seen, labels, self.device)?;
            return Ok(cross_entropy(self.logits(images, view, key)?, targets));
        };
        let logits = self.logits(images, view, key)?;
        let local = SeenClasses::from(classes.to_vec());
        if let Some(stranger) = labels.iter().find(|class| local.index(**class).is_none()) {
            let expected = "one of the classes over which the loss goes, such as the task's";
            return Err(Error::input("a label", stranger, expected));
        }
        let targets = columns(&local, labels, self.device)?;
        let rows = columns(self.seen, local.as_slice(), self.device)?;
        Ok(cross_entropy(logits.select(1, rows), targets))
    }

    /// What [`Network::update`] needs, without the borrow of the network.
    pub fn into_tape(self) -> Tape {
        Tape {
            trained: self.trained,
            statistics: self.statistics,
        }
    }
}
