//! Resizing as Pillow does it (`src/libImaging/Resample.c`, versions up to 10): horizontally, then
//! vertically, each pass in fixed point with 22 fractional bits and rounded to 8 bits.

use std::fmt;

use everburn_core::{Error, ImageShape, Result};
use serde::{Deserialize, Serialize};

/// The longest side that an image may have, in pixels, before or after resizing.
pub const MAX_SIDE: usize = 1 << 15;

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for sign and overshoot.
const PRECISION: u32 = 32 - 8 - 2;

/// One half, so that the shift that ends a sum rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// Rows and columns of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// A size in rows and columns.
    pub const fn new(height: usize, width: usize) -> Self {
        Self { height, width }
    }

    /// As many rows as columns.
    pub const fn square(side: usize) -> Self {
        Self::new(side, side)
    }

    /// The size at which the shorter side has `side` pixels and the longer one keeps the proportion,
    /// rounded down (torchvision's `Resize` with one number).
    ///
    /// # Errors
    /// If a side would be 0 or above [`MAX_SIDE`].
    pub fn with_shorter_side(self, side: usize) -> Result<Self> {
        self.check("image size")?;
        Self::square(side).check("shorter side")?;
        // At most 2^30, so nothing overflows; no side of `self` is zero.
        let size = if self.width <= self.height {
            Self::new(side * self.height / self.width, side)
        } else {
            Self::new(side, side * self.width / self.height)
        };
        size.check("image size")?;
        Ok(size)
    }

    pub(crate) fn check(self, what: &str) -> Result<()> {
        let sides = 1..=MAX_SIDE;
        if sides.contains(&self.height) && sides.contains(&self.width) {
            Ok(())
        } else {
            let expected = format!("sides from 1 to {MAX_SIDE}");
            Err(Error::input(what, self, expected))
        }
    }

    pub(crate) fn of(shape: ImageShape) -> Self {
        Self::new(shape.height, shape.width)
    }

    pub(crate) fn shape(self, channels: usize) -> ImageShape {
        ImageShape::new(self.height, self.width, channels)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.height, self.width)
    }
}

/// How a pixel is computed from those around it. Both widen when an image shrinks (antialias).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The triangle of radius 1; torchvision's default.
    #[default]
    Bilinear,
    /// Keys' cubic convolution of radius 2 with a = −0.5.
    Bicubic,
}

impl Filter {
    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }

    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            _ => 0.0,
        }
    }
}

/// The pixels that make one output pixel, along one axis: `weights` from pixel `start` on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.radius() * stretch;
    let shrink = 1.0 / stretch;
    let tap = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        // Casts of negative numbers give 0, which is the border.
        let start = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (start..end)
            .map(|pixel| filter.weight((pixel as f64 - centre + 0.5) * shrink))
            .collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if total == 0.0 {
                *weight
            } else {
                weight / total
            };
            let scaled = weight * f64::from(1 << PRECISION);
            // Half away from zero, then truncated: Pillow's rounding.
            (if scaled < 0.0 {
                scaled - 0.5
            } else {
                scaled + 0.5
            }) as i32
        };
        let weights = weights.iter().map(fixed).collect();
        Taps { start, weights }
    };
    (0..to).map(tap).collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizing from one size to another, worked out once and used for any number of images.
pub struct Resizer {
    from: ImageShape,
    to: ImageShape,
    /// `None` where a side stays as it is.
    horizontal: Option<Vec<Taps>>,
    vertical: Option<Vec<Taps>>,
}

impl Resizer {
    /// Works out the weights.
    ///
    /// # Errors
    /// If a side is 0 or above [`MAX_SIDE`], or an image has neither 1 nor 3 channels.
    pub fn new(from: ImageShape, to: Size, filter: Filter) -> Result<Self> {
        Size::of(from).check("size of the image to resize")?;
        to.check("size to resize to")?;
        check_channels(from)?;
        let axis = |from, to| (from != to).then(|| taps(from, to, filter));
        Ok(Self {
            from,
            to: to.shape(from.channels),
            horizontal: axis(from.width, to.width),
            vertical: axis(from.height, to.height),
        })
    }

