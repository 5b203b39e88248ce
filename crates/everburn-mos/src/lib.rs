#![cfg_attr(test, allow(clippy::unwrap_used))]

//! MOS, model surgery: Sun et al., "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning" (AAAI
//! 2025, arXiv 2412.09441), after the official repository sun-hailong/AAAI25-MOS.
//!
//! A frozen Vision Transformer carries one set of adapters for each task.
//!
//! 1. **Adapter merging.** The set of a task goes on from that of the one before, and is drawn to the mean of all
//!    earlier ones after every step, so that features drift less. It learns with a head by the cross-entropy of the
//!    task's classes, and by a loss that makes features orthogonal to each other and to the means of earlier classes.
//! 2. **Classifier alignment.** The head, one for all classes, then learns from samples of Gaussians of their
//!    features.
//! 3. **Self-refined adapter retrieval.** Nobody says which task an image is from. Prototypes, under the first task's
//!    adapters, make a first guess; the head, on the features of the guessed adapters, may name a class of another
//!    task, whose adapters are asked next; and so on, until a task's adapters name one of its own classes, or after
//!    four rounds.
//! 4. **Ensemble.** The probabilities of the head and of the prototypes are added.
//!
//! No images are kept.

mod config;
mod loss;
mod merging;
mod retrieval;

use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{load_params, param_bytes, save_params, to_vec};
use everburn_core::{
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Output,
    Result, SeenClasses, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Alignment, ClassGaussians, ClassMeans, ClassTasks, Config, Frozen, HeadInit, Method, Network,
    Pet, Settings, Shrink, Similarity, Trainee, Tuning, cross_entropy, from_value, targets,
    to_value,
};
use serde::{Deserialize, Serialize};

pub use config::{Classifiers, Merging, MosConfig, Retrieval};
pub use loss::orthogonality;
pub use merging::{mean_with, merged, merged_block_by_block};
pub use retrieval::{Retrieved, refine};

/// MOS, by name.
pub const METHOD: Method = Method {
    name: "mos",
    about: "merged adapters for each task, found for each image by self-refined retrieval",
    source: "Sun et al., MOS: Model Surgery for Pre-Trained Model-Based CIL, AAAI 2025",
    only: Some(Tuning::Pet),
    settings: Settings::of::<MosConfig>(),
    preset: |setting| to_value(MosConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("mos", settings)?;
        Ok(Box::new(Mos::new(config, frozen, key)?))
    },
};

/// What a stage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// The adapters and the head of the task.
    Train,
    /// Gaussians and prototypes of the task's classes.
    Statistics,
    /// The head, for all classes.
    Align,
}

/// MOS.
pub struct Mos {
    config: MosConfig,
    /// The head and the working set A.
    trainee: Trainee,
    /// A_0, A_1, …: the sets of the tasks that have been learnt, as they predict.
    adapters: Vec<Pet>,
    /// S_t/(t + 1), the mean of the sets of the tasks that have been learnt, as they were at the end of each.
    mean: Option<Pet>,
    /// μ_c and Σ_c of each class under the adapters of its task.
    gaussians: ClassGaussians,
    /// p_c, the mean of each class under A_0.
    prototypes: ClassMeans,
    alignment: Alignment,
    phase: Phase,
    /// The current task.
    task: Option<TaskInfo>,
    /// The task of each class whose training has begun. Those after them among the classes seen were announced alone, and
    /// have no part in predictions.
    tasks: ClassTasks,
    /// Whether the working set is that of a task which is being learnt.
    is_learning: bool,
}

/// What both classifiers say of some images, over the classes whose training has begun.
struct Answer {
    retrieved: Vec<Retrieved>,
    /// l, the head's logits in the last round, `[images, classes]`.
    refined: Vec<f32>,
    /// z, the cosines to the prototypes, `[images, classes]`.
    cosines: Vec<f32>,
}

impl Mos {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong, or the backbone is no Vision Transformer.
    pub fn new(config: MosConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let dim = frozen.backbone().dim();
        let mut trainee = Trainee::new(config.recipe.clone(), frozen, key)?;
        trainee.net = trainee.net.with_head_init(HeadInit::Timm);
        Ok(Self {
            gaussians: ClassGaussians::new(dim, config.kept_covariance(), config.jitter)?,
            prototypes: ClassMeans::new(dim),
            alignment: Alignment::new(config.alignment.clone())?,
            config,
            trainee,
            adapters: Vec::new(),
            mean: None,
            phase: Phase::Train,
            task: None,
            tasks: ClassTasks::default(),
            is_learning: false,
        })
    }

