#![cfg_attr(test, allow(clippy::unwrap_used))]

//! LAE, Learning–Accumulation–Ensemble: Gao et al., "A Unified Continual Learning Framework with General
//! Parameter-Efficient Tuning" (ICCV 2023), after the official repository gqk/LAE.
//!
//! A frozen Vision Transformer carries one **online** module θ_on (an adapter, LoRA or a prefix), which learns
//! each new task. An **offline** module θ_off of the same shape follows it slowly, so it keeps what earlier tasks
//! needed. At test time each of them makes an expert, under the same head, and the more confident one speaks:
//!
//! 1. **Learning.** Local cross-entropy, over the classes of the current task alone. In the first epochs of each
//!    task but the first only the head learns, so that θ_on is not torn about by rows that are still random. Learnt
//!    factors, and the compensation of the prefix, bring the speeds of the three kinds closer together.
//! 2. **Accumulation.** After every step, θ_off ← α·θ_off + (1 − α)·θ_on. θ_off is born as a copy of θ_on when the
//!    second task begins.
//! 3. **Ensemble.** p = max(softmax(o_on), softmax(o_off)), class by class.
//!
//! Nothing else is kept: no images, no statistics; two modules, whatever the number of tasks, and a head.

mod config;

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use everburn_backend::{ema, load_params, param_bytes, save_params, to_vec};
use everburn_core::{
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Output,
    Result, Source, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Config, Frozen, HeadInit, Method, Network, Pet, Settings, Trainee, Tuning, check_labels,
    from_value, to_value,
};

pub use config::{AlphaPer, Experts, LaeConfig};

/// LAE, by name.
pub const METHOD: Method = Method {
    name: "lae",
    about: "an online module learns, an offline one follows by momentum, both predict",
    source: "Gao et al., A Unified Continual Learning Framework with General PET, ICCV 2023",
    only: Some(Tuning::Pet),
    settings: Settings::of::<LaeConfig>(),
    preset: |setting| to_value(LaeConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("lae", settings)?;
        Ok(Box::new(Lae::new(config, frozen, key)?))
    },
};

/// Standard deviation of a new class's row of the head; its bias is 0 (gqk/LAE, `head/dynamic_simple.py`).
const HEAD_DEVIATION: f32 = 0.001;

/// LAE.
pub struct Lae {
    config: LaeConfig,
    /// The head and θ_on.
    online: Trainee,
    /// θ_off, from the second task on.
    offline: Option<Pet>,
    /// The classes of the current task.
    task: Vec<ClassId>,
    /// Whether a task with samples has begun.
    begun: bool,
}

impl Lae {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong, or the backbone is no Vision Transformer.
    pub fn new(config: LaeConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let online = Trainee::new(config.recipe.clone(), frozen, key)?;
        Ok(Self {
            config,
            online: online.with_head_init(HeadInit::Normal(HEAD_DEVIATION)),
            offline: None,
            task: Vec::new(),
            begun: false,
        })
    }

    /// The network with the head and θ_on.
    pub fn network(&self) -> &Network {
        &self.online.net
    }

    /// θ_off; none before the second task.
    pub fn offline(&self) -> Option<&Pet> {
        self.offline.as_ref()
    }

    /// θ_off is born, once, as a copy of what the first task made of θ_on.
    fn begin(&mut self, task: &TaskInfo) {
        if self.begun && self.offline.is_none() {
            self.offline = self.network().pet().cloned();
        }
        self.begun |= task.samples > 0;
        self.task = task.classes.clone();
    }

    /// Whether only the head learns in a step: the first epochs of each task but the first. A single pass has
    /// no epochs; there it is the same part of the steps.
    fn is_frozen(&self, step: &Step) -> bool {
        let (freeze, epochs) = (self.config.freeze_epochs, self.config.recipe.epochs);
        let frozen = match self.online.is_single_pass() {
            true => (step.index as f64) * (epochs as f64) < (freeze as f64) * (step.steps as f64),
            false => step.epoch < freeze,
        };
        self.offline.is_some() && frozen
    }

