use everburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Tuning;

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

/// The main job's: a frozen backbone on two cores.
impl Default for Setting {
    fn default() -> Self {
        Self {
            preset: Preset::Cpu,
            tuning: Tuning::Frozen,
            from_scratch: false,
        }
    }
}