    /// The network with the head and the working set.
    pub fn network(&self) -> &Network {
        &self.trainee.net
    }

    /// The sets of the tasks that have been learnt, as they predict.
    pub fn adapters(&self) -> &[Pet] {
        &self.adapters
    }

    /// The mean of the sets of the tasks that have been learnt; none before the first, and without merging.
    pub fn mean(&self) -> Option<&Pet> {
        self.mean.as_ref()
    }

    /// Means and covariances of the classes learnt, each under the adapters of its task.
    pub fn gaussians(&self) -> &ClassGaussians {
        &self.gaussians
    }

    /// The prototypes of the classes learnt, under the first task's adapters.
    pub fn prototypes(&self) -> &ClassMeans {
        &self.prototypes
    }

    /// The task of each class seen.
    pub fn tasks(&self) -> &ClassTasks {
        &self.tasks
    }

    fn working(&self) -> Result<&Pet> {
        let pet = self.network().pet();
        pet.ok_or_else(|| Error::unsupported("mos", "the network has no adapters"))
    }

    /// All sets that predict, by task: those learnt, and the working one while its task is being learnt.
    fn sets(&self) -> Result<Vec<&Pet>> {
        let mut sets: Vec<&Pet> = self.adapters.iter().collect();
        if self.is_learning || sets.is_empty() {
            sets.push(self.working()?);
        }
        Ok(sets)
    }

    /// Stage 1: adapters and head, by L = CE + ρ·L_orth, and after each step A ← (1 − α)·A + α·S_{t−1}/t.
    fn train(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let means = self.means_of_earlier_classes();
        let (config, mean) = (&self.config, self.mean.as_ref());
        let task: &[ClassId] = self.task.as_ref().map_or(&[], |task| &task.classes);
        let log = (self.trainee).observe(METHOD.name, batch, step, cx, |net, key| {
            let mut from = None;
            if let (Merging::Released { alpha }, Some(mean), Some(working)) =
                (config.merging, mean, net.pet().cloned())
            {
                // The gradient is taken where the forward pass was, and the step made from where it ended.
                from = Some(merged(working.clone(), mean, alpha, working.blocks.len())?);
                net.set_pet(merged_block_by_block(working, mean, alpha)?)?;
            }
            let mut live = net.live();
            let (features, logits, targets) =
                live.local_with_features(&batch.images, &batch.labels, task, batch.view, key)?;
            let mut loss = cross_entropy(logits, targets);
            if config.orthogonality > 0.0 {
                let apart = orthogonality(means.clone(), features, config.temperature);
                loss = loss + apart * config.orthogonality;
            }
            let mut tape = live.into_tape();
            if let Some(from) = from {
                tape = tape.stepping_from(from);
            }
            let loss = net.update(tape, loss)?;
            if let (Some(alpha), Some(mean), Some(working)) =
                (config.merging.alpha(), mean, net.pet().cloned())
            {
                net.set_pet(merged(working, mean, alpha, 1)?)?;
            }
            Ok(loss)
        })?;
        if self.trainee.is_single_pass() {
            // Nobody comes by twice: features are taken in as the network has them now.
            self.collect(batch)?;
        }
        Ok(log)
    }

    /// The means `[classes, dim]` of classes whose task has been learnt; none before the first.
    fn means_of_earlier_classes(&self) -> Option<Tensor<2>> {
        let (means, dim) = (self.gaussians.means(), self.gaussians.dim());
        let values: Vec<f32> = means.iter().map(|mean| *mean as f32).collect();
        let data = TensorData::new(values, [means.len() / dim, dim]);
        (!means.is_empty()).then(|| Tensor::from_data(data, self.network().device()))
    }

