use everburn_backend::{Rule, Schedule};
use everburn_core::{Checker, Error, Result, Rng};
use everburn_nn::pet::{Blocks, LoraConfig, LoraInit, LoraTarget, Scale};
use everburn_nn::{
    AlignmentConfig, Augment, BackbonePart, Config, Covariance, PetConfig, Preset, Recipe, Setting,
    Shrink, Training, Tuning, nothing_more,
};
use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The hyper-parameters of SLCA and SLCA++.
///
/// The slow learner is the recipe's two rates: `recipe.training.head_rate` (published: 0.01) and
/// `recipe.training.backbone_rate` (published: 0.0001; SLCA++ 0.001, and `recipe.pet`, low-rank changes of the
/// attention's projections with norms, biases and class token unfrozen).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlcaConfig {
    /// The loss of the representation, over the classes of the task. Published: cross-entropy (SLCA), symmetric
    /// (SLCA++).
    #[serde(default)]
    pub loss: Loss,
    /// The learning rate of the modules in the first task, if it is another than later: `lora_scale`. Published: 0.005
    /// (SLCA++).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_pet_rate: Option<f64>,
    /// Whether a new final norm (scale 1, shift 0, ε = 1e-5) takes the place of the pre-trained one. Published: true;
    /// false in PILOT.
    pub new_norm: bool,
    /// How the covariance of a class is kept. Published: full.
    #[serde(default)]
    pub covariance: Covariance,
    /// ε, added to the diagonal of each covariance. Published: 1e-4.
    #[serde(default = "published_jitter")]
    pub jitter: f64,
    /// How samples of older classes are drawn nearer to 0. Published: mean (SLCA), sample (SLCA++).
    pub shrink: Shrinkage,
    /// How logits are normalised in the alignment. Published: per task.
    #[serde(default)]
    pub logit_norm: LogitNorm,
    /// The alignment of the heads after each task but the first.
    pub alignment: AlignmentConfig,
    /// How the representation and the new head are trained.
    pub recipe: Recipe,
}

/// The loss of the representation, over the classes of the task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// Cross-entropy.
    #[default]
    #[serde(deserialize_with = "nothing_more")]
    CrossEntropy,
    /// SLCA++: a·CE + b·RCE, with RCE the cross-entropy of prediction and label in each other's place.
    Symmetric {
        /// a, the code's `sce_a`. Published: 1 (CIFAR-100, CUB), 0.5 (ImageNet-R, Cars).
        a: f64,
        /// b, the code's `sce_b`. Published: 0.1 (CIFAR-100, CUB), 0.5 (ImageNet-R, Cars).
        b: f64,
    },
}

/// How samples of a class of task t_c are drawn nearer to 0 in the alignment after task t.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shrinkage {
    /// Not at all.
    #[serde(deserialize_with = "nothing_more")]
    None,
    /// SLCA: the mean is multiplied by 1 − b + b·(t_c + 1)/(t + 1).
    Mean {
        /// b. Published: 0.1.
        by: f64,
    },
    /// SLCA++: the sample is divided by 1 + r·(t − t_c) with r uniform in μ ± 0.01, and in prediction the input of the
    /// head of task k is multiplied by 1 + μ·(t − k).
    Sample {
        /// μ, the code's `fc_scale_mu`. Published: 0.02.
        mu: f64,
    },
}

/// The width of r's interval (`models/slca_pp.py`).
const SPREAD: f64 = 0.02;

impl Shrinkage {
    /// What becomes of a sample of a class of task t_c = `of` in the alignment after task t = `current`.
    pub fn of(self, of: usize, current: usize, rng: &mut Rng) -> Shrink {
        match self {
            Self::None => Shrink::NONE,
            Self::Mean { by } => Shrink {
                mean: 1.0 - by + by * (of + 1) as f64 / (current + 1) as f64,
                ..Shrink::NONE
            },
            Self::Sample { mu } => {
                let r = mu + SPREAD * (rng.random::<f64>() - 0.5);
                Shrink {
                    sample: 1.0 / (1.0 + r * current.saturating_sub(of) as f64),
                    ..Shrink::NONE
                }
            }
        }
    }
}

/// How logits are normalised in the alignment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LogitNorm {
    /// Not at all.
    #[serde(deserialize_with = "nothing_more")]
    None,
    /// l/(τ·n), with n the mean over the tasks of the norms of their logits.
    PerTask {
        /// τ, the code's `ca_with_logit_norm`. Published: 0.1; 0.05 (Cars).
        tau: f64,
    },
}

