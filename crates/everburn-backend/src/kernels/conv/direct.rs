//! 3×3 cross-correlation of stride 1 without a matrix of patches: the kernel slides over an image in a
//! frame of zeros, in register blocks of as many outputs and pixels as there are vector registers for.
//!
//! Rows of an image lie one frame's width apart, so that a shift of the kernel is a shift of the whole
//! image by so many elements; the few columns that then belong to no pixel are computed and left out.

use pulp::{Simd, WithSimd};

use crate::kernels::simd::copy;

/// Outputs of a register block; divides the widths of the reduced ResNet-18.
const OUTPUTS: usize = 5;

/// Elements that may be read past the last pixel: the longest block.
const SLACK: usize = 64;

/// Taps of a kernel.
const TAPS: usize = 9;

/// The sizes of an image in its frame and of its output.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) channels: usize,
    /// Rows and columns without the frame.
    pub(super) from: [usize; 2],
    pub(super) padding: usize,
}

impl Frame {
    fn width(&self) -> usize {
        self.from[1] + 2 * self.padding
    }

    fn plane(&self) -> usize {
        (self.from[0] + 2 * self.padding) * self.width()
    }

    /// Rows and columns of the output.
    fn to(&self) -> [usize; 2] {
        self.from.map(|side| side + 2 * self.padding - 2)
    }

    /// Elements of an output plane, rows one frame's width apart, up to a whole block.
    fn span(&self) -> usize {
        (self.to()[0] * self.width()).next_multiple_of(SLACK)
    }

    /// An image in a frame of zeros.
    fn framed(&self, image: &[f32]) -> Vec<f32> {
        let mut framed = vec![
            0.0;
            self.channels * self.plane() + self.span() - self.plane()
                + 2 * self.width()
                + SLACK
        ];
        let [height, width] = self.from;
        for (channel, plane) in image.chunks_exact(height * width).enumerate() {
            let first = channel * self.plane() + self.padding * (self.width() + 1);
            let rows = framed[first..].chunks_mut(self.width());
            for (to, from) in rows.zip(plane.chunks_exact(width)) {
                copy(&mut to[..width], from);
            }
        }
        framed
    }
}

/// Weights `[out, in, 3, 3]` as blocks of [`OUTPUTS`] outputs, each `[in·9, OUTPUTS]`, filled up with zeros.
pub(super) fn blocks(weight: &[f32], inputs: usize) -> Vec<f32> {
    let taps = inputs * TAPS;
    let outputs = weight.len() / taps.max(1);
    let mut blocks = vec![0.0; outputs.div_ceil(OUTPUTS) * taps * OUTPUTS];
    for (output, weight) in weight.chunks_exact(taps.max(1)).enumerate() {
        let block = &mut blocks[output / OUTPUTS * taps * OUTPUTS..];
        for (tap, weight) in weight.iter().enumerate() {
            block[tap * OUTPUTS + output % OUTPUTS] = *weight;
        }
    }
    blocks
}

/// The weights of the way back to the input, `[in, out, 3, 3]`, each kernel turned by half a turn.
pub(super) fn turned(weight: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / (inputs * TAPS).max(1);
    let mut turned = vec![0.0; weight.len()];
    for (index, kernel) in weight.chunks_exact(TAPS).enumerate() {
        let (output, input) = (index / inputs, index % inputs);
        let to = &mut turned[(input * outputs + output) * TAPS..][..TAPS];
        to.iter_mut()
            .zip(kernel.iter().rev())
            .for_each(|(to, from)| *to = *from);
    }
    turned
}

/// The output `[out, height', width']` of an image `[in, height, width]` and weights in [`blocks`].
pub(super) fn forward(output: &mut [f32], image: &[f32], blocks: &[f32], frame: Frame) {
    let framed = frame.framed(image);
    let mut planes = vec![0.0; OUTPUTS * frame.span()];
    let [height, width] = frame.to();
    let block = frame.channels * TAPS * OUTPUTS;
    let outputs = output.chunks_mut(OUTPUTS * height * width);
    for (output, weight) in outputs.zip(blocks.chunks_exact(block)) {
        pulp::Arch::new().dispatch(Slide {
            planes: &mut planes,
            framed: &framed,
            weight,
            frame,
        });
        for (output, plane) in output
            .chunks_exact_mut(height * width)
            .zip(planes.chunks_exact(frame.span()))
        {
            let rows = plane.chunks(frame.width());
            for (to, from) in output.chunks_exact_mut(width).zip(rows) {
                copy(to, &from[..width]);
            }
        }
    }
}

