#![cfg_attr(test, allow(clippy::unwrap_used))]

//! Class means on a frozen backbone: SimpleCIL (Zhou et al., "Revisiting Class-Incremental Learning
//! with Pre-Trained Models", IJCV 2024) with cosine similarity, and the nearest mean classifier NMC
//! (Janson et al., "A Simple Baseline that Questions the Use of Pretrained-Models in Continual
//! Learning", 2022) with Euclidean distance.
//!
//! Nothing is trained, so nothing is forgotten: the result after a set of classes is the same in
//! whatever order and tasks they came.

use everburn_backend::to_vec;
use everburn_core::{
    Batch, Checker, Ctx, Event, Footprint, Images, Key, Kind, Learner, Order, Output, Result,
    Source, Spec, Stage, State, Step, StepLog, TaskInfo, View,
};
use everburn_nn::{
    Config, Frozen, Method, Recipe, Setting, Settings, Tuning, from_value, to_value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use everburn_nn::{ClassMeans, Similarity};

/// SimpleCIL, by name.
pub const SIMPLECIL: Method = Method {
    name: "simplecil",
    about: "cosine to the class means of a frozen backbone",
    source: "Zhou et al., Revisiting Class-Incremental Learning with Pre-Trained Models, IJCV 2024",
    only: Some(Tuning::Frozen),
    settings: Settings::of::<SimpleCilConfig>(),
    preset: |setting| to_value(SimpleCilConfig::preset(setting, Similarity::Cosine)),
    build,
};

/// NMC, by name.
pub const NMC: Method = Method {
    name: "nmc",
    about: "Euclidean distance to the class means of a frozen backbone",
    source: "Janson et al., A Simple Baseline that Questions the Use of Pretrained-Models, 2022",
    only: Some(Tuning::Frozen),
    settings: Settings::of::<SimpleCilConfig>(),
    preset: |setting| to_value(SimpleCilConfig::preset(setting, Similarity::Euclidean)),
    build,
};

fn build(settings: Value, frozen: Frozen, _key: Key) -> Result<Box<dyn Learner>> {
    let config = from_value("simplecil", settings)?;
    Ok(Box::new(SimpleCil::new(config, frozen)?))
}

/// The hyper-parameters: there are hardly any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimpleCilConfig {
    /// Cosine for SimpleCIL, Euclidean for NMC.
    pub similarity: Similarity,
    /// Images per forward pass; affects the speed alone. 128 in the official code.
    pub batch: usize,
    /// Samples of a batch on a single-pass stream; affects after which of them it can be evaluated.
    /// 64 in Si-Blurry.
    pub online_batch: usize,
}

impl Default for SimpleCilConfig {
    fn default() -> Self {
        Self {
            similarity: Similarity::Cosine,
            batch: 128,
            online_batch: 64,
        }
    }
}

impl SimpleCilConfig {
    /// What a preset says: nothing but the size of a batch, which on a single-pass stream is that of
    /// the other methods, so that all are evaluated after the same samples.
    pub fn preset(setting: &Setting, similarity: Similarity) -> Self {
        Self {
            similarity,
            online_batch: Recipe::preset(setting).online_batch,
            ..Self::default()
        }
    }
}

impl Config for SimpleCilConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("simplecil");
        check.positive("batch", self.batch)?;
        check.positive("online_batch", self.online_batch)
    }
}

/// SimpleCIL and NMC.
pub struct SimpleCil {
    config: SimpleCilConfig,
    frozen: Frozen,
    means: ClassMeans,
}

impl SimpleCil {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(config: SimpleCilConfig, frozen: Frozen) -> Result<Self> {
        config.validate()?;
        let means = ClassMeans::new(frozen.backbone().dim());
        Ok(Self {
            config,
            frozen,
            means,
        })
    }

    /// The class means.
    pub fn means(&self) -> &ClassMeans {
        &self.means
    }
}

impl Learner for SimpleCil {
    fn spec(&self) -> Spec {
        let method = match self.config.similarity {
            Similarity::Cosine => "simplecil",
            Similarity::Euclidean => "nmc",
        };
        Spec {
            deterministic: true,
            ..Spec::new(method)
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let online = task.is_none_or(|task| task.single_pass);
        vec![Stage {
            name: "prototypes".to_owned(),
            source: if online { Source::Stream } else { Source::Task },
            epochs: 1,
            batch: if online {
                self.config.online_batch
            } else {
                self.config.batch
            },
            view: View::Test,
            order: Order::Stream,
            drop_last: false,
        }]
    }

    fn on(&mut self, _event: &Event, _cx: &Ctx) -> Result<()> {
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, _step: &Step, _cx: &Ctx) -> Result<StepLog> {
        let features = to_vec(&self.frozen.features(&batch.images)?)?;
        self.means.add(&features, &batch.labels)?;
        Ok(StepLog::default())
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        let features = to_vec(&self.frozen.features(images)?)?;
        let scores = self.means.scores(&features, self.config.similarity)?;
        Output::new(self.means.seen().as_slice().to_vec(), scores)
    }

    fn footprint(&self) -> Footprint {
        let backbone = self.frozen.backbone();
        let mut footprint = Footprint {
            macs_per_image: backbone.macs() + (self.means.seen().len() * backbone.dim()) as u64,
            ..Footprint::default()
        };
        footprint.add(Kind::Frozen, "backbone", backbone.bytes());
        footprint.add(Kind::Statistics, "class means", self.means.bytes());
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = self.means.save()?;
        state.put_value("backbone", self.frozen.backbone().identity())?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.frozen.backbone().check_identity(state)?;
        self.means = self.means.restored(state)?;
        Ok(())
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
