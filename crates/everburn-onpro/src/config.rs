use everburn_backend::{AdamSettings, Rule, Schedule};
use everburn_core::{Checker, Error, ReservoirRule, Result};
use everburn_nn::{Augment, Config, Recipe, Setting, Training, Tuning, nothing_more};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The hyper-parameters of OnPro.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnProConfig {
    /// M, images in the memory. Published: 100, 200 and 500 (CIFAR-10), 500, 1000 and 2000 (CIFAR-100), 1000, 2000 and
    /// 4000 (Tiny-ImageNet).
    pub buffer: usize,
    /// Images of it in a step, at most. Published: 64.
    pub replay_batch: usize,
    /// And at most so many for each class met, after the first task. Published: 7, in the code alone.
    #[serde(default = "published_per_class")]
    pub replay_per_class: usize,
    /// Copies of each image that the instance loss tells apart: 16 are four versions with halves turned, each in four
    /// rotations; 4 the rotations alone; 1 none. Published: 16, as in OCM.
    pub copies: usize,
    /// Width of the projections z, at most that of the features. Published: 128 of 512.
    pub projection: usize,
    /// τ of the equilibrium loss. Published: 0.5.
    #[serde(default = "published_prototype_temperature")]
    pub prototype_temperature: f64,
    /// τ of the instance losses. Published: 0.07.
    #[serde(default = "published_instance_temperature")]
    pub instance_temperature: f64,
    /// λ, by which their similarities are multiplied after the first task. Published: 0.5 (CIFAR-10), 1 (CIFAR-100,
    /// Tiny-ImageNet).
    pub similarity_factor: f64,
    /// Whether prototypes are pulled into equilibrium (L_OPE). Published: yes.
    #[serde(default = "yes")]
    pub equilibrium: bool,
    /// Whether the copies are told apart (L_INS); otherwise there are none, neither in the network nor in its batch
    /// statistics. Published: yes.
    #[serde(default = "yes")]
    pub instance: bool,
    /// What is replayed after the first task. Published: adaptive, with a base rate of 0.75 and mixing of 0.6
    /// (CIFAR-10), 0.9 and 0.2 (CIFAR-100, Tiny-ImageNet).
    #[serde(default)]
    pub feedback: Feedback,
    /// How the memory decides what to keep. Published: the code's batched rule.
    #[serde(default)]
    pub reservoir: ReservoirRule,
    /// Where the borders of tasks decide what is learnt. Published: as released.
    #[serde(default)]
    pub borders: TaskBorders,
    /// Classes, numbered from 0, of a head that has all of them from the start, with those yet to come in each softmax
    /// and in each prediction; none for a head that grows. Published: all, 10, 100 or 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// How network, head and projector are trained. Published: Adam at 0.0005 with β = (0.9, 0.99), decay 1e-4, never
    /// begun anew, batches of 10, one pass; views of normalised images by flips, a quarter in grey, crops of 0.3 to 1.
    pub recipe: Recipe,
}

/// What is replayed after the first task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Feedback {
    /// A draw from the memory, as it is.
    #[serde(deserialize_with = "nothing_more")]
    None,
    /// Adaptive prototypical feedback: a part of the draw, and pairs of classes the more often the closer their
    /// prototypes are.
    Adaptive(Adaptive),
}

impl Default for Feedback {
    /// As published for CIFAR-10.
    fn default() -> Self {
        Self::Adaptive(Adaptive::published(0.75, 0.6))
    }
}

/// The settings of adaptive prototypical feedback.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// The part of the images that is drawn at random. Published: 0.75, 0.9.
    pub base_rate: f64,
    /// The probability with which these are mixed with each other, and those of a pair. Published: 0.6, 0.2.
    pub mixing: f64,
    /// The largest share of the second image where they are mixed. Published: 0.6.
    pub most: f64,
    /// α of Beta(α, α), from which the share in a pair is drawn. Published: 0.4.
    pub alpha: f64,
}

impl Adaptive {
    fn published(base_rate: f64, mixing: f64) -> Self {
        Self {
            base_rate,
            mixing,
            most: 0.6,
            alpha: 0.4,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        let check = Checker::new("onpro.feedback");
        for (field, value) in [
            ("base_rate", self.base_rate),
            ("mixing", self.mixing),
            ("most", self.most),
        ] {
            check.within(field, value, 0.0..=1.0, "from 0 to 1")?;
        }
        let range = f64::MIN_POSITIVE..f64::INFINITY;
        check.within("alpha", self.alpha, range, "a finite number above 0")
    }
}

/// Where the borders of tasks decide what is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskBorders {
    /// As in the released code: in the first task the stream is classified and nothing is fed back; in later ones the
    /// memory alone is classified, without feedback in a task's first batch.
    #[default]
    Released,
    /// Nowhere: each batch but the stream's first is learnt from as in later tasks, with feedback as soon as there are
    /// prototypes, from the third on. For streams without borders.
    None,
}

