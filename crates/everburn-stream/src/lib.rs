#![cfg_attr(test, allow(clippy::unwrap_used))]

//! Scenarios of continual learning: from the labels of a data set to the order in which a learner
//! meets its samples.
//!
//! A [`Scenario`] compiles labels to a [`Manifest`]: for every position of the stream the index of
//! a sample, and the task marks beside it. Nothing random is left once the manifest exists, so it
//! can be hashed, written to disk, drawn ([`show`]) and replayed by any other framework. Where a
//! published sampler exists, its stream is reproduced bit for bit, with the generators of [`rng`].
//!
//! This crate knows no images, no methods and no tensors.
//!
//! | scenario | type | name |
//! |---|---|---|
//! | classes in equal tasks | [`SplitTasks::even`] | `split-T` |
//! | a base task, then increments | [`SplitTasks::base_increment`] | `split-bN-incM` |
//! | disjoint and blurry classes mixed | [`SiBlurry`] | `si-blurry`, `si-blurry+borders` |

mod atomic;
mod eval_points;
mod hash;
mod manifest;
mod order;
mod registry;
pub mod rng;
mod scenario;
pub mod show;
mod si_blurry;
mod split;

pub use atomic::write_atomically;
pub use eval_points::{EvalPoints, EvalSchedule};
pub use hash::fnv1a64;
pub use manifest::{FORMAT_VERSION, Manifest, ManifestTask};
pub use order::ClassOrder;
pub use registry::{SCENARIOS, ScenarioInfo, scenario};
pub use scenario::{MAX_CLASSES, Scenario};
pub use si_blurry::{SiBlurry, SiBlurryMode, SiBlurryParts};
pub use split::{Split, SplitTasks};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
