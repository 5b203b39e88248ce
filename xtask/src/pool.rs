//! Runs beside each other, each in a process of its own: threads of one process would share burn's and
//! the allocator's state, and one run that needs too much memory would end all.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;

use crate::drive::{Interrupted, Watch};
use crate::job::Job;
use crate::worker::{Answer, Order, Task};

/// How often is asked whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Todo {
    pub job: Job,
    pub id: String,
    /// Steps of the whole run.
    pub steps: u64,
}

/// What a process answered: an error that ends the suite, with the exit code that it would have had
/// here.
#[derive(Debug)]
pub struct Failed {
    error: String,
    pub code: i32,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Failed {}

/// Makes runs, as many beside each other as `order` says, each on `threads` threads. `done` is told
/// the number of each that has ended, in the order in which they end.
pub fn run(
    order: &Order,
    todo: &[Todo],
    threads: usize,
    watch: &dyn Watch,
    mut done: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pool = Pool::new(todo, watch);
    for _ in 0..order.terms.jobs.min(todo.len()) {
        pool.start(order, threads)?;
        let last = pool.workers.len() - 1;
        pool.next(last);
    }
    while let Some((number, said)) = pool.listen() {
        match said {
            Said::Answer(answer) => {
                if let Some(run) = pool.take(number, answer) {
                    done(run)?;
                    pool.next(number);
                }
            }
            Said::Nonsense(error) => pool.fail(number, format!("its process said {error}"), 1),
            Said::End => pool.end(number)?,
        }
    }
    match pool.failure.take() {
        Some(failure) => Err(failure),
        None if pool.finished < todo.len() => Err(Interrupted.into()),
        None => Ok(()),
    }
}

/// What one process on `threads` threads answers to tasks other than runs, each after the other.
pub fn ask(
    order: &Order,
    tasks: Vec<Task>,
    threads: usize,
    watch: &dyn Watch,
) -> anyhow::Result<Vec<Answer>> {
    let mut pool = Pool::new(&[], watch);
    let (mut answers, count) = (Vec::new(), tasks.len());
    let mut tasks = tasks.into_iter();
    pool.start(order, threads)?;
    pool.give(0, tasks.next());
    while let Some((number, said)) = pool.listen() {
        match said {
            Said::Answer(answer @ Answer::Tried(_)) => {
                answers.push(answer);
                pool.give(0, tasks.next());
            }
            Said::Answer(answer) => drop(pool.take(number, answer)),
            Said::Nonsense(error) => {
                pool.fail(number, format!("a trial's process said {error}"), 1);
            }
            Said::End => pool.end(number)?,
        }
    }
    match pool.failure.take() {
        Some(failure) => Err(failure),
        None if watch.stop() => Err(Interrupted.into()),
        None if answers.len() < count => Err(Failed::error(
            "the process of a trial ended before it was asked to".to_owned(),
            1,
        )),
        None => Ok(answers),
    }
}

impl Failed {
    fn error(error: String, code: i32) -> anyhow::Error {
        Self { error, code }.into()
    }
}

struct Pool<'a> {
    workers: Vec<Worker>,
    send: Sender<(usize, Said)>,
    receive: Receiver<(usize, Said)>,
    todo: &'a [Todo],
    queue: VecDeque<usize>,
    watch: &'a dyn Watch,
    finished: usize,
    /// The first thing that went wrong.
    failure: Option<anyhow::Error>,
}

struct Worker {
    child: Child,
    /// Absent once it has been told to end.
    tasks: Option<ChildStdin>,
    /// The number of its run, and how many of its steps are done.
    run: Option<(usize, u64)>,
    status: Option<ExitStatus>,
}

/// What comes from a process.
enum Said {
    Answer(Answer),
    Nonsense(String),
    End,
}

impl<'a> Pool<'a> {
    fn new(todo: &'a [Todo], watch: &'a dyn Watch) -> Self {
        let (send, receive) = channel();
        Self {
            workers: Vec::new(),
            send,
            receive,
            todo,
            queue: (0..todo.len()).collect(),
            watch,
            finished: 0,
            failure: None,
        }
    }

