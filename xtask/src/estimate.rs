//! What a suite will cost, from a short trial of each kind of run. The trials are made in a process of
//! their own, in the order of the suite: what a process has once held, its allocator keeps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everburn::cache::FeatureStore;
use everburn::core::{Footprint, Result};
use everburn::data::ImageSet;
use everburn::nn::Frozen;
use everburn::run::{Plan, Runner, peak_memory, reset_peak_memory};
use serde::{Deserialize, Serialize};

use crate::beside::threads;
use crate::drive::Watch;
use crate::job::{Job, Shared};
use crate::pool;
use crate::worker::{Answer, Order, Task};

/// How long a trial of one method on one stream may take.
const TRIAL: Duration = Duration::from_millis(1500);

/// Images of a batch that features are computed in.
const BATCH: usize = 64;

/// Copies of a learner's state while a checkpoint is written.
const COPIES: u64 = 4;

/// What something will cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Trial {
    /// Seconds, from its beginning.
    pub seconds: f64,
    /// The largest resident set of its process, in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// What the kinds of runs of a suite will cost.
#[derive(Debug, Default)]
pub struct Costs {
    /// The features of all images that lack one; absent where no run reads such.
    pub features: Option<Trial>,
    /// Runs by method and stream.
    pub kinds: BTreeMap<(String, String), Trial>,
}

impl Costs {
    /// What the runs that are `left` will cost, made as `order` says.
    pub fn of(
        shared: &Shared,
        left: &[Job],
        order: &Order,
        watch: &dyn Watch,
    ) -> anyhow::Result<Self> {
        let beside = order.terms.jobs;
        let mut kinds: Vec<Job> = Vec::new();
        let mut on_features = None;
        for job in left {
            let kind = |other: &Job| (&other.method, &other.stream) == (&job.method, &job.stream);
            if !kinds.iter().any(kind) {
                kinds.push(job.clone());
            }
            if on_features.is_none() && shared.pretrained.is_some() && shared.is_frozen(job)? {
                on_features = Some(job.clone());
            }
        }
        let mut tasks: Vec<Task> = on_features
            .map(|job| Task::Features { job })
            .into_iter()
            .collect();
        let mut costs = Self::default();
        // Where runs are beside each other the features are computed by another process before.
        if beside > 1 && !tasks.is_empty() {
            let answers = pool::ask(order, std::mem::take(&mut tasks), threads(1), watch)?;
            costs.features = answers.into_iter().find_map(tried);
        }
        let with_features = !tasks.is_empty();
        tasks.extend(kinds.iter().map(|job| Task::Trial { job: job.clone() }));
        let answers = pool::ask(order, tasks, threads(beside), watch)?;
        let mut trials = answers.into_iter().filter_map(tried);
        if with_features {
            costs.features = trials.next();
        }
        for (job, trial) in kinds.into_iter().zip(trials) {
            costs.kinds.insert((job.method, job.stream), trial);
        }
        Ok(costs)
    }

    /// The most memory that the suite will take with so many runs beside each other: the resident sets
    /// of all processes.
    pub fn peak_bytes(&self, beside: usize, here: Option<u64>) -> Option<u64> {
        let peaks = self.kinds.values().map(|trial| trial.peak_bytes);
        let most = peaks.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        if beside == 1 {
            return Some(most);
        }
        let features = self.features.and_then(|trial| trial.peak_bytes);
        Some(most * beside as u64 + features.or(here)?)
    }
}

fn tried(answer: Answer) -> Option<Trial> {
    match answer {
        Answer::Tried(trial) => Some(trial),
        _ => None,
    }
}

/// What the features of all images that lack one will cost, from those of a few.
pub fn features(shared: &Shared, frozen: &Frozen) -> Result<Trial> {
    let images = [&shared.dataset.train.images, &shared.dataset.test.images];
    let missing = images.map(|images| frozen.store().missing(images.keys()).len());
    let missing: usize = missing.iter().sum();
    let mut seconds = 0.0;
    if missing > 0 {
        let some = first(images[0], BATCH)?;
        let plain = frozen
            .clone()
            .with_store(FeatureStore::in_memory(frozen.backbone().dim()))?;
        // The first pass pays for threads and pages.
        plain.features(&some)?;
        let began = Instant::now();
        plain.features(&some)?;
        let each = began.elapsed().as_secs_f64() / some.len().max(1) as f64;
        seconds = each * missing as f64;
    }
    let row = 4 * frozen.backbone().dim() as u64;
    let rows = row * images.iter().map(|images| images.len() as u64).sum::<u64>();
    let rows = rows.min(shared.cache.most_in_memory());
    Ok(Trial {
        seconds,
        peak_bytes: peak_memory().map(|bytes| bytes + rows),
    })
}

