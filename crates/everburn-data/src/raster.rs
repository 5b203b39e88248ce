use std::io::Cursor;

use everburn_core::{Error, ImageShape, Result};

use crate::resize::check_channels;
use crate::{Filter, Resizer, Size};

/// One 8-bit image, `[height, width, channels]`, grey or RGB, with the transforms of torchvision on
/// PIL images: the same pixels come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    shape: ImageShape,
    pixels: Vec<u8>,
}

impl Raster {
    /// Takes `[height, width, channels]` bytes.
    ///
    /// # Errors
    /// If a side is 0 or above [`MAX_SIDE`](crate::MAX_SIDE), there are neither 1 nor 3 channels, or
    /// the bytes are not as many as the size says.
    pub fn new(shape: ImageShape, pixels: Vec<u8>) -> Result<Self> {
        Size::of(shape).check("image size")?;
        check_channels(shape)?;
        if pixels.len() != shape.bytes() {
            let expected = format!("{} of a {shape} image", shape.bytes());
            return Err(Error::input("bytes of an image", pixels.len(), expected));
        }
        Ok(Self { shape, pixels })
    }

    /// Decodes a PNG or JPEG file's bytes to RGB; which of the two it is, the bytes say.
    ///
    /// Grey images are replicated to three channels, transparency is dropped, palettes are looked
    /// up, and CMYK is converted, as PIL's `convert("RGB")` does. 16-bit values are rounded to 8. JPEG
    /// decoders differ by a unit or two in places, so pixels may differ that much from PIL's.
    ///
    /// # Errors
    /// Names `file` if the bytes are no such image.
    pub fn decode(bytes: &[u8], file: &str) -> Result<Self> {
        let refused = |e: image::ImageError| Error::input(file, e, "a PNG or JPEG image");
        let reader = image::ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| Error::other(file, e))?;
        let image = reader.decode().map_err(refused)?.into_rgb8();
        let (width, height) = image.dimensions();
        let shape = ImageShape::new(height as usize, width as usize, 3);
        Self::new(shape, image.into_raw()).map_err(|e| Error::other(file, e))
    }

    /// Rows, columns and channels.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The bytes, `[height, width, channels]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, `[height, width, channels]`.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Resizes to exactly `size`, whatever becomes of the proportions.
    ///
    /// # Errors
    /// If a side of `size` is 0 or too large.
    pub fn resize(&self, size: Size, filter: Filter) -> Result<Self> {
        let resizer = Resizer::new(self.shape, size, filter)?;
        Ok(Self {
            shape: resizer.output(),
            pixels: resizer.resize(&self.pixels)?,
        })
    }

    /// Resizes so that the shorter side has `side` pixels; see [`Size::with_shorter_side`].
    ///
    /// # Errors
    /// If a side would be 0 or too large.
    pub fn resize_shorter_side(&self, side: usize, filter: Filter) -> Result<Self> {
        let size = Size::of(self.shape).with_shorter_side(side)?;
        self.resize(size, filter)
    }

    /// The rectangle of `size` whose upper left corner is at row `top` and column `left`.
    ///
    /// # Errors
    /// If it is empty or does not lie inside the image.
    pub fn crop(&self, top: usize, left: usize, size: Size) -> Result<Self> {
        size.check("size of the crop")?;
        let inside = |start: usize, length: usize, side: usize| {
            start.checked_add(length).is_some_and(|end| end <= side)
        };
        if !inside(top, size.height, self.shape.height)
            || !inside(left, size.width, self.shape.width)
        {
            return Err(Error::input(
                "crop",
                format!("{size} at row {top}, column {left}"),
                format!("a rectangle inside the {} image", self.shape),
            ));
        }
        let channels = self.shape.channels;
        let (skip, take) = (left * channels, size.width * channels);
        let rows = self.pixels.chunks_exact(self.shape.width * channels);
        let pixels = rows
            .skip(top)
            .take(size.height)
            .flat_map(|row| row.iter().skip(skip).take(take).copied())
            .collect();
        Self::new(size.shape(channels), pixels)
    }

    /// The middle of the image; zeros around it where the image is smaller than `size`.
    ///
    /// The upper left corner is at half the difference, a half rounded to the even number; of an odd
    /// number of padded rows or columns the additional one is below or to the right.
    ///
    /// # Errors
    /// If a side of `size` is 0 or too large.
    pub fn centre_crop(&self, size: Size) -> Result<Self> {
        size.check("size of the centre crop")?;
        let full = Size::new(
            self.shape.height.max(size.height),
            self.shape.width.max(size.width),
        );
        let padded = self.pad_evenly(full)?;
        let corner = |full: usize, part: usize| {
            let half = (full - part) / 2;
            // A difference of 4k+3 has the half 2k+1.5, whose even neighbour is the upper one.
            half + usize::from((full - part) % 4 == 3)
        };
        let (top, left) = (
            corner(full.height, size.height),
            corner(full.width, size.width),
        );
        padded.crop(top, left, size)
    }

    /// Puts the image into the middle of a black one of `full`, which is no smaller.
    fn pad_evenly(&self, full: Size) -> Result<Self> {
        let channels = self.shape.channels;
        let top = (full.height - self.shape.height) / 2;
        let left = (full.width - self.shape.width) / 2;
        let mut pixels = vec![0; full.shape(channels).bytes()];
        let targets = pixels.chunks_exact_mut(full.width * channels).skip(top);
        let rows = self.pixels.chunks_exact(self.shape.width * channels);
        for (target, row) in targets.zip(rows) {
            for (to, from) in target.iter_mut().skip(left * channels).zip(row) {
                *to = *from;
            }
        }
        Self::new(full.shape(channels), pixels)
    }

    /// The image in a mirror: columns in reverse order.
    #[must_use]
    pub fn flip_horizontal(&self) -> Self {
        let channels = self.shape.channels;
        let rows = self.pixels.chunks_exact(self.shape.width * channels);
        let pixels = rows
            .flat_map(|row| row.chunks_exact(channels).rev().flatten().copied())
            .collect();
        Self {
            shape: self.shape,
            pixels,
        }
    }

    /// Every value times `factor` in single precision, clipped and rounded down
    /// (PIL's `ImageEnhance.Brightness`).
    ///
    /// # Errors
    /// If the factor is negative or not finite.
    pub fn brightness(&self, factor: f32) -> Result<Self> {
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(Error::input(
                "brightness factor",
                factor,
                "a number of at least 0",
            ));
        }
        // The cast saturates, which is the clipping, and truncates.
        let scaled = |value: &u8| (f32::from(*value) * factor) as u8;
        Ok(Self {
            shape: self.shape,
            pixels: self.pixels.iter().map(scaled).collect(),
        })
    }

    /// One channel by PIL's formula, L = (19595 R + 38470 G + 7471 B + 2¹⁵) / 2¹⁶ rounded down (the
    /// luma of ITU-R 601-2). A grey image stays as it is.
    #[must_use]
    pub fn to_grey(&self) -> Self {
        Self {
            shape: ImageShape::new(self.shape.height, self.shape.width, 1),
            pixels: match self.shape.channels {
                1 => self.pixels.clone(),
                _ => grey(&self.pixels),
            },
        }
    }

    /// Three channels: a grey one is replicated. An RGB image stays as it is.
    #[must_use]
    pub fn to_rgb(&self) -> Self {
        Self {
            shape: ImageShape::new(self.shape.height, self.shape.width, 3),
            pixels: match self.shape.channels {
                1 => rgb(&self.pixels),
                _ => self.pixels.clone(),
            },
        }
    }

    /// The values divided by 255 and in planes, `[channels, height, width]` (torchvision's `ToTensor`).
    pub fn to_tensor(&self) -> Vec<f32> {
        let channels = self.shape.channels;
        (0..channels)
            .flat_map(|channel| self.pixels.iter().skip(channel).step_by(channels))
            .map(|value| f32::from(*value) / 255.0)
            .collect()
    }
}

