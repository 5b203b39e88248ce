#![cfg_attr(test, allow(clippy::unwrap_used))]

//! Experience replay: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019).
//!
//! Each step trains on a batch of the stream and a batch drawn from a small memory, which a reservoir
//! keeps a uniform sample of all that has passed.

use everburn_core::{
    Batch, Checker, Ctx, Event, Footprint, Images, Key, Learner, Output, Reservoir, ReservoirRule,
    Result, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Config, Frozen, Method, Network, Preset, Recipe, Replay, Setting, Settings, from_value,
    to_value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Experience replay, by name.
pub const METHOD: Method = Method {
    name: "er",
    about: "experience replay from a memory that a reservoir fills",
    source: "Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019",
    only: None,
    settings: Settings::of::<ErConfig>(),
    preset: |setting| to_value(ErConfig::preset(setting)),
    build: |settings, frozen, key| Ok(Box::new(Er::new(from_value("er", settings)?, frozen, key)?)),
};

/// How the losses of the stream and of the memory are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// L = mean CE(stream) + mean CE(memory), two forward passes (RaptorMai, MIR).
    Separate,
    /// L = mean CE over both together, one forward pass, so batch norm mixes them (mammoth, Si-Blurry).
    #[default]
    Concatenated,
}

/// The hyper-parameters of experience replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErConfig {
    /// M, images in the memory. Published: 1000, 5000 and 10,000 for CIFAR (RaptorMai), 500 and 2000
    /// for Si-Blurry.
    pub buffer: usize,
    /// Images drawn from it for a step. Published: 10 (RaptorMai), 32 (mammoth, Si-Blurry).
    pub replay_batch: usize,
    /// How the losses of the stream and of the memory are combined.
    #[serde(default)]
    pub combine: Combine,
    /// How the memory decides what to keep. Published: exact, and batched in RaptorMai's code.
    #[serde(default)]
    pub reservoir: ReservoirRule,
    /// How the network is trained. Published: SGD 0.1, batches of 10, one pass, from scratch (RaptorMai);
    /// Adam 0.005, batches of 64, three steps each, a linear head on a frozen ViT (Si-Blurry).
    pub recipe: Recipe,
}

impl ErConfig {
    /// RaptorMai's online setting: a memory of 1000, 10 + 10 images a step, separate losses. Two
    /// things differ from that code: the memory is filled by the exact rule and not by its biased
    /// one ([`ReservoirRule::Batched`]), and an incomplete last batch is learnt from.
    pub fn published() -> Self {
        Self {
            buffer: 1000,
            replay_batch: 10,
            combine: Combine::Separate,
            reservoir: ReservoirRule::Exact,
            recipe: Recipe::online_from_scratch(),
        }
    }

    /// What a preset says: as many images from the memory as from the stream.
    pub fn preset(setting: &Setting) -> Self {
        let recipe = Recipe::preset(setting);
        match (setting.preset, setting.from_scratch) {
            (_, true) => Self {
                recipe,
                ..Self::published()
            },
            // Si-Blurry's ER: memory 2000, 32 images of it in a step, one forward pass.
            (Preset::Paper, false) => Self {
                buffer: 2000,
                replay_batch: 32,
                combine: Combine::Concatenated,
                recipe,
                ..Self::published()
            },
            (Preset::Cpu, false) => Self {
                buffer: 500,
                replay_batch: recipe.batch,
                combine: Combine::Concatenated,
                recipe,
                ..Self::published()
            },
        }
    }
}

impl Config for ErConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("er");
        check.positive("buffer", self.buffer)?;
        check.positive("replay_batch", self.replay_batch)?;
        self.recipe.validate()
    }
}

/// Experience replay.
pub struct Er {
    config: ErConfig,
    replay: Replay,
}

impl Er {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(config: ErConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let memory = Reservoir::new(config.buffer, config.reservoir);
        let replay = Replay::new(config.recipe.clone(), memory, frozen, key)?;
        Ok(Self { config, replay })
    }

    /// What it remembers.
    pub fn memory(&self) -> &Reservoir {
        self.replay.memory()
    }
}

/// One step on a batch (x, y) and a batch (x_m, y_m) drawn from the memory.
fn update(
    config: &ErConfig,
    net: &mut Network,
    memory: &Reservoir,
    batch: &Batch,
    key: Key,
) -> Result<Option<f32>> {
    let Some((images, labels)) = memory.draw(config.replay_batch, key.child("draw"))? else {
        let key = key.child("stream");
        return net.step(&batch.images, &batch.labels, batch.view, key);
    };
    let mut live = net.live();
    let loss = match config.combine {
        Combine::Separate => {
            live.loss(
                &batch.images,
                &batch.labels,
                batch.view,
                key.child("stream"),
            )? + live.loss(&images, &labels, batch.view, key.child("memory"))?
        }
        Combine::Concatenated => {
            let mut both = batch.images.clone();
            both.extend(&images)?;
            let labels = [&batch.labels[..], &labels].concat();
            live.loss(&both, &labels, batch.view, key.child("stream"))?
        }
    };
    let tape = live.into_tape();
    net.update(tape, loss)
}

impl Learner for Er {
    fn spec(&self) -> Spec {
        Spec::new(METHOD.name)
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.replay.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        self.replay.on(event);
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
