use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::activation::softmax;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Shape, Tensor};

use super::simd::{copy, exp, max_of, pieces, sum_of, sum_of2, vectorised};
use super::tape::{Kernel, contiguous, is_ours, on_flex, run, sides, tensor, values};
use rayon::prelude::*;

/// Multi-head self-attention softmax(Q·Kᵀ/√d)·V of a fused projection: `[batch, tokens, 3·dim]` to
/// `[batch, tokens, dim]`. Of the 3·dim columns the first third are queries, then keys, then values; in
/// each, head h owns columns h·d to (h+1)·d (Vaswani et al., 2017, eq. 1, in timm's layout).
///
/// On the CPU the products read queries, keys and values where they lie, and scale and softmax are one
/// pass over all cores. Elsewhere it is burn's fused attention where there is no tape, its matrix products
/// where there is one.
pub fn self_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let fits = heads > 0 && qkv.dims()[2].is_multiple_of(3 * heads);
    if fits && is_ours(&qkv) {
        run(SelfAttention { heads }, [on_flex(qkv)]).tensor()
    } else {
        elsewhere(qkv, heads)
    }
}

/// Queries, keys and values `[batch, heads, tokens, d]` of a fused projection `[batch, tokens, 3·dim]`.
pub(super) fn heads_of(qkv: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
    let [batch, tokens, width] = qkv.dims();
    let head_dim = width / 3 / heads;
    // [batch, tokens, 3D] -> [3, batch, heads, tokens, d]
    let qkv = qkv
        .reshape([batch, tokens, 3, heads, head_dim])
        .permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|index| {
        let part = qkv.clone().narrow(0, index, 1);
        part.reshape([batch, heads, tokens, head_dim])
    })
}

fn elsewhere(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    let dim = width / 3;
    let [q, k, v] = heads_of(qkv, heads);
    let out = if q.is_autodiff() {
        let scale = ((dim / heads) as f64).powf(-0.5);
        softmax(q.mul_scalar(scale).matmul(k.swap_dims(2, 3)), 3).matmul(v)
    } else {
        // No tape: the fused kernel need not keep the attention matrix.
        burn::tensor::module::attention(q, k, v, None, None, AttentionModuleOptions::default())
    };
    out.swap_dims(1, 2).reshape([batch, tokens, dim])
}

#[derive(Clone, Copy, Debug)]
struct SelfAttention {
    heads: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    qkv: FlexTensor,
    /// softmax(Q·Kᵀ/√d), `[batch, heads, tokens, tokens]`.
    attention: FlexTensor,
}

/// `[batch, heads, tokens, d]`, the transpose of the last two sides if `turn`, as columns from `first` of
/// contiguous `[batch, tokens, width]`.
fn head_view(of: &FlexTensor, sizes: Sizes, first: usize, turn: bool) -> FlexTensor {
    let Sizes {
        batch,
        tokens,
        heads,
        d,
    } = sizes;
    let width = sides(of).last().copied().unwrap_or_default();
    let (shape, strides) = if turn {
        ([batch, heads, d, tokens], [tokens * width, d, 1, width])
    } else {
        ([batch, heads, tokens, d], [tokens * width, d, width, 1])
    };
    let strides = strides.iter().map(|s| *s as isize).collect();
    FlexTensor::from_arc(
        of.data_arc(),
        Layout::new(Shape::from(shape), strides, first),
        DType::F32,
    )
}

/// The last two of four sides turned, without a copy.
fn turned(matrices: &FlexTensor) -> FlexTensor {
    let layout = matrices.layout().transpose(2, 3);
    matrices.clone().with_layout(layout)
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    d: usize,
}

impl SelfAttention {
    fn sizes(self, qkv: &FlexTensor) -> Sizes {
        let shape = sides(qkv);
        Sizes {
            batch: shape[0],
            tokens: shape[1],
            heads: self.heads,
            d: shape[2] / 3 / self.heads,
        }
    }

    /// softmax(Q·Kᵀ/√d) and what it makes of the values, `[batch, tokens, dim]`.
    fn attend(self, qkv: &FlexTensor) -> (FlexTensor, FlexTensor) {
        let sizes = self.sizes(qkv);
        let Sizes {
            batch,
            tokens,
            heads,
            d,
        } = sizes;
        let dim = heads * d;
        let scale = (d as f32).sqrt().recip();
        let mut attention = Flex::float_matmul(
            head_view(qkv, sizes, 0, false),
            head_view(qkv, sizes, dim, true),
        );
        pieces(attention.storage_mut(), tokens, |_, piece| {
            softmax_rows(piece, tokens, scale);
        });
        let out = Flex::float_matmul(attention.clone(), head_view(qkv, sizes, 2 * dim, false));
        let mut joined = vec![0.0; batch * tokens * dim];
        join(&mut joined, [&out], sizes);
        (tensor(joined, [batch, tokens, dim]), attention)
    }
}

