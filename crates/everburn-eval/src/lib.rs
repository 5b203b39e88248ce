#![cfg_attr(test, allow(clippy::unwrap_used))]

//! What a continual learner achieved: who was right when, the metrics that follow from it, and the
//! tables that show them.
//!
//! The way of the numbers: an [`Evaluation`] counts right answers per class at one moment of the
//! stream; a [`History`] is all evaluations of one run; the pure functions of [`metrics`] turn it
//! (or the [`AccuracyMatrix`] that it implies) into numbers, each registered in [`METRICS`] under
//! a name that says its formula; a [`RunRecord`] keeps them with everything that decided them; and
//! a [`Report`] sums records up over seeds and renders them.
//!
//! All accuracies are fractions in `f64`; only what people read is in percent. A value that a
//! formula does not define (forgetting after one task) or that was not measured is `None`, never
//! zero and never NaN.
//!
//! This crate knows no methods, no data sets and no tensors.

mod evaluation;
pub mod format;
mod history;
mod ledger;
mod matrix;
pub mod metrics;
mod record;
mod registry;
mod report;
mod statistics;

pub use evaluation::{ClassCount, Evaluation, Moment};
pub use history::{History, Period};
pub use ledger::{Change, Ledger, LedgerDiff, Timings, Version};
pub use matrix::AccuracyMatrix;
pub use record::{
    Accompanying, AccountedMemory, Provenance, RunDescription, RunRecord, SCHEMA, StreamKind,
};
pub use registry::{Direction, Function, METRICS, Measured, Metric, Need, Unit, base_id, metric};
pub use report::{Column, QUANTITIES, Quantity, Report, Row, RowKey, Table};
pub use statistics::{CONFIDENCE, Summary};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
