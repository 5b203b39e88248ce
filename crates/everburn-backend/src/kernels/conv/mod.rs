//! Two-dimensional convolution.

mod direct;

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape, Tensor};
use rayon::prelude::*;

use crate::kernels::simd::{add, add_to, copy, vectorised};
use crate::kernels::tape::{
    Kernel, contiguous, is_ours, on_flex, reshaped, run, sides, tensor, turned, values,
};

/// Two-dimensional cross-correlation without bias: `[batch, in, height, width]` and weight
/// `[out, in, k, k]` to `[batch, out, height', width']`.
///
/// On the CPU the patches of an image, or of several small ones, are laid out as a matrix that stays in the
/// cache, and multiplied: forwards, for the weight's gradient, and for the input's if it is wanted.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let ([_, inputs, height, width], [_, wanted, rows, columns]) = (x.dims(), weight.dims());
    let reaches = height + 2 * padding >= rows && width + 2 * padding >= columns;
    let fits = inputs == wanted && stride > 0 && rows * columns > 0 && reaches;
    if fits && is_ours(&x) && is_ours(&weight) {
        run(Conv2d { stride, padding }, [on_flex(x), on_flex(weight)]).tensor()
    } else {
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        burn::tensor::module::conv2d(x, weight, None, options)
    }
}

#[derive(Clone, Copy, Debug)]
struct Conv2d {
    stride: usize,
    padding: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    weight: FlexTensor,
}

/// Columns of a matrix of patches: of as many images as it takes to have so many.
const COLUMNS: usize = 1024;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    from: [usize; 2],
    to: [usize; 2],
    stride: usize,
    padding: usize,
}

impl Sizes {
    /// Values of one image, before and after.
    fn image_in(&self) -> usize {
        self.inputs * self.from[0] * self.from[1]
    }

    fn image_out(&self) -> usize {
        self.outputs * self.pixels()
    }

    /// Places of the kernel in an image.
    fn pixels(&self) -> usize {
        self.to[0] * self.to[1]
    }

    /// Values of a patch.
    fn patch(&self) -> usize {
        self.inputs * self.kernel[0] * self.kernel[1]
    }

    /// Whether the kernel slides over the image instead of being multiplied with its patches: where rows are
    /// long enough for the frame to be small beside them.
    fn is_direct(&self) -> bool {
        self.kernel == [3, 3]
            && self.stride == 1
            && self.padding <= 2
            && self.to.iter().min() >= Some(&12)
    }

    fn frame(&self) -> direct::Frame {
        direct::Frame {
            channels: self.inputs,
            from: self.from,
            padding: self.padding,
        }
    }

    /// Of the way back: the output's gradient in a frame.
    fn frame_back(&self) -> direct::Frame {
        direct::Frame {
            channels: self.outputs,
            from: self.to,
            padding: 2 - self.padding,
        }
    }

    /// Images whose patches are laid out beside each other.
    fn group(&self) -> usize {
        (COLUMNS / self.pixels().max(1)).clamp(1, self.batch.max(1))
    }

    /// Where a row of the kernel at `k` meets the rows of the image: for each row of the output that row.
    fn row_of(&self, row: usize, k: usize) -> Option<usize> {
        (row * self.stride + k)
            .checked_sub(self.padding)
            .filter(|row| *row < self.from[0])
    }

    /// The columns of the output that meet the image at column `k` of the kernel, and the first column of
    /// the image that they meet.
    fn span(&self, k: usize) -> (std::ops::Range<usize>, usize) {
        let first = self.padding.saturating_sub(k).div_ceil(self.stride);
        let past = (self.from[1] + self.padding)
            .saturating_sub(k)
            .div_ceil(self.stride);
        let first = first.min(self.to[1]);
        (
            first..past.clamp(first, self.to[1]),
            (first * self.stride + k).saturating_sub(self.padding),
        )
    }
}

impl Conv2d {
    fn sizes(self, x: &FlexTensor, weight: &FlexTensor) -> Sizes {
        let (x, w) = (sides(x), sides(weight));
        let to =
            |from: usize, k: usize| (from + 2 * self.padding).saturating_sub(k) / self.stride + 1;
        Sizes {
            batch: x[0],
            inputs: x[1],
            outputs: w[0],
            kernel: [w[2], w[3]],
            from: [x[2], x[3]],
            to: [to(x[2], w[2]), to(x[3], w[3])],
            stride: self.stride,
            padding: self.padding,
        }
    }
}

