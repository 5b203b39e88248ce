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
//!    task, whose adapters are asked next; and so on, until a task's adapters name one of its own classes, or
//!    four rounds are over.
//! 4. **Ensemble.** The probabilities of the head and of the prototypes are added.
//!
//! No images are kept.

mod config;
mod loss;
mod merging;
mod retrieval;

use burn::tensor::{Tensor, TensorData};
use everburn_backend::{load_params, param_bytes, save_params, to_vec};
use everburn_core::{
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Output,
    Result, SeenClasses, Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{
    Alignment, ClassGaussians, ClassMeans, ClassTasks, Config, Frozen, HeadInit, Method, Network,
    Pet, Phase, Settings, Shrink, Similarity, Trainee, Tuning, check_labels, cross_entropy,
    from_value, to_value,
};

pub use config::{Classifiers, Merging, MosConfig, Retrieval};
pub use loss::orthogonality;
use merging::mean_of;
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

/// MOS.
pub struct Mos {
    config: MosConfig,
    /// The head and the working set A.
    trainee: Trainee,
    /// A_0, A_1, …: the sets of the tasks that have been learnt, as they predict.
    adapters: Vec<Pet>,
    /// S_t/(t + 1), the mean of the sets of the tasks that have been learnt, as they were at the end of each.
    mean: Option<Pet>,
    /// μ_c and Σ_c of each class under the adapters of its task; of one that has come again, pooled.
    gaussians: ClassGaussians,
    /// p_c, the mean of each class under A_0.
    prototypes: ClassMeans,
    alignment: Alignment,
    phase: Phase,
    /// The current task.
    task: Option<TaskInfo>,
    /// The task of each class whose training has begun. Classes seen after these were only announced, and have no part in
    /// predictions.
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
        let trainee = Trainee::new(config.recipe.clone(), frozen, key)?;
        Ok(Self {
            gaussians: ClassGaussians::new(dim, config.kept_covariance(), config.jitter)?,
            prototypes: ClassMeans::new(dim),
            alignment: Alignment::new(config.alignment.clone())?,
            config,
            trainee: trainee.with_head_init(HeadInit::Timm),
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

    /// Means and covariances of the classes learnt, each under the adapters of its task; of one that has come again,
    /// pooled.
    pub fn gaussians(&self) -> &ClassGaussians {
        &self.gaussians
    }

    /// The prototypes of the classes learnt, under the first task's adapters.
    pub fn prototypes(&self) -> &ClassMeans {
        &self.prototypes
    }

    /// The task of each class whose training has begun.
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
        if self.is_learning {
            sets.push(self.working()?);
        }
        Ok(sets)
    }

    /// Stage 1: adapters and head, by L = CE + ρ·L_orth, and after each step A ← (1 − α)·A + α·S_{t−1}/t.
    fn train(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let task: &[ClassId] = self.task.as_ref().map_or(&[], |task| &task.classes);
        check_labels(&batch.labels, task)?;
        let means = self.means_of_earlier_classes();
        let (config, mean) = (&self.config, self.mean.as_ref());
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

    /// The means `[classes, dim]` of classes of earlier tasks that are none of this one's, for L_orth; none before the
    /// first.
    fn means_of_earlier_classes(&self) -> Option<Tensor<2>> {
        let (own, dim) = (self.task.as_ref(), self.gaussians.dim());
        let is_other = |class: &ClassId| own.is_none_or(|task| !task.classes.contains(class));
        let known = self.gaussians.seen().as_slice();
        let rows = known.iter().zip(self.gaussians.means().chunks_exact(dim));
        let means: Vec<f32> = rows
            .filter(|(class, _)| self.config.orthogonality > 0.0 && is_other(class))
            .flat_map(|(_, mean)| mean.iter().map(|value| *value as f32))
            .collect();
        let data = [means.len() / dim, dim];
        (!means.is_empty())
            .then(|| Tensor::from_data(TensorData::new(means, data), self.network().device()))
    }

    /// The beginning of stage 1; a task without samples changes nothing. A task that was left before its end counts as it
    /// was.
    fn begin(&mut self) -> Result<()> {
        self.gaussians.close()?;
        self.learnt()?;
        if let Some(task) = self.task.as_ref().filter(|task| task.samples > 0) {
            self.tasks.begin(task, self.trainee.net.seen());
            self.is_learning = true;
        }
        Ok(())
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

    /// Stage 2, statistics of a batch: Gaussians under the working set, prototypes under A_0.
    fn collect(&mut self, batch: &Batch) -> Result<()> {
        let mut working = self.working()?.clone();
        if let (Merging::Released { alpha }, Phase::Statistics, [_, .., mean]) =
            (self.config.merging, self.phase, self.adapters.as_slice())
        {
            // Each forward pass of the released code merges, these too. The set that it stores for this task is the mean of
            // those before: `learnt`.
            let after = merged(working.clone(), mean, alpha, working.blocks.len())?;
            working = merged_block_by_block(working, mean, alpha)?;
            self.trainee.net.set_pet(after)?;
        }
        let net = &self.trainee.net;
        let stem = net.stem(&batch.images)?;
        let under = |pet: &Pet| to_vec(&net.features_with(&stem, pet)?);
        let mut under_first = None;
        if self.config.uses_statistics() {
            let features = under(&working)?;
            self.gaussians.add(&features, &batch.labels)?;
            if self.phase == Phase::Statistics {
                // Class after class: all others are complete.
                self.gaussians.close_but(&batch.labels)?;
            }
            // Until the second task the working set is the first.
            under_first = (self.tasks.begun() == 1).then_some(features);
        }
        if self.config.uses_prototypes() {
            let features = match under_first {
                Some(features) => features,
                None => under(self.adapters.first().unwrap_or(&working))?,
            };
            self.prototypes.add(&features, &batch.labels)?;
        }
        Ok(())
    }

    /// Stage 3: the head, for all classes seen, on samples of all of them.
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
        let (task_of, classes) = (self.tasks.of(), self.tasks.of().len());
        let stem = net.stem(images)?;
        let logits = |features| to_vec(&net.logits(features)?.narrow(1, 0, classes));
        // All images under A_0: for the prototypes, and for the head where an image is found to be of the first task.
        let (mut cosines, mut under_first) = (Vec::new(), Vec::new());
        if config.uses_prototypes() {
            let features = net.features_with(&stem, sets[0])?;
            cosines = self.cosines(&features)?;
            under_first = logits(features)?;
        }
        let (guesses, rounds): (Vec<usize>, usize) = match config.retrieval {
            Retrieval::Latest => (vec![sets.len() - 1; images.len()], 1),
            Retrieval::Refined { rounds } => {
                let nearest = cosines.chunks_exact(classes).map(retrieval::largest);
                (nearest.map(|class| task_of[class]).collect(), rounds)
            }
        };
        if config.classifiers == Classifiers::Prototypes {
            return Ok(Answer {
                retrieved: guesses.into_iter().map(Retrieved::guess).collect(),
                refined: Vec::new(),
                cosines,
            });
        }
        let (retrieved, refined) = refine(&guesses, rounds, task_of, |pairs| {
            let is_new = |pair: &&(usize, usize)| pair.1 > 0 || under_first.is_empty();
            let new: Vec<(usize, usize)> = pairs.iter().filter(is_new).copied().collect();
            let values = match new.is_empty() {
                true => Vec::new(),
                false => logits(net.features_by(&stem, &sets, &new)?)?,
            };
            let mut values = values.chunks_exact(classes);
            let row = |pair: &(usize, usize)| match is_new(&pair) {
                true => values.next(),
                false => under_first.chunks_exact(classes).nth(pair.0),
            };
            Ok(pairs.iter().filter_map(row).flatten().copied().collect())
        })?;
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
        most.min(self.tasks.begun().saturating_sub(1))
    }
}

/// softmax(l) + softmax(t·z), `[images, classes]`, for the head's logits l and the cosines z to the prototypes, both of so
/// many classes, and t tasks (`_eval_cnn`). Each row sums to 2.
pub fn ensemble(refined: &[f32], cosines: &[f32], classes: usize, tasks: usize) -> Vec<f32> {
    let width = classes.max(1);
    let rows = refined.chunks_exact(width).zip(cosines.chunks_exact(width));
    let sums = rows.flat_map(|(refined, cosines)| {
        let pairs = softmax(refined, 1.0).zip(softmax(cosines, tasks as f64));
        pairs.map(|(a, b)| (a + b) as f32)
    });
    sums.collect()
}

/// softmax(factor·row).
fn softmax(row: &[f32], factor: f64) -> impl Iterator<Item = f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let power = move |value: &f32| (factor * f64::from(value - largest)).exp();
    let sum: f64 = row.iter().map(power).sum();
    row.iter().map(move |value| power(value) / sum)
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
            let mut stage = ClassGaussians::stage();
            if let Merging::Released { .. } = self.config.merging {
                // As each forward pass merges, it matters how many there are (`_compute_mean`).
                stage.batch = 3 * self.config.recipe.batch;
            }
            stages.push(stage);
        }
        stages.extend(self.alignment.stage_after(task, self.gaussians.seen()));
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
                self.phase = Phase::of(stage);
                match self.phase {
                    Phase::Train => self.begin()?,
                    Phase::Align => self.alignment.begin(cx.key),
                    Phase::Statistics => {}
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
            let (refined, cosines) = (answer.refined, answer.cosines);
            scores = match self.config.classifiers {
                Classifiers::Head => refined,
                Classifiers::Prototypes => cosines,
                Classifiers::Both => ensemble(&refined, &cosines, classes, self.tasks.begun()),
            };
        }
        if classes < seen.len() {
            // The least that there is for classes that were only announced.
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
        let is_learning: bool = state.value("is_learning")?;
        let (begun, is_empty) = (tasks.begun(), tasks.of().is_empty());
        if begun < usize::from(is_learning) || (begun == 0) != is_empty {
            let found = format!(
                "{begun}, learning: {is_learning}, classes: {}",
                tasks.of().len()
            );
            return Err(Error::state(
                "tasks",
                found,
                "a task for each class, and for what is learnt",
            ));
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
        let learnt = begun - usize::from(is_learning);
        let adapters = (0..learnt).map(|number| set(&format!("adapters.{number}")));
        let adapters: Vec<Pet> = adapters.collect::<Result<_>>()?;
        let mean = match (self.config.merging, state.value("has_mean")?) {
            (Merging::None, _) => None,
            (_, true) => Some(set("mean")?),
            // One that did not merge goes on with merging.
            (_, false) => mean_of(&adapters)?,
        };
        let head = self.network().saved_head(state)?;
        let alignment = self.alignment.restored(
            &state.below("alignment"),
            head.as_ref(),
            self.network().device(),
        )?;
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
