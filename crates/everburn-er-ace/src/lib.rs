//! ER-ACE: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual
//! Learning" (ICLR 2022).
//!
//! Replay with an asymmetric cross-entropy: the stream's samples compete only with the classes of their
//! own batch, so that a new class does not push the old ones away; the memory's compete with all.

use burn::tensor::{Bool, Tensor};
use everburn_core::{
    Batch, Checker, Ctx, Event, Footprint, Images, Key, Learner, Output, Reservoir, ReservoirRule,
    Result, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Augment, Classifier, Config, Frozen, Method, Network, Preset, Recipe, Replay, Setting,
    Settings, cross_entropy, from_value, to_value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ER-ACE, by name.
pub const METHOD: Method = Method {
    name: "er-ace",
    about: "replay in which the stream competes with the classes of its own batch alone",
    source: "Caccia et al., New Insights on Reducing Abrupt Representation Change, ICLR 2022",
    only: None,
    settings: Settings::of::<ErAceConfig>(),
    preset: |setting| to_value(ErAceConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("er-ace", settings)?;
        Ok(Box::new(ErAce::new(config, frozen, key)?))
    },
};

/// The hyper-parameters of ER-ACE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErAceConfig {
    /// M, images in the memory. Published: 20, 50 and 100 for each class of the data set.
    pub buffer: usize,
    /// Images drawn from it for a step. Published: 10.
    pub replay_batch: usize,
    /// Published: cosine with scale 10, from scratch; mammoth takes the linear one.
    pub classifier: Classifier,
    /// How the network is trained. Published: SGD, its rate chosen among 0.1, 0.01 and 0.001; batches
    /// of 10; padded crops and flips.
    pub recipe: Recipe,
}

impl ErAceConfig {
    /// What a preset says: memory and batches are ER's; on a pre-trained backbone the classifier, too.
    pub fn preset(setting: &Setting) -> Self {
        let mut recipe = Recipe::preset(setting);
        if setting.from_scratch {
            recipe.augment = Augment::pad_crop_flip();
        }
        let (buffer, replay_batch, classifier) = match (setting.preset, setting.from_scratch) {
            (_, true) => (1000, 10, Classifier::Cosine { scale: 10.0 }),
            (Preset::Paper, false) => (2000, 32, Classifier::Linear),
            (Preset::Cpu, false) => (500, recipe.batch, Classifier::Linear),
        };
        Self {
            buffer,
            replay_batch,
            classifier,
            recipe,
        }
    }
}

impl Config for ErAceConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("er-ace");
        check.positive("buffer", self.buffer)?;
        check.positive("replay_batch", self.replay_batch)?;
        self.classifier.validate()?;
        self.recipe.validate()
    }
}

/// ER-ACE.
pub struct ErAce {
    config: ErAceConfig,
    replay: Replay,
}

impl ErAce {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(config: ErAceConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let memory = Reservoir::new(config.buffer, ReservoirRule::Exact);
        let replay = Replay::new(config.recipe.clone(), memory, frozen, key)?;
        let replay = replay.with_classifier(config.classifier);
        Ok(Self { config, replay })
    }
}

/// One step on L(x, y | C_curr) + L(x_m, y_m | C_old ∪ C_curr): section 4 of the paper.
fn update(
    config: &ErAceConfig,
    net: &mut Network,
    memory: &Reservoir,
    batch: &Batch,
    key: Key,
) -> Result<Option<f32>> {
    let seen = net.seen();
    let present = batch.labels.iter().filter_map(|class| seen.index(*class));
    let (present, newest): (Vec<usize>, _) = (present.collect(), seen.len() - 1);
    let mut live = net.live();
    let logits = live.logits(&batch.images, batch.view, key.child("stream"))?;
    let targets = net.targets(&batch.labels)?;
    let mut loss = cross_entropy(asymmetric(logits, &present, newest), targets);
    if let Some((images, labels)) = memory.draw(config.replay_batch, key.child("draw"))? {
        loss = loss + live.loss(&images, &labels, batch.view, key.child("memory"))?;
    }
    let tape = live.into_tape();
    net.update(tape, loss)
}

/// Of logits `[batch, columns]`, leaves the columns of the classes present in the batch and those from
/// the `newest` class met on (the official code: from the largest class number); the others become −1e9.
pub fn asymmetric(logits: Tensor<2>, present: &[usize], newest: usize) -> Tensor<2> {
    let [_, columns] = logits.dims();
    let hidden = |column| column < newest && !present.contains(&column);
    let hidden: Vec<bool> = (0..columns).map(hidden).collect();
    let hidden = Tensor::<1, Bool>::from_data(hidden.as_slice(), &logits.device());
    let shape = logits.shape();
    logits.mask_fill(hidden.unsqueeze::<2>().expand(shape), -1e9)
}

impl Learner for ErAce {
    fn spec(&self) -> Spec {
        Spec::new(METHOD.name)
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.replay.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        // A class gets its column when it is met, not when it is announced: `update` asks for the newest.
        if !matches!(event, Event::TaskBegin(_)) {
            self.replay.on(event);
        }
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let Self { config, replay } = self;
        replay.observe(METHOD.name, batch, step, cx, |net, memory, key| {
            update(config, net, memory, batch, key)
        })
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.replay.predict(images)
    }

    fn footprint(&self) -> Footprint {
        self.replay.footprint()
    }

    fn save(&self) -> Result<State> {
        self.replay.save()
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.replay.restore(state)
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
