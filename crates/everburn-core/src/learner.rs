use serde::{Deserialize, Serialize};

use crate::{ClassId, Error, Footprint, Images, Key, Result, State, TaskId};

/// Something that learns from a stream.
///
/// A method says what it wants to see, as [`Stage`]s; whoever drives it (the runner, or somebody's
/// robot) draws the batches and hands them over one by one. Everything that learns happens in
/// [`observe`](Self::observe) and, in [`on`](Self::on), at the borders of stages; a prediction changes
/// nothing and depends on the image alone.
///
/// Class numbers are names. What is drawn or ordered by class goes by the order in which classes are
/// met ([`SeenClasses`](crate::SeenClasses)), so that the same images under other numbers give the same
/// result. `everburn-conformance` tests this and the other rules.
pub trait Learner {
    /// What the method is called and what it needs.
    fn spec(&self) -> Spec;

    /// What to feed for a task, in this order; `None` stands for a stream without task borders,
    /// which can give one pass of [`Source::Stream`] and nothing else.
    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage>;

    /// A border of a task or stage.
    ///
    /// # Errors
    /// If the event makes no sense now, or a computation fails.
    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()>;

    /// Learns from one batch. The only place that sees labels.
    ///
    /// # Errors
    /// If the batch does not fit the learner, or a computation fails; the learner is then in an
    /// unspecified but safe state, and should be restored.
    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog>;

    /// Scores for the classes seen so far. Knows neither task nor label, and changes nothing.
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    fn predict(&self, images: &Images) -> Result<Output>;

    /// Bytes held, by kind, and operations per prediction.
    fn footprint(&self) -> Footprint;

    /// The complete state: a learner built with the same settings that restores it goes on as if
    /// nothing had happened.
    ///
    /// # Errors
    /// If a value cannot be read back from the device.
    fn save(&self) -> Result<State>;

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// If the state does not fit; the learner is then unchanged or unusable, never half-restored
    /// in silence.
    fn restore(&mut self, state: &State) -> Result<()>;
}

/// What a learner is called and what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The method's name in tables.
    pub method: String,
    /// Whether it must be told where a task begins and ends.
    pub borders: Borders,
    /// The setting with which a learner that needs borders does without, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_borders: Option<String>,
    /// Whether it is a reference that learns only after the stream has ended, from all of it at
    /// once. Such a learner runs on any stream, and only its last accuracy means anything on a
    /// single-pass one.
    pub offline: bool,
    /// Whether it draws nothing at random: on the same stream every seed gives the same result, and
    /// what differs over seeds is the streams alone.
    pub deterministic: bool,
}

impl Spec {
    /// A learner that can do without task borders, learns while the stream goes on, and draws at
    /// random; change the fields where that is not so.
    ///
    /// ```
    /// use everburn_core::{Borders, Spec};
    /// let spec = Spec { borders: Borders::Needed, ..Spec::new("slca") };
    /// ```
    pub fn new(method: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            borders: Borders::NotNeeded,
            without_borders: None,
            offline: false,
            deterministic: false,
        }
    }
}

/// Whether a learner must be told where tasks begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Borders {
    /// It cannot work without.
    Needed,
    /// It uses them where there are any.
    NotNeeded,
}

/// Where the samples of a stage come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The samples of the stream in its own order, once. The only source of a single-pass stream.
    Stream,
    /// The samples of the current task.
    Task,
    /// All samples of this and earlier tasks: what only a reference such as joint training may use.
    AllSeen,
    /// No samples: the learner makes its own, for so many steps per epoch.
    Synthetic {
        /// Steps per epoch.
        steps: usize,
    },
}

/// How the learner is to look at the images of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// As they are: the method augments by itself, or keeps them.
    Raw,
    /// Augmented for training, drawn from the step's key.
    Train,
    /// As in prediction.
    Test,
}

/// The order of samples within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A new permutation for each epoch.
    Shuffled,
    /// As the stream has them.
    Stream,
    /// Class after class, in the order of first appearance; no batch holds two classes.
    ByClass,
}

/// One thing that a method wants to see for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What the method calls it.
    pub name: String,
    /// Where the samples come from.
    pub source: Source,
    /// How often they are seen.
    pub epochs: usize,
    /// How many at a time.
    pub batch: usize,
    /// How to look at them.
    pub view: View,
    /// In which order.
    pub order: Order,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
}

