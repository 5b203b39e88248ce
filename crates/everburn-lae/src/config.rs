use everburn_core::{Checker, Error, Result};
use everburn_nn::{Config, Preset, Recipe, Setting, Tuning};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The hyper-parameters of LAE.
///
/// The module, its size, the rate, epochs and batch are the recipe's: `recipe.pet` is `{kind = "adapter"}`
/// (published: bottleneck 5), `{kind = "lora"}` (rank 5) or `{kind = "prefix"}` (length 10), all in the first
/// 5 blocks, with learnable scales; any other kind works, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaeConfig {
    /// α, the part of itself that the offline module keeps when it follows the online one. Published: 0.9999
    /// for each step, on all data sets.
    #[serde(default = "published_alpha")]
    pub alpha: f64,
    /// What α is for. Published: a step.
    #[serde(default)]
    pub alpha_per: AlphaPer,
    /// Epochs at the beginning of each task but the first in which the head alone learns. Published: 3 of 5
    /// (CIFAR-100), 30 of 50 (ImageNet-R, DomainNet).
    pub freeze_epochs: usize,
    /// Which experts predict. Published: both.
    #[serde(default)]
    pub experts: Experts,
    /// How the online module and the head are trained.
    pub recipe: Recipe,
}

/// What the momentum α is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlphaPer {
    /// Each step: α as it is.
    #[default]
    Step,
    /// A whole task of n steps: each keeps α^(1/n). A task then moves the offline module as far, however short
    /// it is.
    Task,
}

/// Which experts predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Experts {
    /// The larger of the two probabilities of each class.
    #[default]
    Both,
    /// The online one alone: learning without accumulation.
    Online,
    /// The offline one alone, from the second task on: learning and accumulation without ensemble.
    Offline,
}

/// gqk/LAE, `ema_decay`.
const PUBLISHED_ALPHA: f64 = 0.9999;

fn published_alpha() -> f64 {
    PUBLISHED_ALPHA
}

/// α of a whole task as published for CIFAR-100: 208 steps of 24 images in each of 5 epochs.
fn published_alpha_of_task() -> f64 {
    PUBLISHED_ALPHA.powi(208 * 5)
}

impl LaeConfig {
    /// As published for CIFAR-100 in 10 tasks (gqk/LAE, `config/base/cifar100_order1.yaml`, `vit_adapter.yaml`):
    /// Adam at 0.03 · 24/256, batches of 24, incomplete ones left out, 5 epochs, 3 of them frozen.
    pub fn cifar100() -> Self {
        Self::published(0.03, 5, 3)
    }

    /// As published for ImageNet-R in 10 tasks and DomainNet in 5 (`imagenet-r_order1.yaml`,
    /// `domainnet_order1.yaml`): Adam at 0.005 · 24/256, 50 epochs, 30 of them frozen.
    pub fn imagenet_r() -> Self {
        Self::published(0.005, 50, 30)
    }

    fn published(rate_for_256: f64, epochs: usize, freeze_epochs: usize) -> Self {
        let mut recipe = Recipe::preset(&Setting {
            preset: Preset::Paper,
            tuning: Tuning::Pet,
            from_scratch: false,
        });
        let rate = rate_for_256 * recipe.batch as f64 / 256.0;
        recipe.training.head_rate = rate;
        recipe.training.backbone_rate = rate;
        recipe.epochs = epochs;
        Self {
            alpha: PUBLISHED_ALPHA,
            alpha_per: AlphaPer::Step,
            freeze_epochs,
            experts: Experts::Both,
            recipe,
        }
    }

    /// What a preset says. `cpu` is for short tasks: at the published α of a step the offline module would
    /// hardly move in them, so it keeps the published decay of a whole task on CIFAR-100, 0.9999^1040 = 0.901.
    /// Besides, it does not augment, which saves time (`docs/presets.md`).
    pub fn preset(setting: &Setting) -> Self {
        let published = Self::cifar100();
        match setting.preset {
            Preset::Paper => published,
            Preset::Cpu => Self {
                alpha: published_alpha_of_task(),
                alpha_per: AlphaPer::Task,
                recipe: Recipe::preset(&Setting {
                    tuning: Tuning::Pet,
                    ..*setting
                }),
                ..published
            },
        }
    }

    /// α of one of `steps` steps of a task.
    pub fn alpha_of_step(&self, steps: usize) -> f64 {
        match self.alpha_per {
            AlphaPer::Step => self.alpha,
            AlphaPer::Task => self.alpha.powf(1.0 / steps.max(1) as f64),
        }
    }
}

impl Config for LaeConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("lae");
        check.within("alpha", self.alpha, 0.0..=1.0, "from 0 to 1")?;
        if self.recipe.tuning != Tuning::Pet {
            let found = self.recipe.tuning.name();
            return Err(Error::config("lae.recipe.tuning", found, "`pet`"));
        }
        if !self.recipe.unfrozen.is_empty() {
            let found = format!("{:?}", self.recipe.unfrozen);
            let expected = "none: the offline module would meet another backbone";
            return Err(Error::config("lae.recipe.unfrozen", found, expected));
        }
        let epochs = self.recipe.epochs;
        if self.freeze_epochs > 0 && self.freeze_epochs >= epochs {
            let expected = format!(
                "fewer than the {epochs} epochs: the module would learn the first task alone"
            );
            return Err(Error::config(
                "lae.freeze_epochs",
                self.freeze_epochs,
                expected,
            ));
        }
        self.recipe.validate()
    }
}