fn published_per_class() -> usize {
    7
}

fn published_prototype_temperature() -> f64 {
    0.5
}

fn published_instance_temperature() -> f64 {
    0.07
}

fn yes() -> bool {
    true
}

impl OnProConfig {
    /// The official setting for CIFAR-10 with a memory of 200. Two things differ from that code: the memory is filled by
    /// the exact rule and not by its biased one ([`ReservoirRule::Batched`]), and the head grows ([`classes`](Self::classes)).
    pub fn cifar10() -> Self {
        Self {
            buffer: 200,
            replay_batch: 64,
            replay_per_class: published_per_class(),
            copies: 16,
            projection: 128,
            prototype_temperature: published_prototype_temperature(),
            instance_temperature: published_instance_temperature(),
            similarity_factor: 0.5,
            equilibrium: true,
            instance: true,
            feedback: Feedback::default(),
            reservoir: ReservoirRule::Exact,
            borders: TaskBorders::Released,
            classes: None,
            recipe: Recipe {
                training: Training {
                    rule: Rule::Adam(AdamSettings {
                        beta1: 0.9,
                        beta2: 0.99,
                        ..AdamSettings::default()
                    }),
                    head_rate: 5e-4,
                    backbone_rate: 5e-4,
                    pet_rate: None,
                    weight_decay: 1e-4,
                    clipping: None,
                },
                schedule: Schedule::Constant,
                augment: Augment::online_contrastive(),
                ..Recipe::online_from_scratch()
            },
        }
    }

    /// The official setting for CIFAR-100 with a memory of 500.
    pub fn cifar100() -> Self {
        Self {
            buffer: 500,
            similarity_factor: 1.0,
            feedback: Feedback::Adaptive(Adaptive::published(0.9, 0.2)),
            ..Self::cifar10()
        }
    }

    /// The official setting for Tiny-ImageNet with a memory of 1000.
    pub fn tiny_imagenet() -> Self {
        Self {
            buffer: 1000,
            ..Self::cifar100()
        }
    }

    /// The copies that go through the network: the prototypes alone are of the images themselves.
    pub(crate) fn copies_compared(&self) -> usize {
        if self.instance { self.copies } else { 1 }
    }

    /// What a preset of `onpro` says: always all copies and the published batches. A backbone that is pre-trained, which
    /// nothing published has, is tuned at the rates that everything else tunes it at.
    pub fn preset(setting: &Setting) -> Self {
        let published = Self::cifar10();
        if setting.from_scratch {
            return published;
        }
        Self {
            recipe: Recipe {
                training: Recipe::preset(setting).training,
                ..published.recipe
            },
            ..published
        }
    }

    /// What a preset of `onpro-small` says: four copies, 16 images of the memory in a step, and projections of 32 numbers,
    /// which leaves 8 filters or more a choice of features to compare.
    pub fn small_preset(setting: &Setting) -> Self {
        Self {
            copies: 4,
            replay_batch: 16,
            projection: 32,
            ..Self::preset(setting)
        }
    }
}

impl Config for OnProConfig {
    fn validate(&self) -> Result<()> {
        let check = Checker::new("onpro");
        check.positive("buffer", self.buffer)?;
        check.positive("replay_batch", self.replay_batch)?;
        check.positive("replay_per_class", self.replay_per_class)?;
        check.positive("projection", self.projection)?;
        if let Some(classes) = self.classes {
            // Sixteen times as many pseudo-classes are the whole numbers that 32 bits of a float tell apart.
            check.within("classes", classes, 1..=1 << 20, "from 1 to 2^20")?;
        }
        if ![1, 4, 16].contains(&self.copies) {
            return Err(Error::config("onpro.copies", self.copies, "1, 4 or 16"));
        }
        for (field, value) in [
            ("prototype_temperature", self.prototype_temperature),
            ("instance_temperature", self.instance_temperature),
            ("similarity_factor", self.similarity_factor),
        ] {
            let range = f64::MIN_POSITIVE..f64::INFINITY;
            check.within(field, value, range, "a finite number above 0")?;
        }
        if let Feedback::Adaptive(adaptive) = self.feedback {
            adaptive.validate()?;
        }
        if self.recipe.augment.brightness != 0.0 {
            let found = self.recipe.augment.brightness;
            let expected = "0: views are made of normalised images";
            return Err(Error::config("recipe.augment.brightness", found, expected));
        }
        if self.recipe.tuning != Tuning::Full {
            let expected = "`full`: it learns a representation";
            let found = self.recipe.tuning.name();
            return Err(Error::config("recipe.tuning", found, expected));
        }
        self.recipe.validate()
    }
}
