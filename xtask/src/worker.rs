//! `worker`: the process that `bench --jobs` starts for runs beside each other, and what the two say.
//!
//! All of it is lines of JSON. On standard input come an [`Order`] and then one [`Task`] at a time; on
//! standard output go [`Answer`]s. When standard input ends, because there is nothing left to do or the
//! process that asked has died, the run that is under way is saved and the process ends.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use everburn::core::Error;
use everburn::run::RunFolder;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Filled, too_many_tokens};
use crate::drive::{Driver, Interrupted, Terms, Watch, stop_on_ctrl_c};
use crate::estimate::{self, Trial};
use crate::job::{Job, Shared};
use crate::suite::Suite;

/// How often progress is told.
const OFTEN: Duration = Duration::from_millis(200);

/// What all tasks have in common.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    /// As the asking process understood it.
    pub suite: Suite,
    /// The suite's folder, which the asking process has locked.
    pub folder: PathBuf,
    pub cache: Cache,
    pub terms: Terms,
}

/// What to do next.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Make this run; the id is the one that it must have.
    Run { job: Job, id: String },
    /// Compute a few features of the backbone that this run begins with, and say what all will cost.
    Features { job: Job },
    /// Try out what this run will cost.
    Trial { job: Job },
}

/// What has become of it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// So many steps more of the run.
    Steps(u64),
    /// So many of so many images have features.
    Warming(usize, usize),
    /// Something to read.
    Note(String),
    /// The result is in the run's folder.
    Done,
    /// The end of a trial.
    Tried(Trial),
    /// The run is saved and has not ended.
    Interrupted,
    /// Nothing more comes: the error and the exit code that belongs to it.
    Failed { error: String, code: i32 },
}

/// Does what standard input asks for.
pub fn worker() -> anyhow::Result<()> {
    let stop = stop_on_ctrl_c()?;
    let lines = listen(Arc::clone(&stop));
    let asker = Asker {
        stop,
        steps: Cell::new(0),
        told: Cell::new(Instant::now()),
        out: RefCell::new(std::io::stdout()),
    };
    match work(&lines, &asker) {
        Ok(()) => {}
        Err(error) if error.is::<Interrupted>() => asker.say(&Answer::Interrupted),
        Err(error) => asker.say(&Answer::Failed {
            error: format!("{error:#}"),
            code: crate::exit_code(&error),
        }),
    }
    Ok(())
}

/// The lines of standard input; `stop` becomes true at its end.
fn listen(stop: Arc<AtomicBool>) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    receive
}

fn work(lines: &Receiver<String>, asker: &Asker) -> anyhow::Result<()> {
    let Ok(order) = lines.recv() else {
        return Ok(());
    };
    let order: Order = serde_json::from_str(&order).context("the order of the asking process")?;
    let shared = Shared::load(order.suite, order.cache)?;
    let interval = order.terms.interval()?;
    let mut driver = Driver::new(&shared, order.terms, asker)?;
    let mut made_up = None;
    while let Ok(task) = lines.recv() {
        match serde_json::from_str(&task).context("a task of the asking process")? {
            Task::Run { job, id } => {
                let frozen = shared.frozen(&job)?;
                let provenance = shared.provenance(&job, &frozen)?;
                if provenance.run_id != id {
                    let expected = format!("{id}: data or weights have changed since the start");
                    bail!(Error::input("the run's id", &provenance.run_id, expected));
                }
                let folder = RunFolder::open(order.folder.join(&id))?;
                driver.run(&job, &frozen, &provenance, &folder)?;
                asker.tell_steps();
                asker.say(&Answer::Done);
            }
            Task::Trial { job } => {
                let mut frozen = shared.frozen(&job)?;
                if shared.is_frozen(&job)? {
                    // All runs of a suite share one store.
                    frozen = match made_up.take() {
                        Some(made_up) => made_up,
                        None => estimate::with_made_up(&shared, &frozen)?,
                    };
                    made_up = shared.pretrained.as_ref().map(|_| frozen.clone());
                } else if let Some(block) = shared.cut(&job) {
                    frozen = frozen.cut(block)?;
                    if too_many_tokens(&shared, &frozen).is_none() {
                        frozen = estimate::with_made_up(&shared, &frozen)?;
                    }
                }
                let trial = estimate::trial(&shared, &job, &frozen, interval)?;
                asker.say(&Answer::Tried(trial));
            }
            Task::Features { job } => {
                let trial = estimate::features(&shared, &shared.frozen(&job)?)?;
                asker.say(&Answer::Tried(trial));
            }
        }
    }
    Ok(())
}

/// The process that asked.
struct Asker {
    stop: Arc<AtomicBool>,
    /// Steps not yet told.
    steps: Cell<u64>,
    told: Cell<Instant>,
    out: RefCell<std::io::Stdout>,
}

impl Asker {
    /// If nobody listens any more the run is saved.
    fn say(&self, answer: &Answer) {
        let mut out = self.out.borrow_mut();
        let line = serde_json::to_string(answer).map_err(std::io::Error::other);
        let said = line.and_then(|line| writeln!(out, "{line}").and_then(|()| out.flush()));
        if said.is_err() {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn tell_steps(&self) {
        match self.steps.take() {
            0 => {}
            steps => self.say(&Answer::Steps(steps)),
        }
        self.told.set(Instant::now());
    }
}

impl Watch for Asker {
    fn steps(&self, _: &Job, more: u64) {
        self.steps.set(self.steps.get() + more);
        if self.told.get().elapsed() >= OFTEN {
            self.tell_steps();
        }
    }

    fn warming(&self, done: usize, of: usize) {
        if self.told.get().elapsed() >= OFTEN {
            self.told.set(Instant::now());
            self.say(&Answer::Warming(done, of));
        }
    }

    fn filled(&self, _: Filled) {}

    fn note(&self, text: &str) {
        self.say(&Answer::Note(text.to_owned()));
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
