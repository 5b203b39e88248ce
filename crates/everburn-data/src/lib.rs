#![cfg_attr(test, allow(clippy::unwrap_used))]

//! Image data sets: decoded, verified, brought to one size. Knows no tasks, methods or tensors.
//!
//! [`load`] reads a data set of the [`catalogue`] in its official format, or any folder of class
//! folders, checks every byte that has a rule, and applies a [`Preprocess`]. What exceeds a
//! [memory budget](LoadOptions::memory_budget) lies on the disk, in an [`ImageSet`]. [`verify`] says what
//! lies on the disk and whether it is what its authors published. [`Dataset::identity`] names the
//! result by its content, so that a run can say on which images it was made.
//!
//! ```
//! use everburn_data::{Preprocess, load};
//!
//! let digits = load("digits", None, &Preprocess::default())?;
//! assert_eq!(digits.num_classes(), 10);
//! assert_eq!(digits.train.len() + digits.test.len(), 1797);
//!
//! // An unknown name is an error that knows better.
//! let error = load("cifar-100", None, &Preprocess::default()).unwrap_err();
//! assert!(error.to_string().contains("did you mean `cifar100`?"));
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod catalogue;
mod cifar;
mod dataset;
mod digits;
mod files;
mod folder;
mod idx;
mod image_set;
mod load;
mod names;
mod options;
mod preprocess;
mod raster;
mod resize;
mod sink;
mod spool;
mod verify;

pub use catalogue::{Counts, Entry, Normalisation, OfficialFile, Packed, catalogue, info};
pub use cifar::{Cifar100Labels, load_cifar10, load_cifar100};
pub use dataset::{Dataset, Holdout, Split, SplitRule};
pub use digits::load_digits;
pub use folder::load_folder;
pub use idx::{Idx, IdxValues, load_fashion_mnist, load_mnist, read_idx};
pub use image_set::ImageSet;
pub use load::load;
pub use options::LoadOptions;
pub use preprocess::{Channels, Fit, Preprocess, Preset};
pub use raster::{Raster, normalise};
pub use resize::{Filter, MAX_SIDE, Resizer, Size};
pub use verify::{FileReport, FileState, VerifyReport, verify};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
