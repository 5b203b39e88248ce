//! `cargo xtask bench`.

use std::fs::{self, File, TryLockError};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use everburn::core::Error;
use everburn::eval::{Accompanying, Report, RunRecord, format};
use everburn::nn::Frozen;
use everburn::run::{
    Checkpoint, RunFolder, Runner, peak_memory, reset_peak_memory, write_atomically,
};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cli::BenchOptions;
use crate::estimate;
use crate::job::{Job, Shared};
use crate::suite::Suite;

/// The user pressed Ctrl-C; what was done is safe.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; the same command goes on from here")
    }
}

impl std::error::Error for Interrupted {}

/// Runs a suite and prints its tables.
pub fn bench(options: BenchOptions) -> anyhow::Result<()> {
    let suite = Suite::new(&options)?;
    let name = suite.name.clone();
    let interval = Duration::try_from_secs_f64(options.checkpoint_secs).map_err(|_| {
        let expected = "seconds, 0 or more";
        Error::config("checkpoint-secs", options.checkpoint_secs, expected)
    })?;
    let shared = Shared::load(suite)?;
    let jobs = shared.jobs();
    for job in &jobs {
        shared.plan(job)?;
    }
    let folder = options.runs_dir.join(&name);
    if options.dry_run {
        return dry_run(&shared, &jobs, &folder);
    }
    let _lock = lock(&folder)?;
    let stop = stop_on_ctrl_c()?;
    let mut bench = Bench::new(&shared, &jobs, folder, interval, stop)?;
    let mut results = Vec::new();
    for job in &jobs {
        results.push(bench.run(job)?);
    }
    bench.bar.finish_and_clear();
    report(&bench.folder, results)
}

/// Refuses a folder that another bench is writing to. The lock goes with the process, however it ends.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("{shown}"))?;
    let file = File::create(folder.join(".lock")).with_context(|| format!("{shown}/.lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "{shown}: another bench is writing to this folder; wait for it, or choose another --name"
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{shown}/.lock")),
    }
}

fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
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

/// A suite under way.
struct Bench<'a> {
    shared: &'a Shared,
    folder: PathBuf,
    interval: Duration,
    stop: Arc<AtomicBool>,
    bar: ProgressBar,
    quiet: bool,
    done: usize,
    total: usize,
    warmed: bool,
}

impl<'a> Bench<'a> {
    fn new(
        shared: &'a Shared,
        jobs: &[Job],
        folder: PathBuf,
        interval: Duration,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let mut steps = 0;
        for job in jobs {
            steps += shared.plan(job)?.steps() as u64;
        }
        let quiet = !std::io::stderr().is_terminal();
        let bar = new_bar(quiet, steps)?;
        Ok(Self {
            shared,
            folder,
            interval,
            stop,
            bar,
            quiet,
            done: 0,
            total: jobs.len(),
            warmed: false,
        })
    }

