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
    Array, Batch, Checker, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner,
    Order, Output, Result, SeenClasses, Source, Spec, Stage, State, Step, StepLog, TaskInfo, View,
};
use everburn_nn::{
    Config, Frozen, Method, Recipe, Setting, Settings, Tuning, from_value, to_value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// How near a feature is to a class mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Similarity {
    /// SimpleCIL: (f/‖f‖)·(p/‖p‖), with ε = 1e-12 for the norms.
    #[default]
    Cosine,
    /// NMC: −‖f − p‖.
    Euclidean,
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

/// The arithmetic mean of each class's raw, un-normalised features, kept as sum and count in 64 bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassMeans {
    seen: SeenClasses,
    dim: usize,
    counts: Vec<i64>,
    /// `[classes, dim]`.
    sums: Vec<f64>,
}

impl ClassMeans {
    /// No class yet, for features of width `dim`.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            ..Self::default()
        }
    }

    /// The classes that have a mean.
    pub fn seen(&self) -> &SeenClasses {
        &self.seen
    }

    /// Takes in features `[samples, dim]`.
    ///
    /// # Errors
    /// If there are not `dim` numbers for each label.
    pub fn add(&mut self, features: &[f32], labels: &[ClassId]) -> Result<()> {
        if features.len() != labels.len() * self.dim {
            let expected = format!("{} × {}", labels.len(), self.dim);
            return Err(Error::input("features", features.len(), expected));
        }
        for (feature, label) in features.chunks_exact(self.dim.max(1)).zip(labels) {
            let row = self.seen.insert(*label);
            if row == self.counts.len() {
                self.counts.push(0);
                self.sums.resize(self.sums.len() + self.dim, 0.0);
            }
            self.counts[row] += 1;
            let sums = &mut self.sums[row * self.dim..(row + 1) * self.dim];
            for (sum, value) in sums.iter_mut().zip(feature) {
                *sum += f64::from(*value);
            }
        }
        Ok(())
    }

    /// The means, `[classes, dim]`.
    pub fn means(&self) -> Vec<f64> {
        let rows = self.sums.chunks_exact(self.dim.max(1)).zip(&self.counts);
        rows.flat_map(|(row, count)| row.iter().map(|sum| sum / *count as f64))
            .collect()
    }

    /// Similarities of features `[samples, dim]` to the means, `[samples, classes]`.
    ///
    /// # Errors
    /// If the features are not a whole number of rows.
    pub fn scores(&self, features: &[f32], similarity: Similarity) -> Result<Vec<f32>> {
        let dim = self.dim.max(1);
        if !features.len().is_multiple_of(dim) {
            return Err(Error::input(
                "features",
                features.len(),
                format!("a multiple of {dim}"),
            ));
        }
        let mut means = self.means();
        if similarity == Similarity::Cosine {
            means.chunks_exact_mut(dim).for_each(normalise);
        }
        let mut scores = Vec::with_capacity(features.len() / dim * self.counts.len());
        for feature in features.chunks_exact(dim) {
            let mut feature: Vec<f64> = feature.iter().map(|x| f64::from(*x)).collect();
            if similarity == Similarity::Cosine {
                normalise(&mut feature);
            }
            scores.extend(means.chunks_exact(dim).map(|mean| {
                let pairs = feature.iter().zip(mean);
                let score = match similarity {
                    Similarity::Cosine => pairs.map(|(f, p)| f * p).sum(),
                    Similarity::Euclidean => {
                        -pairs.map(|(f, p)| (f - p).powi(2)).sum::<f64>().sqrt()
                    }
                };
                score as f32
            }));
        }
        Ok(scores)
    }

    /// Bytes of sums and counts.
    pub fn bytes(&self) -> u64 {
        8 * (self.sums.len() + self.counts.len()) as u64
    }

    fn save(&self) -> Result<State> {
        let mut state = State::default();
        state.put_value("seen", &self.seen)?;
        state.put(
            "counts",
            Array::i64([self.counts.len()], self.counts.clone()),
        );
        let shape = [self.counts.len(), self.dim];
        state.put("sums", Array::f64(shape, self.sums.clone()));
        Ok(state)
    }

    fn restored(&self, state: &State) -> Result<Self> {
        let seen: SeenClasses = state.value("seen")?;
        let counts = state.i64("counts")?.to_vec();
        let (shape, sums) = state.f64::<2>("sums")?;
        let (expected, dim) = ([seen.len(), self.dim], self.dim);
        if shape != expected || counts.len() != seen.len() || counts.iter().any(|n| *n <= 0) {
            let found = format!("{shape:?} with counts {counts:?}");
            let expected = format!("{expected:?}, a count above 0 for each");
            return Err(Error::state("sums", found, expected));
        }
        Ok(Self {
            seen,
            dim,
            counts,
            sums: sums.to_vec(),
        })
    }
}

fn normalise(vector: &mut [f64]) {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= norm);
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
        Output::new(self.means.seen.as_slice().to_vec(), scores)
    }

    fn footprint(&self) -> Footprint {
        let backbone = self.frozen.backbone();
        let mut footprint = Footprint {
            macs_per_image: backbone.macs() + (self.means.counts.len() * backbone.dim()) as u64,
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