    /// The end of stage 1: the working set is kept as that of its task, a copy of its own.
    fn learnt(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_learning) {
            return Ok(());
        }
        let own = self.working()?.clone();
        let before = self.mean.take();
        self.mean = match (self.config.merging, &before) {
            (Merging::None, _) => None,
            (_, None) => Some(own.clone()),
            (_, Some(mean)) => Some(mean_with(mean.clone(), self.adapters.len(), &own)?),
        };
        // The released code merges what it evaluates, for good: soon the set is the mean of those before.
        self.adapters.push(match (self.config.merging, before) {
            (Merging::Released { alpha }, Some(mean)) if alpha > 0.0 => mean,
            _ => own,
        });
        Ok(())
    }

    /// Statistics of a batch: Gaussians under the working set, prototypes under A_0.
    fn collect(&mut self, batch: &Batch) -> Result<()> {
        let Self {
            config,
            trainee,
            adapters,
            ..
        } = self;
        let Some(mut working) = trainee.net.pet().cloned() else {
            return Ok(());
        };
        if let (Merging::Released { alpha }, Phase::Statistics, [_, .., mean]) =
            (config.merging, self.phase, adapters.as_slice())
        {
            // Each of its forward passes merges here, too; the task's own set is, in the end, the mean.
            let blocks = working.blocks.len();
            let after = merged(working.clone(), mean, alpha, blocks)?;
            working = merged_block_by_block(working, mean, alpha)?;
            trainee.net.set_pet(after)?;
        }
        let net = &trainee.net;
        let stem = net.stem(&batch.images)?;
        if config.uses_statistics() {
            let features = to_vec(&net.features_with(&stem, &working)?)?;
            self.gaussians.add(&features, &batch.labels)?;
            if self.phase == Phase::Statistics {
                // Class after class: all others are complete.
                self.gaussians.close_but(&batch.labels)?;
            }
        }
        if config.uses_prototypes() {
            let first = adapters.first().unwrap_or(&working);
            let features = to_vec(&net.features_with(&stem, first)?)?;
            self.prototypes.add(&features, &batch.labels)?;
        }
        Ok(())
    }

    /// Stage 2: the head, for all classes seen, on samples of all of them.
    fn align(&mut self, step: &Step) -> Result<StepLog> {
        let loss = self.alignment.learn(
            &mut self.trainee.net,
            &self.gaussians,
            step,
            |_, _| Shrink::NONE,
            cross_entropy,
        )?;
        Ok(StepLog { loss })
    }

    /// z: cosines of features `[images, dim]` to the prototypes, `[images, classes]`; −1, the least, where a class has
    /// none yet.
    fn cosines(&self, features: &Tensor<2>) -> Result<Vec<f32>> {
        let (classes, own) = (self.tasks.of().len(), self.prototypes.seen());
        let mut cosines = vec![-1.0; features.dims()[0] * classes];
        if own.is_empty() {
            return Ok(cosines);
        }
        let known = (self.prototypes).scores(&to_vec(features)?, Similarity::Cosine)?;
        let columns: Vec<Option<usize>> = self.network().seen().as_slice()[..classes]
            .iter()
            .map(|class| own.index(*class))
            .collect();
        let rows = cosines.chunks_exact_mut(classes);
        for (row, known) in rows.zip(known.chunks_exact(own.len())) {
            for (value, column) in row.iter_mut().zip(&columns) {
                *value = column.map_or(*value, |column| known[column]);
            }
        }
        Ok(cosines)
    }

    /// What both classifiers say, as far as they are asked.
    fn answer(&self, images: &Images) -> Result<Answer> {
        let (net, config, sets) = (self.network(), &self.config, self.sets()?);
        let (stem, count, classes) = (net.stem(images)?, images.len(), self.tasks.of().len());
        // All images under A_0: for the prototypes, and for those that are found to be of the first task.
        let first = match config.uses_prototypes() {
            true => Some(net.features_with(&stem, sets[0])?),
            false => None,
        };
        let cosines = match &first {
            Some(features) => self.cosines(features)?,
            None => Vec::new(),
        };
        let (start, most): (Vec<usize>, usize) = match config.retrieval {
            Retrieval::Latest => (vec![sets.len() - 1; count], 1),
            Retrieval::Refined { rounds } => {
                let task_of = self.tasks.of();
                let nearest = cosines.chunks_exact(classes).map(retrieval::largest);
                (nearest.map(|class| task_of[class]).collect(), rounds)
            }
        };
        if config.classifiers == Classifiers::Prototypes {
            return Ok(Answer {
                retrieved: start.into_iter().map(Retrieved::guess).collect(),
                refined: Vec::new(),
                cosines,
            });
        }
        let logits = |pairs: &[(usize, usize)]| {
            // Those under A_0 are there already.
            let is_known = |pair: &&(usize, usize)| pair.1 == 0 && first.is_some();
            let known: Vec<usize> = pairs.iter().filter(is_known).map(|pair| pair.0).collect();
            let others = |pair: &&(usize, usize)| !is_known(pair);
            let others: Vec<(usize, usize)> = pairs.iter().filter(others).copied().collect();
            let mut parts = Vec::new();
            if let (Some(first), false) = (&first, known.is_empty()) {
                parts.push(first.clone().select(0, targets(&known, net.device())));
            }
            if !others.is_empty() {
                parts.push(net.features_by(&stem, &sets, &others)?);
            }
            let logits = net.logits(Tensor::cat(parts, 0))?.narrow(1, 0, classes);
            let logits = to_vec(&logits)?;
            let (own, other) = logits.split_at(known.len() * classes);
            let (mut own, mut other) = (own.chunks_exact(classes), other.chunks_exact(classes));
            let rows = pairs.iter().filter_map(|pair| match is_known(&pair) {
                true => own.next(),
                false => other.next(),
            });
            Ok(rows.flatten().copied().collect())
        };
        let (retrieved, refined) = refine(&start, most, self.tasks.of(), logits)?;
        Ok(Answer {
            retrieved,
            refined,
            cosines,
        })
    }

    /// The adapters found for each image.
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    pub fn retrieve(&self, images: &Images) -> Result<Vec<Retrieved>> {
        if self.tasks.of().is_empty() {
            let why = "no class has been seen yet: observe some samples first";
            return Err(Error::unsupported("retrieval", why));
        }
        Ok(self.answer(images)?.retrieved)
    }

    /// The largest number of sets that an image may go through beside one.
    fn further_sets(&self) -> usize {
        let most = match (self.config.classifiers, self.config.retrieval) {
            (Classifiers::Prototypes, _) => 0,
            (Classifiers::Head, Retrieval::Latest) => 0,
            (Classifiers::Both, Retrieval::Latest) => 1,
            (_, Retrieval::Refined { rounds }) => rounds,
        };
        most.min(self.adapters.len().saturating_sub(1))
    }
}