    /// The size of what comes out.
    pub fn output(&self) -> ImageShape {
        self.to
    }

    /// Resizes one image, `[height, width, channels]`.
    ///
    /// # Errors
    /// If the image is not of the size that this was made for.
    pub fn resize(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        if pixels.len() != self.from.bytes() {
            let expected = format!("{} of a {} image", self.from.bytes(), self.from);
            return Err(Error::input("bytes to resize", pixels.len(), expected));
        }
        let wide = self
            .horizontal
            .as_ref()
            .map(|taps| match self.from.channels {
                1 => horizontal::<1>(pixels, self.from.width, taps),
                _ => horizontal::<3>(pixels, self.from.width, taps),
            });
        let rows = wide.as_deref().unwrap_or(pixels);
        Ok(match &self.vertical {
            Some(taps) => vertical(rows, self.to.width * self.to.channels, taps),
            None => rows.to_vec(),
        })
    }
}

pub(crate) fn check_channels(shape: ImageShape) -> Result<()> {
    match shape.channels {
        1 | 3 => Ok(()),
        _ => Err(Error::input("image size", shape, "1 or 3 channels")),
    }
}

// The sums below stay inside an i32: the weights of a pixel add up to 1, the negative ones to no
// less than −0.2, so no sum passes 1.2 · 255 · 2²².

fn horizontal<const C: usize>(pixels: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let rows = pixels.len() / (width * C);
    let mut out = Vec::with_capacity(rows * taps.len() * C);
    for row in pixels.chunks_exact(width * C) {
        let (row, _) = row.as_chunks::<C>();
        for Taps { start, weights } in taps {
            let mut sums = [HALF; C];
            for (pixel, weight) in row.iter().skip(*start).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            out.extend(sums.map(clip));
        }
    }
    out
}

fn vertical(pixels: &[u8], row_bytes: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * row_bytes);
    let mut sums = vec![HALF; row_bytes];
    for Taps { start, weights } in taps {
        sums.fill(HALF);
        let rows = pixels.chunks_exact(row_bytes).skip(*start);
        for (row, weight) in rows.zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.iter().map(|sum| clip(*sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_weights_can_overflow_a_sum() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for from in (1..70).chain([256, 1000, 4001]) {
                for to in (1..70).chain([224, 999, 4000]) {
                    for Taps { start, weights } in taps(from, to, filter) {
                        assert!(start + weights.len() <= from && !weights.is_empty());
                        let positive: i64 = weights.iter().map(|w| i64::from(*w).max(0)).sum();
                        assert!(positive * 255 + i64::from(HALF) < i64::from(i32::MAX));
                    }
                }
            }
        }
    }

    #[test]
    fn the_longer_side_is_rounded_down() {
        let size = Size::new(21, 30);
        assert_eq!(size.with_shorter_side(13).unwrap(), Size::new(13, 18));
        assert_eq!(
            Size::new(30, 21).with_shorter_side(28).unwrap(),
            Size::new(40, 28)
        );
        assert!(size.with_shorter_side(0).is_err());
        assert!(Size::new(0, 3).with_shorter_side(3).is_err());
        assert!(Size::new(1, MAX_SIDE).with_shorter_side(2).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let shape = ImageShape::new(2, 2, 3);
        let resizer = Resizer::new(shape, Size::square(4), Filter::Bilinear).unwrap();
        assert!(resizer.resize(&[0; 11]).is_err());
        assert!(Resizer::new(shape, Size::square(0), Filter::Bilinear).is_err());
        assert!(Resizer::new(ImageShape::new(2, 2, 2), Size::square(4), Filter::Bilinear).is_err());
    }
}