/// Goes through the rows of the matrix of patches and of the images that they come from: `work` gets a
/// stretch of a patch row (its first element and length) and the first element of the image that it meets.
#[inline(always)]
fn stretches(sizes: &Sizes, images: usize, mut work: impl FnMut(usize, usize, usize)) {
    let [from_height, from_width] = sizes.from;
    let [to_height, to_width] = sizes.to;
    let width = images * sizes.pixels();
    let mut row_start = 0;
    for channel in 0..sizes.inputs {
        for ky in 0..sizes.kernel[0] {
            for kx in 0..sizes.kernel[1] {
                let (columns, first) = sizes.span(kx);
                for image in 0..images {
                    let source = image * sizes.image_in() + channel * from_height * from_width;
                    for row in 0..to_height {
                        let Some(from_row) = sizes.row_of(row, ky) else {
                            continue;
                        };
                        let to =
                            row_start + image * sizes.pixels() + row * to_width + columns.start;
                        work(to, columns.len(), source + from_row * from_width + first);
                    }
                }
                row_start += width;
            }
        }
    }
}

vectorised! {
    /// Lays the patches of images out as a matrix `[patch, images·pixels]` of zeros.
    fn lay_out<'a>(matrix: &'a mut [f32], images: &'a [f32], sizes: &'a Sizes) {
        let count = images.len() / sizes.image_in().max(1);
        let stride = sizes.stride;
        stretches(sizes, count, |to, len, from| {
            let to = &mut matrix[to..to + len];
            if stride == 1 {
                copy(to, &images[from..from + len]);
            } else {
                for (to, from) in to.iter_mut().zip(images[from..].iter().step_by(stride)) {
                    *to = *from;
                }
            }
        });
    }
}

vectorised! {
    /// Adds a matrix of patches back to where they came from.
    fn gather<'a>(images: &'a mut [f32], matrix: &'a [f32], sizes: &'a Sizes) {
        let count = images.len() / sizes.image_in().max(1);
        let stride = sizes.stride;
        stretches(sizes, count, |from, len, to| {
            let from = &matrix[from..from + len];
            if stride == 1 {
                add_to(&mut images[to..to + len], from);
            } else {
                for (to, from) in images[to..].iter_mut().step_by(stride).zip(from) {
                    *to += *from;
                }
            }
        });
    }
}

/// Of `[images, rows, pixels]` the matrix `[rows, images·pixels]`; a view where it is one image.
fn side_by_side(
    of: &FlexTensor,
    first: usize,
    images: usize,
    rows: usize,
    pixels: usize,
) -> FlexTensor {
    let start = first * rows * pixels;
    if images == 1 {
        let layout = Layout::new(Shape::from([rows, pixels]), vec![pixels as isize, 1], start);
        return FlexTensor::from_arc(of.data_arc(), layout, DType::F32);
    }
    let source = &values(of)[start..start + images * rows * pixels];
    let mut matrix = vec![0.0; source.len()];
    for (image, source) in source.chunks_exact(rows * pixels).enumerate() {
        let rows = matrix.chunks_exact_mut(images * pixels);
        for (row, source) in rows.zip(source.chunks_exact(pixels)) {
            row[image * pixels..(image + 1) * pixels].copy_from_slice(source);
        }
    }
    tensor(matrix, [rows, images * pixels])
}

/// The way back of [`side_by_side`], into `[images, rows, pixels]`.
fn apart(images: &mut [f32], matrix: &[f32], rows: usize, pixels: usize) {
    let count = images.len() / (rows * pixels).max(1);
    for (image, to) in images.chunks_exact_mut((rows * pixels).max(1)).enumerate() {
        let sources = matrix.chunks_exact(count * pixels);
        for (row, source) in to.chunks_exact_mut(pixels).zip(sources) {
            row.copy_from_slice(&source[image * pixels..(image + 1) * pixels]);
        }
    }
}

fn patches(x: &[f32], sizes: &Sizes) -> FlexTensor {
    let columns = x.len() / sizes.image_in().max(1) * sizes.pixels();
    let mut matrix = vec![0.0; sizes.patch() * columns];
    lay_out(&mut matrix, x, sizes);
    tensor(matrix, [sizes.patch(), columns])
}

impl Kernel<2> for Conv2d {
    type Kept = Kept;