pub(crate) fn grey(pixels: &[u8]) -> Vec<u8> {
    let (pixels, _) = pixels.as_chunks::<3>();
    let luma = |[r, g, b]: &[u8; 3]| {
        let sum = u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471;
        ((sum + 0x8000) >> 16) as u8
    };
    pixels.iter().map(luma).collect()
}

pub(crate) fn rgb(pixels: &[u8]) -> Vec<u8> {
    pixels.iter().flat_map(|value| [*value; 3]).collect()
}

/// Subtracts the mean and divides by the standard deviation, plane by plane, in place: `tensor` is
/// `[channels, height, width]` with one `mean` and `std` for each channel.
///
/// # Errors
/// If the planes and the statistics are not as many, or a deviation is not above 0.
pub fn normalise(tensor: &mut [f32], mean: &[f32], std: &[f32]) -> Result<()> {
    if mean.is_empty() || mean.len() != std.len() || !tensor.len().is_multiple_of(mean.len()) {
        return Err(Error::input(
            "normalisation",
            format!(
                "{} means, {} deviations, {} values",
                mean.len(),
                std.len(),
                tensor.len()
            ),
            "one mean and deviation for each plane",
        ));
    }
    if let Some(wrong) = std.iter().find(|std| std.is_nan() || **std <= 0.0) {
        return Err(Error::input(
            "standard deviation",
            wrong,
            "a number above 0",
        ));
    }
    let plane = tensor.len() / mean.len();
    if plane == 0 {
        return Ok(());
    }
    for (plane, (mean, std)) in tensor.chunks_exact_mut(plane).zip(mean.iter().zip(std)) {
        for value in plane {
            *value = (*value - mean) / std;
        }
    }
    Ok(())
}
