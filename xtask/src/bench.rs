//! `cargo xtask bench`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use everburn::backend::{DeviceChoice, devices};
use everburn::core::Error;
use everburn::eval::{Accompanying, Ledger, Report, RunRecord, Timings, format};
use everburn::nn::Frozen;
use everburn::run::{
    Checkpoint, Partition, RunFolder, Runner, SuiteFolder, peak_memory, read_ledger,
    reset_peak_memory, write_atomically,
};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::BenchOptions;
use crate::code::{CODE, RUSTC, commit, dirty};
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

/// Runs a suite, or a partition of it, and prints its tables.
pub fn bench(options: BenchOptions) -> anyhow::Result<()> {
    let suite = Suite::new(&options)?;
    let name = suite.name.clone();
    let partition = options.partition.as_deref().map(str::parse).transpose()?;
    let interval = Duration::try_from_secs_f64(options.checkpoint_secs).map_err(|_| {
        let expected = "seconds, 0 or more";
        Error::config("checkpoint-secs", options.checkpoint_secs, expected)
    })?;
    let shared = Shared::load(suite)?;
    let jobs = shared.jobs(partition);
    for job in &jobs {
        shared.plan(job)?;
    }
    let folder = options.runs_dir.join(&name);
    if options.dry_run {
        return dry_run(&shared, &jobs, &folder, partition);
    }
    let folder = SuiteFolder::lock(folder, partition)?;
    let stop = stop_on_ctrl_c()?;
    let mut bench = Bench::new(&shared, &jobs, folder, interval, stop)?;
    let mut ids = BTreeSet::new();
    for job in &jobs {
        ids.insert(bench.run(job)?);
    }
    bench.bar.finish_and_clear();
    match partition {
        None => report(bench.folder.path(), &ids),
        Some(partition) => {
            let all = shared.jobs(None).len();
            print(&format!(
                "partition {partition}: {} of {all} runs, all done, in {}/.\n\
                 When all partitions are, the same command without --partition prints the tables.\n",
                jobs.len(),
                bench.folder.path().display()
            ))
        }
    }
}

/// The ledger of a suite, whole and without contradictions, and the times beside it.
fn read_checked(folder: &Path) -> anyhow::Result<(Ledger, Timings)> {
    let (ledger, timings) = read_ledger(folder)?;
    (ledger.check()).with_context(|| {
        "no table is made from a damaged ledger; `cargo xtask ledger verify` lists all that is wrong"
    })?;
    Ok((ledger, timings))
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
    folder: SuiteFolder,
    /// What was finished before.
    ledger: Ledger,
    device: String,
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
        folder: SuiteFolder,
        interval: Duration,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let (ledger, _) = read_checked(folder.path())?;
        let mut steps = 0;
        for job in jobs {
            steps += shared.plan(job)?.steps() as u64;
        }
        let quiet = !std::io::stderr().is_terminal();
        let bar = new_bar(quiet, steps)?;
        let bench = Self {
            shared,
            folder,
            ledger,
            device: exact_device(shared.suite.device),
            interval,
            stop,
            bar,
            quiet,
            done: 0,
            total: jobs.len(),
            warmed: false,
        };
        for text in bench.ledger.notes() {
            bench.note(text);
        }
        Ok(bench)
    }

    /// Sees to it that the ledger has a job's result, and returns the run's id.
    fn run(&mut self, job: &Job) -> anyhow::Result<String> {
        let frozen = self.shared.frozen(job)?;
        let provenance = self.shared.provenance(job, &frozen)?;
        let id = provenance.run_id.clone();
        self.done += 1;
        if let Some(record) = self.ledger.get(&id)? {
            if self.folder.path().join(&id).exists() {
                // The last session may have ended between the ledger's line and this.
                self.folder.run(&id)?.discard_checkpoint()?;
            }
            self.already(job, record)?;
            return Ok(id);
        }
        let folder = self.folder.run(&id)?;
        let _lock = folder.lock()?;
        if let Some(record) = folder.result()? {
            if record.provenance != provenance {
                let what = format!("{}/result.json: provenance", folder.path().display());
                let found = &record.provenance;
                bail!(Error::input(what, json!(found), json!(provenance)));
            }
            // The last session ended between the result and the ledger.
            let timing = folder.timing()?.unwrap_or_default();
            self.folder.append(&record, &timing)?;
            folder.discard_checkpoint()?;
            self.already(job, &record)?;
            return Ok(id);
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
        let mut runner = self.start(job, &frozen, &folder)?;
        let steps_before = runner.progress().steps;
        let mut timing = match steps_before {
            0 => Accompanying::default(),
            _ => folder.timing()?.unwrap_or_default(),
        };
        self.bar.inc(steps_before);
        self.drive(job, &mut runner, &folder, &mut timing)?;
        let outcome = runner.outcome()?;
        let run = self.shared.describe(job, &frozen)?;
        folder.keep_confusion(&outcome.confusion)?;
        let record = RunRecord::new(run, provenance, outcome.history, Some(outcome.memory))?
            .with_settings(self.shared.record_settings(job)?);
        timing.images_per_second = (timing.train_seconds)
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| outcome.samples_fed as f64 / seconds);
        folder.finish(&record, &timing, &self.folder)?;
        self.say(
            job,
            &record,
            &format::seconds(timing.wall_seconds.unwrap_or_default()),
        );
        Ok(id)
    }

    /// Counts a run that was finished before.
    fn already(&self, job: &Job, record: &RunRecord) -> anyhow::Result<()> {
        self.bar.inc(self.shared.plan(job)?.steps() as u64);
        self.say(job, record, "already done");
        Ok(())
    }

    /// A new runner, or one that goes on from the folder's checkpoint.
    fn start(&self, job: &Job, frozen: &Frozen, folder: &RunFolder) -> anyhow::Result<Runner<'a>> {
        let (material, settings) = (self.shared.material(job)?, self.shared.settings(job)?);
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
            timing.device = Some(self.device.clone());
            timing.commit = commit().map(str::to_owned);
            timing.dirty = dirty();
            timing.command = Some(command(std::env::args().skip(1)));
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

