//! `cargo xtask bench`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use everburn::core::Error;
use everburn::eval::{Ledger, Report, Timings, format};
use everburn::run::{Partition, SuiteFolder, peak_memory, read_ledger, write_atomically};
use indicatif::HumanDuration;

use crate::beside::{Jobs, threads};
use crate::cache::{Cache, Common};
use crate::cli::BenchOptions;
use crate::code::CODE;
use crate::drive::{Driver, Finished, Interrupted, Terms, Watch, stop_on_ctrl_c};
use crate::estimate::Costs;
use crate::job::{Job, Shared};
use crate::pool::{self, Todo};
use crate::profile;
use crate::screen::Screen;
use crate::suite::Suite;
use crate::worker::Order;

/// Runs a suite, or a partition of it, and prints its tables.
pub fn bench(options: BenchOptions) -> anyhow::Result<()> {
    let suite = Suite::new(&options)?;
    let name = suite.name.clone();
    let partition = options.partition.as_deref().map(str::parse).transpose()?;
    let beside = options.jobs.as_deref().unwrap_or("auto").parse()?;
    let terms = Terms {
        checkpoint_secs: options.checkpoint_secs,
        jobs: 1,
        profile: options.profile,
        command: command(std::env::args().skip(1)),
    };
    terms.interval()?;
    let shared = Shared::load(suite, Cache::new(&options.cache)?)?;
    let jobs = shared.jobs(partition);
    for job in &jobs {
        shared.plan(job)?;
    }
    let folder = options.runs_dir.join(&name);
    if options.dry_run {
        return dry_run(&shared, &jobs, &folder, partition, terms, beside);
    }
    let folder = SuiteFolder::lock(folder, partition)?;
    let bench = Bench::new(&shared, &jobs, folder, terms, stop_on_ctrl_c()?)?;
    let ids = bench.run_all(&jobs, beside)?;
    bench.screen.clear();
    if options.profile {
        print(&profile::table(bench.folder.path(), &ids)?)?;
    }
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

/// A suite under way.
struct Bench<'a> {
    shared: &'a Shared,
    folder: SuiteFolder,
    /// What was finished before.
    ledger: Ledger,
    terms: Terms,
    screen: Screen,
}

impl<'a> Bench<'a> {
    fn new(
        shared: &'a Shared,
        jobs: &[Job],
        folder: SuiteFolder,
        terms: Terms,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let (ledger, _) = read_checked(folder.path())?;
        let mut steps = 0;
        for job in jobs {
            steps += shared.plan(job)?.steps() as u64;
        }
        let bench = Self {
            shared,
            folder,
            ledger,
            terms,
            screen: Screen::new(jobs.len(), steps, stop)?,
        };
        for text in bench.ledger.notes() {
            bench.screen.note(text);
        }
        Ok(bench)
    }

    /// Sees to it that the ledger has all runs, and returns their ids.
    fn run_all(&self, jobs: &[Job], beside: Jobs) -> anyhow::Result<BTreeSet<String>> {
        let (mut ids, mut todo) = (BTreeSet::new(), Vec::new());
        for job in jobs {
            let frozen = self.shared.frozen(job)?;
            let id = self.shared.provenance(job, &frozen)?.run_id;
            ids.insert(id.clone());
            let steps = self.shared.plan(job)?.steps() as u64;
            match self.ledger.get(&id)? {
                None => todo.push(Todo {
                    job: job.clone(),
                    id,
                    steps,
                }),
                Some(record) => {
                    if self.folder.path().join(&id).exists() {
                        // The last session may have ended between the ledger's line and this.
                        self.folder.run(&id)?.discard_checkpoint()?;
                    }
                    self.screen.steps(job, steps);
                    self.screen.ended(job, record, "already done");
                }
            }
        }
        let left: Vec<Job> = (todo.iter())
            .filter(|todo| {
                !self
                    .folder
                    .path()
                    .join(&todo.id)
                    .join("result.json")
                    .exists()
            })
            .map(|todo| todo.job.clone())
            .collect();
        let mut order = Order {
            suite: self.shared.suite.clone(),
            folder: self.folder.path().to_owned(),
            cache: self.shared.cache.clone(),
            terms: self.terms.clone(),
        };
        order.terms.jobs = beside.number(self.shared, &left, &order, &self.screen)?;
        match order.terms.jobs {
            1 => self.one_by_one(&todo, order.terms)?,
            _ => self.beside(&todo, &left, order)?,
        }
        Ok(ids)
    }

