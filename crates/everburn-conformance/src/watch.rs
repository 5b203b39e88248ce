use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use everburn_core::{
    Batch, ClassId, Ctx, Event, Footprint, Images, Learner, Output, Result, Spec, Stage, State,
    Step, StepLog, TaskInfo,
};

/// What was shown to a watched learner.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Classes that the borders of tasks have named.
    pub(crate) announced: BTreeSet<ClassId>,
    /// Classes of which a sample was shown.
    pub(crate) observed: BTreeSet<ClassId>,
    /// Classes of which a sample had been shown when a task last ended.
    pub(crate) settled: BTreeSet<ClassId>,
    /// Batches shown.
    pub(crate) batches: usize,
    /// The first border of a task that changed a score.
    pub(crate) moved: Option<String>,
}

/// A learner that notes what it is shown, and whether borders of tasks move its scores.
pub(crate) struct Watched {
    inner: Box<dyn Learner>,
    log: Rc<RefCell<Log>>,
    probe: Option<Images>,
}

impl Watched {
    /// Watches a learner.
    pub(crate) fn new(inner: Box<dyn Learner>) -> (Self, Rc<RefCell<Log>>) {
        let log = Rc::new(RefCell::new(Log::default()));
        let watched = Self {
            inner,
            log: Rc::clone(&log),
            probe: None,
        };
        (watched, log)
    }

    /// With images on which the borders of tasks must not change a score.
    pub(crate) fn with_probe(mut self, probe: &Images) -> Self {
        self.probe = Some(probe.clone());
        self
    }

    fn scores(&self) -> Option<Output> {
        self.inner.predict(self.probe.as_ref()?).ok()
    }

    fn at_border(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        let before = self.scores();
        self.inner.on(event, cx)?;
        let (Some(before), Some(after)) = (before, self.scores()) else {
            return Ok(());
        };
        let border = if matches!(event, Event::TaskBegin(_)) {
            "beginning"
        } else {
            "end"
        };
        let mut log = self.log.borrow_mut();
        if log.moved.is_none() && !keeps(&before, &after) {
            log.moved = Some(format!(
                "the {border} of a task changes the scores of classes that it knew"
            ));
        }
        Ok(())
    }
}

/// Whether the border left the scores alone. Where it brought columns, probabilities change by them: then
/// the best of the old classes is the same.
fn keeps(before: &Output, after: &Output) -> bool {
    let places: Option<Vec<usize>> = (before.classes().iter())
        .map(|class| after.classes().iter().position(|other| other == class))
        .collect();
    let Some(places) = places else { return false };
    let grown = after.classes().len() > before.classes().len();
    before.rows().zip(after.rows()).all(|(old, new)| {
        let new: Vec<f32> = places.iter().map(|place| new[*place]).collect();
        let largest = old.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let near = |(old, new): (&f32, &f32)| (old - new).abs() <= 1e-5 * largest;
        old.iter().zip(&new).all(near) || (grown && best(old) == best(&new))
    })
}

/// The place of the first of the highest scores.
fn best(scores: &[f32]) -> usize {
    let higher = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (0..scores.len()).fold(0, higher)
}

impl Learner for Watched {
    fn spec(&self) -> Spec {
        self.inner.spec()
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.inner.stages(task)
    }

    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        match event {
            Event::TaskBegin(task) => {
                self.log.borrow_mut().announced.extend(&task.classes);
                self.at_border(event, cx)
            }
            Event::TaskEnd(_) => {
                let mut log = self.log.borrow_mut();
                log.settled = log.observed.clone();
                drop(log);
                self.at_border(event, cx)
            }
            Event::StageBegin(_) | Event::StageEnd(_) => self.inner.on(event, cx),
        }
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let mut log = self.log.borrow_mut();
        log.observed.extend(&batch.labels);
        log.batches += 1;
        drop(log);
        self.inner.observe(batch, step, cx)
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.inner.predict(images)
    }

    fn footprint(&self) -> Footprint {
        self.inner.footprint()
    }

    fn save(&self) -> Result<State> {
        self.inner.save()
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.inner.restore(state)
    }
}
