use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::simd::{erf, exp, pieces, vectorised};
use super::tape::{Kernel, contiguous, is_ours, on_flex, run, sides, tensor, values};

/// The exact GELU x·Φ(x), of any shape (Hendrycks & Gimpel, 2016).
///
/// On the CPU, forward and gradient are vectorised over all cores: burn-flex calls a scalar `erf` for
/// each element on one core. Elsewhere it is burn's, whose gradient is that of the tanh approximation.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_ours(&x) {
        run(Gelu, [on_flex(x)]).tensor()
    } else {
        burn::tensor::activation::gelu(x)
    }
}

#[derive(Clone, Copy, Debug)]
struct Gelu;

/// Φ(x), the normal distribution's cumulative function.
#[inline(always)]
fn phi(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

vectorised! {
    /// x ← x·Φ(x).
    fn in_place<'a>(values: &'a mut [f32]) {
        for x in values {
            *x *= phi(*x);
        }
    }
}

vectorised! {
    /// y ← x·Φ(x).
    fn apply<'a>(y: &'a mut [f32], x: &'a [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * phi(*x);
        }
    }
}

vectorised! {
    /// g ← g·d/dx x·Φ(x) = g·(Φ(x) + x·φ(x)).
    fn chain<'a>(grad: &'a mut [f32], x: &'a [f32]) {
        /// 1/√(2π)
        const NORM: f32 = 0.398_942_3;
        for (g, x) in grad.iter_mut().zip(x) {
            *g *= (x * NORM).mul_add(exp(-0.5 * x * x), phi(*x));
        }
    }
}

impl Kernel<1> for Gelu {
    type Kept = FlexTensor;

    fn forward(self, [x]: [FlexTensor; 1]) -> FlexTensor {
        let mut x = contiguous(x);
        pieces(x.storage_mut(), 1, |_, piece| in_place(piece));
        x
    }

    fn forward_kept(self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, FlexTensor) {
        let x = contiguous(x);
        let source = values(&x);
        let mut y = vec![0.0; source.len()];
        pieces(&mut y, 1, |first, piece| apply(piece, &source[first..]));
        (tensor(y, sides(&x)), x)
    }

    fn backward(self, x: FlexTensor, grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let mut grad = contiguous(grad);
        let x = values(&x);
        pieces(grad.storage_mut(), 1, |first, piece| {
            chain(piece, &x[first..])
        });
        [Some(grad)]
    }
}