/// The same backbone with features of all images, which are made up: they cost as much as real ones.
pub fn with_made_up(shared: &Shared, frozen: &Frozen) -> Result<Frozen> {
    let dim = frozen.row();
    let store = FeatureStore::in_memory(dim);
    let mut row = vec![0.0; dim];
    for images in [&shared.dataset.train.images, &shared.dataset.test.images] {
        for (number, key) in images.keys().iter().enumerate() {
            for (column, value) in row.iter_mut().enumerate() {
                *value = ((7 * number + 13 * column) % 17) as f32 / 80.0 - 0.1;
            }
            store.put(&[*key], &row)?;
        }
    }
    frozen.clone().with_store(store)
}

/// The first images.
fn first(images: &ImageSet, count: usize) -> Result<everburn::core::Images> {
    let some: Vec<usize> = (0..images.len().min(count)).collect();
    images.select(&some)
}

/// Tries out the beginning of a run that saves itself at such intervals. For a run on features `frozen`
/// is one [`with_made_up`] ones.
pub fn trial(shared: &Shared, job: &Job, frozen: &Frozen, interval: Duration) -> Result<Trial> {
    let most = shared.cache.most_in_memory();
    let held = frozen.store().stats().bytes_in_memory;
    reset_peak_memory();
    let plan = shared.plan(job)?;
    let tested = tested(shared, job, &plan)?;
    let learner = shared.learner(job, frozen)?;
    let mut runner = Runner::new(shared.material(job)?, shared.settings(job)?, learner)?;
    let began = Instant::now();
    let (mut warm, mut ended) = (None, false);
    while began.elapsed() < TRIAL && !ended {
        ended = !runner.advance()?;
        // The first steps allocate; count from the third on.
        if warm.is_none() && runner.progress().steps >= 3 {
            warm = Some((runner.progress().steps, runner.times()[0]));
        }
    }
    let (first_steps, spent) = warm.unwrap_or((0, Duration::ZERO));
    let steps = (runner.progress().steps - first_steps).max(1) as f64;
    let step = (runner.times()[0] - spent).as_secs_f64() / steps;

    let some = first(
        &shared.dataset.test.images,
        shared.settings(job)?.eval_batch,
    )?;
    let began = Instant::now();
    runner.learner().predict(&some)?;
    let predict = began.elapsed().as_secs_f64() / some.len().max(1) as f64;
    let seconds = step * equal_steps(&plan) + predict * tested as f64;

    let mut growth = match ended {
        true => 0,
        false => exemplars_to_come(shared, &runner.learner().footprint()),
    };
    if seconds >= interval.as_secs_f64() {
        drop(runner.checkpoint()?.to_bytes()?);
        growth += COPIES * growth;
    }
    Ok(Trial {
        seconds,
        peak_bytes: peak_memory()
            .map(|bytes| (bytes + growth).saturating_sub(held.saturating_sub(most))),
    })
}

/// How many steps like those of the first stage are as much work as the whole plan, sample for sample. Steps without
/// samples, such as an alignment's, count as none: they move a head and nothing else.
fn equal_steps(plan: &Plan) -> f64 {
    match plan.stages.first() {
        Some(first) if first.samples > 0 => {
            plan.samples() as f64 * first.steps as f64 / first.samples as f64
        }
        _ => plan.steps() as f64,
    }
}

/// Bytes by which memories of past images will still grow.
fn exemplars_to_come(shared: &Shared, footprint: &Footprint) -> u64 {
    let (train, image) = (&shared.dataset.train, shared.dataset.shape().bytes() as u64);
    let memories = footprint.memory.iter();
    let growth = memories.filter_map(|memory| {
        let held = memory.held?;
        let each = memory.bytes.checked_div(held.images).unwrap_or(image);
        let budget = held.budget.min(train.len() as u64);
        Some(each * budget.saturating_sub(held.images))
    });
    growth.sum()
}

/// Predictions over all evaluations, as if the classes came evenly.
fn tested(shared: &Shared, job: &Job, plan: &Plan) -> Result<usize> {
    let (manifest, test) = (shared.manifest(job)?, shared.dataset.test.len());
    let offline = shared.describe(job, &shared.frozen(job)?)?.offline;
    let tasks = manifest.tasks.len();
    Ok(if shared.settings(job)?.offline_once {
        test
    } else if !manifest.online {
        test * (tasks + 1) / 2
    } else if offline {
        test
    } else {
        let periodic = match shared.suite.eval {
            everburn::stream::EvalPoints::Count(count) => count,
            everburn::stream::EvalPoints::Period(period) => plan.samples() as u64 / period.max(1),
        };
        let asked_first = if shared.suite.prequential {
            plan.samples()
        } else {
            0
        };
        test * (periodic as usize + tasks) + asked_first
    })
}
