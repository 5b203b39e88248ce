#![cfg_attr(test, allow(clippy::unwrap_used))]

//! The one loop that drives every learner.
//!
//! A [`Runner`] owns the clock, the test set, the seeds and the checkpoints; a learner owns none of
//! them. It goes step by step ([`Runner::advance`]), can be saved between any two steps
//! ([`Runner::checkpoint`]), and goes on from there ([`Runner::resume`]) to the same result.

mod checkpoint;
mod epoch;
mod files;
mod machine;
mod partition;
mod plan;
mod positions;
mod runner;
mod suite_folder;
mod teach;

pub use checkpoint::Checkpoint;
pub use files::{RunFolder, write_atomically};
pub use machine::{peak_memory, reset_peak_memory};
pub use partition::Partition;
pub use plan::{Plan, PlannedStage};
pub use runner::{Labelled, Material, Outcome, Progress, Runner, Settings};
pub use suite_folder::{SuiteFolder, has_ledger, read_ledger};
pub use teach::teach;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
