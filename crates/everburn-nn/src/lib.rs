#![cfg_attr(test, allow(clippy::unwrap_used))]

//! Backbones, heads, weight files and augmentations for continual learning on [burn].
//!
//! ```
//! use everburn_backend::DeviceChoice;
//! use everburn_core::{ImageShape, Images};
//! use everburn_nn::{Backbone, Frozen};
//!
//! let device = DeviceChoice::CPU.open()?;
//! let backbone = Frozen::new(Backbone::embedded(&device)?, &device);
//! let images = Images::new(ImageShape::new(32, 32, 3), vec![127; 2 * 32 * 32 * 3])?;
//! assert_eq!(backbone.features(&images)?.dims(), [2, 128]);
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod alignment;
pub mod augment;
mod backbone;
mod class_means;
mod class_tasks;
mod embedded;
mod frozen;
mod gaussians;
mod head;
pub mod layers;
mod linalg;
mod live;
mod losses;
mod method;
mod network;
pub mod pet;
mod preset;
mod recipe;
mod replay;
pub mod resample;
pub mod resnet;
mod settings;
mod stem;
mod training;
pub mod vit;
pub mod weights;

pub use alignment::{Alignment, AlignmentConfig, Phase, Shrink};
pub use augment::Augment;
pub use backbone::{Backbone, Encoder, Normalise, targets, to_tensor};
pub use class_means::{ClassMeans, Similarity};
pub use class_tasks::ClassTasks;
pub use embedded::embedded_weights;
pub use frozen::Frozen;
pub use gaussians::{ClassGaussians, Covariance};
pub use head::{Classifier, Head, HeadInit};
pub use layers::{cross_entropy, is_trainable};
pub use live::{Live, Tape};
pub use method::{Method, from_value, to_value};
pub use network::Network;
pub use pet::{Pet, PetConfig};
pub use preset::{Preset, Setting};
pub use recipe::{Recipe, Trainee, check_labels};
pub use replay::Replay;
pub use settings::{Choice, Config, Described, Settings, nothing_more};
pub use stem::Stem;
pub use training::{BackbonePart, Training, Tuning};
pub use weights::{LoadReport, WeightFile};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
