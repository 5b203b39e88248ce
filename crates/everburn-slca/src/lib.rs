#![cfg_attr(test, allow(clippy::unwrap_used))]

//! SLCA, the slow learner with classifier alignment: Zhang et al., "SLCA: Slow Learner with Classifier Alignment for
//! Continual Learning on a Pre-trained Model" (ICCV 2023), and SLCA++ (arXiv 2408.08295), after the official
//! repository GengDavid/SLCA.
//!
//! Sequential fine-tuning forgets for two reasons, and each has its remedy:
//!
//! 1. **Slow learner.** The representation moves too far for each task: it learns at a hundredth of the rate of the
//!    classifier. The loss is over the classes of the task alone; the rows of earlier classes stand still.
//! 2. **Classifier alignment.** So heads of different tasks were never compared with each other. After each task
//!    mean μ_c and covariance Σ_c of the features of its classes are kept, and all heads together learn from samples of
//!    N(s_c·μ_c, Σ_c) of all classes, with logits divided by the mean of the tasks' norms.
//!
//! The aligned heads are for prediction: the next task goes on from the heads as they were before.
//!
//! SLCA++ tunes low-rank changes of the attention, norms, biases and the class token in place of the whole backbone, by a
//! symmetric cross-entropy. No images are kept.

mod config;
mod loss;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{param_bytes, save_params, to_vec};
use everburn_core::{
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Output,
    Result, Rng, SeenClasses, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Alignment, ClassGaussians, ClassTasks, Config, Frozen, Head, HeadInit, Method, Network, Phase,
    Settings, Trainee, Tuning, check_labels, cross_entropy, from_value, to_value,
};

pub use config::{LogitNorm, Loss, Shrinkage, SlcaConfig};
pub use loss::{normalised_by_task, symmetric_cross_entropy};

/// SLCA, by name.
pub const SLCA: Method = Method {
    name: "slca",
    about: "a slow backbone, and heads aligned on samples of class Gaussians",
    source: "Zhang et al., SLCA: Slow Learner with Classifier Alignment, ICCV 2023",
    only: None,
    settings: Settings::of::<SlcaConfig>(),
    preset: |setting| to_value(SlcaConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("slca", settings)?;
        Ok(Box::new(Slca::new(config, frozen, key)?))
    },
};

/// SLCA++, by name.
pub const SLCA_PLUS: Method = Method {
    name: "slca-plus",
    about: "SLCA++: low-rank changes, norms and biases in place of the backbone, symmetric loss",
    source: "Zhang et al., SLCA++: Unleash the Power of Sequential Fine-tuning, 2024",
    only: Some(Tuning::Pet),
    settings: Settings::of::<SlcaConfig>(),
    preset: |setting| to_value(SlcaConfig::plus_preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("slca-plus", settings)?;
        Ok(Box::new(Slca::plus(config, frozen, key)?))
    },
};

/// SLCA and SLCA++.
pub struct Slca {
    name: &'static str,
    config: SlcaConfig,
    /// The representation θ_rps and the heads θ_cls.
    trainee: Trainee,
    /// μ_c and Σ_c of the classes of past tasks, and of the current one once it has been learnt.
    gaussians: ClassGaussians,
    alignment: Alignment,
    /// The heads before their alignment, while the aligned ones predict.
    unaligned: Option<Head>,
    phase: Phase,
    /// The classes of the current task.
    task: Vec<ClassId>,
    /// The task of each class.
    tasks: ClassTasks,
}

impl Slca {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong or does not fit the backbone.
    pub fn new(config: SlcaConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let dim = frozen.backbone().dim();
        let mut trainee =
            Trainee::new(config.recipe.clone(), frozen, key)?.with_head_init(HeadInit::Timm);
        if config.new_norm {
            trainee.net = trainee.net.with_new_norm()?;
        }
        Ok(Self {
            name: SLCA.name,
            gaussians: ClassGaussians::new(dim, config.covariance, config.jitter)?,
            alignment: Alignment::new(config.alignment.clone())?,
            config,
            trainee,
            unaligned: None,
            phase: Phase::Train,
            task: Vec::new(),
            tasks: ClassTasks::default(),
        })
    }

