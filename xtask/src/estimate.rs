//! What a suite will cost, from a short trial of each kind of run.

use std::time::{Duration, Instant};

use everburn::cache::FeatureStore;
use everburn::core::Result;
use everburn::nn::Frozen;
use everburn::run::{Plan, Runner, peak_memory, reset_peak_memory};
use serde::{Deserialize, Serialize};

use crate::job::{Job, Shared};

/// How long a trial of one method on one stream may take.
const TRIAL: Duration = Duration::from_millis(1500);

/// Seconds to compute the features that are missing, from a few images.
pub fn warming(shared: &Shared, frozen: &Frozen) -> Result<f64> {
    let images = &shared.dataset.train.images;
    let all = [images, &shared.dataset.test.images];
    let missing = all.map(|images| frozen.store().missing(images.keys()).len());
    let missing: usize = missing.iter().sum();
    if missing == 0 {
        return Ok(0.0);
    }
    let some: Vec<usize> = (0..images.len().min(64)).collect();
    let some = images.select(&some)?;
    let nothing = FeatureStore::in_memory(frozen.backbone().dim());
    let frozen = frozen.clone().with_store(nothing)?;
    // The first pass pays for threads and pages.
    frozen.features(&some)?;
    let began = Instant::now();
    frozen.features(&some)?;
    Ok(began.elapsed().as_secs_f64() * missing as f64 / some.len().max(1) as f64)
}

/// What a run will cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Seconds, from its beginning.
    pub seconds: f64,
    /// The largest resident set of this process in the trial, in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// Tries out the beginning of a run. `frozen`'s cache should hold what the real run's will.
pub fn trial(shared: &Shared, job: &Job, frozen: &Frozen) -> Result<Trial> {
    reset_peak_memory();
    let plan = shared.plan(job)?;
    let tested = tested(shared, job, &plan)?;
    let learner = shared.learner(job, frozen)?;
    let mut runner = Runner::new(shared.material(job)?, shared.settings(job)?, learner)?;
    let began = Instant::now();
    let mut warm = None;
    while began.elapsed() < TRIAL && runner.advance()? {
        // The first steps allocate; count from the third on.
        if warm.is_none() && runner.progress().steps >= 3 {
            warm = Some((runner.progress().steps, runner.times()[0]));
        }
    }
    let (first, spent) = warm.unwrap_or((0, Duration::ZERO));
    let steps = (runner.progress().steps - first).max(1) as f64;
    let step = (runner.times()[0] - spent).as_secs_f64() / steps;

    let test = &shared.dataset.test.images;
    let batch = shared.settings(job)?.eval_batch;
    let some: Vec<usize> = (0..test.len().min(batch)).collect();
    let some = test.select(&some)?;
    let began = Instant::now();
    runner.learner().predict(&some)?;
    let predict = began.elapsed().as_secs_f64() / some.len().max(1) as f64;
    Ok(Trial {
        seconds: step * plan.steps() as f64 + predict * tested as f64,
        peak_bytes: peak_memory(),
    })
}

/// Predictions over all evaluations, as if the classes came evenly.
fn tested(shared: &Shared, job: &Job, plan: &Plan) -> Result<usize> {
    let (manifest, test) = (shared.manifest(job)?, shared.dataset.test.len());
    let offline = shared.describe(job, &shared.frozen(job)?)?.offline;
    let tasks = manifest.tasks.len();
    Ok(if !manifest.online {
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
