use everburn_backend::{Rule, Schedule};
use everburn_core::{Checker, Error, Result};
use everburn_nn::pet::{AdaptFormerConfig, Width};
use everburn_nn::{
    AlignmentConfig, Augment, Config, Covariance, PetConfig, Preset, Recipe, Setting, Training,
    Tuning, nothing_more,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The hyper-parameters of MOS.
///
/// `recipe.pet` is the kind of adapters (published: AdaptFormer's, r = 16, s = 0.1, dropout 0.1, in all blocks);
/// `recipe.training.backbone_rate` is their rate η, `head_rate` the head's (published: η/10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MosConfig {
    /// How a new set of adapters is drawn to the mean of the earlier ones. Published: α = 0.1; the paper merges once a step,
    /// the released code, from which the published results come, more often.
    #[serde(default)]
    pub merging: Merging,
    /// ρ, the weight of the orthogonality loss, the code's `reg`; 0 for none. Published: 0.1.
    #[serde(default = "published_orthogonality")]
    pub orthogonality: f64,
    /// T, by which its dot products are divided. Published: 0.8.
    #[serde(default = "published_temperature")]
    pub temperature: f64,
    /// How the covariance of a class is kept. Published: full; diagonal, the code's "variance", on ImageNet-A.
    #[serde(default)]
    pub covariance: Covariance,
    /// ε, added to the diagonal of each covariance. Published: 1e-4.
    #[serde(default = "published_jitter")]
    pub jitter: f64,
    /// The alignment of the head after each task, where there are classes of other tasks.
    pub alignment: AlignmentConfig,
    /// Which adapters predict. Published: refined, 4 rounds.
    #[serde(default)]
    pub retrieval: Retrieval,
    /// Which classifiers predict. Published: both.
    #[serde(default)]
    pub classifiers: Classifiers,
    /// How adapters and head are trained.
    pub recipe: Recipe,
}

/// How the working set A is drawn to the mean m of the final sets of earlier tasks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Merging {
    /// Not at all.
    #[serde(deserialize_with = "nothing_more")]
    None,
    /// As the paper has it: A ← (1 − α)·A + α·m once after each step.
    Paper {
        /// α, the code's `adapter_momentum`. Published: 0.1.
        alpha: f64,
    },
    /// As the released code does it: once more before each block in every forward pass, those of the statistics included,
    /// so that in a step of a ViT-B/16 0.9¹³ = 0.25 of A remain. It merges what it evaluates as well, for good, until a
    /// task's set is the mean of those before; here it predicts as that from the start.
    Released {
        /// α.
        alpha: f64,
    },
}

impl Merging {
    /// α; none without merging.
    pub fn alpha(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Paper { alpha } | Self::Released { alpha } => Some(alpha),
        }
    }
}

impl Default for Merging {
    /// As published.
    fn default() -> Self {
        Self::Paper { alpha: 0.1 }
    }
}

/// Which adapters predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Retrieval {
    /// Those of the task of the nearest prototype, then those of the task of the class that the head names, and so on.
    Refined {
        /// How often the head is asked at most; 1 for the prototype's guess alone. Published: 4.
        rounds: usize,
    },
    /// Those of the last task, for all images.
    #[serde(deserialize_with = "nothing_more")]
    Latest,
}

impl Default for Retrieval {
    /// As published.
    fn default() -> Self {
        Self::Refined { rounds: 4 }
    }
}

/// Which classifiers predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Classifiers {
    /// The sum of both, as probabilities.
    #[default]
    Both,
    /// The head, on the features of the adapters retrieved.
    Head,
    /// The prototypes, under the first task's adapters.
    Prototypes,
}

fn published_orthogonality() -> f64 {
    0.1
}

fn published_temperature() -> f64 {
    0.8
}

fn published_jitter() -> f64 {
    1e-4
}

/// Samples of each class in an epoch of the alignment, for each image of a batch (`num_sampled_pcls`).
const SAMPLES_PER_IMAGE: usize = 5;

/// How many times slower than the adapters the head learns (`get_optimizer`).
const HEAD: f64 = 10.0;

/// What differs between data sets: `tuned_epoch`, `init_lr`, `batch_size` and `weight_decay`.
struct DataSet {
    epochs: usize,
    rate: f64,
    batch: usize,
    weight_decay: f64,
}

impl MosConfig {
    /// As published for CIFAR-100 in 20 tasks (sun-hailong/AAAI25-MOS, `exps/mos_cifar.json`), with the paper's merging, as
    /// all of these.
    pub fn cifar100() -> Self {
        Self::published(DataSet {
            epochs: 20,
            rate: 0.03,
            batch: 48,
            weight_decay: 5e-4,
        })
    }