    fn start(&mut self, order: &Order, threads: usize) -> anyhow::Result<()> {
        let order = serde_json::to_string(order).context("what the processes are to do")?;
        let mut child = Command::new(program()?)
            .arg("worker")
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a process for runs")?;
        let (mut tasks, answers) = (child.stdin.take(), child.stdout.take());
        if let Some(tasks) = &mut tasks {
            // If it has ended already that is heard in a moment.
            writeln!(tasks, "{order}").unwrap_or_default();
        }
        let (number, send) = (self.workers.len(), self.send.clone());
        std::thread::spawn(move || {
            for line in answers
                .map(BufReader::new)
                .into_iter()
                .flat_map(BufRead::lines)
            {
                let Ok(line) = line else { break };
                let said = match serde_json::from_str(&line) {
                    Ok(answer) => Said::Answer(answer),
                    Err(error) => Said::Nonsense(format!("`{line}`: {error}")),
                };
                if send.send((number, said)).is_err() {
                    return;
                }
            }
            send.send((number, Said::End)).unwrap_or_default();
        });
        self.workers.push(Worker {
            child,
            tasks,
            run: None,
            status: None,
        });
        Ok(())
    }

    /// What a process says next; `None` when all have ended.
    fn listen(&mut self) -> Option<(usize, Said)> {
        loop {
            if self.workers.iter().all(|worker| worker.status.is_some()) {
                return None;
            }
            if self.failure.is_some() || self.watch.stop() {
                self.hang_up();
            }
            match self.receive.recv_timeout(POLL) {
                Ok(said) => return Some(said),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Tells all to save what is under way and to end.
    fn hang_up(&mut self) {
        for worker in &mut self.workers {
            worker.tasks = None;
        }
    }

    /// Gives a process its next run, or lets it end.
    fn next(&mut self, number: usize) {
        let run = match self.failure.is_some() || self.watch.stop() {
            true => None,
            false => self.queue.pop_front(),
        };
        self.workers[number].run = run.map(|run| (run, 0));
        let task = run.map(|run| Task::Run {
            job: self.todo[run].job.clone(),
            id: self.todo[run].id.clone(),
        });
        self.give(number, task);
    }

    fn give(&mut self, number: usize, task: Option<Task>) {
        let worker = &mut self.workers[number];
        let line = task.and_then(|task| serde_json::to_string(&task).ok());
        match (&mut worker.tasks, line) {
            // If it has ended already that is heard in a moment.
            (Some(tasks), Some(line)) => writeln!(tasks, "{line}").unwrap_or_default(),
            _ => worker.tasks = None,
        }
    }

    /// Takes in an answer. Returns the number of a run that has ended.
    fn take(&mut self, number: usize, answer: Answer) -> Option<usize> {
        let run = self.workers[number].run;
        match (answer, run) {
            (Answer::Steps(more), Some((run, steps))) => {
                self.workers[number].run = Some((run, steps + more));
                self.watch.steps(&self.todo[run].job, more);
            }
            (Answer::Note(text), _) => self.watch.note(&text),
            (Answer::Done, Some((run, steps))) => {
                self.workers[number].run = None;
                self.finished += 1;
                let Todo { job, steps: of, .. } = &self.todo[run];
                self.watch.steps(job, of.saturating_sub(steps));
                return Some(run);
            }
            (Answer::Interrupted, _) => {
                self.workers[number].run = None;
                // Somebody stopped that process alone.
                self.failure.get_or_insert_with(|| Interrupted.into());
            }
            (Answer::Failed { error, code }, _) => self.fail(number, error, code),
            (Answer::Steps(_) | Answer::Done | Answer::Warming(..) | Answer::Tried(_), _) => {}
        }
        None
    }

    /// Notes what ends the suite; names the run.
    fn fail(&mut self, number: usize, error: String, code: i32) {
        let run = self.workers[number].run.take();
        let error = match run {
            Some((run, _)) => {
                let Todo { job, id, .. } = &self.todo[run];
                format!("{job} ({id}): {error}")
            }
            None => error,
        };
        self.failure
            .get_or_insert_with(|| Failed::error(error, code));
    }

    /// A process has ended; with a run under way that is an error.
    fn end(&mut self, number: usize) -> anyhow::Result<()> {
        let worker = &mut self.workers[number];
        let status = worker.child.wait().context("waiting for a process")?;
        worker.status = Some(status);
        worker.tasks = None;
        if worker.run.is_some() || !status.success() {
            let error = format!(
                "its process ended before it ({status}); what was done is safe, and the same command \
                 goes on from here. If it was for want of memory, ask for fewer --jobs"
            );
            self.fail(number, error, 1);
        }
        Ok(())
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        self.hang_up();
        for worker in &mut self.workers {
            worker.child.wait().map(drop).unwrap_or_default();
        }
    }
}

/// This very program: on Linux also after it has been compiled anew in the meantime.
fn program() -> anyhow::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match cfg!(target_os = "linux") && running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe().context("this program's own path"),
    }
}
