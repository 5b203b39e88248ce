#![cfg_attr(test, allow(clippy::unwrap_used))]

//! What a continual learner achieved: who was right when, the metrics that follow from it, and the
//! tables that show them.
//!
//! The way of the numbers: an [`Evaluation`] counts right answers per class at one moment of the
//! stream; a [`History`] is all evaluations of one run; the pure functions of [`metrics`] turn it
//! (or the [`AccuracyMatrix`] that it implies) into numbers, each registered in [`METRICS`] under
//! a name that says its formula; a [`RunRecord`] keeps them with everything that decided them; and
//! a [`Report`] sums records up over seeds, compares methods seed by seed ([`Paired`]) and renders
//! them. A [`ConfusionMatrix`] and [`Prequential`] answers hold what an evaluation does not.
//!
//! All accuracies are fractions in `f64`; only what people read is in percent. A value that a
//! formula does not define (forgetting after one task) or that was not measured is `None`, never
//! zero and never NaN.
//!
//! This crate knows no methods, no data sets and no tensors.

mod bootstrap;
mod comparison;
mod confusion;
mod evaluation;
pub mod format;
mod history;
mod ledger;
mod matrix;
pub mod metrics;
mod prequential;
mod record;
mod registry;
mod report;
mod statistics;

pub use bootstrap::{Interval, RESAMPLES, bootstrap_accuracy};
pub use comparison::{Paired, StreamValue, Verdict};
pub use confusion::{Confusion, ConfusionMatrix, TaskConfusion};
pub use evaluation::{ClassCount, Evaluation, Moment};
pub use history::{History, Period};
pub use ledger::{Change, Ledger, LedgerDiff, Timings, Version};
pub use matrix::AccuracyMatrix;
pub use prequential::{AnswerCount, Prequential};
pub use record::{
    Accompanying, AccountedMemory, Provenance, RunDescription, RunRecord, SCHEMA, StreamKind,
};
pub use registry::{
    Direction, E1, E2, EXAMPLES, Example, Function, GAP, LIBRARIES, METRICS, Measured, Metric,
    Need, ONLINE, SWEEP, Unit, Worked, base_id, metric, metrics_page,
};
pub use report::{Column, Differences, Pair, QUANTITIES, Quantity, Report, Row, RowKey, Table};
pub use statistics::{CONFIDENCE, Summary};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