impl Default for LogitNorm {
    /// As published.
    fn default() -> Self {
        Self::PerTask { tau: 0.1 }
    }
}

fn published_jitter() -> f64 {
    1e-4
}

/// What differs between data sets.
#[derive(Clone, Copy)]
struct DataSet {
    epochs: usize,
    /// The epoch from which on the rate is a tenth.
    milestone: usize,
    /// The reach of `ColorJitter` (`utils/data.py`).
    brightness: f64,
}

const CIFAR100: DataSet = DataSet {
    epochs: 20,
    milestone: 18,
    brightness: 63.0 / 255.0,
};

const IMAGENET_R: DataSet = DataSet {
    epochs: 50,
    milestone: 40,
    brightness: 0.0,
};

/// The SLCA code's decay of the rate, `lrate_decay`.
const DECAY: f64 = 0.1;

/// The rate of the head, and of what trains beside it as multiples of it: `lrate`, `bcb_lrscale`, `lora_scale`.
const RATE: f64 = 0.01;
const SLOW: f64 = 0.01;
const SLOW_PLUS: f64 = 0.1;
const FIRST_LORA: f64 = 0.5;

const WEIGHT_DECAY: f64 = 5e-4;

impl SlcaConfig {
    /// SLCA as published for CIFAR-100 in 10 tasks (GengDavid/SLCA, `exps/slca/slca_cifar.json`).
    pub fn cifar100() -> Self {
        Self::slca(CIFAR100)
    }

    /// SLCA as published for ImageNet-R in 10 tasks (`slca_imgnetr.json`). CUB-200 and Cars-196 have the same epochs,
    /// but other crops (224 of 300 pixels), which are not offered.
    pub fn imagenet_r() -> Self {
        Self::slca(IMAGENET_R)
    }

    /// SLCA++ as published for CIFAR-100 in 10 tasks (`exps/slcapp/slcapp_cifar_lora.json`).
    pub fn plus_cifar100() -> Self {
        Self::plus(CIFAR100, [1.0, 0.1], WEIGHT_DECAY)
    }

    /// SLCA++ as published for ImageNet-R in 10 tasks (`slcapp_imgnetr_lora.json`).
    pub fn plus_imagenet_r() -> Self {
        Self::plus(IMAGENET_R, [0.5, 0.5], 0.0)
    }

    fn slca(data: DataSet) -> Self {
        let recipe = Recipe {
            tuning: Tuning::Full,
            pet: None,
            unfrozen: Vec::new(),
            training: Training {
                rule: Rule::sgd(0.9),
                head_rate: RATE,
                backbone_rate: SLOW * RATE,
                pet_rate: None,
                weight_decay: WEIGHT_DECAY,
                clipping: None,
            },
            schedule: Schedule::MultiStep {
                milestones: vec![data.milestone],
                gamma: DECAY,
            },
            augment: Augment {
                brightness: data.brightness,
                ..Augment::imagenet()
            },
            epochs: data.epochs,
            batch: 128,
            online_batch: 64,
            online_updates: 1,
        };
        Self {
            loss: Loss::CrossEntropy,
            first_pet_rate: None,
            new_norm: true,
            covariance: Covariance::Full,
            jitter: published_jitter(),
            shrink: Shrinkage::Mean { by: 0.1 },
            logit_norm: LogitNorm::default(),
            alignment: AlignmentConfig {
                epochs: 5,
                samples_per_class: 256,
                rate: RATE,
                momentum: 0.9,
                weight_decay: WEIGHT_DECAY,
            },
            recipe,
        }
    }

    fn plus(data: DataSet, [a, b]: [f64; 2], weight_decay: f64) -> Self {
        let mut config = Self::slca(data);
        let recipe = &mut config.recipe;
        recipe.tuning = Tuning::Pet;
        recipe.pet = Some(PetConfig::Lora(LoraConfig {
            blocks: Blocks::All,
            rank: 4,
            scale: Scale::Constant(0.8),
            targets: vec![LoraTarget::Qkv],
            init: LoraInit::Singular,
        }));
        recipe.unfrozen = vec![
            BackbonePart::Norms,
            BackbonePart::Biases,
            BackbonePart::ClassToken,
        ];
        recipe.training.backbone_rate = SLOW_PLUS * RATE;
        recipe.training.weight_decay = weight_decay;
        // One milestone in all settings of the 21k backbone.
        recipe.schedule = Schedule::Cosine {
            min: SLOW_PLUS * RATE * DECAY,
        };
        config.alignment.weight_decay = weight_decay;
        Self {
            loss: Loss::Symmetric { a, b },
            first_pet_rate: Some(FIRST_LORA * RATE),
            shrink: Shrinkage::Sample { mu: 0.02 },
            ..config
        }
    }

