use everburn_backend::{Rule, Schedule};
use everburn_core::{
    Batch, Checker, ClassId, Ctx, Error, Event, Key, Order, Result, Source, Stage, Step, StepLog,
    TaskInfo, View,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::losses::check_loss;
use crate::{
    Augment, BackbonePart, Classifier, Config, Frozen, HeadInit, Network, PetConfig, Preset,
    Setting, Training, Tuning,
};

/// How the gradient-trained baselines are trained: the same for all of them, so that they differ in
/// the method alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained. The suite decides; changing it here alone leaves rates that were chosen for another.
    pub tuning: Tuning,
    /// The modules that are trained, where the tuning is `pet`. Published: an adapter, LoRA or a prefix (LAE),
    /// AdaptFormer's adapters (MOS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pet: Option<PetConfig>,
    /// Parts of the backbone that train beside the modules. Published: none (LAE, MOS), norms, biases and the class token
    /// (SLCA++).
    #[serde(default)]
    pub unfrozen: Vec<BackbonePart>,
    /// Update rule and rates.
    pub training: Training,
    /// How the rates change over the epochs of a task (over nothing on a single-pass stream). Published
    /// for full tuning: times 0.1 from epoch 18 of 20 on (SLCA on CIFAR-100), from 40 of 50 (on ImageNet-R); a cosine to 0.0001 (SLCA++).
    /// For modules: none (LAE), a cosine to 0 (MOS).
    #[serde(default)]
    pub schedule: Schedule,
    /// Augmentation of training images. Published: crops of 0.05 to 1 of the area and flips (PILOT, MOS), of
    /// 0.08 to 1 (LAE, SLCA; on CIFAR-100 SLCA also changes the brightness by 63/255), of
    /// 0.3 to 1, flips and a quarter in grey (OnPro), none from scratch (RaptorMai).
    #[serde(default)]
    pub augment: Augment,
    /// Passes over a task's samples, where the stream allows several. Published: 20 (PILOT; SLCA and MOS on CIFAR-100), 10
    /// (MOS on CUB-200, ImageNet-R and ImageNet-A), 5
    /// (LAE on CIFAR-100), 50 (SLCA on ImageNet-R, LAE on ImageNet-R and DomainNet), 1 online from scratch (RaptorMai, OnPro).
    pub epochs: usize,
    /// Samples of a step, where it allows several. Published: 64 (Si-Blurry), 128 for full tuning (SLCA), 24
    /// (LAE), 48, 32 and 16 (MOS on CIFAR-100, CUB-200 and ImageNet-R), 10 from scratch (RaptorMai, OnPro).
    pub batch: usize,
    /// Samples of a batch on a single-pass stream. Published: 64 (Si-Blurry), 10 from scratch (RaptorMai, OnPro).
    pub online_batch: usize,
    /// Steps on each batch of a single-pass stream, with augmentation drawn anew. Published: 3 (Si-Blurry),
    /// 1 from scratch (RaptorMai, OnPro).
    pub online_updates: usize,
}

impl Recipe {
    /// The setting of online continual learning from scratch (RaptorMai: SGD 0.1, batches of 10, one
    /// pass, no momentum, no weight decay).
    pub fn online_from_scratch() -> Self {
        Self {
            tuning: Tuning::Full,
            pet: None,
            unfrozen: Vec::new(),
            training: Training {
                rule: Rule::sgd(0.0),
                head_rate: 0.1,
                backbone_rate: 0.1,
                pet_rate: None,
                weight_decay: 0.0,
                clipping: None,
            },
            schedule: Schedule::Constant,
            augment: Augment::default(),
            epochs: 1,
            batch: 10,
            online_batch: 10,
            online_updates: 1,
        }
    }

    /// Si-Blurry's setting (Moon et al., ICCV 2023): a linear head on a frozen ViT, Adam 5e-3,
    /// batches of 64, three steps each.
    pub fn si_blurry() -> Self {
        Self {
            tuning: Tuning::Frozen,
            pet: None,
            unfrozen: Vec::new(),
            training: Training {
                rule: Rule::adam(),
                head_rate: 5e-3,
                backbone_rate: 0.0,
                pet_rate: None,
                weight_decay: 0.0,
                clipping: None,
            },
            schedule: Schedule::Constant,
            augment: Augment::default(),
            epochs: 5,
            batch: 64,
            online_batch: 64,
            online_updates: 3,
        }
    }