    /// The result of a job: from its folder, or by running it.
    fn run(&mut self, job: &Job) -> anyhow::Result<(RunRecord, Accompanying)> {
        let frozen = self.shared.frozen(job)?;
        let provenance = self.shared.provenance(job, &frozen)?;
        let folder = RunFolder::open(self.folder.join(&provenance.run_id))?;
        self.done += 1;
        if let Some(record) = folder.result()? {
            let timing = folder.timing()?.unwrap_or_default();
            self.bar.inc(self.shared.plan(job)?.steps() as u64);
            self.say(job, &record, "already done");
            return Ok((record, timing));
        }
        if self.shared.is_frozen(job)? && !self.warmed {
            self.warm(&frozen)?;
            // A backbone with random weights is another one for each seed.
            self.warmed = !self.shared.suite.backbone.is_random();
        }
        folder.describe(
            &self.shared.config_text(job, &frozen)?,
            self.shared.manifest(job)?,
        )?;
        reset_peak_memory();
        let mut timing = folder.timing()?.unwrap_or_default();
        let mut runner = self.start(job, &frozen, &folder)?;
        let steps_before = runner.progress().steps;
        self.bar.inc(steps_before);
        self.drive(job, &mut runner, &folder, &mut timing)?;
        let outcome = runner.outcome()?;
        let run = self.shared.describe(job, &frozen)?;
        let record = RunRecord::new(run, provenance, outcome.history, Some(outcome.memory))?;
        timing.images_per_second = (timing.train_seconds)
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| outcome.samples_fed as f64 / seconds);
        folder.finish(&record, &timing)?;
        self.say(
            job,
            &record,
            &format::seconds(timing.wall_seconds.unwrap_or_default()),
        );
        Ok((record, timing))
    }

    /// A new runner, or one that goes on from the folder's checkpoint.
    fn start(&self, job: &Job, frozen: &Frozen, folder: &RunFolder) -> anyhow::Result<Runner<'a>> {
        let (material, settings) = (self.shared.material(job)?, self.shared.settings(job));
        let checkpoint: Option<Checkpoint> = match folder.checkpoint() {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // Renaming is atomic, so only the disk itself can have done this; a run that begins
                // again ends the same.
                self.note(&format!("{error}; this run begins again"));
                None
            }
        };
        let learner = self.shared.learner(job, frozen)?;
        Ok(match checkpoint {
            Some(checkpoint) => Runner::resume(material, settings, learner, &checkpoint)?,
            None => Runner::new(material, settings, learner)?,
        })
    }

    /// Computes the features of all images, under a bar of its own: an image costs far more than a
    /// step on its feature.
    fn warm(&self, frozen: &Frozen) -> anyhow::Result<()> {
        let dataset = &self.shared.dataset;
        let total = dataset.train.len() + dataset.test.len();
        let bar = new_bar(self.quiet, total as u64)?;
        bar.set_message("features of all images, once");
        for images in [&dataset.train.images, &dataset.test.images] {
            let before = bar.position();
            frozen.warm(images, |done, _| {
                bar.set_position(before + done as u64);
                !self.stop.load(Ordering::SeqCst)
            })?;
        }
        bar.finish_and_clear();
        if self.stop.load(Ordering::SeqCst) {
            return Err(Interrupted.into());
        }
        self.bar.reset_eta();
        Ok(())
    }

    fn drive(
        &self,
        job: &Job,
        runner: &mut Runner<'_>,
        folder: &RunFolder,
        timing: &mut Accompanying,
    ) -> anyhow::Result<()> {
        let (mut since, mut saved) = (Instant::now(), Instant::now());
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
            timing.when = now_text();
        };
        let mut steps = runner.progress().steps;
        while runner.advance()? {
            let progress = runner.progress();
            self.bar.inc(progress.steps - steps);
            steps = progress.steps;
            self.bar.set_message(self.title(job));
            let stop = self.stop.load(Ordering::SeqCst);
            if stop || saved.elapsed() >= self.interval {
                runner.checkpoint()?.save(&folder.checkpoint_path())?;
                account(runner, timing);
                folder.keep_time(timing)?;
                saved = Instant::now();
            }
            if stop {
                self.bar.finish_and_clear();
                return Err(Interrupted.into());
            }
        }
        account(runner, timing);
        Ok(())
    }

    fn title(&self, job: &Job) -> String {
        let Job {
            method,
            stream,
            seed,
        } = job;
        format!(
            "{}/{}  {method} on {stream}, seed {seed}",
            self.done, self.total
        )
    }

    fn say(&self, job: &Job, record: &RunRecord, took: &str) {
        if self.quiet {
            let last = record.metrics.get("accuracy/last/sample-weighted");
            let last = last.map_or_else(String::new, |a| format!("  A_last {:.2} %", 100.0 * a));
            eprintln!("{}{last}  ({took})", self.title(job));
        }
    }

    fn note(&self, text: &str) {
        if self.quiet {
            eprintln!("note: {text}")
        } else {
            self.bar.println(format!("note: {text}"))
        }
    }
}

fn new_bar(quiet: bool, length: u64) -> anyhow::Result<ProgressBar> {
    let bar = if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(length.max(1))
    };
    bar.set_style(ProgressStyle::with_template(
        "{bar:20} {percent:>3} %  {eta} left  {wide_msg}",
    )?);
    Ok(bar)
}

fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} {}, {threads} threads",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// Seconds since 1970.
fn now_text() -> Option<String> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Some(format!("unix {}", now.as_secs()))
}

/// Prints the tables and writes them beside the runs.
fn report(folder: &Path, results: Vec<(RunRecord, Accompanying)>) -> anyhow::Result<()> {
    let ledger: Vec<String> = results
        .iter()
        .map(|(record, _)| serde_json::to_string(record))
        .collect::<Result<_, _>>()?;
    let report = Report::new(results)?;
    let width = terminal_width();
    for (name, text) in [
        ("table.md", report.markdown()),
        ("runs.csv", report.csv_runs()?),
        ("summary.csv", report.csv_summary()?),
        ("report.json", report.json()?),
        ("results.jsonl", ledger.join("\n") + "\n"),
    ] {
        write_atomically(&folder.join(name), text.as_bytes())?;
    }
    print(&report.terminal(width))?;
    print(&format!(
        "Written to {}/: table.md, summary.csv, runs.csv, report.json, results.jsonl, and a folder for each run.\n",
        folder.display()
    ))
}

/// Prints to standard output, and reports a closed pipe as an error instead of a panic.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The terminal's width, or 100 columns where there is none.
fn terminal_width() -> u16 {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    columns.unwrap_or(100).clamp(60, 250)
}

/// Prints what would be done.
fn dry_run(shared: &Shared, jobs: &[Job], folder: &Path) -> anyhow::Result<()> {
    let dataset = &shared.dataset;
    let mut text = format!(
        "suite {}: {} runs, {} training and {} test images of {} classes, {}\n",
        shared.suite.name,
        jobs.len(),
        dataset.train.len(),
        dataset.test.len(),
        dataset.num_classes(),
        dataset.shape(),
    );
    text += &format!(
        "data {}  code {}\n\n",
        &shared.dataset_hash[..16],
        shared.code
    );
    text += "run               manifest          method      stream        seed     steps   samples     time\n";
    let mut total = 0.0;
    let mut estimates = std::collections::BTreeMap::new();
    let mut warmed = false;
    for job in jobs {
        let frozen = shared.frozen(job)?;
        let provenance = shared.provenance(job, &frozen)?;
        let done = folder.join(&provenance.run_id).join("result.json").exists();
        if shared.is_frozen(job)? && !warmed && !done {
            let seconds = estimate::warming(shared, &frozen)?;
            text += &format!(
                "features of all images, once: about {}\n",
                format::seconds(seconds)
            );
            total += seconds;
            warmed = !shared.suite.backbone.is_random();
            // The trial needs the features of the images that it meets.
            let some: Vec<usize> = (0..dataset.train.len().min(2000)).collect();
            frozen.warm(&dataset.train.images.select(&some)?, |_, _| true)?;
            let some: Vec<usize> = (0..dataset.test.len().min(64)).collect();
            frozen.warm(&dataset.test.images.select(&some)?, |_, _| true)?;
        }
        let kind = (job.method.clone(), job.stream.clone());
        let plan = shared.plan(job)?;
        let seconds = if done {
            0.0
        } else if let Some(seconds) = estimates.get(&kind) {
            *seconds
        } else {
            let seconds = estimate::trial(shared, job, &frozen)?;
            estimates.insert(kind, seconds);
            seconds
        };
        total += seconds;
        let time = if done {
            "done".to_owned()
        } else {
            format::seconds(seconds)
        };
        text += &format!(
            "{}  {}  {:<10}  {:<12}  {:>4}  {:>8}  {:>8}  {:>7}\n",
            provenance.run_id,
            &provenance.manifest_hash[..16],
            job.method,
            job.stream,
            job.seed,
            plan.steps(),
            plan.samples(),
            time
        );
    }
    let memory = peak_memory().map_or_else(|| "unknown".to_owned(), |b| format::bytes(b as f64));
    text += &format!(
        "\nabout {} in all, from a short trial of each method on each stream; \
         peak memory of the trials: {memory}\n",
        HumanDuration(Duration::from_secs_f64(total.clamp(0.0, 1e9)))
    );
    print(&text)
}
