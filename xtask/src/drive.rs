//! One run, from its beginning or its checkpoint to its result, in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use everburn::backend::{DeviceChoice, devices};
use everburn::core::Error;
use everburn::core::profile::{self, Part, span};
use everburn::eval::{Accompanying, Provenance, RunRecord};
use everburn::nn::Frozen;
use everburn::run::{Checkpoint, RunFolder, Runner, peak_memory, reset_peak_memory};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cache::{Filled, fill, tokens};
use crate::code::{RUSTC, commit, dirty};
use crate::job::{Job, Shared};
use crate::profile::Profiled;

/// How long a run's folder may be held by a process of an earlier command that is about to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is asked whether a folder is free.
const POLL: Duration = Duration::from_millis(50);

/// The user pressed Ctrl-C; what was done is safe.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; the same command goes on from here")
    }
}

impl std::error::Error for Interrupted {}

/// Becomes true at the first Ctrl-C; the second one ends the process.
pub fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130); // the second time
        }
    })
    .context("waiting for Ctrl-C")?;
    Ok(stop)
}

/// Who looks on: a person at a terminal, or the process that asked for the run.
pub trait Watch {
    /// A run has made so many steps more.
    fn steps(&self, job: &Job, more: u64);
    /// So many of so many images have features.
    fn warming(&self, done: usize, of: usize);
    /// All images have features.
    fn filled(&self, filled: Filled);
    /// Something to read.
    fn note(&self, text: &str);
    /// Whether to end at the next step.
    fn stop(&self) -> bool;
}

/// How runs are made. None of it decides a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// Seconds between two checkpoints.
    pub checkpoint_secs: f64,
    /// Runs beside each other.
    pub jobs: usize,
    /// Whether to write down where their time goes.
    pub profile: bool,
    /// The command that asked for them.
    pub command: String,
}

impl Terms {
    /// The time between two checkpoints.
    pub fn interval(&self) -> Result<Duration, Error> {
        Duration::try_from_secs_f64(self.checkpoint_secs).map_err(|_| {
            let expected = "seconds, 0 or more";
            Error::config("checkpoint-secs", self.checkpoint_secs, expected)
        })
    }
}

/// A run that has ended.
pub struct Finished {
    pub record: RunRecord,
    pub timing: Accompanying,
    /// Whether an earlier session did it.
    pub before: bool,
}

/// Makes runs, one after the other.
pub struct Driver<'a> {
    shared: &'a Shared,
    terms: Terms,
    interval: Duration,
    watch: &'a dyn Watch,
    device: String,
    /// The backbone that all runs begin with, once all images have features.
    warmed: Option<Frozen>,
    /// The same, cut before a block, once all images have tokens there: of the last block that was asked for, since
    /// methods come one after the other.
    tokens: Option<(usize, Frozen)>,
}

impl<'a> Driver<'a> {
    pub fn new(shared: &'a Shared, terms: Terms, watch: &'a dyn Watch) -> anyhow::Result<Self> {
        Ok(Self {
            device: exact_device(shared.suite.device),
            shared,
            interval: terms.interval()?,
            terms,
            watch,
            warmed: None,
            tokens: None,
        })
    }

    /// The backbone of a run on tokens before a block.
    fn cut(&mut self, frozen: &Frozen, block: usize) -> anyhow::Result<Frozen> {
        if let Some((at, known)) = &self.tokens
            && *at == block
        {
            return Ok(known.clone());
        }
        self.tokens = None;
        let cut = tokens(self.shared, frozen.clone().cut(block)?, self.watch)?;
        // Random weights are others for each seed.
        if self.shared.pretrained.is_some() {
            self.tokens = Some((block, cut.clone()));
        }
        Ok(cut)
    }

    /// The backbone of a run on features, with the features of all images.
    pub fn warm(&mut self, frozen: &Frozen) -> anyhow::Result<Frozen> {
        if let Some(warmed) = &self.warmed {
            return Ok(warmed.clone());
        }
        if self.shared.pretrained.is_some() {
            let (warmed, filled) = fill(self.shared, frozen, self.watch)?;
            self.watch.filled(filled);
            return Ok(self.warmed.insert(warmed).clone());
        }
        // Random weights are others for each seed.
        let frozen = self.shared.cache.attach(frozen.clone())?;
        let (warmed, filled) = fill(self.shared, &frozen, self.watch)?;
        self.watch.filled(filled);
        Ok(warmed)
    }