/// The command without what changes no result.
fn command(arguments: impl Iterator<Item = String>) -> String {
    const LEFT_OUT: [&str; 6] = [
        "--partition",
        "--runs-dir",
        "--data-dir",
        "--memory-budget",
        "--spool-dir",
        "--checkpoint-secs",
    ];
    let mut words = vec!["cargo xtask".to_owned()];
    let mut value = false;
    for word in arguments {
        let name = word.split_once('=').map(|(name, _)| name);
        if value {
            value = false;
        } else if LEFT_OUT.contains(&word.as_str()) {
            value = true;
        } else if !name.is_some_and(|name| LEFT_OUT.contains(&name)) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:=/+@%".contains(c);
            words.push(match word.chars().all(plain) {
                true => word,
                false => format!("'{}'", word.replace('\'', "'\\''")),
            });
        }
    }
    words.join(" ")
}

/// Prints the tables of the runs with these ids, read back from the ledger, and writes them beside it.
fn report(folder: &Path, ids: &BTreeSet<String>) -> anyhow::Result<()> {
    let (ledger, timings) = read_checked(folder)?;
    let mut runs = Vec::new();
    for id in ids {
        let Some(record) = ledger.get(id)? else {
            let what = format!("{}: the ledger's run {id}", folder.display());
            bail!(Error::input(
                what,
                "nothing",
                "the record that was just appended"
            ));
        };
        runs.push((record.clone(), timings.get(id).cloned().unwrap_or_default()));
    }
    let report = Report::new(runs)?;
    for (name, text) in [
        ("table.md", report.markdown()),
        ("runs.csv", report.csv_runs()?),
        ("summary.csv", report.csv_summary()?),
        ("paired.csv", report.csv_paired()?),
        ("classes.csv", report.csv_classes()?),
        ("report.json", report.json()?),
    ] {
        write_atomically(&folder.join(name), text.as_bytes())?;
    }
    print(&report.terminal(terminal_width()))?;
    let shown = folder.display();
    print(&format!(
        "Written to {shown}/: table.md, report.json, CSV of runs, classes, means and paired differences, \
         ledger.jsonl, and a folder for each run.\n",
    ))?;
    match ledger.len() - ids.len() {
        0 => Ok(()),
        others => print(&format!(
            "Not shown: {others} other results in this ledger (other methods, streams, seeds, settings, data or \
             code); `cargo xtask ledger show {shown}` shows all.\n"
        )),
    }
}

/// Prints to standard output, and reports a closed pipe as an error instead of a panic.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The terminal's width, or 100 columns where there is none.
pub fn terminal_width() -> u16 {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    columns.unwrap_or(100).clamp(60, 250)
}

/// Prints what would be done.
fn dry_run(
    shared: &Shared,
    jobs: &[Job],
    folder: &Path,
    partition: Option<Partition>,
) -> anyhow::Result<()> {
    let dataset = &shared.dataset;
    let (ledger, _) = read_checked(folder)?;
    let part = partition.map_or_else(String::new, |part| format!(", partition {part}"));
    let mut text = format!(
        "suite {}{part}: {} runs, {} training and {} test images of {} classes, {}\n",
        shared.suite.name,
        jobs.len(),
        dataset.train.len(),
        dataset.test.len(),
        dataset.num_classes(),
        dataset.shape(),
    );
    text += &format!("data {}  code {}\n\n", &shared.dataset_hash[..16], *CODE);
    text += "run               manifest          method      stream        seed     steps   samples     time\n";
    let mut total = 0.0;
    let mut estimates = std::collections::BTreeMap::new();
    let mut warmed = false;
    for job in jobs {
        let frozen = shared.frozen(job)?;
        let provenance = shared.provenance(job, &frozen)?;
        let result = folder.join(&provenance.run_id).join("result.json");
        let done = ledger.get(&provenance.run_id)?.is_some() || result.exists();
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

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn the_command_is_kept_without_what_changes_no_result() {
        let words = "bench --partition 2/3 --seeds 0..3 --runs-dir=/tmp/x --set er.buffer=200 --data-dir d \
             --memory-budget 512";
        let kept = command(words.split(' ').map(str::to_owned));
        assert_eq!(kept, "cargo xtask bench --seeds 0..3 --set er.buffer=200");
        let quoted = command(["--set", "*.rule={a=\"b\"}"].map(str::to_owned).into_iter());
        assert_eq!(quoted, "cargo xtask --set '*.rule={a=\"b\"}'");
    }
}
