use std::time::{Duration, Instant};

use everburn_core::profile::{Part, span};
use everburn_core::{
    Batch, ClassId, Ctx, Error, Event, Footprint, ImageSource, Images, Key, Kind, Learner, Result,
    SeenClasses, Source, Stage, Step, TaskId, TaskInfo,
};
use everburn_eval::{
    AccountedMemory, ConfusionMatrix, Evaluation, History, Moment, Period, Prequential,
};
use everburn_stream::{EvalPoints, EvalSchedule, Manifest};
use serde::{Deserialize, Serialize};

use crate::Checkpoint;
use crate::epoch::Epoch;
use crate::plan::{Plan, only_segment, segments};
use crate::positions::Positions;

/// Images with their classes.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// The images: [`Images`](everburn_core::Images) in memory, or what reads them from elsewhere. The
    /// runner asks for one batch at a time and keeps none.
    pub images: &'a dyn ImageSource,
    /// The class of each.
    pub labels: &'a [ClassId],
}

/// Images by number.
fn read(from: Labelled<'_>, chosen: &[usize]) -> Result<Images> {
    let _span = span(Part::Read);
    from.images.select(chosen)
}

/// What a run is about: a stream over training samples, and the test samples that judge it.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// The order of the training samples.
    pub manifest: &'a Manifest,
    /// The training samples.
    pub train: Labelled<'a>,
    /// The test samples, which no learner ever gets with their labels.
    pub test: Labelled<'a>,
}

/// What decides a run besides its material and its learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The seed of order, augmentation, initial weights and whatever else is random.
    pub seed: u64,
    /// When a single-pass stream is interrupted for an evaluation.
    pub eval: EvalPoints,
    /// Test images per prediction.
    pub eval_batch: usize,
    /// Whether a single-pass stream's batches are predicted before they are learnt from
    /// (test-then-train), which costs one prediction per sample.
    pub prequential: bool,
    /// Whether a reference that learns offline learns once, after the last task, and is tested then, on
    /// a stream whose tasks may be seen for several passes too. Otherwise it learns anew after each task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline_once: bool,
}

impl Settings {
    /// 50 evaluations per stream, 256 images per prediction, no predictions before learning; references
    /// learn after each task.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            eval: EvalPoints::default(),
            eval_batch: 256,
            prequential: false,
            offline_once: false,
        }
    }

    /// The root of the run's randomness.
    pub fn key(&self) -> Key {
        Key::from_seed(self.seed)
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    TaskBegin,
    StageBegin,
    Steps,
    StageEnd,
    TaskEnd,
    Done,
}

/// Where a run stands: together with the learner's state all that a resume needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Hash of the manifest, which the position refers to.
    manifest: String,
    settings: Settings,
    segment: usize,
    phase: Phase,
    stages: Vec<Stage>,
    stage: usize,
    /// The next step within the stage, over all its epochs.
    step: usize,
    /// Steps done in all stages.
    steps: u64,
    /// Samples of the stream that have passed.
    passed: u64,
    exposed: SeenClasses,
    schedule: Option<EvalSchedule>,
    evaluations: Vec<Evaluation>,
    /// What the last evaluation took each class for.
    confusion: ConfusionMatrix,
    prequential: Option<Prequential>,
    peak: Footprint,
    /// Sum and number of the losses of the current stage.
    losses: (f64, u64),
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub steps: u64,
    /// Steps in all.
    pub of: u64,
    /// Mean loss of the current stage, if it has one.
    pub loss: Option<f64>,
    /// The accuracy of the last evaluation, as a fraction.
    pub accuracy: Option<f64>,
}

/// What a run ends in.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All evaluations.
    pub history: History,
    /// What the learner held, at most and at the end.
    pub memory: AccountedMemory,
    /// What each class's test images were taken for in the last evaluation.
    pub confusion: ConfusionMatrix,
    /// Samples fed, each counted as often as it was fed.
    pub samples_fed: u64,
}

