//! What somebody at a terminal sees of a bench.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everburn::eval::RunRecord;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cache::Filled;
use crate::drive::Watch;
use crate::job::Job;

/// A bar over the steps of all runs; without a terminal, a line for each run.
pub struct Screen {
    bar: ProgressBar,
    /// Over the images that get features: one costs far more than a step on its feature.
    warming: RefCell<Option<ProgressBar>>,
    quiet: bool,
    stop: Arc<AtomicBool>,
    done: Cell<usize>,
    total: usize,
}

impl Screen {
    pub fn new(runs: usize, steps: u64, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let quiet = !std::io::stderr().is_terminal();
        Ok(Self {
            bar: new_bar(quiet, steps)?,
            warming: RefCell::default(),
            quiet,
            stop,
            done: Cell::new(0),
            total: runs,
        })
    }

    /// A run has ended.
    pub fn ended(&self, job: &Job, record: &RunRecord, took: &str) {
        self.done.set(self.done.get() + 1);
        if self.quiet {
            let last = record.metrics.get("accuracy/last/sample-weighted");
            let last = last.map_or_else(String::new, |a| format!("  A_last {:.2} %", 100.0 * a));
            eprintln!("{}/{}  {job}{last}  ({took})", self.done.get(), self.total);
        }
    }

    /// Nothing more comes.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Screen {
    fn steps(&self, job: &Job, more: u64) {
        self.bar.inc(more);
        let number = (self.done.get() + 1).min(self.total);
        self.bar
            .set_message(format!("{number}/{}  {job}", self.total));
    }

    fn warming(&self, done: usize, of: usize) {
        let mut warming = self.warming.borrow_mut();
        if let Some(bar) = &*warming {
            bar.set_position(done as u64);
        } else if let Ok(bar) = new_bar(self.quiet, of as u64) {
            bar.set_message("features of all images, once");
            bar.set_position(done as u64);
            *warming = Some(bar);
        }
        if done >= of {
            if let Some(bar) = warming.take() {
                bar.finish_and_clear();
            }
            self.bar.reset_eta();
        }
    }

    fn filled(&self, filled: Filled) {
        if self.quiet {
            let Filled { computed, cached } = filled;
            eprintln!("features of all images: {computed} computed, {cached} from the cache");
        }
    }

    fn note(&self, text: &str) {
        if self.quiet {
            eprintln!("note: {text}");
        } else {
            self.bar.println(format!("note: {text}"));
        }
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
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