    /// Makes the runs in this process.
    fn one_by_one(&self, todo: &[Todo], terms: Terms) -> anyhow::Result<()> {
        let mut driver = Driver::new(self.shared, terms, &self.screen)?;
        for Todo { job, id, steps } in todo {
            let frozen = self.shared.frozen(job)?;
            let provenance = self.shared.provenance(job, &frozen)?;
            let folder = self.folder.run(id)?;
            let finished = match driver.run(job, &frozen, &provenance, &folder) {
                Err(error) if error.is::<Interrupted>() => {
                    self.screen.clear();
                    return Err(error);
                }
                other => other?,
            };
            if finished.before {
                self.screen.steps(job, *steps);
            }
            self.append(&finished)?;
            self.screen.ended(job, &finished.record, &took(&finished));
        }
        Ok(())
    }

    /// Makes the runs in processes of their own. Lines are appended in the order of the suite, however
    /// the runs end, so that the ledger is the same to the byte.
    fn beside(&self, todo: &[Todo], left: &[Job], mut order: Order) -> anyhow::Result<()> {
        let beside = order.terms.jobs;
        // Until the processes have ended.
        let _common = self.features(left)?.inspect(|common| {
            order.cache = common.cache.clone();
        });
        order.cache = order.cache.divided(beside);
        // What may stay in memory may stay there once.
        let share = |bytes: u64| bytes / beside as u64;
        order.suite.memory_budget = order.suite.memory_budget.map(share);
        let mut finished: Vec<Option<Finished>> = todo.iter().map(|_| None).collect();
        let mut appended = 0;
        let done = |number: usize| {
            let Todo { job, id, .. } = &todo[number];
            let run = self.read_finished(id)?;
            self.screen.ended(job, &run.record, &took(&run));
            finished[number] = Some(run);
            while let Some(next) = finished.get_mut(appended).and_then(Option::take) {
                self.append(&next)?;
                appended += 1;
            }
            Ok(())
        };
        let all = pool::run(&order, todo, threads(beside), &self.screen, done);
        all.inspect_err(|_| self.screen.clear())
    }

    /// Features of all images for the processes that make these runs, if they begin with one backbone.
    fn features(&self, left: &[Job]) -> anyhow::Result<Option<Common>> {
        let Some(frozen) = &self.shared.pretrained else {
            return Ok(None);
        };
        for job in left {
            if self.shared.is_frozen(job)? {
                let mut driver = Driver::new(self.shared, self.terms.clone(), &self.screen)?;
                let warmed = driver.warm(frozen)?;
                let (cache, suite) = (&self.shared.cache, self.folder.path());
                return Ok(Some(Common::new(cache, self.shared, &warmed, suite)?));
            }
        }
        Ok(None)
    }

    /// What another process has left in a run's folder.
    fn read_finished(&self, id: &str) -> anyhow::Result<Finished> {
        let folder = self.folder.run(id)?;
        let Some(record) = folder.result()? else {
            let what = format!("{}/result.json", folder.path().display());
            bail!(Error::input(what, "nothing", "the result of the run"));
        };
        Ok(Finished {
            record,
            timing: folder.timing()?.unwrap_or_default(),
            before: false,
        })
    }

    /// Writes a run into the ledger; then its checkpoint is not needed any more.
    fn append(&self, run: &Finished) -> anyhow::Result<()> {
        self.folder.append(&run.record, &run.timing)?;
        let folder = self.folder.run(&run.record.provenance.run_id)?;
        Ok(folder.discard_checkpoint()?)
    }
}

/// How long a run took, in words.
fn took(run: &Finished) -> String {
    match run.before {
        true => "already done".to_owned(),
        false => format::seconds(run.timing.wall_seconds.unwrap_or_default()),
    }
}

