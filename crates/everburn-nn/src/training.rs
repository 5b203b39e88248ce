//! What is trained, and how.

use everburn_backend::{Clipping, Rule};
use everburn_core::{Checker, Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// A part of a Vision Transformer that trains beside modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackbonePart {
    /// Scale and shift of all layer norms.
    Norms,
    /// All biases.
    Biases,
    /// The class token.
    ClassToken,
}

impl BackbonePart {
    /// Whether a parameter, by its path in the backbone, belongs to it.
    pub(crate) fn contains(self, path: &str) -> bool {
        let mut names = path.split('.');
        match self {
            Self::Norms => names.any(|name| name.starts_with("norm")),
            Self::Biases => names.next_back() == Some("bias"),
            Self::ClassToken => names.next_back() == Some("cls_token"),
        }
    }
}

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The update rule. Published: Adam for a linear head (Si-Blurry) and for modules (LAE), SGD with momentum 0.9 for full
    /// tuning (SLCA) and for modules in SLCA++ and MOS, SGD without (RaptorMai) and Adam (OnPro) from
    /// scratch.
    pub rule: Rule,
    /// Learning rate of the head. Published: 0.005 (Si-Blurry), 0.01 (SLCA, SLCA++), the modules' (LAE), a tenth of
    /// the modules' (MOS), 0.1 (RaptorMai) and 0.0005 (OnPro) from scratch.
    pub head_rate: f64,
    /// Learning rate of the backbone, or of the modules in it, where they are tuned. Published: 0.01 (sequential
    /// fine-tuning in SLCA), 0.0001 (SLCA), 0.001 (SLCA++), 0.0028125 and 0.00046875 (LAE's modules on CIFAR-100 and on ImageNet-R), 0.01 to 0.05
    /// (MOS), 0.1 (RaptorMai) and 0.0005 (OnPro) from scratch.
    pub backbone_rate: f64,
    /// Learning rate of the modules where it is another than that of the parts of the backbone that train beside them.
    /// Published: the same (SLCA++, after the first task).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pet_rate: Option<f64>,
    /// Weight decay of all. Published: 5e-4 (SLCA; SLCA++ and MOS on CIFAR-100 and CUB-200), 5e-3 (MOS on
    /// ImageNet-R and ImageNet-A), 1e-4 (OnPro), else none.
    pub weight_decay: f64,
    /// Clipping of the gradients' norm, if any. Published: none.
    #[serde(default)]
    pub clipping: Option<Clipping>,
}

impl Training {
    /// The rate of a group.
    pub(crate) fn rate_of(&self, group: &str) -> f64 {
        match group {
            "head" | "projector" => self.head_rate,
            "pet" => self.pet_rate.unwrap_or(self.backbone_rate),
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
            ("pet_rate", self.pet_rate.unwrap_or_default()),
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
