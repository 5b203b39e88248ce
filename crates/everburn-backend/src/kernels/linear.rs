use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Tensor;

use super::simd::{add_to, pieces, sums, vectorised};
use super::tape::{
    Kernel, as_rows, contiguous, is_ours, on_flex, reshaped, run, sides, tensor, turned, values,
};

/// y = x·W + b: `[.., in]` to `[.., out]` with W `[in, out]` and b `[out]`.
///
/// On the CPU the products are burn-flex's; the bias and its gradient go over all cores, and no gradient
/// is computed for a weight that has no tape.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    let fits = [x.dims()[D - 1], bias.dims()[0]] == weight.dims();
    if fits && is_ours(&x) && is_ours(&weight) && is_ours(&bias) {
        run(Linear, [on_flex(x), on_flex(weight), on_flex(bias)]).tensor()
    } else {
        burn::tensor::module::linear(x, weight, Some(bias))
    }
}

#[derive(Clone, Copy, Debug)]
struct Linear;

/// Inputs `[rows, in]` and weight `[in, out]`, each where the other's gradient needs it.
type Kept = [Option<FlexTensor>; 2];

fn shape_out(x: &FlexTensor, weight: &FlexTensor) -> Vec<usize> {
    let mut shape = sides(x);
    if let (Some(last), Some(out)) = (shape.last_mut(), sides(weight).last()) {
        *last = *out;
    }
    shape
}

vectorised! {
    /// Adds the bias to every row.
    fn add_to_rows<'a>(rows: &'a mut [f32], bias: &'a [f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            add_to(row, bias);
        }
    }
}

vectorised! {
    /// Adds all rows to the sums.
    fn add_rows<'a>(sums: &'a mut [f32], rows: &'a [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            add_to(sums, row);
        }
    }
}

fn product(rows: FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let mut y = Flex::float_matmul(rows, weight.clone());
    let bias = contiguous(bias.clone());
    let bias = values(&bias);
    pieces(y.storage_mut(), bias.len(), |_, piece| {
        add_to_rows(piece, bias)
    });
    y
}

impl Kernel<3> for Linear {
    type Kept = Kept;

    fn forward(self, [x, weight, bias]: [FlexTensor; 3]) -> FlexTensor {
        let shape = shape_out(&x, &weight);
        reshaped(product(as_rows(x), &weight, &bias), shape)
    }

    fn forward_kept(self, inputs: [FlexTensor; 3], tracked: [bool; 3]) -> (FlexTensor, Kept) {
        let [x, weight, bias] = inputs;
        let shape = shape_out(&x, &weight);
        let rows = as_rows(x);
        let y = reshaped(product(rows.clone(), &weight, &bias), shape);
        (
            y,
            [tracked[1].then_some(rows), tracked[0].then_some(weight)],
        )
    }

    /// dx = g·Wᵀ, dW = xᵀ·g, db = Σ g.
    fn backward(
        self,
        [x, weight]: Kept,
        grad: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let mut shape = sides(&grad);
        let grad = as_rows(grad);
        let dx = weight.filter(|_| wanted[0]).map(|weight| {
            if let (Some(last), Some(input)) = (shape.last_mut(), sides(&weight).first()) {
                *last = *input;
            }
            reshaped(Flex::float_matmul(grad.clone(), turned(&weight)), shape)
        });
        let dw = x
            .filter(|_| wanted[1])
            .map(|x| Flex::float_matmul(turned(&x), grad.clone()));
        let db = wanted[2].then(|| {
            let (rows, out) = (sides(&grad)[0], sides(&grad)[1]);
            let g = values(&grad);
            let found = sums(rows, out, out, |rows, sums| {
                add_rows(sums, &g[rows.start * out..rows.end * out]);
            });
            tensor(found, [out])
        });
        [dx, dw, db]
    }
}
