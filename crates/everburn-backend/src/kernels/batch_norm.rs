use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::simd::{sum_of, sum_of2, vectorised};
use super::tape::{Kernel, OnFlex, contiguous, is_ours, on_flex, run, sides, tensor, values};

/// What batch normalisation in train mode gives.
pub struct Normalised {
    /// `[batch, channels, height, width]`.
    pub output: Tensor<4>,
    /// The batch's mean, `[channels]`, without a tape.
    pub mean: Tensor<1>,
    /// The batch's biased variance, `[channels]`, without a tape.
    pub variance: Tensor<1>,
}

/// Batch normalisation by the statistics of the batch: `[batch, channels, height, width]`, scale and shift
/// `[channels]` (Ioffe & Szegedy, 2015, algorithm 1). On the CPU channel by channel over all cores.
pub fn batch_norm_train(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Normalised {
    let fits = [weight.dims(), bias.dims()] == [[x.dims()[1]]; 2];
    if !(fits && is_ours(&x) && is_ours(&weight) && is_ours(&bias)) {
        let out = burn::tensor::module::batch_norm_train(x, weight, bias, epsilon);
        return Normalised {
            output: out.output,
            mean: out.mean.without_autodiff(),
            variance: out.variance.without_autodiff(),
        };
    }
    let device = x.device().without_autodiff();
    let [_, channels, ..] = x.dims();
    // The statistics leave the kernel beside the output, where a kernel has one output.
    let statistics = statistics(&contiguous(plain(x.clone())));
    let vector = |of: fn(&Statistics) -> f32| {
        let values: Vec<f32> = statistics.iter().map(of).collect();
        Tensor::<1>::from_data(burn::tensor::TensorData::new(values, [channels]), &device)
    };
    let (mean, variance) = (vector(|s| s.mean), vector(|s| s.variance));
    Normalised {
        output: normalised(x, [weight, bias], &statistics, epsilon, true),
        mean,
        variance,
    }
}

/// Batch normalisation by running statistics `[channels]`.
pub fn batch_norm(
    x: Tensor<4>,
    [weight, bias]: [Tensor<1>; 2],
    [mean, variance]: [Tensor<1>; 2],
    epsilon: f64,
) -> Tensor<4> {
    let vectors = [&weight, &bias, &mean, &variance];
    let fits = vectors.iter().all(|v| v.dims() == [x.dims()[1]]);
    let ours = fits && is_ours(&x) && vectors.into_iter().all(is_ours);
    if !ours || mean.is_autodiff() || variance.is_autodiff() {
        return burn::tensor::module::batch_norm(x, weight, bias, mean, variance, epsilon);
    }
    let [mean, variance] = [mean, variance].map(|t| contiguous(plain(t)));
    let pairs = values(&mean).iter().zip(values(&variance));
    let statistics = pairs.map(|(mean, variance)| Statistics {
        mean: *mean,
        variance: *variance,
    });
    let statistics: Vec<Statistics> = statistics.collect();
    normalised(x, [weight, bias], &statistics, epsilon, false)
}

/// By these statistics of each channel, which are the batch's if `train`.
fn normalised(
    x: Tensor<4>,
    [weight, bias]: [Tensor<1>; 2],
    statistics: &[Statistics],
    epsilon: f64,
    train: bool,
) -> Tensor<4> {
    let scale = |s: &Statistics| [s.mean, 1.0 / (s.variance + epsilon as f32).sqrt()];
    let scales = statistics.iter().flat_map(scale).collect();
    let scales = OnFlex::Plain(tensor(scales, [statistics.len(), 2]));
    let inputs = [on_flex(x), on_flex(weight), on_flex(bias), scales];
    run(BatchNorm { train }, inputs).tensor()
}

fn plain<const D: usize>(x: Tensor<D>) -> FlexTensor {
    match on_flex(x.without_autodiff()) {
        OnFlex::Plain(x) => x,
        OnFlex::Taped(x) => x.into_primitive(),
    }
}

struct Statistics {
    mean: f32,
    variance: f32,
}

vectorised! {
    /// Mean and biased variance of a channel.
    fn statistics_of<'a>(x: &'a [f32], sizes: Sizes, channel: usize) -> Statistics {
        let n = (sizes.batch * sizes.pixels) as f32;
        let mut sum = 0.0;
        for x in sizes.each(x, channel) {
            sum += sum_of(x, |x| x);
        }
        let mean = sum / n;
        let mut squares = 0.0;
        for x in sizes.each(x, channel) {
            squares += sum_of(x, |x| (x - mean) * (x - mean));
        }
        Statistics { mean, variance: squares / n }
    }
}

/// Mean and biased variance of each channel of `[batch, channels, ..]`.
fn statistics(x: &FlexTensor) -> Vec<Statistics> {
    let (sizes, x) = (Sizes::of(x), values(x));
    let channels = (0..sizes.channels).into_par_iter();
    channels
        .map(|channel| statistics_of(x, sizes, channel))
        .collect()
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    channels: usize,
    pixels: usize,
}

impl Sizes {
    fn of(x: &FlexTensor) -> Self {
        let shape = sides(x);
        Self {
            batch: shape[0],
            channels: shape[1],
            pixels: shape[2..].iter().product(),
        }
    }

    /// Values of an image, at least 1.
    fn image(self) -> usize {
        (self.channels * self.pixels).max(1)
    }

    /// The pixels of a channel in each image.
    #[inline(always)]
    fn each(self, values: &[f32], channel: usize) -> impl Iterator<Item = &[f32]> {
        values
            .chunks_exact(self.pixels.max(1))
            .skip(channel)
            .step_by(self.channels.max(1))
    }
}