    /// What a preset says: SLCA where the backbone is tuned as a whole; where it is frozen its alignment alone
    /// (the code's `bcb_lrscale = 0`, but with the pre-trained final norm), and where modules tune it
    /// [`plus_preset`](Self::plus_preset) with SLCA's own loss and shrinkage. From scratch the recipe is that of online learning, at a hundredth of the rate for the backbone.
    pub fn preset(setting: &Setting) -> Self {
        let published = Self::cifar100();
        let config = match setting.tuning {
            Tuning::Full if setting.from_scratch => {
                let mut recipe = Recipe::preset(setting);
                recipe.training.backbone_rate = SLOW * recipe.training.head_rate;
                return Self {
                    new_norm: false,
                    recipe,
                    ..published
                };
            }
            Tuning::Full => published,
            Tuning::Frozen => {
                let mut config = Self {
                    new_norm: false,
                    ..published
                };
                config.recipe.tuning = Tuning::Frozen;
                config.recipe.training.backbone_rate = 0.0;
                config
            }
            Tuning::Pet => Self {
                loss: published.loss,
                shrink: published.shrink,
                ..Self::plus_cifar100()
            },
        };
        config.sized(setting.preset)
    }

    /// What a preset says for SLCA++.
    pub fn plus_preset(setting: &Setting) -> Self {
        Self::plus_cifar100().sized(setting.preset)
    }

    /// `cpu` is for few images and two cores: no augmentation, small batches and five epochs; all rates are the published
    /// ones, the best of those tried on held-out data (`docs/presets.md`).
    fn sized(mut self, preset: Preset) -> Self {
        let Preset::Cpu = preset else { return self };
        let recipe = &mut self.recipe;
        recipe.augment = Augment::default();
        recipe.epochs = 5;
        recipe.batch = 10;
        recipe.online_batch = 10;
        if let Schedule::MultiStep { milestones, .. } = &mut recipe.schedule {
            *milestones = vec![4];
        }
        self
    }

    /// The rates of a task, counted from 0.
    pub(crate) fn training(&self, task: usize) -> Training {
        let mut training = self.recipe.training.clone();
        if let (0, Some(rate)) = (task, self.first_pet_rate) {
            training.pet_rate = Some(rate);
        }
        training
    }
}

impl Config for SlcaConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("slca");
        let (not_negative, positive) = (0.0..f64::INFINITY, f64::MIN_POSITIVE..f64::INFINITY);
        let finite = "a finite number of at least 0";
        let rate = self.first_pet_rate;
        if rate.is_some() && self.recipe.tuning != Tuning::Pet {
            let expected = "none, unless the tuning is `pet`";
            return Err(Error::config(
                "slca.first_pet_rate",
                rate.unwrap_or_default(),
                expected,
            ));
        }
        check.within(
            "first_pet_rate",
            rate.unwrap_or_default(),
            not_negative.clone(),
            finite,
        )?;
        if let Loss::Symmetric { a, b } = self.loss {
            check.within("loss.a", a, not_negative.clone(), finite)?;
            check.within("loss.b", b, not_negative.clone(), finite)?;
            if a + b == 0.0 {
                return Err(Error::config(
                    "slca.loss",
                    "a = b = 0",
                    "one of them above 0",
                ));
            }
        }
        self.covariance.validate()?;
        check.within("jitter", self.jitter, not_negative, finite)?;
        match self.shrink {
            Shrinkage::None => {}
            Shrinkage::Mean { by } => check.within("shrink.by", by, 0.0..=1.0, "from 0 to 1")?,
            // Below, a sample could grow instead; the official code asks for more than 0.
            Shrinkage::Sample { mu } => {
                check.within("shrink.mu", mu, SPREAD / 2.0..=1.0, "from 0.01 to 1")?;
            }
        }
        if let LogitNorm::PerTask { tau } = self.logit_norm {
            check.within("logit_norm.tau", tau, positive, "a finite number above 0")?;
        }
        self.alignment.validate()?;
        self.recipe.validate()
    }
}