    /// [`new`](Self::new) under the name of SLCA++; what it does, its settings say.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn plus(config: SlcaConfig, frozen: Frozen, key: Key) -> Result<Self> {
        Ok(Self {
            name: SLCA_PLUS.name,
            ..Self::new(config, frozen, key)?
        })
    }

    /// The network, with the heads that predict.
    pub fn network(&self) -> &Network {
        &self.trainee.net
    }

    /// The heads before their alignment, where those that predict are aligned.
    pub fn unaligned(&self) -> Option<&Head> {
        self.unaligned.as_ref()
    }

    /// Means and covariances of the classes learnt.
    pub fn gaussians(&self) -> &ClassGaussians {
        &self.gaussians
    }

    fn begin_task(&mut self, task: &TaskInfo) {
        self.trainee.on(&Event::TaskBegin(task.clone()));
        self.tasks.begin(task, self.trainee.net.seen());
        self.task = task.classes.clone();
    }

    /// A task goes on from the heads as they were before their alignment (`fc.recall`); the aligned ones predict until then. Rows
    /// that have been added since stay.
    fn recall(&mut self) -> Result<()> {
        let net = &mut self.trainee.net;
        if let (Some(before), Some(now)) = (self.unaligned.take(), net.head()) {
            let head = before.extended_by(now);
            net.set_head(head)?;
        }
        Ok(())
    }

    /// Stage 1: the representation slowly, the heads of the task at full rate, all other rows not at all.
    fn train(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        check_labels(&batch.labels, &self.task)?;
        let training = self.config.training(self.tasks.current());
        self.trainee.set_training(training);
        let (loss, task) = (self.config.loss, &self.task);
        let log = (self.trainee).observe(self.name, batch, step, cx, |net, key| {
            let mut live = net.live();
            let (logits, targets) =
                live.local(&batch.images, &batch.labels, task, batch.view, key)?;
            let loss = match loss {
                Loss::CrossEntropy => cross_entropy(logits, targets),
                Loss::Symmetric { a, b } => symmetric_cross_entropy(logits, targets, a, b),
            };
            let tape = live.into_tape();
            net.update_rows(tape, loss, task)
        })?;
        if self.trainee.is_single_pass() {
            // Nobody comes by twice: features are taken in as the backbone has them now.
            self.collect(batch)?;
        }
        Ok(log)
    }

    /// Takes in the features of a batch, if they will be needed.
    fn collect(&mut self, batch: &Batch) -> Result<()> {
        if self.config.alignment.epochs == 0 {
            return Ok(());
        }
        let features = to_vec(&self.network().features(&batch.images)?)?;
        self.gaussians.add(&features, &batch.labels)?;
        match self.phase {
            // Class after class: all others are complete.
            Phase::Statistics => self.gaussians.close_but(&batch.labels),
            Phase::Train | Phase::Align => Ok(()),
        }
    }

    /// Stage 2: all heads on samples of all classes; logits normalised by task.
    fn align(&mut self, step: &Step) -> Result<StepLog> {
        let (current, tasks) = (self.tasks.current(), self.tasks.of());
        let (seen, rows) = (self.network().seen(), self.gaussians.seen().as_slice());
        let rows: Vec<Option<usize>> = rows.iter().map(|class| seen.index(*class)).collect();
        let shrink = self.config.shrink;
        let shrunk = |class: usize, rng: &mut Rng| {
            let task = rows[class].map_or(current, |row| tasks[row]);
            shrink.of(task, current, rng)
        };
        let norm = self.config.logit_norm;
        let loss = self.alignment.learn(
            &mut self.trainee.net,
            &self.gaussians,
            step,
            shrunk,
            |logits, targets| match norm {
                LogitNorm::None => cross_entropy(logits, targets),
                LogitNorm::PerTask { tau } => {
                    cross_entropy(normalised_by_task(logits, tasks, tau), targets)
                }
            },
        )?;
        Ok(StepLog { loss })
    }

    /// SLCA++ in prediction: the input of the head of task k times 1 + μ·(t − k), which is as well a factor of its
    /// weights.
    fn scale_old_heads(&mut self) -> Result<()> {
        let (Shrinkage::Sample { mu }, Some(head)) = (self.config.shrink, self.network().head())
        else {
            return Ok(());
        };
        let (current, tasks) = (self.tasks.current(), self.tasks.of());
        let factor = |task: &usize| (1.0 + mu * (current - task) as f64) as f32;
        let factors: Vec<f32> = tasks.iter().map(factor).collect();
        let data = TensorData::new(factors, [tasks.len(), 1]);
        let factors = Tensor::<2>::from_data(data, self.network().device());
        let scaled = Head {
            weight: Param::from_tensor(head.weight.val() * factors),
            bias: head.bias.clone(),
        };
        self.trainee.net.set_head(scaled)
    }
}

