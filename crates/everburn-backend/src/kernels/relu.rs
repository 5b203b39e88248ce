use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::simd::{pieces, vectorised};
use super::tape::{Kernel, contiguous, is_ours, on_flex, run, sides, tensor, values};

/// max(x, 0) of any shape. On the CPU over all cores.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_ours(&x) {
        run(Relu, [on_flex(x)]).tensor()
    } else {
        burn::tensor::activation::relu(x)
    }
}

#[derive(Clone, Copy, Debug)]
struct Relu;

/// Not `max`: what is not a number stays so.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

vectorised! {
    fn in_place<'a>(values: &'a mut [f32]) {
        for x in values {
            *x = positive(*x);
        }
    }
}

vectorised! {
    fn apply<'a>(y: &'a mut [f32], x: &'a [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = positive(*x);
        }
    }
}

vectorised! {
    /// g ← g where y > 0, else 0: PyTorch's choice at 0.
    fn chain<'a>(grad: &'a mut [f32], y: &'a [f32]) {
        for (g, y) in grad.iter_mut().zip(y) {
            *g = if *y <= 0.0 { 0.0 } else { *g };
        }
    }
}

impl Kernel<1> for Relu {
    /// The output.
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
        let y = tensor(y, sides(&x));
        (y.clone(), y)
    }

    fn backward(self, y: FlexTensor, grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let mut grad = contiguous(grad);
        let y = values(&y);
        pieces(grad.storage_mut(), 1, |first, piece| {
            chain(piece, &y[first..])
        });
        [Some(grad)]
    }
}
