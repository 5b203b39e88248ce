use std::fmt;

use crate::{ImageKey, ImageShape, Images, Result};

/// Images of one size that are read by their position, wherever they lie.
///
/// [`Images`] are one, all in memory. Whoever drives a learner asks for one batch at a time, so a
/// source may be larger than the memory: `everburn-data` has one in a file.
pub trait ImageSource: fmt::Debug + Send + Sync {
    /// The size of each image.
    fn shape(&self) -> ImageShape;

    /// The key of each image, in the order of their positions.
    fn keys(&self) -> &[ImageKey];

    /// The images at `indices`, in that order, repeats included.
    ///
    /// # Errors
    /// If an index is past the end, or an image cannot be read as it was stored.
    fn select(&self, indices: &[usize]) -> Result<Images>;

    /// How many images.
    fn len(&self) -> usize {
        self.keys().len()
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ImageSource for Images {
    fn shape(&self) -> ImageShape {
        self.shape()
    }

    fn keys(&self) -> &[ImageKey] {
        self.keys()
    }

    fn select(&self, indices: &[usize]) -> Result<Images> {
        self.select(indices)
    }
}
