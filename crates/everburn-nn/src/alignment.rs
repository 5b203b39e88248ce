//! Classifier alignment: a head learns anew, for all classes at once, from samples of their Gaussians.

use burn::tensor::{Device, Int, Tensor, TensorData};
use everburn_backend::{Group, Optimiser, Rule, Schedule, collect_grads, track, untrack};
use everburn_core::profile::Part;
use everburn_core::{
    Checker, ClassId, Error, Key, Memory, Order, Result, Rng, SeenClasses, Source, Stage, State,
    Step, TaskInfo, View,
};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::head::{Classifier, Head};
use crate::losses::{Losses, check_loss};
use crate::network::timed;
use crate::{ClassGaussians, Config, Network};

/// How a head is aligned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlignmentConfig {
    /// Passes, each over new samples; 0 for no alignment. Published: 5 (SLCA), 3 (SLCA in PILOT), 30 (MOS).
    pub epochs: usize,
    /// Samples of each class in an epoch, and of a batch, of which there are as many as classes. Published: 256
    /// (SLCA), 5 times the batch of training (MOS).
    pub samples_per_class: usize,
    /// Learning rate of the first epoch; a cosine over the epochs takes it to 0. Published: 0.01 (SLCA), 0.005 (MOS).
    pub rate: f64,
    /// Momentum of SGD. Published: 0.9.
    pub momentum: f64,
    /// Weight decay. Published: 5e-4 (SLCA), that of training (SLCA++, MOS).
    pub weight_decay: f64,
}

/// More would not fit into memory.
const MAX_SAMPLES: usize = 1 << 16;

impl Config for AlignmentConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("alignment");
        let range = 1..=MAX_SAMPLES;
        let expected = "a whole number from 1 to 65536";
        check.within("samples_per_class", self.samples_per_class, range, expected)?;
        Rule::sgd(self.momentum).validate()?;
        for (field, value) in [("rate", self.rate), ("weight_decay", self.weight_decay)] {
            let expected = "a finite number of at least 0";
            check.within(field, value, 0.0..f64::INFINITY, expected)?;
        }
        Ok(())
    }
}

/// How a sample of a class is changed: x = [`sample`](Self::sample) · ([`mean`](Self::mean) · μ + L·z).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shrink {
    /// The factor of the mean.
    pub mean: f64,
    /// The factor of the whole.
    pub sample: f64,
}

impl Shrink {
    /// Not at all.
    pub const NONE: Self = Self {
        mean: 1.0,
        sample: 1.0,
    };
}

/// What a stage is for, where a head is aligned on samples of what training has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The representation and the head learn from the task's images.
    Train,
    /// Statistics of them are collected.
    Statistics,
    /// The head learns from samples for all classes.
    Align,
}

impl Phase {
    /// That of a stage, by its name.
    pub fn of(stage: &Stage) -> Self {
        match &*stage.name {
            ClassGaussians::STAGE => Self::Statistics,
            Alignment::STAGE => Self::Align,
            _ => Self::Train,
        }
    }
}

/// Classifier alignment, a stage of steps without images ([`Source::Synthetic`]).
///
/// Each epoch has `samples_per_class` samples of each class, drawn from their [`ClassGaussians`] and shuffled;
/// each step takes as many of them and moves the head, all rows of it and nothing else, by SGD.
///
/// A sample is drawn from its own place below the key that [`begin`](Self::begin) is given, when its step comes: so
/// an epoch is never held as a whole, and one that was interrupted goes on with the same samples.
pub struct Alignment {
    config: AlignmentConfig,
    optimiser: Optimiser,
    key: Key,
    losses: Losses,
    /// An epoch, how many samples it has, and their order.
    order: (usize, Vec<usize>),
}

impl Alignment {
    /// What stages of alignment are called.
    pub const STAGE: &'static str = "align";

    /// An alignment that has not begun.
    ///
    /// # Errors
    /// If a setting is out of its domain.
    pub fn new(config: AlignmentConfig) -> Result<Self> {
        config.validate()?;
        let all = Group::all(config.rate, config.weight_decay);
        Ok(Self {
            optimiser: Optimiser::new(Rule::sgd(config.momentum), vec![all])?,
            config,
            key: Key::from_seed(0),
            losses: Losses::default(),
            order: (0, Vec::new()),
        })
    }

    /// The stage for so many classes; none without epochs.
    pub fn stage(&self, classes: usize) -> Option<Stage> {
        (self.config.epochs > 0 && classes > 0).then(|| Stage {
            name: Self::STAGE.to_owned(),
            source: Source::Synthetic { steps: classes },
            epochs: self.config.epochs,
            batch: self.config.samples_per_class,
            view: View::Test,
            order: Order::Shuffled,
            drop_last: false,
        })
    }

    /// The stage at the end of a task, where `known` classes have statistics from earlier ones; none if the task holds
    /// all classes there are, whose rows have been learnt together already, or no sample.
    pub fn stage_after(&self, task: &TaskInfo, known: &SeenClasses) -> Option<Stage> {
        let new = |class: &&ClassId| known.index(**class).is_none();
        let seen = known.len() + task.classes.iter().filter(new).count();
        let seen = task.seen.max(seen);
        let several = seen > task.classes.len() && task.samples > 0;
        self.stage(seen).filter(|_| several)
    }

    /// At the beginning of the stage: the optimiser begins anew, and `key` is what all samples are drawn from.
    pub fn begin(&mut self, key: Key) {
        self.optimiser.reset();
        self.key = key;
        self.order = (0, Vec::new());
    }

