//! The settings that methods start from, by preset.
//!
//! `paper` takes what the sources publish. `cpu` is sized for two cores; its rates and epochs were
//! chosen once on held-out training data (`cargo xtask bench --holdout 0.2`, see
//! `docs/presets.md`), never on a test set.

use everburn_backend::{Rule, Schedule};
use everburn_core::{Error, Result};
use everburn_nn::{Augment, Recipe, Training, Tuning};
use serde::{Deserialize, Serialize};

/// A size of experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Sized for two cores.
    Cpu,
    /// As published.
    Paper,
}

impl Preset {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Paper => "paper",
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Cpu, Self::Paper];
        all.into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| Error::unknown("preset", name, all.map(Self::name)))
    }
}

/// What a preset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The size of the experiment.
    pub preset: Preset,
    /// What is trained.
    pub tuning: Tuning,
    /// Whether the backbone begins with random weights.
    pub from_scratch: bool,
}

/// How the gradient-trained baselines are trained.
pub fn recipe(setting: &Setting) -> Recipe {
    let training = |rule, head_rate, backbone_rate, weight_decay| Training {
        rule,
        head_rate,
        backbone_rate,
        weight_decay,
        clipping: None,
    };
    match (setting.preset, setting.tuning, setting.from_scratch) {
        // Si-Blurry's linear head; on split tasks PILOT's 20 epochs.
        (Preset::Paper, Tuning::Frozen, _) => Recipe {
            epochs: 20,
            ..Recipe::si_blurry()
        },
        // Sequential fine-tuning in SLCA (Zhang et al., ICCV 2023): SGD 0.01 for all, momentum 0.9,
        // decay 5e-4, batch 128, 20 epochs, a tenth of the rate from epoch 18 on. Online as Si-Blurry.
        (Preset::Paper, Tuning::Full, false) => Recipe {
            tuning: Tuning::Full,
            training: training(Rule::sgd(0.9), 0.01, 0.01, 5e-4),
            schedule: Schedule::MultiStep {
                milestones: vec![18],
                gamma: 0.1,
            },
            augment: Augment::pilot(),
            epochs: 20,
            batch: 128,
            online_batch: 64,
            online_updates: 3,
        },
        (Preset::Paper, Tuning::Full, true) => Recipe::online_from_scratch(),
        (Preset::Cpu, Tuning::Frozen, _) => Recipe {
            tuning: Tuning::Frozen,
            training: training(Rule::adam(), 5e-3, 0.0, 0.0),
            schedule: Schedule::Constant,
            augment: Augment::default(),
            epochs: 5,
            batch: 32,
            online_batch: 10,
            online_updates: 3,
        },
        (Preset::Cpu, Tuning::Full, false) => Recipe {
            tuning: Tuning::Full,
            training: training(Rule::adam(), 1e-3, 1e-4, 0.0),
            schedule: Schedule::Constant,
            augment: Augment::default(),
            epochs: 1,
            batch: 10,
            online_batch: 10,
            online_updates: 1,
        },
        (Preset::Cpu, Tuning::Full, true) => Recipe {
            augment: Augment::pad_crop_flip(),
            ..Recipe::online_from_scratch()
        },
    }
}

/// Experience replay: as many images from the memory as from the stream.
#[cfg(feature = "er")]
pub fn er(setting: &Setting) -> everburn_er::ErConfig {
    let recipe = recipe(setting);
    let published = everburn_er::ErConfig::published();
    match (setting.preset, setting.from_scratch) {
        (_, true) => everburn_er::ErConfig {
            recipe,
            ..published
        },
        // Si-Blurry's ER: memory 2000, 32 images of it in a step, one forward pass.
        (Preset::Paper, false) => everburn_er::ErConfig {
            buffer: 2000,
            replay_batch: 32,
            combine: everburn_er::Combine::Concatenated,
            recipe,
            ..published
        },
        (Preset::Cpu, false) => everburn_er::ErConfig {
            buffer: 500,
            replay_batch: recipe.batch,
            combine: everburn_er::Combine::Concatenated,
            recipe,
            ..published
        },
    }
}

/// Class means: nothing but the size of a batch, which on a single-pass stream is that of the other
/// methods, so that all are evaluated after the same samples.
#[cfg(feature = "simplecil")]
pub fn simplecil(
    setting: &Setting,
    similarity: everburn_simplecil::Similarity,
) -> everburn_simplecil::SimpleCilConfig {
    everburn_simplecil::SimpleCilConfig {
        similarity,
        online_batch: recipe(setting).online_batch,
        ..Default::default()
    }
}
