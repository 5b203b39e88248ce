use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The size of an image: rows, columns and interleaved channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels: 1 for grey, 3 for RGB.
    pub channels: usize,
}

impl ImageShape {
    /// A size in rows, columns and channels.
    pub const fn new(height: usize, width: usize, channels: usize) -> Self {
        Self {
            height,
            width,
            channels,
        }
    }

    /// Bytes of one image.
    pub const fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}×{}", self.height, self.width, self.channels)
    }
}

/// What an image *is*: the first 16 bytes of the BLAKE3 hash of its size and pixels.
///
/// Two images with the same key are the same image, so whatever is a function of the pixels alone
/// (a frozen backbone's feature) may be looked up by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey(pub [u8; 16]);

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ImageKey {
    /// The key of one image, `pixels` being row-major with interleaved channels.
    pub fn of(shape: ImageShape, pixels: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for side in [shape.height, shape.width, shape.channels] {
            hasher.update(&(side as u64).to_le_bytes());
        }
        hasher.update(pixels);
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

/// A number of 8-bit images of one size: `[images, height, width, channels]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    shape: ImageShape,
    pixels: Vec<u8>,
    keys: Vec<ImageKey>,
}

impl Images {
    /// Takes `[images, height, width, channels]` bytes.
    ///
    /// # Errors
    /// If an image would be empty, or the bytes are not a whole number of images.
    pub fn new(shape: ImageShape, pixels: Vec<u8>) -> Result<Self> {
        let bytes = shape.bytes();
        if bytes == 0 {
            return Err(Error::input("image size", shape, "no side of zero"));
        }
        if !pixels.len().is_multiple_of(bytes) {
            return Err(Error::input(
                format!("pixels of {shape} images"),
                format!("{} bytes", pixels.len()),
                format!("a multiple of {bytes}"),
            ));
        }
        let keys = pixels
            .chunks_exact(bytes)
            .map(|image| ImageKey::of(shape, image))
            .collect();
        Ok(Self {
            shape,
            pixels,
            keys,
        })
    }

    /// No images, of a given size.
    pub fn empty(shape: ImageShape) -> Self {
        Self {
            shape,
            pixels: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Makes room for so many more images, and for no more than these.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn reserve(&mut self, images: usize) -> Result<()> {
        let bytes = images.checked_mul(self.shape.bytes());
        let reserved = bytes.is_some_and(|bytes| {
            self.pixels.try_reserve_exact(bytes).is_ok()
                && self.keys.try_reserve_exact(images).is_ok()
        });
        if reserved {
            return Ok(());
        }
        let room = format!("room for {images} images of {}", self.shape);
        Err(Error::other(
            room,
            "not enough memory; choose a smaller size or fewer images",
        ))
    }

    /// The size of each image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All bytes, `[images, height, width, channels]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes of image `index`, `[height, width, channels]`; panics past the end as slices do.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.shape.bytes();
        &self.pixels[index * bytes..(index + 1) * bytes]
    }

    /// The key of each image.
    pub fn keys(&self) -> &[ImageKey] {
        &self.keys
    }

    /// The images at `indices`, in that order, repeats included.
    ///
    /// # Errors
    /// If an index is past the end.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        let mut chosen = Self::empty(self.shape);
        chosen.pixels.reserve(indices.len() * self.shape.bytes());
        for &index in indices {
            if index >= self.len() {
                return Err(Error::input(
                    "image index",
                    index,
                    format!("less than {}", self.len()),
                ));
            }
            chosen.pixels.extend_from_slice(self.image(index));
            chosen.keys.push(self.keys[index]);
        }
        Ok(chosen)
    }

    /// Appends the images of `other`.
    ///
    /// # Errors
    /// If their sizes differ.
    pub fn extend(&mut self, other: &Self) -> Result<()> {
        self.same_shape(other.shape)?;
        self.pixels.extend_from_slice(&other.pixels);
        self.keys.extend_from_slice(&other.keys);
        Ok(())
    }

    /// Overwrites image `slot` by image `index` of `other`.
    ///
    /// # Errors
    /// If the sizes differ or an index is past the end.
    pub fn replace(&mut self, slot: usize, other: &Self, index: usize) -> Result<()> {
        self.same_shape(other.shape)?;
        for (what, index, len) in [("slot", slot, self.len()), ("image", index, other.len())] {
            if index >= len {
                return Err(Error::input(what, index, format!("less than {len}")));
            }
        }
        let bytes = self.shape.bytes();
        self.pixels[slot * bytes..(slot + 1) * bytes].copy_from_slice(other.image(index));
        self.keys[slot] = other.keys[index];
        Ok(())
    }

    fn same_shape(&self, other: ImageShape) -> Result<()> {
        if self.shape == other {
            Ok(())
        } else {
            Err(Error::input("image size", other, self.shape))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_pixels_and_on_the_size() {
        let wide = ImageKey::of(ImageShape::new(1, 4, 1), &[1, 2, 3, 4]);
        let square = ImageKey::of(ImageShape::new(2, 2, 1), &[1, 2, 3, 4]);
        let other = ImageKey::of(ImageShape::new(1, 4, 1), &[1, 2, 3, 5]);
        assert!(wide != square && wide != other);
    }

    #[test]
    fn selecting_and_replacing_keep_keys_and_pixels_together() {
        let shape = ImageShape::new(1, 2, 1);
        let images = Images::new(shape, vec![0, 1, 2, 3, 4, 5]).unwrap();
        let mut chosen = images.select(&[2, 0, 2]).unwrap();
        chosen.replace(1, &images, 1).unwrap();
        assert_eq!(chosen, Images::new(shape, vec![4, 5, 2, 3, 4, 5]).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let images = Images::new(ImageShape::new(1, 2, 1), vec![0, 1]).unwrap();
        assert!(Images::new(ImageShape::new(1, 2, 1), vec![0]).is_err());
        assert!(Images::new(ImageShape::new(0, 2, 1), vec![]).is_err());
        assert!(images.select(&[1]).is_err());
        let other = Images::new(ImageShape::new(2, 1, 1), vec![0, 1]).unwrap();
        assert!(images.clone().extend(&other).is_err());
        assert!(images.clone().replace(1, &images, 0).is_err());
        for most in [usize::MAX, usize::MAX / 2 - 1] {
            let error = images.clone().reserve(most).unwrap_err().to_string();
            assert!(error.contains("not enough memory"), "{error}");
        }
    }
}