/// Drives one learner over one stream.
pub struct Runner<'a> {
    material: Material<'a>,
    settings: Settings,
    learner: Box<dyn Learner>,
    plan: Plan,
    segments: Vec<Option<TaskId>>,
    /// The only one of them that is learnt from, if not all are.
    only_segment: Option<TaskId>,
    cursor: Cursor,
    positions: Positions,
    /// What the learner is told of each task.
    infos: Vec<TaskInfo>,
    /// Steps of all stages.
    planned_steps: u64,
    /// Whether the learner may see all samples again.
    sees_all: bool,
    /// The epoch that is under way and its number, rebuilt after a resume.
    epoch: Option<(usize, Epoch<'a>)>,
    /// The test images of so many exposed classes, rebuilt when there are more.
    tested: Option<(usize, Vec<usize>)>,
    /// The accuracy of the last evaluation.
    accuracy: Option<f64>,
    train_time: Duration,
    eval_time: Duration,
}

impl<'a> Runner<'a> {
    /// A run that has not begun.
    ///
    /// # Errors
    /// If the manifest does not fit the data, or the stream cannot give what the learner needs.
    pub fn new(
        material: Material<'a>,
        settings: Settings,
        learner: Box<dyn Learner>,
    ) -> Result<Self> {
        material.manifest.validate(material.train.labels)?;
        for (what, split) in [("training", material.train), ("test", material.test)] {
            if split.images.len() != split.labels.len() {
                let what = format!("labels of the {what} images");
                return Err(Error::input(what, split.labels.len(), split.images.len()));
            }
        }
        if settings.eval_batch == 0 {
            return Err(Error::config(
                "eval_batch",
                0,
                "a whole number of at least 1",
            ));
        }
        let manifest = material.manifest;
        let plan = Plan::new(learner.as_ref(), manifest, material.train.labels, &settings)?;
        let watched = manifest.online && !learner.spec().offline;
        let schedule = (watched)
            .then(|| settings.eval.schedule(manifest.len() as u64))
            .transpose()?;
        let cursor = Cursor {
            manifest: manifest.hash(),
            settings,
            segment: 0,
            phase: Phase::TaskBegin,
            stages: Vec::new(),
            stage: 0,
            step: 0,
            steps: 0,
            passed: 0,
            exposed: SeenClasses::default(),
            schedule,
            evaluations: Vec::new(),
            confusion: ConfusionMatrix::default(),
            prequential: (settings.prequential && watched)
                .then(|| Prequential::new(manifest.tasks.len())),
            peak: Footprint::default(),
            losses: (0.0, 0),
        };
        Ok(Self {
            segments: segments(manifest, learner.spec().offline),
            only_segment: only_segment(manifest, learner.spec().offline, &settings),
            positions: Positions::new(manifest),
            infos: manifest.task_infos().collect(),
            planned_steps: plan.steps() as u64,
            sees_all: (plan.stages.iter()).any(|planned| planned.stage.source == Source::AllSeen),
            material,
            settings,
            learner,
            plan,
            cursor,
            epoch: None,
            tested: None,
            accuracy: None,
            train_time: Duration::ZERO,
            eval_time: Duration::ZERO,
        })
    }

    /// A run that goes on from a checkpoint. `learner` is built anew, with the same settings.
    ///
    /// # Errors
    /// As [`new`](Self::new), or if the checkpoint belongs to another run.
    pub fn resume(
        material: Material<'a>,
        settings: Settings,
        learner: Box<dyn Learner>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let mut runner = Self::new(material, settings, learner)?;
        let cursor: Cursor = checkpoint.cursor()?;
        if cursor.manifest != runner.cursor.manifest {
            return Err(Error::state(
                "manifest",
                cursor.manifest,
                &runner.cursor.manifest,
            ));
        }
        if cursor.settings != settings {
            let (found, expected) = (format!("{:?}", cursor.settings), format!("{settings:?}"));
            return Err(Error::state("settings", found, expected));
        }
        if cursor.segment > runner.segments.len() || cursor.stage > cursor.stages.len() {
            let expected = format!("at most {} segments", runner.segments.len());
            return Err(Error::state("cursor", cursor.segment, expected));
        }
        runner.learner.restore(checkpoint.learner())?;
        runner.accuracy = cursor.evaluations.last().and_then(Evaluation::accuracy);
        runner.cursor = cursor;
        Ok(runner)
    }