/// softmax(l) + softmax(t·z), `[images, classes]`, for the head's logits l, the cosines z to the prototypes, and t
/// tasks. Each row sums to 2.
pub fn ensemble(refined: Tensor<2>, cosines: Tensor<2>, tasks: usize) -> Tensor<2> {
    softmax(refined, 1) + softmax(cosines * tasks as f64, 1)
}

impl Learner for Mos {
    fn spec(&self) -> Spec {
        Spec {
            borders: Borders::Needed,
            ..Spec::new(METHOD.name)
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let mut stages = self.trainee.stages(task);
        let Some(task) = task else { return stages };
        let collects = self.config.uses_statistics() || self.config.uses_prototypes();
        if collects && !task.single_pass {
            stages.push(ClassGaussians::stage());
        }
        stages.extend(self.alignment.stage_after(task, self.network().seen()));
        stages
    }

    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        match event {
            Event::TaskBegin(task) => {
                self.trainee.on(event);
                self.task = Some(task.clone());
            }
            Event::StageBegin(stage) => {
                self.trainee.on(event);
                self.phase = match &*stage.name {
                    ClassGaussians::STAGE => Phase::Statistics,
                    Alignment::STAGE => Phase::Align,
                    _ => Phase::Train,
                };
                // A task without samples changes nothing.
                let task = self.task.as_ref().filter(|task| task.samples > 0);
                match (self.phase, task) {
                    (Phase::Train, Some(task)) => {
                        self.tasks.begin(task, self.trainee.net.seen());
                        self.is_learning = true;
                    }
                    (Phase::Align, _) => self.alignment.begin(cx.key),
                    (Phase::Train | Phase::Statistics, _) => {}
                }
            }
            Event::StageEnd(_) => match self.phase {
                Phase::Train => {
                    self.gaussians.close()?;
                    self.learnt()?;
                }
                Phase::Statistics => self.gaussians.close()?,
                Phase::Align => self.alignment.end()?,
            },
            Event::TaskEnd(_) => {}
        }
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        if step.task.is_none() {
            let why = "each task has adapters of its own: it must be told where tasks begin";
            return Err(Error::unsupported("mos without task borders", why));
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
        let (net, classes) = (self.network(), self.tasks.of().len());
        let (seen, mut scores) = (net.seen().as_slice(), Vec::new());
        if classes == 0 {
            // Images that do not fit are no better before the first step.
            net.stem(images)?;
        } else {
            let answer = self.answer(images)?;
            scores = match self.config.classifiers {
                Classifiers::Head => answer.refined,
                Classifiers::Prototypes => answer.cosines,
                Classifiers::Both => {
                    let shape = [images.len(), classes];
                    let data = |values| TensorData::new(values, shape);
                    let rows = |values| Tensor::from_data(data(values), net.device());
                    let tasks = self.adapters.len().max(1);
                    to_vec(&ensemble(rows(answer.refined), rows(answer.cosines), tasks))?
                }
            };
        }
        if classes < seen.len() {
            // The least that there is for classes which were announced alone.
            let least = match self.config.classifiers {
                Classifiers::Head => f32::MIN,
                Classifiers::Prototypes => -1.0,
                Classifiers::Both => 0.0,
            };
            let rows = (0..images.len()).flat_map(|image| {
                let own = &scores[image * classes..][..classes];
                let rest = vec![least; seen.len() - classes];
                own.iter().copied().chain(rest)
            });
            scores = rows.collect();
        }
        Output::new(seen.to_vec(), scores)
    }

    fn footprint(&self) -> Footprint {
        let net = self.network();
        let mut footprint = net.footprint();
        let adapters = self.adapters.iter().map(param_bytes).sum();
        footprint.add(Kind::Trained, "adapters of tasks learnt", adapters);
        if let Some(mean) = &self.mean {
            footprint.add(Kind::Trained, "mean of adapters", param_bytes(mean));
        }
        self.gaussians.account(&mut footprint);
        footprint.add(Kind::Statistics, "prototypes", self.prototypes.bytes());
        footprint.memory.push(self.alignment.memory());
        let prototypes = self.prototypes.seen().len() * net.backbone().dim();
        footprint.macs_per_image +=
            self.further_sets() as u64 * net.macs_behind_stem() + prototypes as u64;
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = self.trainee.save()?;
        for (number, pet) in self.adapters.iter().enumerate() {
            state.nest(&format!("adapters.{number}"), save_params(pet)?);
        }
        if let Some(mean) = &self.mean {
            state.nest("mean", save_params(mean)?);
        }
        state.nest("gaussians", self.gaussians.save()?);
        state.nest("prototypes", self.prototypes.save()?);
        state.nest("alignment", self.alignment.save()?);
        state.put_value("learnt", self.adapters.len())?;
        state.put_value("has_mean", self.mean.is_some())?;
        state.put_value("phase", self.phase)?;
        state.put_value("task", &self.task)?;
        state.put_value("is_learning", self.is_learning)?;
        self.tasks.save(&mut state)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        // All that can fail comes before anything changes; the trainee checks its own part in the same way.
        let phase: Phase = state.value("phase")?;
        let task: Option<TaskInfo> = state.value("task")?;
        let seen: SeenClasses = state.value("seen")?;
        let tasks = ClassTasks::restored(state, 0..=seen.len())?;
        let (learnt, is_learning): (usize, bool) =
            (state.value("learnt")?, state.value("is_learning")?);
        if learnt + usize::from(is_learning) != tasks.begun() {
            let found = format!("{learnt} tasks learnt, learning: {is_learning}");
            let expected = format!("{} tasks, learnt or being learnt", tasks.begun());
            return Err(Error::state("learnt", found, expected));
        }
        let gaussians = self.gaussians.restored(&state.below("gaussians"))?;
        let prototypes = self.prototypes.restored(&state.below("prototypes"))?;
        let all = (task.iter().flat_map(|task| &task.classes))
            .chain(gaussians.seen().as_slice())
            .chain(prototypes.seen().as_slice());
        if let Some(stranger) = all.into_iter().find(|class| seen.index(**class).is_none()) {
            let expected = "a class that has been seen";
            return Err(Error::state(
                "task, gaussians and prototypes",
                stranger,
                expected,
            ));
        }
        let set = |name: &str| load_params(self.working()?.clone(), &state.below(name));
        let adapters = (0..learnt).map(|number| set(&format!("adapters.{number}")));
        let adapters: Vec<Pet> = adapters.collect::<Result<_>>()?;
        let has_mean: bool = state.value("has_mean")?;
        let mean = has_mean.then(|| set("mean")).transpose()?;
        let head = match seen.len() {
            0 => None,
            rows => {
                let arrays = state.below("trained.head");
                Some(self.network().head_from_state(&arrays, rows)?)
            }
        };
        let mut alignment = Alignment::new(self.config.alignment.clone())?;
        let moments = state.below("alignment");
        alignment.restore(&moments, head.as_ref(), self.network().device())?;
        self.trainee.restore(state)?;
        (self.adapters, self.mean, self.alignment) = (adapters, mean, alignment);
        (self.gaussians, self.prototypes) = (gaussians, prototypes);
        (self.phase, self.task, self.tasks) = (phase, task, tasks);
        self.is_learning = is_learning;
        Ok(())
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
