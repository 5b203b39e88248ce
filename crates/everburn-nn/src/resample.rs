//! Resampling as a matrix: resizing, cropping, flipping and position-embedding interpolation are all
//! `out = R·in` along one side.

use burn::tensor::{Device, Tensor, TensorData};
use everburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The kernel of a resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// A triangle of support 1.
    Bilinear,
    /// Keys' cubic of support 2: a = −0.75 without antialias, −0.5 with, as PyTorch has it.
    Bicubic,
}

impl Kernel {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64, a: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
            Self::Bicubic => 0.0,
        }
    }
}

/// A piece of a side, in pixels of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Where it begins; may lie before the input.
    pub start: f64,
    /// How long it is.
    pub length: f64,
}

impl Window {
    /// The whole side.
    pub fn whole(length: usize) -> Self {
        Self {
            start: 0.0,
            length: length as f64,
        }
    }
}

/// The `[output, input]` weights that resample a window of a side of `input` pixels to `output`
/// pixels, with half-pixel centres.
///
/// With `antialias` the kernel widens when shrinking and is cut and renormalised at the border
/// (Pillow, and PyTorch's `antialias=True`); without, taps beyond the border repeat the last pixel
/// (PyTorch's plain `interpolate`).
pub fn resample_weights(
    input: usize,
    output: usize,
    window: Window,
    kernel: Kernel,
    antialias: bool,
) -> Vec<f32> {
    let mut weights = vec![0.0; output * input];
    let scale = window.length / output.max(1) as f64;
    for (row, out) in weights.chunks_exact_mut(input.max(1)).enumerate() {
        let centre = window.start + (row as f64 + 0.5) * scale;
        if antialias {
            antialiased_row(out, centre, scale.max(1.0), kernel);
        } else {
            plain_row(out, centre, kernel);
        }
    }
    weights
}

fn antialiased_row(out: &mut [f32], centre: f64, stretch: f64, kernel: Kernel) {
    let reach = kernel.support() * stretch;
    let last = out.len() as f64;
    let first = (centre - reach + 0.5).floor().clamp(0.0, last) as usize;
    let end = (centre + reach + 0.5).floor().clamp(0.0, last) as usize;
    let weight = |tap: usize| kernel.weight((tap as f64 + 0.5 - centre) / stretch, -0.5);
    let total: f64 = (first..end).map(weight).sum();
    for (tap, value) in out.iter_mut().enumerate().take(end).skip(first) {
        *value = (weight(tap) / total) as f32;
    }
}

fn plain_row(out: &mut [f32], centre: f64, kernel: Kernel) {
    let position = centre - 0.5;
    let reach = kernel.support() as i64;
    let base = position.floor() as i64;
    let last = out.len() as i64 - 1;
    for tap in base - reach + 1..=base + reach {
        let weight = kernel.weight(tap as f64 - position, -0.75);
        out[tap.clamp(0, last) as usize] += weight as f32;
    }
}

/// Resizes `[batch, channels, height, width]` to another height and width.
///
/// # Errors
/// If a side is zero.
pub fn resize(
    images: Tensor<4>,
    size: [usize; 2],
    kernel: Kernel,
    antialias: bool,
) -> Result<Tensor<4>> {
    let [_, _, height, width] = images.dims();
    if [height, width, size[0], size[1]].contains(&0) {
        let found = format!("{height}×{width} to {}×{}", size[0], size[1]);
        return Err(Error::input("resizing", found, "no side of zero"));
    }
    let device = images.device();
    let matrix = |input: usize, output: usize| -> Tensor<4> {
        let weights = resample_weights(input, output, Window::whole(input), kernel, antialias);
        Tensor::from_data(TensorData::new(weights, [1, 1, output, input]), &device)
    };
    let rows = matrix(height, size[0]).matmul(images);
    Ok(rows.matmul(matrix(width, size[1]).swap_dims(2, 3)))
}

/// Fits a position embedding `[1, 1 + g², D]` to a grid of `[rows, columns]`: the first row belongs
/// to the class token and is kept, the others are resized bicubically.
///
/// `antialias = false` is what timm 0.5.4 and 0.6.12 do, the versions that the methods of this field
/// pin; timm from 0.9 on antialiases, and gives other numbers also when the grid grows.
///
/// # Errors
/// If the old grid is not square.
pub fn resize_pos_embed(
    pos_embed: Tensor<3>,
    grid: [usize; 2],
    antialias: bool,
) -> Result<Tensor<3>> {
    let [_, tokens, dim] = pos_embed.dims();
    let old = tokens.saturating_sub(1).isqrt();
    if old == 0 || old * old + 1 != tokens {
        let expected = "1 + a square number";
        return Err(Error::input(
            "tokens of a position embedding",
            tokens,
            expected,
        ));
    }
    if grid == [old, old] {
        return Ok(pos_embed);
    }
    let class = pos_embed.clone().slice([0..1, 0..1]);
    let patches = (pos_embed.slice([0..1, 1..tokens]))
        .reshape([1, old, old, dim])
        .permute([0, 3, 1, 2]);
    let resized = resize(patches, grid, Kernel::Bicubic, antialias)?;
    let patches = (resized.permute([0, 2, 3, 1])).reshape([1, grid[0] * grid[1], dim]);
    Ok(Tensor::cat(vec![class, patches], 1))
}

/// A `[batch, 1, output, input]` tensor from one matrix per image.
pub(crate) fn stack_weights(
    matrices: Vec<f32>,
    [batch, output, input]: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    Tensor::from_data(TensorData::new(matrices, [batch, 1, output, input]), device)
}