struct Slide<'a> {
    /// [`OUTPUTS`] planes of [`Frame::span`].
    planes: &'a mut [f32],
    framed: &'a [f32],
    weight: &'a [f32],
    frame: Frame,
}

impl WithSimd for Slide<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Four vectors of pixels times five outputs are 20 registers; two where there are only 16.
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 4>(simd);
        } else {
            self.run::<S, 2>(simd);
        }
    }
}

impl Slide<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let (frame, span) = (self.frame, self.frame.span());
        let step = VECTORS * S::F32_LANES;
        for first in (0..span).step_by(step) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; OUTPUTS];
            let mut weights = self.weight.chunks_exact(OUTPUTS);
            for channel in 0..frame.channels {
                for row in 0..3 {
                    let start = channel * frame.plane() + row * frame.width() + first;
                    for column in 0..3 {
                        let pixels = &self.framed[start + column..start + column + step];
                        let (pixels, _) = S::as_simd_f32s(pixels);
                        let Some(weights) = weights.next() else {
                            return;
                        };
                        for (sums, weight) in sums.iter_mut().zip(weights) {
                            let weight = simd.splat_f32s(*weight);
                            for (sum, pixels) in sums.iter_mut().zip(pixels) {
                                *sum = simd.mul_add_f32s(*pixels, weight, *sum);
                            }
                        }
                    }
                }
            }
            for (plane, sums) in self.planes.chunks_exact_mut(span).zip(sums) {
                let (to, _) = S::as_mut_simd_f32s(&mut plane[first..first + step]);
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = sum;
                }
            }
        }
    }
}

/// Adds the gradient of the weights, `[out, in, 3, 3]`, that an image and its output's gradient give.
pub(super) fn weight_grad(total: &mut [f32], image: &[f32], grad: &[f32], frame: Frame) {
    let framed = frame.framed(image);
    let [height, width] = frame.to();
    let outputs = grad.len() / (height * width);
    let mut planes = vec![0.0; outputs.next_multiple_of(OUTPUTS) * frame.span()];
    for (plane, grad) in planes
        .chunks_exact_mut(frame.span())
        .zip(grad.chunks_exact(height * width))
    {
        for (to, from) in plane
            .chunks_mut(frame.width())
            .zip(grad.chunks_exact(width))
        {
            copy(&mut to[..width], from);
        }
    }
    let totals = total.chunks_mut(OUTPUTS * frame.channels * TAPS);
    for (total, planes) in totals.zip(planes.chunks_exact(OUTPUTS * frame.span())) {
        pulp::Arch::new().dispatch(Correlate {
            total,
            framed: &framed,
            planes,
            frame,
        });
    }
}

struct Correlate<'a> {
    /// Of up to [`OUTPUTS`] outputs.
    total: &'a mut [f32],
    framed: &'a [f32],
    /// The gradient of [`OUTPUTS`] outputs, rows one frame's width apart, zero where there is no pixel.
    planes: &'a [f32],
    frame: Frame,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (frame, span) = (self.frame, self.frame.span());
        for channel in 0..frame.channels {
            for row in 0..3 {
                let start = channel * frame.plane() + row * frame.width();
                let mut sums = [[simd.splat_f32s(0.0); 3]; OUTPUTS];
                for first in (0..span).step_by(S::F32_LANES) {
                    let at = start + first;
                    let pixels = &self.framed[at..at + S::F32_LANES + 2];
                    let shift = |by: usize| S::as_simd_f32s(&pixels[by..by + S::F32_LANES]).0[0];
                    let pixels = [shift(0), shift(1), shift(2)];
                    for (output, sums) in sums.iter_mut().enumerate() {
                        let from = output * span + first;
                        let grad = S::as_simd_f32s(&self.planes[from..from + S::F32_LANES]).0[0];
                        for (sum, pixels) in sums.iter_mut().zip(pixels) {
                            *sum = simd.mul_add_f32s(grad, pixels, *sum);
                        }
                    }
                }
                let totals = self.total.chunks_exact_mut(frame.channels * TAPS);
                for (total, sums) in totals.zip(sums) {
                    let to = &mut total[channel * TAPS + row * 3..][..3];
                    for (to, sum) in to.iter_mut().zip(sums) {
                        *to += simd.reduce_sum_f32s(sum);
                    }
                }
            }
        }
    }
}