    /// Sees to it that a run's folder holds its result. The ledger, and with it the checkpoint, is the
    /// caller's.
    pub fn run(
        &mut self,
        job: &Job,
        frozen: &Frozen,
        provenance: &Provenance,
        folder: &RunFolder,
    ) -> anyhow::Result<Finished> {
        let _lock = self.lock(folder)?;
        if let Some(record) = folder.result()? {
            if record.provenance != *provenance {
                let what = format!("{}/result.json: provenance", folder.path().display());
                let found = &record.provenance;
                bail!(Error::input(what, json!(found), json!(provenance)));
            }
            return Ok(Finished {
                record,
                timing: folder.timing()?.unwrap_or_default(),
                before: true,
            });
        }
        let warmed;
        let frozen = if self.shared.is_frozen(job)? {
            warmed = self.warm(frozen)?;
            &warmed
        } else if let Some(block) = self.shared.cut(job) {
            warmed = self.cut(frozen, block)?;
            &warmed
        } else {
            frozen
        };
        folder.describe(
            &self.shared.config_text(job, frozen)?,
            self.shared.manifest(job)?,
        )?;
        reset_peak_memory();
        let mut runner = self.start(job, frozen, folder)?;
        let steps_before = runner.progress().steps;
        let mut timing = match steps_before {
            0 => Accompanying::default(),
            _ => folder.timing()?.unwrap_or_default(),
        };
        self.watch.steps(job, steps_before);
        let driven = self.drive(job, &mut runner, folder, &mut timing);
        let profile = profile::stop();
        driven?;
        if self.terms.profile {
            Profiled::new(job, steps_before, &profile).write(folder)?;
        }
        let outcome = runner.outcome()?;
        let run = self.shared.describe(job, frozen)?;
        folder.keep_confusion(&outcome.confusion)?;
        let record = RunRecord::new(
            run,
            provenance.clone(),
            outcome.history,
            Some(outcome.memory),
        )?
        .with_settings(self.shared.record_settings(job)?);
        timing.images_per_second = (timing.train_seconds)
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| outcome.samples_fed as f64 / seconds);
        folder.conclude(&record, &timing)?;
        Ok(Finished {
            record,
            timing,
            before: false,
        })
    }

    /// Locks a run's folder. Who holds it is most likely a process of a command that was killed, which
    /// notices that and saves its last step.
    fn lock(&self, folder: &RunFolder) -> anyhow::Result<std::fs::File> {
        let began = Instant::now();
        loop {
            match folder.lock() {
                Ok(lock) => return Ok(lock),
                Err(_) if self.watch.stop() => bail!(Interrupted),
                Err(error) if began.elapsed() > PATIENCE => bail!(error),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// A new runner, or one that goes on from the folder's checkpoint.
    fn start(&self, job: &Job, frozen: &Frozen, folder: &RunFolder) -> anyhow::Result<Runner<'a>> {
        let (material, settings) = (self.shared.material(job)?, self.shared.settings(job)?);
        let checkpoint: Option<Checkpoint> = match folder.checkpoint() {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // Renaming is atomic, so only the disk itself can have done this; a run that begins
                // again ends the same.
                self.watch.note(&format!("{error}; this run begins again"));
                None
            }
        };
        let learner = self.shared.learner(job, frozen)?;
        Ok(match checkpoint {
            Some(checkpoint) => Runner::resume(material, settings, learner, &checkpoint)?,
            None => Runner::new(material, settings, learner)?,
        })
    }

    fn drive(
        &self,
        job: &Job,
        runner: &mut Runner<'_>,
        folder: &RunFolder,
        timing: &mut Accompanying,
    ) -> anyhow::Result<()> {
        let (mut since, mut saved) = (Instant::now(), Instant::now());
        if self.terms.profile {
            profile::start();
        }
        let mut times = runner.times();
        let before = timing.peak_rss_bytes;
        let mut account = |runner: &Runner<'_>, timing: &mut Accompanying| {
            let add = |sum: &mut Option<f64>, part: Duration| {
                *sum = Some(sum.unwrap_or_default() + part.as_secs_f64());
            };
            let now = runner.times();
            add(&mut timing.wall_seconds, since.elapsed());
            add(&mut timing.train_seconds, now[0] - times[0]);
            add(&mut timing.eval_seconds, now[1] - times[1]);
            (since, times) = (Instant::now(), now);
            timing.peak_rss_bytes = peak_memory().max(before);
            timing.machine = Some(machine());
            timing.jobs = Some(self.terms.jobs);
            timing.device = Some(self.device.clone());
            timing.commit = commit().map(str::to_owned);
            timing.dirty = dirty();
            timing.command = Some(self.terms.command.clone());
            timing.when = now_text();
        };
        let mut steps = runner.progress().steps;
        while runner.advance()? {
            let progress = runner.progress();
            self.watch.steps(job, progress.steps - steps);
            steps = progress.steps;
            let stop = self.watch.stop();
            if stop || saved.elapsed() >= self.interval {
                let _span = span(Part::Checkpoint);
                runner.checkpoint()?.save(&folder.checkpoint_path())?;
                account(runner, timing);
                folder.keep_time(timing)?;
                saved = Instant::now();
            }
            if stop {
                return Err(Interrupted.into());
            }
        }
        account(runner, timing);
        Ok(())
    }
}

/// What may round differently: the processor, the system, the compiler.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("", |rest| rest.trim_start_matches([':', ' ', '\t']));
    let model = if model.is_empty() {
        String::new()
    } else {
        format!(", {model}")
    };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{os} {arch}{model}, {threads} threads, {RUSTC}")
}

/// Seconds since 1970.
fn now_text() -> Option<String> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Some(format!("unix {}", now.as_secs()))
}

/// The device in full: that there are several of a kind decides no result.
fn exact_device(choice: DeviceChoice) -> String {
    let numbered = choice.index.is_some();
    let named = numbered.then(|| devices().into_iter().find(|device| device.choice == choice));
    match named.flatten() {
        Some(device) => format!("{choice}, {}", device.name),
        None => choice.to_string(),
    }
}
