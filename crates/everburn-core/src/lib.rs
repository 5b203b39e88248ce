#![cfg_attr(test, allow(clippy::unwrap_used))]

//! The vocabulary of everburn, and the one trait that every continual-learning method implements.
//!
//! This crate knows no tensors, no files and no data sets. It says what a [`Learner`] is: something
//! that *declares* what it wants to see, as [`Stage`]s, and then observes [`Batch`]es that somebody
//! else draws. Because a method owns no loop, whoever drives it can count what it costs, stop it
//! between any two steps, and start it again with the same result.
//!
//! ```
//! use everburn_core::{ClassId, Images, ImageShape, Key, SeenClasses};
//!
//! // Two 1×2 grey images.
//! let images = Images::new(ImageShape::new(1, 2, 1), vec![0, 255, 10, 20])?;
//! assert_eq!(images.len(), 2);
//!
//! // Randomness is keyed: the same path gives the same numbers, on every platform.
//! let key = Key::from_seed(7).child("task").at(3).child("shuffle");
//! assert_eq!(key.permutation(5), key.permutation(5));
//!
//! // Classes are numbered in the order in which they are met.
//! let mut seen = SeenClasses::default();
//! seen.insert(ClassId(42));
//! assert_eq!(seen.index(ClassId(42)), Some(0));
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod config;
mod error;
mod footprint;
mod ids;
mod image_source;
mod images;
mod key;
mod learner;
pub mod profile;
mod reservoir;
mod state;

pub use config::Checker;
pub use error::{Error, Result, nearest};
pub use footprint::{Footprint, Held, Kind, Memory};
pub use ids::{ClassId, SeenClasses, TaskId};
pub use image_source::ImageSource;
pub use images::{ImageKey, ImageShape, Images};
pub use key::{Key, Rng};
pub use learner::{
    Batch, Borders, Ctx, Event, Learner, Order, Output, Source, Spec, Stage, Step, StepLog,
    TaskInfo, View,
};
pub use reservoir::{Reservoir, ReservoirRule, batched_slots, exact_slot};
pub use state::{Array, State, Values};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
