use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::simd::{pieces, pieces2, sum_of, sum_of2, sums, vectorised};
use super::tape::{Kernel, contiguous, is_ours, on_flex, run, sides, tensor, values};

/// Layer normalisation over the last side: any `[.., dim]`, scale and shift `[dim]` (Ba et al., 2016).
///
/// On the CPU one pass forwards and one back, over all cores; burn's tape holds a dozen operations for it.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let dim = x.dims()[D - 1];
    let fits = weight.dims() == [dim] && bias.dims() == [dim];
    if fits && is_ours(&x) && is_ours(&weight) && is_ours(&bias) {
        let kernel = LayerNorm {
            epsilon: epsilon as f32,
        };
        run(kernel, [on_flex(x), on_flex(weight), on_flex(bias)]).tensor()
    } else {
        burn::tensor::module::layer_norm(x, weight, Some(bias), epsilon)
    }
}

#[derive(Clone, Copy, Debug)]
struct LayerNorm {
    epsilon: f32,
}

#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    weight: FlexTensor,
    /// Mean and 1/σ of each row.
    statistics: Arc<Vec<f32>>,
}

/// The mean of a row and one over its deviation.
#[inline(always)]
fn statistics(row: &[f32], epsilon: f32) -> [f32; 2] {
    let n = row.len() as f32;
    let mean = sum_of(row, |x| x) / n;
    let variance = sum_of(row, |x| (x - mean) * (x - mean)) / n;
    [mean, 1.0 / (variance + epsilon).sqrt()]
}

vectorised! {
    /// y ← (x − mean)/σ·w + b for each row; its mean and 1/σ go to `kept`, where that has room.
    fn normalise<'a>(y: &'a mut [f32], kept: &'a mut [f32], x: &'a [f32], parameters: [&'a [f32]; 2], epsilon: f32) {
        let [w, b] = parameters;
        let mut kept = kept.chunks_exact_mut(2);
        for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
            let [mean, scale] = statistics(x, epsilon);
            if let Some(kept) = kept.next() {
                kept.copy_from_slice(&[mean, scale]);
            }
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                *y = ((x - mean) * scale).mul_add(*w, *b);
            }
        }
    }
}

vectorised! {
    /// With x̂ = (x − mean)/σ and ĝ = g·w: dx ← (ĝ − mean ĝ − x̂·mean(ĝ·x̂))/σ.
    fn input_grad<'a>(dx: &'a mut [f32], g: &'a [f32], x: &'a [f32], statistics: &'a [f32], w: &'a [f32]) {
        let (dim, n) = (w.len(), w.len() as f32);
        let rows = dx.chunks_exact_mut(dim).zip(g.chunks_exact(dim)).zip(x.chunks_exact(dim));
        for (((dx, g), x), statistics) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (statistics[0], statistics[1]);
            for ((dx, g), w) in dx.iter_mut().zip(g).zip(w) {
                *dx = g * w;
            }
            let first = sum_of(dx, |g| g) / n;
            let second = sum_of2(dx, x, |g, x| g * (x - mean)) * scale / n;
            for (dx, x) in dx.iter_mut().zip(x) {
                let hat = (x - mean) * scale;
                *dx = scale * (-hat).mul_add(second, *dx - first);
            }
        }
    }
}

vectorised! {
    /// Adds Σ g·x̂ to the first half of the sums, Σ g to the second.
    fn parameter_grads<'a>(sums: &'a mut [f32], g: &'a [f32], x: &'a [f32], statistics: &'a [f32]) {
        let (dw, db) = sums.split_at_mut(sums.len() / 2);
        let rows = g.chunks_exact(dw.len()).zip(x.chunks_exact(dw.len()));
        for ((g, x), statistics) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (statistics[0], statistics[1]);
            for (((dw, db), g), x) in dw.iter_mut().zip(db.iter_mut()).zip(g).zip(x) {
                *dw += g * ((x - mean) * scale);
                *db += g;
            }
        }
    }
}

impl Kernel<3> for LayerNorm {
    type Kept = Kept;

    fn forward(self, inputs: [FlexTensor; 3]) -> FlexTensor {
        let [x, weight, bias] = inputs.map(contiguous);
        let (source, w, b) = (values(&x), values(&weight), values(&bias));
        let mut y = vec![0.0; source.len()];
        pieces(&mut y, w.len(), |first, y| {
            normalise(y, &mut [], &source[first..], [w, b], self.epsilon);
        });
        tensor(y, sides(&x))
    }

    fn forward_kept(self, inputs: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, Kept) {
        let [x, weight, bias] = inputs.map(contiguous);
        let (source, w, b) = (values(&x), values(&weight), values(&bias));
        let dim = w.len();
        let mut y = vec![0.0; source.len()];
        let mut statistics = vec![0.0; 2 * source.len() / dim.max(1)];
        pieces2([&mut y, &mut statistics], [dim, 2], |first, y, kept| {
            normalise(y, kept, &source[first * dim..], [w, b], self.epsilon);
        });
        let y = tensor(y, sides(&x));
        (
            y,
            Kept {
                x,
                weight,
                statistics: Arc::new(statistics),
            },
        )
    }

    fn backward(self, kept: Kept, grad: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let grad = contiguous(grad);
        let (g, x, w) = (values(&grad), values(&kept.x), values(&kept.weight));
        let (dim, statistics) = (w.len(), &kept.statistics);
        let dx = wanted[0].then(|| {
            let mut dx = vec![0.0; g.len()];
            pieces(&mut dx, dim, |first, dx| {
                input_grad(
                    dx,
                    &g[first..],
                    &x[first..],
                    &statistics[2 * first / dim..],
                    w,
                );
            });
            tensor(dx, sides(&grad))
        });
        let (mut dw, mut db) = (None, None);
        if wanted[1] || wanted[2] {
            let rows = g.len() / dim.max(1);
            let mut found = sums(rows, dim, 2 * dim, |rows, sums| {
                let (first, past) = (rows.start * dim, rows.end * dim);
                parameter_grads(
                    sums,
                    &g[first..past],
                    &x[first..past],
                    &statistics[2 * rows.start..],
                );
            });
            let shift = found.split_off(dim);
            dw = wanted[1].then(|| tensor(found, [dim]));
            db = wanted[2].then(|| tensor(shift, [dim]));
        }
        [dx, dw, db]
    }
}