    fn forward(self, [x, weight]: [FlexTensor; 2]) -> FlexTensor {
        let [x, weight] = [x, weight].map(contiguous);
        let sizes = self.sizes(&x, &weight);
        let group = sizes.group();
        let mut y = vec![0.0; sizes.batch * sizes.image_out()];
        if sizes.is_direct() {
            let blocks = direct::blocks(values(&weight), sizes.inputs);
            let images = y.par_chunks_mut(sizes.image_out());
            (images.zip(values(&x).par_chunks(sizes.image_in())))
                .for_each(|(y, x)| direct::forward(y, x, &blocks, sizes.frame()));
            return tensor(y, [sizes.batch, sizes.outputs, sizes.to[0], sizes.to[1]]);
        }
        let flat = reshaped(weight, [sizes.outputs, sizes.patch()]);
        (y.par_chunks_mut((group * sizes.image_out()).max(1)))
            .zip(values(&x).par_chunks((group * sizes.image_in()).max(1)))
            .for_each(|(y, x)| {
                let product = Flex::float_matmul(flat.clone(), patches(x, &sizes));
                apart(y, values(&product), sizes.outputs, sizes.pixels());
            });
        tensor(y, [sizes.batch, sizes.outputs, sizes.to[0], sizes.to[1]])
    }

    fn forward_kept(self, inputs: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, Kept) {
        let [x, weight] = inputs.map(contiguous);
        let y = self.forward([x.clone(), weight.clone()]);
        (y, Kept { x, weight })
    }

    /// With P the patches of the input: dW = G·Pᵀ, and Wᵀ·G added back where the patches came from.
    fn backward(self, kept: Kept, grad: FlexTensor, wanted: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let Kept { x, weight } = kept;
        let sizes = self.sizes(&x, &weight);
        let (group, pixels) = (sizes.group(), sizes.pixels());
        let (grad, shape) = (contiguous(grad), sides(&weight));
        if sizes.is_direct() {
            return backward_direct(&x, &weight, &grad, sizes, wanted);
        }
        let flat = turned(&reshaped(weight, [sizes.outputs, sizes.patch()]));
        let source = values(&x);
        let grad_of = |index: usize, images: usize| {
            side_by_side(&grad, index * group, images, sizes.outputs, pixels)
        };
        let dx = wanted[0].then(|| {
            let mut dx = vec![0.0; source.len()];
            let images = dx.par_chunks_mut((group * sizes.image_in()).max(1));
            images.enumerate().for_each(|(index, dx)| {
                let g = grad_of(index, dx.len() / sizes.image_in());
                gather(dx, values(&Flex::float_matmul(flat.clone(), g)), &sizes);
            });
            tensor(dx, sides(&x))
        });
        let dw = wanted[1]
            .then(|| {
                let images = source
                    .par_chunks((group * sizes.image_in()).max(1))
                    .enumerate();
                let parts: Vec<FlexTensor> = images
                    .map(|(index, x)| {
                        let g = grad_of(index, x.len() / sizes.image_in());
                        Flex::float_matmul(patches(x, &sizes), turned(&g))
                    })
                    .collect();
                let total = in_order(parts.iter().map(values));
                let transposed = turned(&tensor(total, [sizes.patch(), sizes.outputs]));
                Some(reshaped(contiguous(transposed), shape))
            })
            .flatten();
        [dx, dw]
    }
}

fn backward_direct(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    sizes: Sizes,
    wanted: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let (source, g) = (values(x), values(grad));
    let dx = wanted[0].then(|| {
        let turned = direct::turned(values(weight), sizes.inputs);
        let blocks = direct::blocks(&turned, sizes.outputs);
        let mut dx = vec![0.0; source.len()];
        let images = dx.par_chunks_mut(sizes.image_in());
        (images.zip(g.par_chunks(sizes.image_out())))
            .for_each(|(dx, g)| direct::forward(dx, g, &blocks, sizes.frame_back()));
        tensor(dx, sides(x))
    });
    let dw = wanted[1].then(|| {
        let images = source.par_chunks(sizes.image_in());
        let parts: Vec<Vec<f32>> = images
            .zip(g.par_chunks(sizes.image_out()))
            .map(|(x, g)| {
                let mut part = vec![0.0; sizes.outputs * sizes.patch()];
                direct::weight_grad(&mut part, x, g, sizes.frame());
                part
            })
            .collect();
        tensor(in_order(parts.iter().map(Vec::as_slice)), sides(weight))
    });
    [dx, dw]
}

/// The sum of vectors, in their order whatever the number of cores.
fn in_order<'a>(mut parts: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut total = parts.next().unwrap_or_default().to_vec();
    parts.for_each(|part| add(&mut total, part));
    total
}