    /// What a preset says. `paper` takes what the sources publish; the rates and epochs of `cpu` were
    /// chosen once on held-out training data, never on a test set (`docs/presets.md`).
    pub fn preset(setting: &Setting) -> Self {
        let training = |rule, head_rate, backbone_rate, weight_decay| Training {
            rule,
            head_rate,
            backbone_rate,
            pet_rate: None,
            weight_decay,
            clipping: None,
        };
        match (setting.preset, setting.tuning, setting.from_scratch) {
            // Si-Blurry's linear head; on split tasks PILOT's 20 epochs.
            (Preset::Paper, Tuning::Frozen, _) => Self {
                epochs: 20,
                ..Self::si_blurry()
            },
            // Sequential fine-tuning in SLCA (Zhang et al., ICCV 2023): SGD 0.01 for all, momentum 0.9,
            // decay 5e-4, batch 128, 20 epochs, a tenth of the rate from epoch 18 on. Online as Si-Blurry.
            (Preset::Paper, Tuning::Full, false) => Self {
                tuning: Tuning::Full,
                pet: None,
                unfrozen: Vec::new(),
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
            (Preset::Paper, Tuning::Full, true) => Self::online_from_scratch(),
            // LAE's on CIFAR-100 (Gao et al., ICCV 2023): Adam at 0.03 · 24/256 for modules and head.
            (Preset::Paper, Tuning::Pet, _) => Self {
                tuning: Tuning::Pet,
                pet: Some(PetConfig::default()),
                unfrozen: Vec::new(),
                training: training(Rule::adam(), 0.0028125, 0.0028125, 0.0),
                schedule: Schedule::Constant,
                augment: Augment::imagenet(),
                epochs: 5,
                batch: 24,
                online_batch: 24,
                online_updates: 1,
            },
            (Preset::Cpu, Tuning::Pet, _) => Self {
                augment: Augment::default(),
                ..Self::preset(&Setting {
                    preset: Preset::Paper,
                    ..*setting
                })
            },
            (Preset::Cpu, Tuning::Frozen, _) => Self {
                tuning: Tuning::Frozen,
                pet: None,
                unfrozen: Vec::new(),
                training: training(Rule::adam(), 5e-3, 0.0, 0.0),
                schedule: Schedule::Constant,
                augment: Augment::default(),
                epochs: 5,
                batch: 32,
                online_batch: 10,
                online_updates: 3,
            },
            (Preset::Cpu, Tuning::Full, false) => Self {
                tuning: Tuning::Full,
                pet: None,
                unfrozen: Vec::new(),
                training: training(Rule::adam(), 1e-3, 1e-4, 0.0),
                schedule: Schedule::Constant,
                augment: Augment::default(),
                epochs: 1,
                batch: 10,
                online_batch: 10,
                online_updates: 1,
            },
            (Preset::Cpu, Tuning::Full, true) => Self {
                augment: Augment::pad_crop_flip(),
                ..Self::online_from_scratch()
            },
        }
    }

    /// The recipe in a method's settings: what they call `recipe`, or themselves.
    pub fn within(settings: &serde_json::Value) -> Option<Self> {
        let recipe = settings.get("recipe").unwrap_or(settings);
        Self::deserialize(recipe).ok()
    }

    /// The block before which all steps and predictions compute the same of an image, behind the first: so it can
    /// be computed once ([`Frozen::cut`]). Augmented images are others in each step.
    pub fn cut(&self) -> Option<usize> {
        let stays = self.augment.is_none() && self.unfrozen.is_empty();
        let pet = self.pet.as_ref().filter(|_| stays)?;
        pet.first_block().filter(|block| *block > 0)
    }

    /// The one stage of a task: shuffled epochs over `source`, or the single pass that the stream
    /// allows.
    pub fn stages(&self, task: Option<&TaskInfo>, source: Source) -> Vec<Stage> {
        let online = task.is_none_or(|task| task.single_pass) && source != Source::AllSeen;
        vec![Stage {
            name: "train".to_owned(),
            source: if online { Source::Stream } else { source },
            epochs: if online { 1 } else { self.epochs },
            batch: if online {
                self.online_batch
            } else {
                self.batch
            },
            view: View::Train,
            order: if online {
                Order::Stream
            } else {
                Order::Shuffled
            },
            drop_last: false,
        }]
    }

    /// The network that the recipe trains.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn network(&self, frozen: Frozen, key: Key) -> Result<Network> {
        self.validate()?;
        let device = frozen.device().clone();
        let net = Network::new(
            frozen,
            self.tuning,
            &self.training,
            self.augment,
            key,
            &device,
        )?;
        match &self.pet {
            Some(pet) => net
                .with_pet(pet, key.child("pet"))?
                .with_unfrozen(&self.unfrozen),
            None => Ok(net),
        }
    }
}