    /// One step of a network's head on [`samples`](Self::samples). `loss` makes a number of logits
    /// `[samples, classes]` and the columns of the samples' classes, `[samples]`. Returns it as
    /// [`Network::update`] does.
    ///
    /// # Errors
    /// As [`samples`](Self::samples) and [`step`](Self::step), or if no class has been seen.
    pub fn learn(
        &mut self,
        net: &mut Network,
        gaussians: &ClassGaussians,
        step: &Step,
        shrink: impl Fn(usize, &mut Rng) -> Shrink + Sync,
        loss: impl FnOnce(Tensor<2>, Tensor<1, Int>) -> Tensor<1>,
    ) -> Result<Option<f32>> {
        let Some(head) = net.head() else {
            return Err(Error::unsupported(
                "alignment",
                "no class has been seen yet",
            ));
        };
        let (features, classes) = self.samples(gaussians, step, shrink, net.device())?;
        let targets = net.targets(&classes)?;
        let (head, read) = self.step(head, net.classifier(), (features, targets), step, loss)?;
        net.set_head(head)?;
        Ok(read)
    }

    /// The samples of a step, `[samples, dim]`, and the class of each. `shrink` changes those of a class, by its
    /// number in `gaussians`; it draws what it needs from the generator of the sample.
    ///
    /// # Errors
    /// If the step lies outside of the stage.
    pub fn samples(
        &mut self,
        gaussians: &ClassGaussians,
        step: &Step,
        shrink: impl Fn(usize, &mut Rng) -> Shrink + Sync,
        device: &Device,
    ) -> Result<(Tensor<2>, Vec<ClassId>)> {
        let (classes, per_class) = (gaussians.seen().as_slice(), self.config.samples_per_class);
        let (key, total) = (self.key.at(step.epoch as u64), classes.len() * per_class);
        if self.order.0 != step.epoch || self.order.1.len() != total {
            self.order = (step.epoch, key.child("order").permutation(total));
        }
        let per_epoch = step.steps / step.epochs.max(1);
        let first = step.index.saturating_sub(step.epoch * per_epoch) * per_class;
        let chosen = self.order.1.get(first..first + per_class).ok_or_else(|| {
            let found = format!("{} of an epoch", step.index);
            Error::input("a step of the alignment", found, classes.len())
        })?;
        let dim = gaussians.dim();
        let mut values = vec![0.0_f32; per_class * dim];
        let noise = key.child("sample");
        values
            .par_chunks_exact_mut(dim)
            .zip(chosen)
            .for_each(|(row, number)| {
                let class = number / per_class;
                let mut rng = noise.at(*number as u64).rng();
                let shrink = shrink(class, &mut rng);
                gaussians.sample(class, shrink.mean, &mut rng, row);
                if shrink.sample != 1.0 {
                    row.iter_mut()
                        .for_each(|value| *value *= shrink.sample as f32);
                }
            });
        let data = TensorData::new(values, [per_class, dim]);
        let labels = chosen.iter().map(|number| classes[number / per_class]);
        Ok((Tensor::from_data(data, device), labels.collect()))
    }

    /// One step of the head on features `[samples, dim]` and the columns of their classes, `[samples]`. `loss` makes
    /// a number of the logits `[samples, classes]` and these. Returns the head, and the loss as
    /// [`Network::update`](crate::Network::update) does.
    ///
    /// # Errors
    /// If the device fails, or the loss is not a number.
    pub fn step(
        &mut self,
        head: &Head,
        classifier: Classifier,
        (features, targets): (Tensor<2>, Tensor<1, Int>),
        step: &Step,
        loss: impl FnOnce(Tensor<2>, Tensor<1, Int>) -> Tensor<1>,
    ) -> Result<(Head, Option<f32>)> {
        let device = features.device();
        let cosine = Schedule::Cosine { min: 0.0 };
        let rate = cosine.rate(self.config.rate, step.epoch, step.epochs);
        self.optimiser.set_rate("", rate);
        let head = track(head.clone(), |_| true);
        let loss = timed(Part::Forward, &device, || {
            loss(head.forward(features, classifier), targets)
        });
        let grads = timed(Part::Backward, &device, || {
            collect_grads(&head, loss.backward())
        });
        let head = timed(Part::Optimiser, &device, || {
            Ok::<_, Error>(untrack(self.optimiser.step(head, grads)?))
        })?;
        let read = self.losses.push(loss, &device)?;
        let read = read.map(|loss| check_loss("alignment", loss)).transpose()?;
        Ok((head, read))
    }

    /// At the end of the stage: the optimiser forgets.
    ///
    /// # Errors
    /// If a loss that was not read yet is not a number.
    pub fn end(&mut self) -> Result<()> {
        self.losses.check()?;
        self.losses.clear();
        self.optimiser.reset();
        Ok(())
    }

    /// Bytes of the moments.
    pub fn memory(&self) -> Memory {
        self.optimiser.memory()
    }

    /// The complete state.
    ///
    /// # Errors
    /// If the device fails.
    pub fn save(&self) -> Result<State> {
        self.losses.check()?;
        let mut state = State::default();
        state.nest("optimiser", self.optimiser.save()?);
        state.put_value("key", self.key)?;
        Ok(state)
    }

    /// With a saved state, of the alignment of a head like this one; none before the first class.
    ///
    /// # Errors
    /// If the state does not fit.
    pub fn restored(&self, state: &State, head: Option<&Head>, device: &Device) -> Result<Self> {
        let mut restored = Self::new(self.config.clone())?;
        let moments = state.below("optimiser");
        (restored.optimiser).restore(&moments, &head.cloned(), device)?;
        restored.key = state.value("key")?;
        Ok(restored)
    }
}
