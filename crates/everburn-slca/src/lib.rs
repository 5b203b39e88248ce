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
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Order,
    Output, Result, Rng, Source, Spec, Stage, State, Step, StepLog, TaskInfo, View,
};
use everburn_nn::{
    Alignment, ClassGaussians, Config, Frozen, Head, HeadInit, Method, Network, Settings, Trainee,
    Tuning, cross_entropy, from_value, to_value,
};
use serde::{Deserialize, Serialize};

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
        let learner = Slca::new(config, frozen, key)?;
        Ok(Box::new(Slca {
            name: SLCA_PLUS.name,
            ..learner
        }))
    },
};

/// Images of a forward pass that collects statistics; affects the speed alone.
const STATISTICS_BATCH: usize = 128;

/// What a stage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// The representation and the heads of the task.
    Train,
    /// Mean and covariance of the task's classes.
    Statistics,
    /// All heads.
    Align,
}

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
    /// The last task of each class, by its row of the head. Tasks count from 0, those with samples.
    task_of: Vec<usize>,
    /// How many tasks have begun.
    tasks: usize,
}

impl Slca {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong or does not fit the backbone.
    pub fn new(config: SlcaConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let dim = frozen.backbone().dim();
        let mut trainee = Trainee::new(config.recipe.clone(), frozen, key)?;
        trainee.net = trainee.net.with_head_init(HeadInit::Timm);
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
            task_of: Vec::new(),
            tasks: 0,
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

    /// t, the number of the current task.
    fn current(&self) -> usize {
        self.tasks.saturating_sub(1)
    }

    fn begin_task(&mut self, task: &TaskInfo) {
        self.trainee.on(&Event::TaskBegin(task.clone()));
        self.tasks += usize::from(task.samples > 0);
        self.task = task.classes.clone();
        let (seen, current) = (self.network().seen(), self.current());
        let mut task_of = self.task_of.clone();
        task_of.resize(seen.len(), current);
        for row in task.classes.iter().filter_map(|class| seen.index(*class)) {
            task_of[row] = current;
        }
        self.task_of = task_of;
    }

    /// A task goes on from the heads as they were before their alignment (`fc.recall`), which predicts until then. Rows
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
        let (loss, task) = (self.config.loss, &self.task);
        let training = self.config.training(self.tasks.saturating_sub(1));
        self.trainee.set_training(training);
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
        self.gaussians.add(&features, &batch.labels)
    }

    /// Stage 2: all heads on samples of all classes; logits normalised by task.
    fn align(&mut self, step: &Step) -> Result<StepLog> {
        let (net, current, task_of) = (&self.trainee.net, self.current(), &self.task_of);
        let task_of = |class: ClassId| {
            let row = net.seen().index(class);
            row.and_then(|row| task_of.get(row))
                .map_or(current, |task| *task)
        };
        let tasks: Vec<usize> = net
            .seen()
            .as_slice()
            .iter()
            .map(|class| task_of(*class))
            .collect();
        let tasks_of_gaussians: Vec<usize> = self
            .gaussians
            .seen()
            .as_slice()
            .iter()
            .map(|class| task_of(*class))
            .collect();
        let shrink = self.config.shrink;
        let shrunk =
            |class: usize, rng: &mut Rng| shrink.of(tasks_of_gaussians[class], current, rng);
        let head = net
            .head()
            .ok_or_else(|| Error::unsupported("alignment", "no class has been seen yet"))?;
        let (features, classes) =
            self.alignment
                .samples(&self.gaussians, step, shrunk, net.device())?;
        let targets = net.targets(&classes)?;
        let norm = self.config.logit_norm;
        let (head, loss) = self.alignment.step(
            head,
            net.classifier(),
            (features, targets),
            step,
            |logits, targets| match norm {
                LogitNorm::None => cross_entropy(logits, targets),
                LogitNorm::PerTask { tau } => {
                    cross_entropy(normalised_by_task(logits, &tasks, tau), targets)
                }
            },
        )?;
        self.trainee.net.set_head(head)?;
        Ok(StepLog { loss })
    }

    /// SLCA++ in prediction: the input of the head of task k times 1 + μ·(t − k), which is as well a factor of its
    /// weights.
    fn scale_old_heads(&mut self) -> Result<()> {
        let (Shrinkage::Sample { mu }, Some(head)) = (self.config.shrink, self.network().head())
        else {
            return Ok(());
        };
        let factor = |task: &usize| (1.0 + mu * (self.current() - task) as f64) as f32;
        let factors: Vec<f32> = self.task_of.iter().map(factor).collect();
        let data = TensorData::new(factors, [self.task_of.len(), 1]);
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
            stages.push(Stage {
                name: "statistics".to_owned(),
                source: Source::Task,
                epochs: 1,
                batch: STATISTICS_BATCH,
                view: View::Test,
                order: Order::ByClass,
                drop_last: false,
            });
        }
        // The heads of a single task have been learnt together already.
        let seen = task.seen.max(self.network().seen().len());
        let several = seen > task.classes.len() && task.samples > 0;
        stages.extend(self.alignment.stage(seen).filter(|_| several));
        stages
    }

    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        match event {
            Event::TaskBegin(task) => self.begin_task(task),
            Event::StageBegin(stage) => {
                self.trainee.on(event);
                self.phase = match &*stage.name {
                    "statistics" => Phase::Statistics,
                    Alignment::STAGE => Phase::Align,
                    _ => Phase::Train,
                };
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
            return Err(Error::unsupported("slca without task borders", why));
        }
        match self.phase {
            Phase::Train => self.train(batch, step, cx),
            Phase::Statistics => {
                self.gaussians.close_but(&batch.labels)?;
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
        // Fewer than the head has, between the beginning of a task and its first stage.
        let rows = self
            .unaligned
            .as_ref()
            .map_or(0, |head| head.weight.dims()[0]);
        state.put_value("unaligned_rows", rows)?;
        state.put_value("phase", self.phase)?;
        state.put_value("task", &self.task)?;
        state.put_value("task_of", &self.task_of)?;
        state.put_value("tasks", self.tasks)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let (phase, task, tasks) = (
            state.value("phase")?,
            state.value("task")?,
            state.value("tasks")?,
        );
        let (unaligned_rows, task_of): (usize, Vec<usize>) =
            (state.value("unaligned_rows")?, state.value("task_of")?);
        let gaussians = self.gaussians.restored(&state.below("gaussians"))?;
        self.trainee.restore(state)?;
        let (net, moments) = (&self.trainee.net, state.below("alignment"));
        let rows = net.seen().len();
        if task_of.len() != rows || task_of.iter().any(|task| *task >= tasks) {
            let expected = format!("a task below {tasks} for each of {rows} classes");
            return Err(Error::state("task_of", format!("{task_of:?}"), expected));
        }
        if unaligned_rows > rows {
            return Err(Error::state("unaligned_rows", unaligned_rows, rows));
        }
        self.unaligned = match unaligned_rows {
            0 => None,
            rows => Some(net.head_from_state(&state.below("unaligned"), rows)?),
        };
        self.alignment.restore(&moments, net.head(), net.device())?;
        (self.gaussians, self.phase, self.task) = (gaussians, phase, task);
        (self.task_of, self.tasks) = (task_of, tasks);
        Ok(())
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