/// A task that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Its number.
    pub task: TaskId,
    /// The classes of which it has samples, in the order of the stream's class order.
    pub classes: Vec<ClassId>,
    /// How many classes have had samples by its end, in it or in an earlier task. Whoever teaches a task without
    /// knowing the earlier ones counts its own classes, so a learner that has seen more goes by what it has seen.
    pub seen: usize,
    /// How many samples it has.
    pub samples: usize,
    /// Whether each sample can be seen only once: then [`Source::Stream`] is the only source.
    pub single_pass: bool,
}

/// A border.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A task begins. Not sent on a stream without borders.
    TaskBegin(TaskInfo),
    /// A stage begins.
    StageBegin(Stage),
    /// A stage has ended.
    StageEnd(Stage),
    /// A task has ended. Not sent on a stream without borders.
    TaskEnd(TaskInfo),
}

/// What a learner may use at an event or a step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ctx {
    /// The place of this event or step in the tree of randomness.
    pub key: Key,
}

impl Ctx {
    /// A context at a place in the tree of randomness.
    pub fn new(key: Key) -> Self {
        Self { key }
    }
}

/// Labelled images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The images.
    pub images: Images,
    /// The class of each.
    pub labels: Vec<ClassId>,
    /// How to look at the images.
    pub view: View,
}

impl Batch {
    /// Labelled images.
    ///
    /// # Errors
    /// If there are not as many labels as images.
    pub fn new(images: Images, labels: Vec<ClassId>, view: View) -> Result<Self> {
        if images.len() != labels.len() {
            return Err(Error::input(
                "labels of a batch",
                labels.len(),
                format!("{}, one for each image", images.len()),
            ));
        }
        Ok(Self {
            images,
            labels,
            view,
        })
    }
}

/// Where in a stage a step stands. All counts begin at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The task, unless the stream has no borders.
    pub task: Option<TaskId>,
    /// The stage within the task.
    pub stage: usize,
    /// The epoch within the stage.
    pub epoch: usize,
    /// How many epochs the stage has.
    pub epochs: usize,
    /// The step within the stage, counted over all its epochs.
    pub index: usize,
    /// How many steps the stage has over all epochs.
    pub steps: usize,
}

/// What a step tells about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLog {
    /// The loss, where there is one.
    pub loss: Option<f32>,
}

/// Scores for a number of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    classes: Vec<ClassId>,
    scores: Vec<f32>,
}

impl Output {
    /// Scores `[images, classes]`, row-major, for the classes in the given order.
    ///
    /// # Errors
    /// If there is no class, or the scores are not a whole number of rows.
    pub fn new(classes: Vec<ClassId>, scores: Vec<f32>) -> Result<Self> {
        if classes.is_empty() {
            return Err(Error::unsupported(
                "prediction",
                "no class has been seen yet: observe some samples first",
            ));
        }
        if !scores.len().is_multiple_of(classes.len()) {
            return Err(Error::input(
                "scores",
                scores.len(),
                format!("a multiple of the {} classes", classes.len()),
            ));
        }
        Ok(Self { classes, scores })
    }

    /// The class of each column.
    pub fn classes(&self) -> &[ClassId] {
        &self.classes
    }

    /// All scores, `[images, classes]`.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// The scores of each image.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.scores.chunks_exact(self.classes.len())
    }

    /// The class with the highest score for each image; the first column of several equal ones.
    pub fn predicted(&self) -> Vec<ClassId> {
        let best = |row: &[f32]| {
            let mut best = 0;
            for (column, score) in row.iter().enumerate() {
                if *score > row[best] {
                    best = column;
                }
            }
            self.classes[best]
        };
        self.rows().map(best).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_wins() {
        let classes = vec![ClassId(5), ClassId(3), ClassId(8)];
        let output = Output::new(classes, vec![0.0, 1.0, 1.0, -3.0, -4.0, -3.0]).unwrap();
        assert_eq!(output.predicted(), [ClassId(3), ClassId(5)]);
    }

    #[test]
    fn no_class_is_an_error_and_not_a_panic() {
        assert!(Output::new(vec![], vec![]).is_err());
        assert!(Output::new(vec![ClassId(0), ClassId(1)], vec![1.0]).is_err());
    }
}