/// Inputs: `[batch, channels, ..]`, scale, shift, and mean and 1/σ of each channel, which are constants if
/// they are not those of the batch.
#[derive(Clone, Copy, Debug)]
struct BatchNorm {
    train: bool,
}

#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    weight: FlexTensor,
    scales: FlexTensor,
}

vectorised! {
    /// x ← (x − mean)/σ·w + b, channel by channel, of one image.
    fn normalise<'a>(x: &'a mut [f32], scales: &'a [f32], parameters: [&'a [f32]; 2], pixels: usize) {
        let [w, b] = parameters;
        let channels = x.chunks_exact_mut(pixels).zip(scales.chunks_exact(2));
        for ((x, scale), (w, b)) in channels.zip(w.iter().zip(b)) {
            let factor = scale[1] * w;
            let shift = (-scale[0]).mul_add(factor, *b);
            for x in x {
                *x = x.mul_add(factor, shift);
            }
        }
    }
}

vectorised! {
    /// Σ g·x̂ and Σ g of a channel, with x̂ = (x − mean)/σ.
    fn grad_sums<'a>(g: &'a [f32], x: &'a [f32], scales: [f32; 2], sizes: Sizes, channel: usize) -> [f32; 2] {
        let [mean, scale] = scales;
        let (mut dot, mut sum) = (0.0, 0.0);
        for (g, x) in sizes.each(g, channel).zip(sizes.each(x, channel)) {
            dot += sum_of2(g, x, |g, x| g * (x - mean));
            sum += sum_of(g, |g| g);
        }
        [dot * scale, sum]
    }
}

/// What the gradient of a channel's input is made of.
#[derive(Clone, Copy)]
struct Chain {
    mean: f32,
    scale: f32,
    weight: f32,
    /// Means of g·x̂ and of g; 0 where the statistics are constants.
    means: [f32; 2],
}

vectorised! {
    /// dx ← w/σ·(g − mean g − x̂·mean(g·x̂)), channel by channel, of one image.
    fn input_grad<'a>(dx: &'a mut [f32], g: &'a [f32], x: &'a [f32], chains: &'a [Chain], pixels: usize) {
        let channels = dx.chunks_exact_mut(pixels).zip(g.chunks_exact(pixels));
        for (((dx, g), x), chain) in channels.zip(x.chunks_exact(pixels)).zip(chains) {
            let Chain { mean, scale, weight, means: [dot, sum] } = *chain;
            let factor = weight * scale;
            for ((dx, g), x) in dx.iter_mut().zip(g).zip(x) {
                let hat = (x - mean) * scale;
                *dx = factor * (-hat).mul_add(dot, g - sum);
            }
        }
    }
}

/// Normalises; in place where nobody else holds `x`.
fn apply(
    mut x: FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    scales: &FlexTensor,
) -> FlexTensor {
    let (parameters, scales) = ([values(weight), values(bias)], values(scales));
    let (image, pixels) = (Sizes::of(&x).image(), Sizes::of(&x).pixels.max(1));
    let images = x.storage_mut::<f32>().par_chunks_mut(image);
    images.for_each(|x| normalise(x, scales, parameters, pixels));
    x
}

impl Kernel<4> for BatchNorm {
    type Kept = Kept;

    fn forward(self, inputs: [FlexTensor; 4]) -> FlexTensor {
        let [x, weight, bias, scales] = inputs.map(contiguous);
        apply(x, &weight, &bias, &scales)
    }

    fn forward_kept(self, inputs: [FlexTensor; 4], _: [bool; 4]) -> (FlexTensor, Kept) {
        let [x, weight, bias, scales] = inputs.map(contiguous);
        let y = apply(x.clone(), &weight, &bias, &scales);
        (y, Kept { x, weight, scales })
    }

    /// dw = Σ g·x̂, db = Σ g, and dx as the functions above have it.
    fn backward(self, kept: Kept, grad: FlexTensor, wanted: [bool; 4]) -> [Option<FlexTensor>; 4] {
        let grad = contiguous(grad);
        let sizes = Sizes::of(&kept.x);
        let (g, x, w) = (values(&grad), values(&kept.x), values(&kept.weight));
        let scales = values(&kept.scales);
        let channels = (0..sizes.channels).into_par_iter();
        let sums: Vec<[f32; 2]> = channels
            .map(|c| grad_sums(g, x, [scales[2 * c], scales[2 * c + 1]], sizes, c))
            .collect();
        let dx = wanted[0].then(|| {
            let n = (sizes.batch * sizes.pixels) as f32;
            let chain = |c: usize| Chain {
                mean: scales[2 * c],
                scale: scales[2 * c + 1],
                weight: w[c],
                means: if self.train {
                    sums[c].map(|s| s / n)
                } else {
                    [0.0; 2]
                },
            };
            let chains: Vec<Chain> = (0..sizes.channels).map(chain).collect();
            let (image, pixels) = (sizes.image(), sizes.pixels.max(1));
            let mut dx = vec![0.0; g.len()];
            let images = dx
                .par_chunks_mut(image)
                .zip(g.par_chunks(image))
                .zip(x.par_chunks(image));
            images.for_each(|((dx, g), x)| input_grad(dx, g, x, &chains, pixels));
            tensor(dx, sides(&kept.x))
        });
        let vector = |part: usize| tensor(sums.iter().map(|s| s[part]).collect(), [sizes.channels]);
        [
            dx,
            wanted[1].then(|| vector(0)),
            wanted[2].then(|| vector(1)),
            None,
        ]
    }
}