impl Config for Recipe {
    fn validate(&self) -> Result<()> {
        match (self.tuning, &self.pet) {
            (Tuning::Pet, Some(pet)) => pet.validate()?,
            (Tuning::Pet, None) => {
                let expected = "modules, since the tuning is `pet`";
                return Err(Error::config("recipe.pet", "nothing", expected));
            }
            (_, None) => {}
            (tuning, Some(pet)) => {
                let expected = format!("none, since the tuning is `{}`", tuning.name());
                return Err(Error::config("recipe.pet", pet.name(), expected));
            }
        }
        if !self.unfrozen.is_empty() && self.tuning != Tuning::Pet {
            let (found, tuning) = (format!("{:?}", self.unfrozen), self.tuning.name());
            let expected = format!("none, since the tuning is `{tuning}`");
            return Err(Error::config("recipe.unfrozen", found, expected));
        }
        if let (Some(rate), true) = (self.training.pet_rate, self.tuning != Tuning::Pet) {
            let expected = format!("none, since the tuning is `{}`", self.tuning.name());
            return Err(Error::config("recipe.training.pet_rate", rate, expected));
        }
        self.training.validate()?;
        self.augment.validate()?;
        check_schedule(&self.schedule)?;
        let check = Checker::new("recipe");
        check.positive("epochs", self.epochs)?;
        check.positive("batch", self.batch)?;
        check.positive("online_batch", self.online_batch)?;
        check.positive("online_updates", self.online_updates)
    }
}

/// Factors and rates that are numbers of at least 0, so that every rate is.
fn check_schedule(schedule: &Schedule) -> Result<()> {
    let check = Checker::new("schedule");
    let rate = |field, value| {
        check.within(
            field,
            value,
            0.0..f64::INFINITY,
            "a finite number of at least 0",
        )
    };
    let part = |field, value| check.within(field, value, 0.0..=1.0, "from 0 to 1");
    match schedule {
        Schedule::Cosine { min } => rate("min", *min),
        Schedule::MultiStep { gamma, .. } => rate("gamma", *gamma),
        Schedule::WarmUp { start_factor, .. } => rate("start_factor", *start_factor),
        Schedule::WarmUpCosine {
            start_factor, min, ..
        } => {
            rate("start_factor", *start_factor)?;
            rate("min", *min)
        }
        Schedule::LaeLinear { scale_min }
        | Schedule::LaeCosine { scale_min }
        | Schedule::LaeCosinePi { scale_min } => part("scale_min", *scale_min),
        _ => Ok(()),
    }
}

/// Checks that all labels are of a task, where the loss goes over its classes: before anything learns of a stranger.
///
/// # Errors
/// Names the first that is not.
pub fn check_labels(labels: &[ClassId], task: &[ClassId]) -> Result<()> {
    match labels.iter().find(|label| !task.contains(label)) {
        None => Ok(()),
        Some(stranger) => {
            let expected = "one of the task's classes, over which the loss goes";
            Err(Error::input("a label", stranger, expected))
        }
    }
}

/// What the gradient-trained baselines share: a network, its recipe, and the reactions to borders.
pub struct Trainee {
    /// The network.
    pub net: Network,
    recipe: Recipe,
    /// The rates of the next steps, before the schedule.
    training: Training,
    source: Source,
    lasting_optimiser: bool,
}

