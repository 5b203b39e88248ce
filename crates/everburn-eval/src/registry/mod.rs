use everburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::metrics::MemoryPoint;
use crate::{AccuracyMatrix, History};

mod examples;
mod list;
mod page;

pub use examples::{E1, E2, EXAMPLES, Example, GAP, LIBRARIES, ONLINE, SWEEP, Worked};
pub use list::METRICS;
pub use page::metrics_page;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A fraction; shown in percent.
    Fraction,
    /// Fractions times 2^20 bytes.
    AccuracyMebibytes,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Images per second.
    ImagesPerSecond,
}

impl Unit {
    /// The unit's name in files, where nothing is in percent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fraction => "fraction",
            Self::AccuracyMebibytes => "MiB",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::ImagesPerSecond => "images/s",
        }
    }
}

/// Which way a number is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Higher is better.
    Higher,
    /// Lower is better.
    Lower,
}

impl Direction {
    /// An arrow that points to the better side.
    pub fn arrow(self) -> &'static str {
        match self {
            Self::Higher => "↑",
            Self::Lower => "↓",
        }
    }
}

/// What must have been measured for a metric to have a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// A stream whose tasks share no class.
    DisjointTasks,
    /// At least two tasks.
    TwoTasks,
    /// An evaluation at the end of the last task.
    LastTaskEnd,
    /// An evaluation at the end of every task.
    EveryTaskEnd,
    /// Regular evaluations along the stream.
    PeriodicEvaluations,
    /// Evaluations inside every task after the first, between its border and its end.
    EvaluationsInsideTasks,
    /// Answers on the training samples before they are learned.
    PrequentialAnswers,
    /// Tests on tasks before they are learned.
    FutureTasks,
    /// A test of the untrained model.
    UntrainedModel,
    /// Accuracies of a jointly trained reference.
    JointReference,
    /// Several runs with different memory.
    MemorySweep,
}

impl Need {
    /// The need in words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::DisjointTasks => "tasks that share no class",
            Self::TwoTasks => "two tasks or more",
            Self::LastTaskEnd => "a test at the end of the last task",
            Self::EveryTaskEnd => "a test at the end of every task",
            Self::PeriodicEvaluations => "periodic tests along the stream",
            Self::EvaluationsInsideTasks => "tests inside every task after the first",
            Self::PrequentialAnswers => "answers on training samples before they are learned",
            Self::FutureTasks => "tests on tasks before they are learned",
            Self::UntrainedModel => "a test of the untrained model",
            Self::JointReference => "a joint run on the same stream",
            Self::MemorySweep => "runs with several memory sizes",
        }
    }
}

/// The pure function behind a metric.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// Of the accuracy matrix.
    Matrix(fn(&AccuracyMatrix) -> Option<f64>),
    /// Of the evaluations, on any stream.
    History(fn(&History) -> Option<f64>),
    /// Of the accuracy matrix and the accuracies of a jointly trained reference.
    Reference(fn(&AccuracyMatrix, &[f64]) -> Option<f64>),
    /// Of several runs with different memory.
    Sweep(fn(&[MemoryPoint]) -> Option<f64>),
}

/// What metrics are computed from.
#[derive(Clone, Debug)]
pub struct Measured<'a> {
    /// The evaluations of one run.
    pub history: &'a History,
    /// Its accuracy matrix, where the tasks are disjoint.
    pub matrix: Option<AccuracyMatrix>,
    /// `a*_k` for each task k: accuracies of a reference trained jointly on tasks up to k.
    pub reference: &'a [f64],
    /// Runs of the same method with different memory.
    pub sweep: &'a [MemoryPoint],
}

impl<'a> Measured<'a> {
    /// One run alone, without reference and sweep.
    ///
    /// # Errors
    /// If the history is not in order; see [`History::check`].
    pub fn of(history: &'a History) -> Result<Self> {
        history.check()?;
        let matrix = history.disjoint.then(|| history.matrix()).transpose()?;
        Ok(Self {
            history,
            matrix,
            reference: &[],
            sweep: &[],
        })
    }
}

/// A metric: one formula under one name.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name in files, `family/formula`.
    pub id: &'static str,
    /// The name at the head of a column.
    pub label: &'static str,
    /// The formula in one line; R, T, n, b as in [`crate::metrics`].
    pub formula: &'static str,
    /// Who prints it, or where it is from.
    pub source: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Which way it is better.
    pub direction: Direction,
    /// What must have been measured.
    pub needs: &'static [Need],
    /// How it is computed.
    pub function: Function,
    /// Its value on the worked examples.
    pub examples: &'static [Worked],
}

impl Metric {
    /// The value; `None` where it is not defined or something that it needs was not measured.
    pub fn compute(&self, measured: &Measured) -> Option<f64> {
        let value = match self.function {
            Function::Matrix(function) => function(measured.matrix.as_ref()?),
            Function::History(function) => function(measured.history),
            Function::Reference(function) => {
                function(measured.matrix.as_ref()?, measured.reference)
            }
            Function::Sweep(function) => function(measured.sweep),
        }?;
        // Adding zero turns -0.0 into 0.0.
        value.is_finite().then_some(value + 0.0)
    }

    /// The key in a record: the id, followed by the period in brackets where the number depends on
    /// it, such as `anytime/auc[P=1000]`.
    pub fn key(&self, history: &History) -> String {
        if self.needs.contains(&Need::PeriodicEvaluations) {
            format!("{}[{}]", self.id, history.period_name())
        } else if self.needs.contains(&Need::EvaluationsInsideTasks) {
            // A minimum over all of them, periodic or not.
            format!("{}[{} evals]", self.id, history.evaluations.len())
        } else {
            self.id.to_owned()
        }
    }

    /// The head of a column for a key of this metric: `A_auc[P=1000]`.
    pub fn label_of(&self, key: &str) -> String {
        let period = key.get(base_id(key).len()..).unwrap_or_default();
        format!("{}{period}", self.label)
    }
}

/// The id in a key: what stands before the bracket.
///
/// ```
/// assert_eq!(everburn_eval::base_id("anytime/auc[P=1000]"), "anytime/auc");
/// ```
pub fn base_id(key: &str) -> &str {
    key.split_once('[').map_or(key, |(id, _)| id)
}

/// The metric of an id or key.
///
/// # Errors
/// If there is none; names the nearest.
pub fn metric(id: &str) -> Result<&'static Metric> {
    let base = base_id(id);
    METRICS
        .iter()
        .find(|metric| metric.id == base)
        .ok_or_else(|| Error::unknown("metric", base, METRICS.iter().map(|metric| metric.id)))
}