    /// Everything needed to go on from here.
    ///
    /// # Errors
    /// If the learner's state cannot be read back from its device.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::new(&self.cursor, self.learner.save()?)
    }

    /// The manifest's stream.
    pub fn manifest(&self) -> &'a Manifest {
        self.material.manifest
    }

    /// What will be fed.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The learner.
    pub fn learner(&self) -> &dyn Learner {
        self.learner.as_ref()
    }

    /// Gives the learner back.
    pub fn into_learner(self) -> Box<dyn Learner> {
        self.learner
    }

    /// How far the run has come.
    pub fn progress(&self) -> Progress {
        let (sum, count) = self.cursor.losses;
        Progress {
            steps: self.cursor.steps,
            of: self.planned_steps,
            loss: (count > 0).then(|| sum / count as f64),
            accuracy: self.accuracy,
        }
    }

    /// Time spent in learning and in evaluating since this runner was made.
    pub fn times(&self) -> [Duration; 2] {
        [self.train_time, self.eval_time]
    }

    /// Goes on by one step, event or evaluation. False when there is nothing left to do.
    ///
    /// # Errors
    /// If the learner fails.
    pub fn advance(&mut self) -> Result<bool> {
        match self.cursor.phase {
            Phase::TaskBegin => self.begin_task()?,
            Phase::StageBegin => self.begin_stage()?,
            Phase::Steps => self.step()?,
            Phase::StageEnd => self.end_stage()?,
            Phase::TaskEnd => self.end_task()?,
            Phase::Done => return Ok(false),
        }
        Ok(true)
    }

    /// Goes on to the end.
    ///
    /// # Errors
    /// If the learner fails.
    pub fn run(mut self) -> Result<Outcome> {
        while self.advance()? {}
        self.outcome()
    }

    /// What the run ended in.
    ///
    /// # Errors
    /// If it has not ended.
    pub fn outcome(&self) -> Result<Outcome> {
        if self.cursor.phase != Phase::Done {
            return Err(Error::unsupported(
                "the outcome of a run",
                "it has not ended yet",
            ));
        }
        let manifest = self.material.manifest;
        let period = match self.settings.eval {
            // The name of a count is the number of evaluations that were really made.
            EvalPoints::Count(_) => None,
            EvalPoints::Period(samples) => Some(Period::Samples(samples)),
        };
        Ok(Outcome {
            history: History {
                task_classes: manifest
                    .tasks
                    .iter()
                    .map(|task| task.classes.clone())
                    .collect(),
                disjoint: !manifest.online,
                prequential: self.cursor.prequential.clone(),
                period: period.filter(|_| self.cursor.schedule.is_some()),
                evaluations: self.cursor.evaluations.clone(),
            },
            memory: AccountedMemory {
                peak: self.cursor.peak.clone(),
                last: self.footprint(),
            },
            confusion: self.cursor.confusion.clone(),
            samples_fed: self.plan.samples() as u64,
        })
    }

    fn task(&self) -> Option<TaskId> {
        self.segments.get(self.cursor.segment).copied().flatten()
    }

    /// The task's description for events; `None` without borders.
    fn info(&self) -> Option<TaskInfo> {
        let task = self.task()?;
        self.infos.get(task.0 as usize).cloned()
    }

    /// Whether the learner learns in this segment; if not it hears of the borders all the same, and so of
    /// the classes.
    fn learns(&self) -> bool {
        self.only_segment.is_none() || self.task() == self.only_segment
    }

    fn place(&self, purpose: &str) -> Key {
        let key = self
            .settings
            .key()
            .child(purpose)
            .at(self.cursor.segment as u64);
        key.at(self.cursor.stage as u64)
    }

    fn event(&mut self, name: &str, event: &Event) -> Result<()> {
        let began = Instant::now();
        let cx = Ctx::new(self.place("event").child(name));
        self.learner.on(event, &cx)?;
        self.train_time += began.elapsed();
        Ok(())
    }

    fn begin_task(&mut self) -> Result<()> {
        if self.cursor.segment >= self.segments.len() {
            self.cursor.phase = Phase::Done;
            return Ok(());
        }
        let info = self.info();
        self.cursor.stage = 0;
        if let Some(info) = &info {
            self.event("task begin", &Event::TaskBegin(info.clone()))?;
        }
        self.cursor.stages = if self.learns() {
            self.learner.stages(info.as_ref())
        } else {
            Vec::new()
        };
        self.cursor.phase = Phase::StageBegin;
        Ok(())
    }

    fn begin_stage(&mut self) -> Result<()> {
        let Some(stage) = self.cursor.stages.get(self.cursor.stage).cloned() else {
            self.cursor.phase = Phase::TaskEnd;
            return Ok(());
        };
        self.event("stage begin", &Event::StageBegin(stage))?;
        self.cursor.step = 0;
        self.cursor.losses = (0.0, 0);
        self.cursor.phase = Phase::Steps;
        Ok(())
    }

    fn end_stage(&mut self) -> Result<()> {
        if let Some(stage) = self.cursor.stages.get(self.cursor.stage).cloned() {
            self.event("stage end", &Event::StageEnd(stage))?;
        }
        self.cursor.stage += 1;
        self.cursor.phase = Phase::StageBegin;
        Ok(())
    }

    fn end_task(&mut self) -> Result<()> {
        let (manifest, task) = (self.material.manifest, self.task());
        if let Some(info) = self.info() {
            self.event("task end", &Event::TaskEnd(info))?;
        }
        let offline = self.learner.spec().offline;
        if !manifest.online {
            // On a single-pass stream the steps count what has passed.
            let passed = task.and_then(|task| manifest.task(task));
            for index in passed.into_iter().flat_map(|task| &task.indices) {
                self.expose(*index)?;
            }
        } else if offline {
            for index in manifest.indices() {
                self.expose(index)?;
            }
        }
        // Without borders the ends of the tasks lie within the segment and have been evaluated there,
        // unless the learner has only now begun to know anything.
        let last = TaskId(manifest.tasks.len().saturating_sub(1) as u32);
        let ended = task.or(offline.then_some(last));
        let has_samples = |task: &TaskId| {
            let task = manifest.task(*task);
            task.is_some_and(|task| !task.indices.is_empty())
        };
        if let Some(ended) = ended.filter(has_samples).filter(|_| self.learns()) {
            self.evaluate(false, Some(ended))?;
        }
        self.note_footprint();
        self.cursor.segment += 1;
        self.cursor.stage = 0;
        self.cursor.phase = Phase::TaskBegin;
        Ok(())
    }

    fn expose(&mut self, index: u32) -> Result<()> {
        let labels = self.material.train.labels;
        let label = labels.get(index as usize).ok_or_else(|| {
            Error::input("sample index", index, format!("less than {}", labels.len()))
        })?;
        self.cursor.exposed.insert(*label);
        self.cursor.passed += 1;
        Ok(())
    }

    /// An epoch, from memory or made anew.
    fn epoch(&mut self, stage: &Stage, number: usize) -> &Epoch<'a> {
        let kept = self.epoch.take().filter(|(kept, _)| *kept == number);
        let (_, epoch) = self.epoch.insert(match kept {
            Some(kept) => kept,
            None => (number, self.make_epoch(stage, number)),
        });
        epoch
    }

    fn make_epoch(&self, stage: &Stage, number: usize) -> Epoch<'a> {
        let Material {
            manifest, train, ..
        } = self.material;
        let key = self.place("order").at(number as u64);
        let shuffle = |n| key.permutation(n);
        Epoch::new(manifest, train.labels, self.task(), stage, shuffle)
    }

    fn step(&mut self) -> Result<()> {
        let Some(stage) = self.cursor.stages.get(self.cursor.stage).cloned() else {
            self.cursor.phase = Phase::TaskEnd;
            return Ok(());
        };
        if self.cursor.step == 0 {
            self.epoch = None;
        }
        let per_epoch = match &self.epoch {
            Some((_, epoch)) => epoch.steps(),
            None => self.epoch(&stage, 0).steps(),
        };
        if per_epoch == 0 || self.cursor.step >= per_epoch * stage.epochs {
            self.epoch = None;
            self.cursor.phase = Phase::StageEnd;
            return Ok(());
        }
        let epoch = self.cursor.step / per_epoch;
        let at = self.cursor.step % per_epoch;
        let indices = self.epoch(&stage, epoch).batch(at).to_vec();
        self.observe(&stage, &indices, epoch, per_epoch)?;
        self.cursor.step += 1;
        self.cursor.steps += 1;
        if stage.source == Source::Stream && self.material.manifest.online {
            self.passed(&indices)?;
        }
        Ok(())
    }

    fn observe(
        &mut self,
        stage: &Stage,
        indices: &[u32],
        epoch: usize,
        per_epoch: usize,
    ) -> Result<()> {
        let train = self.material.train;
        let chosen: Vec<usize> = indices.iter().map(|index| *index as usize).collect();
        let labels = chosen
            .iter()
            .filter_map(|index| train.labels.get(*index).copied())
            .collect();
        let images = read(train, &chosen)?;
        let batch = Batch::new(images, labels, stage.view)?;
        let step = Step {
            task: self.task(),
            stage: self.cursor.stage,
            epoch,
            epochs: stage.epochs,
            index: self.cursor.step,
            steps: per_epoch * stage.epochs,
        };
        if stage.source == Source::Stream {
            self.ask_first(&batch)?;
        }
        let cx = Ctx::new(self.place("step").at(self.cursor.step as u64));
        let began = Instant::now();
        let log = self.learner.observe(&batch, &step, &cx)?;
        self.train_time += began.elapsed();
        if let Some(loss) = log.loss {
            self.cursor.losses.0 += f64::from(loss);
            self.cursor.losses.1 += 1;
        }
        Ok(())
    }

    /// Test-then-train: what the learner takes a batch for before it has learnt from it. Before the
    /// first class it knows no answer.
    fn ask_first(&mut self, batch: &Batch) -> Result<()> {
        let Some(prequential) = &mut self.cursor.prequential else {
            return Ok(());
        };
        let began = Instant::now();
        let _span = span(Part::Evaluation);
        let right = if self.cursor.exposed.is_empty() {
            0
        } else {
            let predicted = self.learner.predict(&batch.images)?.predicted();
            let pairs = predicted.iter().zip(&batch.labels);
            pairs
                .filter(|(predicted, label)| predicted == label)
                .count()
        };
        // A batch never mixes two tasks.
        let task = self.positions.task_at(self.cursor.passed);
        prequential.record(task, right as u64, batch.labels.len() as u64)?;
        self.eval_time += began.elapsed();
        Ok(())
    }

    /// After a batch of a single-pass stream: evaluates where the schedule or the end of a task has
    /// come. The learner notices neither.
    fn passed(&mut self, indices: &[u32]) -> Result<()> {
        for index in indices {
            self.expose(*index)?;
        }
        let passed = self.cursor.passed;
        let periodic = self
            .cursor
            .schedule
            .as_mut()
            .is_some_and(|schedule| schedule.due(passed));
        let ended = if self.material.manifest.borders {
            None // evaluated after the event
        } else {
            self.positions.ended_at(passed)
        };
        if periodic || ended.is_some() {
            self.evaluate(periodic, ended)?;
            self.note_footprint();
        }
        Ok(())
    }

    fn evaluate(&mut self, periodic: bool, task_end: Option<TaskId>) -> Result<()> {
        let began = Instant::now();
        let _span = span(Part::Evaluation);
        let test = self.material.test;
        let exposed = &self.cursor.exposed;
        // Classes are never taken back, so as many classes are the same classes.
        let kept = self.tested.take().filter(|(of, _)| *of == exposed.len());
        let (_, chosen) = self.tested.insert(kept.unwrap_or_else(|| {
            let known = |index: &usize| exposed.index(test.labels[*index]).is_some();
            let chosen = (0..test.labels.len()).filter(known).collect();
            (exposed.len(), chosen)
        }));
        let mut predicted = Vec::with_capacity(chosen.len());
        for batch in chosen.chunks(self.settings.eval_batch) {
            predicted.extend(self.learner.predict(&read(test, batch)?)?.predicted());
        }
        let labels: Vec<ClassId> = chosen.iter().map(|index| test.labels[*index]).collect();
        let moment = Moment {
            samples_seen: self.cursor.passed,
            task_end,
            periodic,
        };
        let exposed = self.cursor.exposed.as_slice();
        let evaluation = Evaluation::from_predictions(moment, exposed, &labels, &predicted)?;
        self.cursor.confusion = ConfusionMatrix::from_predictions(exposed, &labels, &predicted)?;
        self.accuracy = evaluation.accuracy();
        self.cursor.evaluations.push(evaluation);
        self.eval_time += began.elapsed();
        Ok(())
    }

    /// What the learner holds, and what this runner holds for it: a learner that may see all samples
    /// again has them all in its memory, wherever that is.
    fn footprint(&self) -> Footprint {
        let mut footprint = self.learner.footprint();
        if self.sees_all {
            let bytes = self.cursor.passed * self.material.train.images.shape().bytes() as u64;
            footprint.add(
                Kind::Exemplars,
                "all samples so far, held by the runner",
                bytes,
            );
        }
        footprint
    }

    /// Taken at fixed places of the stream, so that a resumed run finds the same peak.
    fn note_footprint(&mut self) {
        let now = self.footprint();
        if now.total() > self.cursor.peak.total() {
            self.cursor.peak = now;
        }
    }
}
