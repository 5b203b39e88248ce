#![cfg_attr(test, allow(clippy::unwrap_used))]

//! What a frozen backbone computed for an image, kept for the next learner, seed, stream and suite.
//!
//! A [`FeatureStore`] holds one row of `f32` for each image, by the image's
//! [`ImageKey`](everburn_core::ImageKey) and by the **extractor**: a hash, given by the caller, of all
//! else that decides the row (weights, preprocessing, device, code). Rows stay in memory while they
//! fit and are read from the disk beyond that.
//!
//! On the disk the rows are in **segments**, files that never change:
//!
//! ```text
//! ROOT/<extractor>/<hash of the content>.features
//! ```
//!
//! A cache must never decide a result, nor end a run. So nothing that is read counts without its
//! checksum, down to the single row: what is damaged, truncated or foreign is as good as absent, gets
//! removed, and is computed again. And what the disk refuses is a note ([`FeatureStore::notes`]),
//! not an error. Any number of processes may use, fill and clear one cache at a time and be killed
//! doing so; [`FeatureStore::computing`] lets a second one wait instead of computing the same.

mod folder;
mod keys;
mod lock;
mod memory;
mod notes;
mod overview;
mod positioned;
mod segment;
mod state;
mod store;

pub use lock::Computing;
pub use overview::{Cleared, ExtractorSummary, clear, summary};
pub use store::{FeatureStore, Limits, Stats};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