/// The command without what changes no result.
fn command(arguments: impl Iterator<Item = String>) -> String {
    const LEFT_OUT: [&str; 10] = [
        "--cache-dir",
        "--cache-limit",
        "--cache-memory",
        "--checkpoint-secs",
        "--data-dir",
        "--jobs",
        "--memory-budget",
        "--partition",
        "--runs-dir",
        "--spool-dir",
    ];
    let mut words = vec!["cargo xtask".to_owned()];
    let mut value = false;
    for word in arguments {
        let name = word.split_once('=').map(|(name, _)| name);
        if value {
            value = false;
        } else if LEFT_OUT.contains(&word.as_str()) {
            value = true;
        } else if !["--no-cache", "--profile"].contains(&word.as_str())
            && !name.is_some_and(|name| LEFT_OUT.contains(&name))
        {
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
    terms: Terms,
    beside: Jobs,
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
    let (mut rows, mut left) = (Vec::new(), Vec::new());
    for job in jobs {
        let provenance = shared.provenance(job, &shared.frozen(job)?)?;
        let result = folder.join(&provenance.run_id).join("result.json");
        let done = ledger.get(&provenance.run_id)?.is_some() || result.exists();
        if !done {
            left.push(job.clone());
        }
        rows.push((job, provenance, done));
    }
    let screen = Screen::new(left.len(), 0, stop_on_ctrl_c()?)?;
    let mut order = Order {
        suite: shared.suite.clone(),
        folder: folder.to_owned(),
        cache: shared.cache.clone(),
        terms,
    };
    order.terms.jobs = beside.number(shared, &left, &order, &screen)?;
    let beside = order.terms.jobs;
    let costs = match left.is_empty() {
        true => Costs::default(),
        false => Costs::of(shared, &left, &order, &screen)?,
    };
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |b| format::bytes(b as f64))
    };
    let mut total = 0.0;
    if let Some(features) = costs.features.filter(|features| features.seconds > 0.0) {
        let seconds = format::seconds(features.seconds);
        text += &format!("features of all images, once: about {seconds}\n");
        total += features.seconds * beside as f64;
    }
    let names = shared.suite.methods.iter().map(|row| row.chars().count());
    let width = names.max().unwrap_or(0).max(10);
    text += &format!(
        "run               manifest          {:<width$}  stream        seed     steps   samples     time      memory\n",
        "method"
    );
    for (job, provenance, done) in rows {
        let plan = shared.plan(job)?;
        let cost = costs.kinds.get(&(job.method.clone(), job.stream.clone()));
        let (time, memory) = match cost.filter(|_| !done) {
            None => ("done".to_owned(), String::new()),
            Some(cost) => {
                total += cost.seconds;
                (format::seconds(cost.seconds), bytes(cost.peak_bytes))
            }
        };
        let row = format!(
            "{}  {}  {:<width$}  {:<12}  {:>4}  {:>8}  {:>8}  {time:>7}  {memory:>10}",
            provenance.run_id,
            &provenance.manifest_hash[..16],
            job.method,
            job.stream,
            job.seed,
            plan.steps(),
            plan.samples(),
        );
        text += &format!("{}\n", row.trim_end());
    }
    let seconds = Duration::from_secs_f64((total / beside as f64).clamp(0.0, 1e9));
    let peak = bytes(costs.peak_bytes(beside, peak_memory()));
    let processes = match beside {
        1 => "one run at a time".to_owned(),
        beside => format!("{beside} runs beside each other and the process that asks for them"),
    };
    text += &format!(
        "\nabout {} in all, from a short trial of each method on each stream; peak memory about {peak}, {processes}\n",
        HumanDuration(seconds)
    );
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn the_command_is_kept_without_what_changes_no_result() {
        let words = "bench --partition 2/3 --jobs 4 --no-cache --profile --cache-dir=x --seeds 0..3 --runs-dir=/tmp/x --set er.buffer=200 --data-dir d \
             --memory-budget 512";
        let kept = command(words.split(' ').map(str::to_owned));
        assert_eq!(kept, "cargo xtask bench --seeds 0..3 --set er.buffer=200");
        let quoted = command(["--set", "*.rule={a=\"b\"}"].map(str::to_owned).into_iter());
        assert_eq!(quoted, "cargo xtask --set '*.rule={a=\"b\"}'");
    }
}