    /// As published for CUB-200 in 20 tasks (`mos_cub.json`).
    pub fn cub200() -> Self {
        Self::published(DataSet {
            epochs: 10,
            rate: 0.01,
            batch: 32,
            weight_decay: 5e-4,
        })
    }

    /// As published for ImageNet-R in 10 tasks (`mos_inr.json`).
    pub fn imagenet_r() -> Self {
        Self::published(DataSet {
            epochs: 10,
            rate: 0.05,
            batch: 16,
            weight_decay: 5e-3,
        })
    }

    /// As published for ImageNet-A in 10 tasks, with variances in place of covariances (`mos_ina.json`).
    pub fn imagenet_a() -> Self {
        Self {
            covariance: Covariance::Diagonal,
            ..Self::published(DataSet {
                epochs: 10,
                rate: 0.05,
                batch: 32,
                weight_decay: 5e-3,
            })
        }
    }

    fn published(data: DataSet) -> Self {
        let DataSet {
            epochs,
            rate,
            batch,
            weight_decay,
        } = data;
        let recipe = Recipe {
            tuning: Tuning::Pet,
            pet: Some(PetConfig::Adaptformer(AdaptFormerConfig {
                bottleneck: Width::Units(16),
                ..AdaptFormerConfig::default()
            })),
            unfrozen: Vec::new(),
            training: Training {
                rule: Rule::sgd(0.9),
                head_rate: rate / HEAD,
                backbone_rate: rate,
                pet_rate: None,
                weight_decay,
                clipping: None,
            },
            schedule: Schedule::Cosine { min: 0.0 },
            augment: Augment::pilot(),
            epochs,
            batch,
            online_batch: batch,
            online_updates: 1,
        };
        Self {
            merging: Merging::default(),
            orthogonality: published_orthogonality(),
            temperature: published_temperature(),
            covariance: Covariance::Full,
            jitter: published_jitter(),
            alignment: AlignmentConfig {
                epochs: 30,
                samples_per_class: SAMPLES_PER_IMAGE * batch,
                rate: 0.005,
                momentum: 0.9,
                weight_decay,
            },
            retrieval: Retrieval::default(),
            classifiers: Classifiers::Both,
            recipe,
        }
    }

    /// What a preset says. `cpu` is for few images and two cores: no augmentation, small batches and five epochs
    /// (`docs/presets.md`).
    pub fn preset(setting: &Setting) -> Self {
        let mut config = Self::cifar100();
        if setting.preset == Preset::Cpu {
            let recipe = &mut config.recipe;
            recipe.augment = Augment::default();
            recipe.epochs = 5;
            (recipe.batch, recipe.online_batch) = (10, 10);
            config.alignment.samples_per_class = SAMPLES_PER_IMAGE * recipe.batch;
        }
        config
    }

    /// Whether anything is made of the prototypes.
    pub(crate) fn uses_prototypes(&self) -> bool {
        self.classifiers != Classifiers::Head || self.retrieval != Retrieval::Latest
    }

    /// Whether anything is made of the statistics of classes.
    pub(crate) fn uses_statistics(&self) -> bool {
        self.alignment.epochs > 0 || self.orthogonality > 0.0
    }

    /// What is kept of a covariance: where nothing is drawn from it, only the mean counts.
    pub(crate) fn kept_covariance(&self) -> Covariance {
        match self.alignment.epochs {
            0 => Covariance::Diagonal,
            _ => self.covariance,
        }
    }
}

impl Config for MosConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("mos");
        let (not_negative, positive) = (0.0..f64::INFINITY, f64::MIN_POSITIVE..f64::INFINITY);
        let finite = "a finite number of at least 0";
        if let Some(alpha) = self.merging.alpha() {
            check.within("merging.alpha", alpha, 0.0..=1.0, "from 0 to 1")?;
        }
        check.within(
            "orthogonality",
            self.orthogonality,
            not_negative.clone(),
            finite,
        )?;
        check.within(
            "temperature",
            self.temperature,
            positive,
            "a finite number above 0",
        )?;
        self.covariance.validate()?;
        check.within("jitter", self.jitter, not_negative, finite)?;
        if let Retrieval::Refined { rounds } = self.retrieval {
            check.positive("retrieval.rounds", rounds)?;
        }
        if self.recipe.tuning != Tuning::Pet {
            let found = self.recipe.tuning.name();
            return Err(Error::config("mos.recipe.tuning", found, "`pet`"));
        }
        if !self.recipe.unfrozen.is_empty() {
            let found = format!("{:?}", self.recipe.unfrozen);
            let expected = "none: the adapters of earlier tasks would meet another backbone";
            return Err(Error::config("mos.recipe.unfrozen", found, expected));
        }
        self.alignment.validate()?;
        self.recipe.validate()
    }
}