impl Learner for Slca {
    fn spec(&self) -> Spec {
        Spec {
            borders: Borders::Needed,
            ..Spec::new(self.name)
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let mut stages = self.trainee.stages(task);
        let (Some(task), true) = (task, self.config.alignment.epochs > 0) else {
            return stages;
        };
        if !task.single_pass {
            stages.push(ClassGaussians::stage());
        }
        stages.extend(self.alignment.stage_after(task, self.gaussians.seen()));
        stages
    }

    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        match event {
            Event::TaskBegin(task) => self.begin_task(task),
            Event::StageBegin(stage) => {
                self.trainee.on(event);
                self.phase = Phase::of(stage);
                match self.phase {
                    // A task without samples changes nothing.
                    Phase::Train if !self.task.is_empty() => self.recall()?,
                    Phase::Align => {
                        self.unaligned = self.network().head().cloned();
                        self.alignment.begin(cx.key);
                    }
                    Phase::Train | Phase::Statistics => {}
                }
            }
            Event::StageEnd(_) if self.phase == Phase::Align => {
                self.alignment.end()?;
                self.scale_old_heads()?;
            }
            Event::StageEnd(_) => self.gaussians.close()?,
            Event::TaskEnd(_) => {}
        }
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        if step.task.is_none() {
            let why = "its loss is over the classes of the task: it must be told where tasks begin";
            let what = format!("{} without task borders", self.name);
            return Err(Error::unsupported(what, why));
        }
        match self.phase {
            Phase::Train => self.train(batch, step, cx),
            Phase::Statistics => {
                self.collect(batch)?;
                Ok(StepLog::default())
            }
            Phase::Align => self.align(step),
        }
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.network().predict(images)
    }

    fn footprint(&self) -> Footprint {
        let mut footprint = self.network().footprint();
        self.gaussians.account(&mut footprint);
        if let Some(head) = &self.unaligned {
            footprint.add(Kind::Trained, "head before alignment", param_bytes(head));
        }
        footprint.memory.push(self.alignment.memory());
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = self.trainee.save()?;
        state.nest("gaussians", self.gaussians.save()?);
        state.nest("alignment", self.alignment.save()?);
        if let Some(head) = &self.unaligned {
            state.nest("unaligned", save_params(head)?);
        }
        state.put_value("is_aligned", self.unaligned.is_some())?;
        state.put_value("phase", self.phase)?;
        state.put_value("task", &self.task)?;
        self.tasks.save(&mut state)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        // All that can fail comes before anything changes; the trainee checks its own part in the same way.
        let (phase, task): (Phase, Vec<ClassId>) = (state.value("phase")?, state.value("task")?);
        let seen: SeenClasses = state.value("seen")?;
        let tasks = ClassTasks::restored(state, seen.len()..=seen.len())?;
        let gaussians = self.gaussians.restored(&state.below("gaussians"))?;
        let strangers = |classes: &[ClassId]| {
            let mut unknown = classes.iter().filter(|class| seen.index(**class).is_none());
            unknown.next().copied()
        };
        if let Some(stranger) = strangers(&task).or(strangers(gaussians.seen().as_slice())) {
            let expected = "a class that has been seen";
            return Err(Error::state("task and gaussians", stranger, expected));
        }
        let (net, arrays) = (self.network(), state.below("unaligned"));
        let unaligned = match state.value("is_aligned")? {
            // Fewer rows than the head has, between the beginning of a task and its first stage.
            true => {
                let rows = arrays
                    .array("weight")?
                    .shape
                    .first()
                    .copied()
                    .unwrap_or_default();
                if rows > seen.len() {
                    let most = format!("at most {}", seen.len());
                    return Err(Error::state("unaligned.weight", rows, most));
                }
                Some(net.head_from_state(&arrays, rows)?)
            }
            false => None,
        };
        let head = net.saved_head(state)?;
        let alignment =
            self.alignment
                .restored(&state.below("alignment"), head.as_ref(), net.device())?;
        self.trainee.restore(state)?;
        (self.gaussians, self.alignment, self.unaligned) = (gaussians, alignment, unaligned);
        (self.phase, self.task, self.tasks) = (phase, task, tasks);
        Ok(())
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