vectorised! {
    /// row ← softmax(scale·row) for each row of so many tokens.
    fn softmax_rows<'a>(rows: &'a mut [f32], tokens: usize, scale: f32) {
        for row in rows.chunks_exact_mut(tokens) {
            let max = max_of(row);
            for x in row.iter_mut() {
                *x = exp((*x - max) * scale);
            }
            let factor = 1.0 / sum_of(row, |x| x);
            for x in row.iter_mut() {
                *x *= factor;
            }
        }
    }
}

vectorised! {
    /// dA ← A∘(dA − rowsum(dA∘A))·scale: the way back through softmax(scale·S), row by row.
    fn softmax_rows_back<'a>(grad: &'a mut [f32], attention: &'a [f32], tokens: usize, scale: f32) {
        let rows = attention.chunks_exact(tokens);
        for (grad, attention) in grad.chunks_exact_mut(tokens).zip(rows) {
            let dot = sum_of2(grad, attention, |g, a| g * a);
            for (g, a) in grad.iter_mut().zip(attention) {
                *g = (*g - dot) * (a * scale);
            }
        }
    }
}

vectorised! {
    /// Puts rows of `d` elements into rows of `width`, from column `first` on.
    fn copy_rows<'a>(to: &'a mut [f32], from: &'a [f32], columns: [usize; 3]) {
        let [width, first, d] = columns;
        for (row, source) in to.chunks_exact_mut(width).zip(from.chunks_exact(d)) {
            copy(&mut row[first..first + d], source);
        }
    }
}

/// Puts `PARTS` tensors `[batch, heads, tokens, d]` beside each other: `[batch, tokens, PARTS·dim]`.
fn join<const PARTS: usize>(joined: &mut [f32], parts: [&FlexTensor; PARTS], sizes: Sizes) {
    let Sizes {
        tokens, heads, d, ..
    } = sizes;
    let dim = heads * d;
    let parts = parts.map(values);
    let image = PARTS * tokens * dim;
    let copy = |(index, joined): (usize, &mut [f32])| {
        for (part, source) in parts.iter().enumerate() {
            let source = &source[index * tokens * dim..(index + 1) * tokens * dim];
            for (head, source) in source.chunks_exact(tokens * d).enumerate() {
                copy_rows(joined, source, [PARTS * dim, part * dim + head * d, d]);
            }
        }
    };
    joined
        .par_chunks_mut(image.max(1))
        .enumerate()
        .for_each(copy);
}

impl Kernel<1> for SelfAttention {
    type Kept = Kept;

    fn forward(self, [qkv]: [FlexTensor; 1]) -> FlexTensor {
        self.attend(&contiguous(qkv)).0
    }

    fn forward_kept(self, [qkv]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Kept) {
        let qkv = contiguous(qkv);
        let (out, attention) = self.attend(&qkv);
        (out, Kept { qkv, attention })
    }

    /// With A = softmax(S/√d): dV = Aᵀ·G, dA = G·Vᵀ, dS = A∘(dA − rowsum(dA∘A))/√d, dQ = dS·K, dK = dSᵀ·Q.
    fn backward(self, kept: Kept, grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let Kept { qkv, attention } = kept;
        let sizes = self.sizes(&qkv);
        let Sizes {
            batch,
            tokens,
            heads,
            d,
        } = sizes;
        let (dim, scale) = (heads * d, (d as f32).sqrt().recip());
        let grad = contiguous(grad);
        let g = head_view(&grad, sizes, 0, false);
        let d_values = Flex::float_matmul(turned(&attention), g.clone());
        let mut d_scores = Flex::float_matmul(g, head_view(&qkv, sizes, 2 * dim, true));
        let a = values(&attention);
        pieces(d_scores.storage_mut(), tokens, |first, piece| {
            softmax_rows_back(piece, &a[first..], tokens, scale);
        });
        let d_queries = Flex::float_matmul(d_scores.clone(), head_view(&qkv, sizes, dim, false));
        let d_keys = Flex::float_matmul(turned(&d_scores), head_view(&qkv, sizes, 0, false));
        let mut joined = vec![0.0; batch * tokens * 3 * dim];
        join(&mut joined, [&d_queries, &d_keys, &d_values], sizes);
        [Some(tensor(joined, [batch, tokens, 3 * dim]))]
    }
}