impl Trainee {
    /// A network under training.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(recipe: Recipe, frozen: Frozen, key: Key) -> Result<Self> {
        Ok(Self {
            net: recipe.network(frozen, key)?,
            training: recipe.training.clone(),
            recipe,
            source: Source::Stream,
            lasting_optimiser: false,
        })
    }

    /// With an optimiser that is never begun anew, whatever tasks begin.
    #[must_use]
    pub fn with_lasting_optimiser(mut self) -> Self {
        self.lasting_optimiser = true;
        self
    }

    /// With another classifier than the linear one; to be called before any class has been seen.
    #[must_use]
    pub fn with_classifier(mut self, classifier: Classifier) -> Self {
        self.net = self.net.with_classifier(classifier);
        self
    }

    /// With another beginning of the head's rows; to be called before any class has been seen.
    #[must_use]
    pub fn with_head_init(mut self, init: HeadInit) -> Self {
        self.net = self.net.with_head_init(init);
        self
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// At the beginning of a task its classes get their rows of the head; at the beginning of a stage
    /// the optimiser begins anew, unless it [lasts](Self::with_lasting_optimiser).
    pub fn on(&mut self, event: &Event) {
        match event {
            Event::TaskBegin(task) => self.net.see(&task.classes),
            Event::StageBegin(stage) => {
                self.source = stage.source;
                if !self.lasting_optimiser {
                    self.net.reset_optimiser();
                }
            }
            Event::StageEnd(_) | Event::TaskEnd(_) => {}
        }
    }

    /// Other rates than the recipe's for the next steps, where a method has others for some tasks. Not part of the
    /// state: to be said before each step.
    pub fn set_training(&mut self, training: Training) {
        self.training = training;
    }

    /// Sets the learning rates of a step.
    fn schedule(&mut self, step: &Step) {
        let training = &self.training;
        let rate = |base| self.recipe.schedule.rate(base, step.epoch, step.epochs);
        self.net.set_rates(training, rate);
    }

    /// Whether each sample of the current stage comes once.
    pub fn is_single_pass(&self) -> bool {
        self.source == Source::Stream
    }

    /// Updates on each batch of the current stage.
    pub fn updates(&self) -> usize {
        match self.is_single_pass() {
            true => self.recipe.online_updates,
            false => 1,
        }
    }

    /// The stages of a task: the recipe's, over the task's samples or the single pass over the stream.
    pub fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.recipe.stages(task, Source::Task)
    }

    /// Learns from a batch by the recipe: its classes get their rows of the head, the rates are those
    /// of the step, and `update` makes one step of the optimiser and returns what
    /// [`Network::update`] does — once, or `online_updates` times on a single-pass stream, each time with
    /// a key of its own.
    ///
    /// # Errors
    /// If the batch holds no image or another number of labels, `update` fails, or a loss is not a
    /// number (a diverged network would go on in silence); `method` is the name for errors.
    pub fn observe(
        &mut self,
        method: &str,
        batch: &Batch,
        step: &Step,
        cx: &Ctx,
        mut update: impl FnMut(&mut Network, Key) -> Result<Option<f32>>,
    ) -> Result<StepLog> {
        let (images, labels) = (batch.images.len(), batch.labels.len());
        if images == 0 {
            return Err(Error::input("a batch", "no image", "at least one"));
        }
        if labels != images {
            return Err(Error::input("labels of a batch", labels, images));
        }
        self.net.see(&batch.labels);
        self.schedule(step);
        let mut loss = None;
        for number in 0..self.updates() {
            let key = cx.key.child("update").at(number as u64);
            let read = update(&mut self.net, key)?;
            loss = read
                .map(|loss| check_loss(format!("training of `{method}`"), loss))
                .transpose()?
                .or(loss);
        }
        Ok(StepLog { loss })
    }

    /// The complete state.
    ///
    /// # Errors
    /// If the device fails.
    pub fn save(&self) -> Result<everburn_core::State> {
        let mut state = self.net.save()?;
        state.put_value("source", self.source)?;
        Ok(state)
    }

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// If the state does not fit.
    pub fn restore(&mut self, state: &everburn_core::State) -> Result<()> {
        let source = state.value("source")?;
        self.net.restore(state)?;
        self.source = source;
        Ok(())
    }
}
