use std::path::PathBuf;

use crate::Preprocess;

/// How a data set is loaded. Where there is nothing else to say, a
/// `&`[`Preprocess`] will do.
///
/// ```
/// use everburn_data::{LoadOptions, Preprocess, load};
/// let small = LoadOptions { memory_budget: Some(0), ..LoadOptions::default() };
/// let on_disk = load("digits", None, small)?;
/// assert!(on_disk.train.images.is_on_disk());
/// assert_eq!(on_disk, load("digits", None, &Preprocess::default())?);
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// What is done to every image.
    pub preprocess: Preprocess,
    /// Bytes of preprocessed pixels, of training and test set together, that may stay in memory;
    /// `None` is no limit. A set that has no room in it, the training set being asked first, goes to
    /// a temporary file while it is decoded, and images are read from there as they are needed.
    ///
    /// Beside it loading takes 16 bytes for each image, the labels, and a few MiB for the images that
    /// are being decoded.
    pub memory_budget: Option<u64>,
    /// The folder of the temporary file; `None` is the system's, which may itself lie in memory
    /// (a tmpfs). The file has no name and is gone when the data set is dropped or the process ends.
    pub spool_dir: Option<PathBuf>,
}

impl From<&Preprocess> for LoadOptions {
    fn from(preprocess: &Preprocess) -> Self {
        Self {
            preprocess: *preprocess,
            ..Self::default()
        }
    }
}