    /// Logits `[batch, classes]` of the experts that predict.
    fn experts(&self, images: &Images) -> Result<Vec<Tensor<2>>> {
        let net = self.network();
        let (stem, online) = (net.stem(images)?, net.pet());
        let experts = match (self.config.experts, &self.offline) {
            (Experts::Both, offline) => vec![online, offline.as_ref()],
            (Experts::Online, _) | (Experts::Offline, None) => vec![online],
            (Experts::Offline, Some(offline)) => vec![Some(offline)],
        };
        let logits = |pet| net.logits(net.features_with(&stem, pet)?);
        experts.into_iter().flatten().map(logits).collect()
    }
}

/// p = max(softmax(o_on), softmax(o_off)), class by class: `[batch, classes]`, of one or more experts' logits
/// (gqk/LAE, `eval_epoch`). Rows do not sum to 1.
///
/// # Errors
/// If there is no expert.
pub fn ensemble(logits: impl IntoIterator<Item = Tensor<2>>) -> Result<Tensor<2>> {
    let probabilities = logits.into_iter().map(|logits| softmax(logits, 1));
    let best = probabilities.reduce(|a, b| a.max_pair(b));
    best.ok_or_else(|| Error::input("an ensemble", "no expert", "at least one"))
}

impl Learner for Lae {
    fn spec(&self) -> Spec {
        Spec {
            borders: Borders::Needed,
            ..Spec::new(METHOD.name)
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let mut stages = self.online.stages(task);
        for stage in &mut stages {
            // Smaller tasks than a batch would give no step at all.
            stage.drop_last = task.is_some_and(|task| task.samples >= stage.batch)
                && stage.source == Source::Task;
        }
        stages
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        if let Event::TaskBegin(task) = event {
            self.begin(task);
        }
        self.online.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        if step.task.is_none() {
            let why = "its loss is over the classes of the task: it must be told where tasks begin";
            return Err(Error::unsupported("lae without task borders", why));
        }
        let steps = step.steps * self.online.updates();
        check_labels(&batch.labels, &self.task)?;
        let (frozen, alpha) = (self.is_frozen(step), self.config.alpha_of_step(steps));
        let Self {
            online,
            offline,
            task,
            ..
        } = self;
        online.observe(METHOD.name, batch, step, cx, |net, key| {
            // Learning: local cross-entropy.
            let mut live = if frozen { net.live_head() } else { net.live() };
            let loss = live.local_loss(&batch.images, &batch.labels, task, batch.view, key)?;
            let tape = live.into_tape();
            let loss = net.update(tape, loss)?;
            // Accumulation: θ_off ← α·θ_off + (1 − α)·θ_on, scales included, frozen epochs too (`post_train_step`).
            if let (Some(average), Some(current)) = (offline.as_ref(), net.pet()) {
                *offline = Some(ema(average.clone(), current, alpha)?);
            }
            Ok(loss)
        })
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        let seen = self.network().seen();
        if seen.is_empty() {
            return Output::new(Vec::new(), Vec::new());
        }
        let scores = to_vec(&ensemble(self.experts(images)?)?)?;
        Output::new(seen.as_slice().to_vec(), scores)
    }

    fn footprint(&self) -> Footprint {
        let net = self.network();
        let mut footprint = net.footprint();
        if let Some(offline) = &self.offline {
            footprint.add(Kind::Trained, "offline module", param_bytes(offline));
            if self.config.experts == Experts::Both {
                footprint.macs_per_image += net.macs_behind_stem();
            }
        }
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = self.online.save()?;
        if let Some(offline) = &self.offline {
            state.nest("offline", save_params(offline)?);
        }
        state.put_value("has_offline", self.offline.is_some())?;
        state.put_value("task", &self.task)?;
        state.put_value("begun", self.begun)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let has_offline: bool = state.value("has_offline")?;
        let (task, begun) = (state.value("task")?, state.value("begun")?);
        let shaped = self.network().pet().filter(|_| has_offline).cloned();
        let offline = shaped.map(|pet| load_params(pet, &state.below("offline")));
        let offline = offline.transpose()?;
        self.online.restore(state)?;
        (self.offline, self.task, self.begun) = (offline, task, begun);
        Ok(())
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
